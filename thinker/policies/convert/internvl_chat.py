"""InternVL's remote-code layout with SlowFast beside it → a Thinker policy: what the released
VQAThinker and VITAL share.

In: a folder with `config.json` of model_type "internvl_chat", safetensors (one file or shards) and
the tokenizer's files, and a `Recipe`: how one published program runs such weights. Out: a folder
that `load_policy` reads: weights under transformers' names, configuration, processor, generation
config and model card. No remote code and no pickle is run. The target appears by one rename, when
all of it is written.

Two tensors are more than renamed. The fused `attn.qkv` is cut into q, k and v. The position
embedding is resampled where the frames are larger than those it was trained for, by the rule of
InternVL's code (bicubic in float32, the class token's row untouched), once instead of in every
forward.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2TokenizerFast
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from thinker.policies.convert.internvl_names import (
    POSITION_EMBEDDING,
    SLOWFAST,
    TEXT_KEYS,
    VISION_KEYS,
    our_names,
    their_name,
)
from thinker.policies.convert.reading import (
    errors_in_a_line,
    read_config,
    read_tokenizer,
    unlike,
)
from thinker.policies.convert.writing import all_shapes, check_keys, write_policy
from thinker.policies.inputs import ClipConfig
from thinker.policies.motion import IMAGENET_MEAN_STD, MotionConfig, SlowFast, SlowFastConfig
from thinker.policies.shards import read_headers
from thinker.policies.square.internvl3 import (
    IMAGE_TOKENS,
    ThinkerInternVLConfig,
    ThinkerInternVLForConditionalGeneration,
)
from thinker.tasks.level import LevelConfig

MODEL_TYPE = "internvl_chat"

# By the name in config.json. Their code opens every prompt with it, whatever the tokenizer says.
SYSTEM_MESSAGES = {
    "internvl2_5": "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
    "联合开发的多模态大语言模型。",
}
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nSYSTEM<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WORDS = ("<img>", "</img>", "<IMG_CONTEXT>")
"""Tokens around and of a frame."""

# What the released code fixes, as (keys in config.json, the value we reproduce).
REQUIRED = (
    (("model_type",), MODEL_TYPE),
    (("select_layer",), -1),
    (("ps_version",), "v2"),
    (("downsample_ratio",), 0.5),
    (("llm_config", "architectures"), ["Qwen2ForCausalLM"]),
    (("vision_config", "num_channels"), 3),
)

LAYOUT_OF_MODE = {"pooled": "vqathinker", "frames_viewed": "vital"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a published program runs such weights."""

    name: str
    """For messages and the model card, as "VITAL, setting training"."""

    motion: MotionConfig
    """Without the sizes, which are read off the weights."""

    clip: ClipConfig
    """What is read of a video, and how it stands in the prompt."""

    levels: LevelConfig | None = None
    """How it scores by level words; None where it does not."""


def convert_internvl_chat(source: Path, target: Path, recipe: Recipe) -> int:
    """Convert the folder `source` into the new folder `target`; returns the tensors written.

    Raises ValueError for whatever `source` lacks or has too much of; `target` then does not exist.
    """
    released = read_released_config(source, recipe.name)
    headers = read_headers(source)
    refuse_parts(source, all_shapes(headers))
    tokenizer = read_tokenizer(source, released["llm_config"]["vocab_size"], IMAGE_TOKENS, WORDS)
    recipe = complete_recipe(recipe, released, all_shapes(headers))
    with errors_in_a_line(f"{source / 'config.json'} cannot be used"), torch.device("meta"):
        config = policy_config(released, recipe, tokenizer)
        model = ThinkerInternVLForConditionalGeneration(config)
    check_keys(headers, expected_shapes(model, released))
    processor = released_processor(tokenizer, config, released["template"])
    names = set(model.state_dict())
    grid = grid_side(config.vision_config)
    return write_policy(
        target,
        headers,
        lambda key, tensor: converted(key, tensor, names, grid),
        model,
        processor,
        released=recipe.name,
    )


# Reading the source


def read_released_config(source: Path, name: str) -> dict[str, Any]:
    """What config.json holds; a ValueError names every setting that we do not reproduce."""
    path, released = source / "config.json", read_config(source)
    problems = unlike(released, REQUIRED)
    if released.get("template") not in SYSTEM_MESSAGES:
        known = ", ".join(SYSTEM_MESSAGES)
        problems.append(f"template is {released.get('template')!r}, expected one of {known}")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    own = {"llm_config": ("vocab_size",), "vision_config": ("image_size", "patch_size")}
    for section, names in own.items():
        there = released.get(section) or {}
        problems += [f"{section}.{key} is missing" for key in names + sizes if key not in there]
    if problems:
        raise ValueError(f"{path} is not of the released layout of {name}:\n" + "\n".join(problems))
    return released


def refuse_parts(source: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError for published weights that are no policy: VITAL's linear probe, and vision
    encoders without a language model."""
    if any(key.startswith("quality.") for key in shapes):
        raise ValueError(
            f"{source} is VITAL's linear probe (quality.0, quality.1): it has no language model, "
            "and pools other layers of the vision encoder; convert Base, Assistant or Warm-up"
        )
    if not any(key.startswith("language_model.") for key in shapes):
        raise ValueError(
            f"{source} holds no language_model.* among its weights: a vision encoder alone is no "
            "policy"
        )


# Configuration and processor


def complete_recipe(
    recipe: Recipe, released: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> Recipe:
    """The recipe with the sizes of the motion branch: SlowFast's are read off the weights, whose
    shapes these are. Raises ValueError for weights that it does not fit."""
    patch, px = released["vision_config"]["patch_size"], recipe.clip.keyframe_px
    if px % (2 * patch):
        raise ValueError(
            f"patch_size is {patch}, expected frames of {px} px to be a multiple of twice that: "
            "pixel shuffle merges 2 x 2 patches"
        )
    slowfast = slowfast_config(shapes)
    check_mode(recipe.motion.mode, motion_mode(shapes, slowfast))
    width = released["llm_config"]["hidden_size"]
    motion = replace(recipe.motion, hidden_size=width, slowfast=slowfast)
    return replace(recipe, motion=motion)


def policy_config(
    released: dict[str, Any], recipe: Recipe, tokenizer: Qwen2TokenizerFast
) -> ThinkerInternVLConfig:
    """Our configuration of a released checkpoint; the recipe is complete."""
    text, vision = released["llm_config"], released["vision_config"]
    patch, px = vision["patch_size"], recipe.clip.keyframe_px
    return ThinkerInternVLConfig(
        vision_config={
            ours: vision[theirs] for theirs, ours in VISION_KEYS.items() if theirs in vision
        }
        | {"image_size": px},
        text_config=Qwen2Config(
            **{key: text[key] for key in TEXT_KEYS if key in text},
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,  # their configuration class sets so, whatever the file says
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(px // patch // 2) ** 2,
        tie_word_embeddings=False,
        motion_config=recipe.motion.to_dict(),
        clip_config=recipe.clip.to_dict(),
        level_config=None if recipe.levels is None else recipe.levels.to_dict(),
        dtype=released.get("torch_dtype", "float32"),
    )


def slowfast_config(shapes: dict[str, tuple[int, ...]], prefix: str = SLOWFAST) -> SlowFastConfig:
    """Depths and widths of the SlowFast among weights of these shapes, whose names begin with
    `prefix`."""
    stems = [shapes.get(f"{prefix}0.multipathway_blocks.{p}.conv.weight") for p in (0, 1)]
    if None in stems:
        raise ValueError(
            f"no {prefix}* among the weights: a plain checkpoint has no motion branch; start from "
            "its '-hf' version instead, with `load_policy`"
        )

    def depth(stage: int) -> int:
        blocks = f"{prefix}{stage}.multipathway_blocks.0.res_blocks."
        return len({key[len(blocks) :].split(".")[0] for key in shapes if key.startswith(blocks)})

    slow, fast = (shape[0] for shape in stems if shape)
    return SlowFastConfig(
        depths=(depth(1), depth(2), depth(3), depth(4)), slow_width=slow, beta_inv=slow // fast
    )


def motion_mode(
    shapes: dict[str, tuple[int, ...]], slowfast: SlowFastConfig | None = None
) -> str | None:
    """The motion mode that the weights were trained for, by the width of `motion_mlp.0`: VITAL's
    takes the fast pathway's channels, VQAThinker's those of both. None for any other width."""
    slowfast = slowfast or slowfast_config(shapes)
    fast, slow = slowfast.fast_channels, slowfast.slow_channels
    (width,) = shapes.get("motion_mlp.0.weight", (0,))
    return {fast: "frames_viewed", slow + fast: "pooled"}.get(width)


def check_mode(asked: str, found: str | None) -> None:
    """Raises ValueError for weights of the other layout; of an unknown one the keys tell more."""
    if found is not None and found != asked:
        raise ValueError(
            f"the width of motion_mlp.0 is that of the layout {LAYOUT_OF_MODE[found]}, not "
            f"{LAYOUT_OF_MODE[asked]}; leave --layout out, or name that one"
        )


def grid_side(vision_config) -> int:
    """Patches along one side of a frame."""
    return vision_config.image_size[0] // vision_config.patch_size[0]


def released_processor(
    tokenizer: Qwen2TokenizerFast, config: ThinkerInternVLConfig, template: str
) -> InternVLProcessor:
    """transformers' InternVL processor at the setting's size, with one tile a frame and ImageNet's
    normalisation."""
    mean, std = (list(values) for values in IMAGENET_MEAN_STD)
    assert config.clip_config is not None
    px = config.clip_config["keyframe_px"]
    pixels = {"size": {"height": px, "width": px}, "image_mean": mean, "image_std": std}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(crop_to_patches=False, **pixels),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**pixels),
        image_seq_length=config.image_seq_length,
        chat_template=CHAT_TEMPLATE.replace("SYSTEM", SYSTEM_MESSAGES[template]),
    )


# What must be there


def expected_shapes(model, released: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Their names of all that a checkpoint holds, with the shapes: what the policy needs, and the
    slow pathway, which a released checkpoint has whether it is used or not."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        key, shape = their_name(name), tuple(tensor.shape)
        fused = ".attn.qkv." in key
        shapes[key] = (3 * shape[0], *shape[1:]) if fused else shape
    with torch.device("meta"):
        both = SlowFast(model.model.motion.config.slowfast)
    for name, tensor in both.state_dict().items():
        shapes[SLOWFAST + name.removeprefix("blocks.")] = tuple(tensor.shape)
    vision = released["vision_config"]
    num_patches = (vision["image_size"] // vision["patch_size"]) ** 2
    shapes[POSITION_EMBEDDING] = (1, num_patches + 1, vision["hidden_size"])
    return shapes


# Tensors


def converted(key: str, tensor: Tensor, names: set[str], grid: int) -> dict[str, Tensor]:
    """Our tensors of theirs, of those that the policy has (`names`); grid: patches along a side."""
    ours = [name for name in our_names(key) if name in names]
    if key == POSITION_EMBEDDING:
        tensor = resize_position_embedding(tensor, grid)
    if len(ours) <= 1:
        return dict.fromkeys(ours, tensor)
    # Copies: safetensors does not write tensors that share memory.
    parts = tensor.chunk(len(ours))
    return {name: part.clone() for name, part in zip(ours, parts, strict=True)}


def resize_position_embedding(embedding: Tensor, grid: int) -> Tensor:
    """(1, 1 + s·s, D) → (1, 1 + grid·grid, D): bicubic over the patches, corners not aligned, in
    float32; row 0 (the class token) stays."""
    side = round((embedding.shape[1] - 1) ** 0.5)
    if side == grid:
        return embedding
    patches = embedding[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(
        patches, size=(grid, grid), mode="bicubic", align_corners=False
    )
    rows = patches.flatten(2).transpose(1, 2).to(embedding.dtype)
    return torch.cat([embedding[:, :1], rows], dim=1)
