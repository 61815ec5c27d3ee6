"""A policy: a native vision-language model with a motion branch, its processor and its inputs.

`load_policy(folder)` takes a saved policy or a plain `-hf` checkpoint of any backbone, whose motion
part is then new; `outline_policy(folder)` is the same without its weights; `tiny_policy(backbone)`
draws a small random one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoProcessor

from thinker import prompts
from thinker.policies import four_bit
from thinker.policies.card import model_card
from thinker.policies.hub import local_folder, push_folder
from thinker.policies.inputs import STILL_BOUNDS, ClipConfig, PolicyInputs, changed_clip
from thinker.policies.motion import MotionConfig
from thinker.policies.registry import BACKBONES, Backbone, backbone_name
from thinker.policies.shards import check_tokenizer_files, check_whole, read_headers
from thinker.policies.tiny import TinySize, wake_motion, wake_vision
from thinker.tasks.level import LevelConfig
from thinker.utils.json_file import read_json_object

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy in memory."""

    model: Any
    """A `thinker.policies.backbone.MotionPolicy`."""

    processor: Any
    """transformers' processor, with the tokenizer."""

    inputs: PolicyInputs
    """Builds prompt ids and pixel tensors from clips."""

    new_parts: tuple[str, ...] = ()
    """Names of the weights that the checkpoint did not hold and that were drawn instead."""

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @property
    def context_tokens(self) -> int:
        """How many tokens prompt and completion may have together."""
        text = self.model.config.get_text_config()
        rope = getattr(text, "rope_parameters", None) or {}
        stretched = rope.get("rope_type") in ("dynamic", "linear")
        return int(text.max_position_embeddings * (rope.get("factor", 1) if stretched else 1))

    def set_levels(self, levels: LevelConfig) -> None:
        """Score by other level words, weights, question or prefix in mode "level"; they are saved
        with the policy."""
        self.model.config.level_config = levels.to_dict()
        self.inputs.levels = levels

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), configuration, generation config, processor and a model
        card. Raises ValueError where layers are in 4 bits."""
        if four_bit.is_four_bit(self.model):
            raise ValueError(
                "the language model is in 4 bits; merge its LoRA (merge_lora), then save"
            )
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        (Path(folder) / "README.md").write_text(model_card(self.model), encoding="utf-8")

    def push_to_hub(self, name: str, *, private: bool = True) -> str:
        """Send to the hub what `save` writes (`thinker.policies.hub.push_folder`)."""
        with TemporaryDirectory() as folder:
            self.save(folder)
            return push_folder(folder, name, private=private)


def load_policy(
    folder: str | Path,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    motion: MotionConfig | None = None,
    clip: Mapping[str, Any] | None = None,
    quantization: Literal["nf4"] | None = None,
    device: torch.device | str | None = None,
) -> Policy:
    """Load a saved Thinker policy, or start one from a plain `-hf` checkpoint.

    folder: a local folder, or a name on the hub (`org/name`, `org/name@revision`). dtype: "auto" is
    that of the weights. quantization: "nf4" keeps the linear layers of the language model in 4 bits
    (four_bit.py), to train LoRA on them: the policy then lies on `device`, None being the GPU where
    there is one, and can be saved when LoRA is merged. `motion` is for a plain checkpoint (its
    motion part is new, `Policy.new_parts` names it). clip: fields of `ClipConfig` in place of the
    backbone's; a saved policy brings its own motion and clip settings, of which only the bounds of
    stills can be changed, and giving others is an error. Raises ValueError naming what is wrong
    with a checkpoint: another architecture, weights that are pickled, truncated, missing, unknown
    or of another shape.
    """
    folder = local_folder(folder)
    name, config = _policy_config(folder, motion, clip)
    check_tokenizer_files(folder)
    backbone = BACKBONES[name]
    options: dict[str, Any] = {}
    if quantization is not None:
        with torch.device("meta"):
            options = four_bit.loading_options(backbone.model(config), device)
    model, missing = _load_model(backbone, folder, config, dtype, options)
    if quantization is not None:
        four_bit.settle(model)
    model.forbid_placeholders()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return Policy(
        model=model,
        processor=processor,
        inputs=backbone.inputs(processor, config),
        new_parts=missing,
    )


def outline_policy(
    folder: str | Path,
    *,
    motion: MotionConfig | None = None,
    clip: Mapping[str, Any] | None = None,
) -> Any:
    """The model that `load_policy` would load, on the meta device, without its weights. Raises
    ValueError for what shows without them: the configuration, and damaged weight files."""
    folder = local_folder(folder)
    name, config = _policy_config(folder, motion, clip)
    read_headers(folder)
    with torch.device("meta"):
        return BACKBONES[name].model(config)


def is_plain(folder: Path) -> bool:
    """Whether there is a plain `-hf` checkpoint in `folder`, and no policy. Raises ValueError for a
    model that is neither."""
    kind = _config_values(folder).get("model_type")
    return kind == BACKBONES[backbone_name(kind)].plain_type


def _config_values(folder: Path) -> dict[str, Any]:
    check_whole(folder)
    if not (folder / CONFIG).is_file():  # of which not every release of transformers complains
        raise ValueError(
            f"no configuration of a model in {folder}: it holds no {CONFIG}, expected the "
            "folder of a saved policy or of a plain checkpoint"
        )
    return read_json_object(folder / CONFIG)  # transformers takes a list for a configuration


def _policy_config(
    folder: Path, motion: MotionConfig | None, clip: Mapping[str, Any] | None
) -> tuple[str, Any]:
    """Backbone name and configuration of what lies in `folder`."""
    values = _config_values(folder)
    name = backbone_name(values.get("model_type"))
    backbone = BACKBONES[name]
    # Said explicitly: unset, transformers asks on a terminal whether to run a checkpoint's code.
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type != backbone.plain_type:
        bounds = {field for fields in STILL_BOUNDS.values() for field in fields}
        if motion is not None or set(clip or ()) - bounds:
            raise ValueError(
                f"{folder} is a saved Thinker policy with its own motion and clip settings; "
                "they can be chosen only when starting from a plain checkpoint, except for "
                f"{', '.join(sorted(bounds))}"
            )
        _change_clip(backbone, config, clip)
        return name, config
    values = config.to_dict()
    values.pop("model_type")
    ours = sorted({"motion_config", "clip_config"} & values.keys())
    if ours:
        raise ValueError(
            f"{folder} is a plain checkpoint by its model_type {config.model_type!r}, but its "
            f"{CONFIG} has {', '.join(ours)}, which only a saved policy has"
        )
    clip_config = changed_clip(backbone.default_clip, clip or {}, backbone.inputs.resize)
    if motion is None:  # windows as long as the default's, however many keyframes there are
        default = MotionConfig()
        frames = default.frames_per_window * clip_config.num_keyframes
        motion = replace(default, num_keyframes=clip_config.num_keyframes, num_motion_frames=frames)
    motion_config = replace(
        motion,
        hidden_size=config.get_text_config().hidden_size,
        num_keyframes=clip_config.num_keyframes,
    )
    return name, backbone.config(
        **values, motion_config=motion_config.to_dict(), clip_config=clip_config.to_dict()
    )


def _change_clip(backbone: Backbone, config: Any, clip: Mapping[str, Any] | None) -> None:
    if clip:
        own = ClipConfig.from_dict(config.clip_config)
        config.clip_config = changed_clip(own, clip, backbone.inputs.resize).to_dict()


def _load_model(
    backbone: Backbone, folder: Path, config, dtype, options: dict[str, Any]
) -> tuple[Any, tuple]:
    """The model and the names of its new weights, which may only be the motion branch's. options:
    more arguments of `from_pretrained`."""
    read_headers(folder)
    try:
        model, info = backbone.model.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported instead of ignored, below, with their names
            **options,
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


def tiny_policy(
    backbone: str,
    *,
    size: TinySize | None = None,
    texts: tuple[str, ...] = (),
    clip: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Policy:
    """Build a small random policy, as it stands for a pretrained one in the demo and the tests.

    backbone: a key of `BACKBONES`. texts: what the tokenizer should know beyond the prompts (the
    answers of the warm start). clip: other bounds of stills, as in `load_policy`. The result is in
    memory only; `Policy.save` writes it, and `load_policy` reads it back bit-equal.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"no tiny policy for backbone {backbone!r}; known: {sorted(BACKBONES)}")
    built = BACKBONES[backbone]
    size = size or TinySize()
    config, processor = built.tiny(size, texts)
    if size.patch_energies and not getattr(config, "patch_energies", False):
        raise ValueError(f"patch_energies is for InternVL's tower, not for that of {backbone}")
    _change_clip(built, config, clip)
    tokenizer = processor.tokenizer
    config.eos_token_id = tokenizer.eos_token_id
    config.scoring_question = prompts.SHORT_SCORING
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = built.model(config)
        if model.model.motion is not None and model.model.motion.config.has_own_frames:
            wake_motion(model.model.motion)
        if not size.patch_energies:
            wake_vision(model.model.vision_part)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.forbid_placeholders()
    return Policy(model=model, processor=processor, inputs=built.inputs(processor, config))
