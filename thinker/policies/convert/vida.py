"""The released Qwen2-VL-ViDA (arXiv 2508.12605; MIPI challenge, ICCV 2025) → a Thinker policy on
Qwen2-VL, without a motion branch.

In: a folder with `config.json` of model_type "qwen2_vl", safetensors and the processor's files: the
merged checkpoint, in the names of any release of transformers. Out: a folder that `load_policy`
reads. All tensors are renamed, none is changed. What is added to the weights is how they are asked:
a picture is nothing but its placeholders (`vqa2_bare`), and its level is read behind ViDA's
sentence.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, GenerationConfig, Qwen2VLConfig

from thinker.policies.backbone import PolicyConfig
from thinker.policies.convert.reading import errors_in_a_line, read_config
from thinker.policies.convert.writing import (
    Renames,
    all_shapes,
    check_keys,
    rename,
    write_policy,
)
from thinker.policies.inputs import ClipConfig
from thinker.policies.motion import MotionConfig
from thinker.policies.qwen_vl.qwen2_vl import (
    BACKBONE,
    ThinkerQwen2VLConfig,
    ThinkerQwen2VLForConditionalGeneration,
)
from thinker.policies.shards import check_tokenizer_files, read_headers
from thinker.tasks.level import LevelConfig
from thinker.utils.json_file import read_json_object
from thinker.utils.names import path_text

MODEL_TYPE = "qwen2_vl"
RENAMES: Renames = (
    ("visual.{}", "model.visual.{}"),
    ("model.embed_tokens.{}", "model.language_model.embed_tokens.{}"),
    ("model.layers.{}", "model.language_model.layers.{}"),
    ("model.norm.{}", "model.language_model.norm.{}"),
    ("lm_head.{}", "lm_head.{}"),
)
"""Names of transformers before 4.52, in which the published programs save; later ones are ours."""
NEWER = "model.language_model."

SETTINGS = {"inference": 4096, "training": 16384}
"""Most visual tokens of a picture: what the published program for choices asks of the processor,
and the processor's own bound, which held in training (its options were misspelt)."""
LEVELS = LevelConfig(
    image_question="Assess the quality of this image.",
    image_prefix="The quality of the image is",
)
"""ViDA's scorer: " excellent" to " bad" behind the prefix count 5 to 1. Its system prompt, which
asks for one sentence, is not among the words: the checkpoint's template says its own."""


def convert_checkpoint(source: Path, target: Path, setting: str = "inference") -> int:
    """Convert the folder `source` into the new folder `target`; returns the tensors written.

    setting: a key of `SETTINGS`. Raises ValueError for whatever `source` lacks or has too much of;
    `target` then does not exist.
    """
    released = read_released_config(source)
    headers = read_headers(source)
    with errors_in_a_line(f"{source / 'config.json'} cannot be used"), torch.device("meta"):
        config = policy_config(released, SETTINGS[setting])
        model = ThinkerQwen2VLForConditionalGeneration(config)
    is_newer = any(key.startswith(NEWER) for key in all_shapes(headers))
    renames = tuple((new, new) for _, new in RENAMES) if is_newer else RENAMES
    check_keys(headers, expected_shapes(model, renames))
    processor = released_processor(source)

    def converted(key: str, tensor: Tensor) -> dict[str, Tensor]:
        name = rename(key, renames)
        assert name is not None  # check_keys knows them all
        return {name: tensor}

    return write_policy(
        target,
        headers,
        converted,
        model,
        processor,
        released=f"ViDA, setting {setting}",
        generation=own_generation(source),
    )


def read_released_config(source: Path) -> dict[str, Any]:
    """What config.json holds. Raises ValueError for another model."""
    if (source / "adapter_config.json").is_file():
        raise ValueError(
            f"{source} holds adapters; convert what the published script merges them into"
        )
    released = read_config(source)
    if released.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{source / 'config.json'} has model_type {released.get('model_type')!r}, expected "
            f"{MODEL_TYPE!r}, that of the released ViDA"
        )
    ours = [field.name for field in fields(PolicyConfig) if field.name in released]
    if ours:
        raise ValueError(
            f"{source / 'config.json'} has {', '.join(ours)}, as a policy of Thinker, expected the "
            "configuration of the released ViDA, which has none"
        )
    return released


def policy_config(released: dict[str, Any], max_tokens: int) -> ThinkerQwen2VLConfig:
    """Our configuration of a released checkpoint."""
    values: dict[str, Any] = Qwen2VLConfig.from_dict(released).to_dict()
    values.pop("model_type")
    factor = 28**2
    clip = ClipConfig(
        **BACKBONE.default_clip.to_dict()
        | {"layout": "vqa2_bare", "image_max_pixels": max_tokens * factor}
    )
    motion = MotionConfig(
        mode="none",
        hidden_size=values["text_config"]["hidden_size"],
        num_keyframes=clip.num_keyframes,
    )
    return ThinkerQwen2VLConfig(
        **values,
        motion_config=motion.to_dict(),
        clip_config=clip.to_dict(),
        level_config=LEVELS.to_dict(),
    )


def released_processor(source: Path) -> Any:
    """transformers' processor, as the checkpoint's files say."""
    check_tokenizer_files(source)
    with errors_in_a_line(f"{path_text(source)} holds no Qwen2-VL processor"):
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    processor.tokenizer.padding_side = "left"
    return processor


def own_generation(source: Path) -> GenerationConfig | None:
    """The checkpoint's, where it has one."""
    path = source / "generation_config.json"
    if not path.is_file():
        return None
    values = read_json_object(path)
    with errors_in_a_line(f"{path_text(path)} cannot be used"):
        return GenerationConfig.from_dict(values)


def expected_shapes(model: Any, renames: Renames) -> dict[str, tuple[int, ...]]:
    """Their names of everything that the policy needs, with the shapes."""
    back = [(ours, theirs) for theirs, ours in renames]
    shapes = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue  # it is the embedding
        theirs = rename(name, back)
        assert theirs is not None, name
        shapes[theirs] = tuple(tensor.shape)
    return shapes
