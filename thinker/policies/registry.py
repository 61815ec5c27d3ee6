"""Which backbones there are, and what transformers has to be told of them."""

from dataclasses import fields

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from thinker.policies.backbone import Backbone, PolicyConfig, host_class
from thinker.policies.qwen_vl import qwen2_5_vl, qwen2_vl, qwen3_vl
from thinker.policies.square import internvl3, llava_onevision

__all__ = ["BACKBONES", "Backbone", "backbone_name", "plain_config", "register"]

BACKBONES: dict[str, Backbone] = {
    "internvl3": internvl3.BACKBONE,
    "internvl3_5": internvl3.BACKBONE_3_5,
    "llava_onevision": llava_onevision.BACKBONE,
    "qwen2_vl": qwen2_vl.BACKBONE,
    "qwen2_5_vl": qwen2_5_vl.BACKBONE,
    "qwen3_vl": qwen3_vl.BACKBONE,
}
"""By the name that a configuration gives. After adding one from outside, call `register`."""


def register() -> None:
    """Make all of `BACKBONES` known to transformers' Auto classes; calling it again does no harm.

    AutoModelForCausalLM is among them because TRL re-creates the reference model by that class when
    the architecture is not one of transformers' own. The key renames of the parent class are
    registered for the subclass, because transformers looks them up by name; without them a plain
    checkpoint would leave the language model freshly initialised, with only a report.
    """
    for backbone in BACKBONES.values():
        config, model = backbone.config, backbone.model
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageTextToText.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)
        AutoProcessor.register(config, backbone.processor, exist_ok=True)
        for ours in (model, model.backbone_class):
            mapping = get_checkpoint_conversion_mapping(host_class(ours).__name__)
            if mapping is None and ours is model:
                mapping = get_checkpoint_conversion_mapping(backbone.plain_type)
            if mapping is not None:
                register_checkpoint_conversion_mapping(ours.__name__, mapping, overwrite=True)


def backbone_name(model_type: str | None) -> str:
    """Key in `BACKBONES` for a `model_type`, that of a saved policy or of a plain checkpoint; the
    first of those that are one class and differ in their language models (InternVL3 and 3.5)."""
    types = {
        name: (backbone.config.model_type, backbone.plain_type)
        for name, backbone in BACKBONES.items()
    }
    for name, known in types.items():
        if model_type in known:
            return name
    hint = (
        "; convert a released layout by `thinker convert`"
        if model_type in ("internvl_chat", "llava_qwen")
        else ""
    )
    raise ValueError(
        f"no policy for model_type {model_type!r}; a checkpoint must be one of "
        f"{sorted(set().union(*types.values()))}{hint}"
    )


def plain_config(config):
    """The configuration of the plain transformers checkpoint inside a policy: ours without motion
    and clip settings, its architecture named."""
    backbone = BACKBONES[backbone_name(config.model_type)]
    ours = {"model_type", "auto_map", *(field.name for field in fields(PolicyConfig))}
    values = {key: value for key, value in config.to_dict().items() if key not in ours}
    plain = CONFIG_MAPPING[backbone.plain_type](**values)
    plain.architectures = [host_class(backbone.model).__name__]
    return plain


# On import, so that whoever can name a policy can also load one by an Auto class.
register()
