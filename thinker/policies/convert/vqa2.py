"""The released VQA² checkpoints (arXiv 2411.03795; UGC-Scorer, Streaming-Scorer, Assistant,
Assistant-enhanced) → a Thinker policy on LLaVA-OneVision, in motion mode "frames".

In: a folder with `config.json` of model_type "llava_qwen", safetensors and the tokenizer's files.
Out: a folder that `load_policy` reads. All tensors are renamed, none is changed. SlowFast's slow
pathway is left out: nothing that the published programs compute depends on it. The sizes of the
vision tower stand in their code, not in their configuration: they are read off the weights, as far
as weights tell them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2TokenizerFast

from thinker.policies.convert.internvl_chat import slowfast_config
from thinker.policies.convert.internvl_names import TEXT_KEYS
from thinker.policies.convert.reading import (
    errors_in_a_line,
    read_config,
    read_tokenizer,
    unlike,
)
from thinker.policies.convert.writing import (
    Renames,
    all_shapes,
    check_keys,
    rename,
    write_policy,
)
from thinker.policies.inputs import ClipConfig
from thinker.policies.motion import MotionConfig, SlowFast
from thinker.policies.shards import read_headers
from thinker.policies.square.llava_onevision import (
    IMAGE_TOKEN,
    NAMED_TOKENS,
    VIDEO_TOKEN,
    ThinkerLlavaOnevisionConfig,
    ThinkerLlavaOnevisionForConditionalGeneration,
    pinpoints,
    processor_of,
)
from thinker.tasks.level import LEVEL_PREFIX, LEVEL_QUESTION, VQA2_LEVELS, VQA2_WORDS, LevelConfig
from thinker.video.geometry import ANYRES_SIDE

MODEL_TYPE = "llava_qwen"
REQUIRED = (
    (("model_type",), MODEL_TYPE),
    (("mm_patch_merge_type",), "spatial_unpad"),
    (("mm_newline_position",), "one_token"),
    (("mm_spatial_pool_mode",), "bilinear"),
    (("image_aspect_ratio",), "anyres_max_9"),
)
TEXT_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
)  # fmt: skip

VISION, SLOWFAST = "model.vision_tower.vision_tower.vision_model.", "model.slowfast."
BLOCKS = f"{SLOWFAST}feature_extraction."
RENAMES: Renames = (
    (VISION + "{}", "model.vision_tower.{}"),
    ("model.mm_projector.0.{}", "model.multi_modal_projector.linear_1.{}"),
    ("model.mm_projector.2.{}", "model.multi_modal_projector.linear_2.{}"),
    ("model.image_newline", "model.image_newline"),
    (BLOCKS + "{}", "model.motion.slowfast.blocks.{}"),
    (SLOWFAST + "position_embedding.{}", "model.motion.position_embedding.{}"),
    ("model.slowfast_projector.{}", "model.motion.projector.{}"),
    ("model.embed_tokens.{}", "model.language_model.embed_tokens.{}"),
    ("model.layers.{}", "model.language_model.layers.{}"),
    ("model.norm.{}", "model.language_model.norm.{}"),
    ("lm_head.{}", "lm_head.{}"),
)

PX = 384
"""Side of every frame and tile."""
VISION_HEADS = 16
"""Of SigLIP so400m; weights do not tell it."""
MAX_KEYFRAMES = 60
"""A longer video is refused. The published programs cut everything behind 10,000 tokens off, about
50 keyframes, and the question with it."""

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class ReleasedSetting:
    """How one of the published programs runs the weights."""

    layout: str
    """See `ClipConfig.layout`."""

    levels: LevelConfig
    """How it scores by level words."""

    twice: bool = False
    """See `MotionConfig.twice`."""


IMAGE_PREFIX = "The overall quality of the image is"

PAPER_LEVELS = LevelConfig(
    words=VQA2_WORDS,
    weights=VQA2_LEVELS.weights,
    weight_range=VQA2_LEVELS.weight_range,
    video_question=LEVEL_QUESTION,
    video_prefix=LEVEL_PREFIX,
    image_question="",
    image_prefix=IMAGE_PREFIX,
)
SETTINGS = {
    # Figure 4 of the paper and the scorer of January 2025, which the published figures are from.
    "paper": ReleasedSetting(layout="vqa2", levels=PAPER_LEVELS),
    # quality_scoring/, October 2025: no question, no prefix
    "scoring": ReleasedSetting(
        layout="vqa2_bare",
        levels=LevelConfig(
            words=VQA2_WORDS,
            weights=(0.2, 0.4, 0.6, 0.8, 1.0),
            weight_range=(0.2, 1.0),
            video_question="",
            video_prefix="",
            image_question="",
            image_prefix=IMAGE_PREFIX,
            blank_first=True,
        ),
    ),
    # quality_interpreting/: free questions, and those of Q-Bench-Video
    "app": ReleasedSetting(layout="vqa2_app", levels=PAPER_LEVELS, twice=True),
    "q_bench": ReleasedSetting(layout="vqa2_q_bench", levels=PAPER_LEVELS, twice=True),
}


def convert_checkpoint(source: Path, target: Path, setting: str = "paper") -> int:
    """Convert the folder `source` into the new folder `target`; returns the tensors written.

    setting: a key of `SETTINGS`. Raises ValueError for whatever `source` lacks or has too much of;
    `target` then does not exist.
    """
    released = read_released_config(source)
    headers = read_headers(source)
    shapes = all_shapes(headers)
    # `<video>` is new, at an id that the embedding has.
    words = (IMAGE_TOKEN, VIDEO_TOKEN)
    tokenizer = read_tokenizer(source, released["vocab_size"], NAMED_TOKENS, words)
    tokenizer.pad_token = "<|endoftext|>"
    motion = motion_config(released, shapes, twice=SETTINGS[setting].twice)
    vision = vision_config(shapes)
    with errors_in_a_line(f"{source / 'config.json'} cannot be used"), torch.device("meta"):
        config = policy_config(released, motion, vision, SETTINGS[setting], tokenizer)
        model = ThinkerLlavaOnevisionForConditionalGeneration(config)
    check_keys(headers, expected_shapes(model))
    patch = config.vision_config.patch_size
    processor = processor_of(tokenizer, px=PX, patch=patch, chat_template=CHAT_TEMPLATE)
    names = set(model.state_dict())

    def converted(key: str, tensor: Tensor) -> dict[str, Tensor]:
        name = rename(key, RENAMES)
        return {name: tensor} if name in names else {}

    released_as = f"VQA², setting {setting}"
    return write_policy(target, headers, converted, model, processor, released=released_as)


def read_released_config(source: Path) -> dict[str, Any]:
    """What config.json holds; a ValueError names every setting that we do not reproduce."""
    released = read_config(source)
    problems = unlike(released, REQUIRED)
    problems += [f"{key} is missing" for key in TEXT_SIZES if key not in released]
    if problems:
        raise ValueError(
            f"{source / 'config.json'} is not of the released layout of VQA²:\n"
            + "\n".join(problems)
        )
    return released


def motion_config(
    released: dict[str, Any], shapes: dict[str, tuple[int, ...]], *, twice: bool
) -> MotionConfig:
    """Of the motion branch, whose sizes are read off the weights."""
    max_positions = _shape(shapes, f"{SLOWFAST}position_embedding.weight")[0]
    return MotionConfig(
        mode="frames",
        hidden_size=released["hidden_size"],
        num_keyframes=MAX_KEYFRAMES,
        slowfast=slowfast_config(shapes, BLOCKS),
        num_motion_frames=max_positions,
        motion_px=PX,
        max_positions=max_positions,
        twice=twice,
    )


def policy_config(
    released: dict[str, Any],
    motion: MotionConfig,
    vision: dict[str, Any],
    setting: ReleasedSetting,
    tokenizer: Qwen2TokenizerFast,
) -> ThinkerLlavaOnevisionConfig:
    """Our configuration of a released checkpoint. vision: fields of its vision tower's."""
    clip = ClipConfig(
        num_keyframes=MAX_KEYFRAMES,
        keyframe_px=PX,
        layout=setting.layout,
        resampler="pil",
        reader="decord",
        sampler="seconds",
        stills="image",
        tiling="anyres_tiles",
        max_patches=ANYRES_SIDE**2,
    )
    # Their class sets rope_scaling to null, whatever the file says; the head is never tied.
    text = {key: released[key] for key in TEXT_KEYS if key in released} | {"rope_scaling": None}
    return ThinkerLlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(
            **text,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        video_token_index=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        image_grid_pinpoints=pinpoints(PX),
        vision_aspect_ratio=released["image_aspect_ratio"],
        tie_word_embeddings=False,
        motion_config=motion.to_dict(),
        clip_config=clip.to_dict(),
        level_config=setting.levels.to_dict(),
        dtype=released.get("torch_dtype", "float32"),
    )


def vision_config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """SigLIP's sizes; the last of its layers is not in the checkpoint."""
    width, _, patch, _ = _shape(shapes, f"{VISION}embeddings.patch_embedding.weight")
    layers = f"{VISION}encoder.layers."
    depth = len({key[len(layers) :].split(".")[0] for key in shapes if key.startswith(layers)})
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": _shape(shapes, f"{layers}0.mlp.fc1.weight")[0],
        "num_hidden_layers": depth,
        "num_attention_heads": VISION_HEADS,
        "image_size": PX,
        "patch_size": patch,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": False,
    }


def _shape(shapes: dict[str, tuple[int, ...]], key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise ValueError(f"no {key} among the weights, expected it of the released layout of VQA²")
    return shapes[key]


def expected_shapes(model) -> dict[str, tuple[int, ...]]:
    """Their names of all that a checkpoint holds, with the shapes: what the policy needs, and the
    slow pathway."""
    back = [(ours, theirs) for theirs, ours in RENAMES]
    shapes = {
        rename(name, back) or name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    with torch.device("meta"):
        both = SlowFast(model.model.motion.config.slowfast)
    for name, tensor in both.state_dict().items():
        shapes[BLOCKS + name.removeprefix("blocks.")] = tuple(tensor.shape)
    return shapes
