"""Policies: native vision-language models with a motion branch, and how to load, save and feed
them.

`load_policy(folder)` takes a saved Thinker policy or a plain `-hf` checkpoint of either backbone
(its motion part is then new). A new backbone is one file and one line in `BACKBONES`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    Qwen2_5_VLProcessor,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.internvl.processing_internvl import InternVLProcessor

from thinker.policies.card import model_card
from thinker.policies.inputs import ClipConfig, InternVLInputs, PolicyInputs, Qwen2_5_VLInputs
from thinker.policies.internvl3 import (
    ThinkerInternVLConfig,
    ThinkerInternVLForConditionalGeneration,
)
from thinker.policies.motion.encoder import MotionConfig
from thinker.policies.qwen2_5_vl import (
    ThinkerQwen2_5_VLConfig,
    ThinkerQwen2_5_VLForConditionalGeneration,
)
from thinker.policies.shards import read_headers


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Everything that differs between backbones, by class.

    plain_type: `model_type` of the plain transformers checkpoint that can be loaded as a start.
    """

    plain_type: str
    config: Any
    model: Any
    processor: Any
    inputs: type[PolicyInputs]


BACKBONES = {
    "internvl3": Backbone(
        plain_type="internvl",
        config=ThinkerInternVLConfig,
        model=ThinkerInternVLForConditionalGeneration,
        processor=InternVLProcessor,
        inputs=InternVLInputs,
    ),
    "qwen2_5_vl": Backbone(
        plain_type="qwen2_5_vl",
        config=ThinkerQwen2_5_VLConfig,
        model=ThinkerQwen2_5_VLForConditionalGeneration,
        processor=Qwen2_5_VLProcessor,
        inputs=Qwen2_5_VLInputs,
    ),
}

DEFAULT_CLIP = {
    "internvl3": ClipConfig(num_keyframes=6, keyframe_px=448),
    # Qwen2.5-VL's own video setting: at most 360·420 pixels a frame (VQA²'s scorer)
    "qwen2_5_vl": ClipConfig(
        num_keyframes=8, keyframe_px=0, min_pixels=128 * 28 * 28, max_pixels=360 * 420
    ),
}


def register() -> None:
    """Make the policies known to transformers' Auto classes.

    AutoModelForCausalLM too: TRL re-creates the reference model by that class when the architecture
    is not one of transformers' own. The key renames of the parent class are registered for the
    subclass, because transformers looks them up by name; without them a plain checkpoint would
    leave the language model freshly initialised, with only a report.
    """
    for backbone in BACKBONES.values():
        config, model = backbone.config, backbone.model
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageTextToText.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)
        AutoProcessor.register(config, backbone.processor, exist_ok=True)
        host_model = _host(model)
        backbone_host = _host(model.backbone_class)
        for ours, hosts in ((model, host_model), (model.backbone_class, backbone_host)):
            mapping = get_checkpoint_conversion_mapping(hosts.__name__)
            if mapping is None and ours is model:
                mapping = get_checkpoint_conversion_mapping(backbone.plain_type)
            if mapping is not None:
                register_checkpoint_conversion_mapping(ours.__name__, mapping, overwrite=True)


def _host(cls: type) -> type:
    """The transformers class that one of ours extends."""
    return next(c for c in cls.__mro__ if c.__module__.startswith("transformers."))


def backbone_name(model_type: str | None) -> str:
    """Key in `BACKBONES` for a `model_type`, ours or that of a plain checkpoint."""
    for name, backbone in BACKBONES.items():
        if model_type in (backbone.config.model_type, backbone.plain_type):
            return name
    known = sorted(t for b in BACKBONES.values() for t in (b.config.model_type, b.plain_type))
    hint = (
        "; convert the released VQAThinker layout by `thinker convert`"
        if model_type == "internvl_chat"
        else ""
    )
    raise ValueError(
        f"no policy for model_type {model_type!r}; a checkpoint must be one of {known}{hint}"
    )


def plain_config(config):
    """The configuration of the plain transformers checkpoint inside a policy: ours without motion
    and clip settings, its architecture named."""
    backbone = BACKBONES[backbone_name(config.model_type)]
    ours = ("model_type", "motion_config", "clip_config", "scoring_question", "auto_map")
    values = {key: value for key, value in config.to_dict().items() if key not in ours}
    plain = CONFIG_MAPPING[backbone.plain_type](**values)
    plain.architectures = [_host(backbone.model).__name__]
    return plain


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A loaded policy: the model, its processor, and the builder of its inputs."""

    model: Any
    processor: Any
    inputs: PolicyInputs
    new_parts: tuple[str, ...] = ()

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), configuration, generation config, processor and a model
        card."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        (Path(folder) / "README.md").write_text(model_card(self.model), encoding="utf-8")


def load_policy(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    motion: MotionConfig | None = None,
    clip: ClipConfig | None = None,
) -> Policy:
    """Load a saved Thinker policy, or start one from a plain `-hf` checkpoint.

    folder: a local folder or hub name. `motion` and `clip` are for a plain checkpoint (its motion
    part is new, `Policy.new_parts` names it); a saved policy brings its own and giving others is an
    error. Raises ValueError naming what is wrong with a checkpoint: another architecture, weights
    that are pickled, truncated, missing, unknown or of another shape.
    """
    name, config = _policy_config(folder, motion, clip)
    backbone = BACKBONES[name]
    model, missing = _load_model(backbone, folder, config, dtype)
    model.forbid_placeholders()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return Policy(
        model=model,
        processor=processor,
        inputs=backbone.inputs(processor, config),
        new_parts=missing,
    )


def _policy_config(
    folder: str | Path, motion: MotionConfig | None, clip: ClipConfig | None
) -> tuple[str, Any]:
    """Backbone name and configuration of what lies in `folder`."""
    try:
        values, _ = PreTrainedConfig.get_config_dict(folder)
    except OSError as error:
        raise ValueError(f"no configuration of a model in {folder}: {error}") from error
    name = backbone_name(values.get("model_type"))
    backbone = BACKBONES[name]
    # Said explicitly: unset, transformers asks on a terminal whether to run a checkpoint's code.
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type != backbone.plain_type:
        if motion is not None or clip is not None:
            raise ValueError(
                f"{folder} is a saved Thinker policy with its own motion and clip settings; "
                "they can be chosen only when starting from a plain checkpoint"
            )
        return name, config
    values = config.to_dict()
    values.pop("model_type")
    clip_config = clip or DEFAULT_CLIP[name]
    motion_config = replace(
        motion or MotionConfig(),
        hidden_size=config.get_text_config().hidden_size,
        num_keyframes=clip_config.num_keyframes,
    )
    return name, backbone.config(
        **values, motion_config=motion_config.to_dict(), clip_config=clip_config.to_dict()
    )


def _load_model(backbone: Backbone, folder: str | Path, config, dtype) -> tuple[Any, tuple]:
    """The model and the names of its new weights, which may only be the motion branch's."""
    if Path(folder).is_dir():
        read_headers(Path(folder))
    try:
        model, info = backbone.model.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported instead of ignored, below, with their names
        )
    except OSError as error:
        raise ValueError(f"the weights in {folder} cannot be loaded: {error}") from error
    missing = sorted(info["missing_keys"])
    foreign = [key for key in missing if not key.startswith("model.motion.")]
    unexpected = sorted(info["unexpected_keys"])
    if foreign or unexpected or info["mismatched_keys"]:
        raise ValueError(
            f"{folder} does not hold this model's weights: missing {foreign[:5]}, "
            f"unexpected {unexpected[:5]}, of another shape (given, expected) "
            f"{sorted(info['mismatched_keys'])[:5]}"
        )
    return model, tuple(missing)


register()
