"""What a GRPO step of a real-size policy costs: parameters, tokens, FLOPs, and what memory holds.

In: the name of a public backbone (`public_configs.yaml`), frames, group size. The policy is built
on the meta device, without weights, so that every count is read off the real modules. Out: a text
of tables.

A multiply-add is two FLOPs, and only matrix products and convolutions are counted; attention counts
each causal (query, key) pair once. They follow this package's own schedule: a video is encoded
once, its prompt prefilled once, and the log-probabilities of its G completions are computed behind
one shared prompt (docs/architecture.md). Bytes follow DeepSpeed's mixed-precision AdamW, before any
sharding: 2 a weight, 2 a gradient, 12 of optimizer state (float32 copy and two moments). They are
added up by `thinker.plan.memory`.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thinker.config.run import LoraSettings
from thinker.policies.backbone import MotionBackbone
from thinker.policies.card import count_parameters
from thinker.policies.motion import MotionConfig, MotionEncoder
from thinker.policies.registry import BACKBONES
from thinker.policies.shared_prompt.last_layer import skipped_parts

PUBLIC_CONFIGS = Path(__file__).parent / "public_configs.yaml"
FRAMES_PER_WINDOW = 16
"""Dense frames a keyframe, as in `MotionConfig`'s default."""

TEXT_TOKENS = 110
"""An estimate: 95 words and marks of the user turn, and those of the chat."""

TEXT_TOKENS_PER_SLOT = 7
""""Frame12:", a line break, start and end marks."""

SOURCE_VIDEO = (1080, 1920)
"""Height and width of the video that is counted; they matter where the aspect ratio is kept."""

PROJECTORS = ("vision_projector", "motion_projector")
"""Parts that LoRA trains in full."""

WEIGHT, GRADIENT, OPTIMIZER = 2, 2, 12
"""Bytes a parameter."""


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """What one optimisation step of one process handles."""

    num_keyframes: int = 12
    """K, the keyframes of a video."""

    num_generations: int = 8
    """G, the completions of a video."""

    completion_tokens: int = 400
    """Mean length of a completion."""

    num_videos: int = 1
    """Prompts a step."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")


def public_configs() -> dict[str, dict[str, Any]]:
    """Sizes of the public backbones by name."""
    return yaml.safe_load(PUBLIC_CONFIGS.read_text(encoding="utf-8"))


def meta_policy(name: str, num_keyframes: int, px: int | None = None):
    """The model of a public backbone with our default motion branch, on the meta device.

    px: side of the frames of a backbone that stretches them to squares (InternVL, 448 by default);
    where the aspect ratio is kept, sizes follow from the limits on the area.
    """
    known = public_configs()
    if name not in known:
        raise ValueError(f"no public configuration {name!r}; known: {', '.join(known)}")
    public = known[name]
    backbone = BACKBONES[public["backbone"]]
    clip = replace(backbone.default_clip, num_keyframes=num_keyframes)
    if px is not None:
        if not clip.keyframe_px:
            raise ValueError(
                f"{name} keeps the aspect ratio; a side in pixels is for backbones that stretch "
                "frames to squares"
            )
        patch = 2 * public["vision_config"]["patch_size"]  # 2 x 2 patches become one token
        if px < patch or px % patch:
            raise ValueError(f"px is {px}, expected a positive multiple of {patch}")
        clip = replace(clip, keyframe_px=px)
    motion = MotionConfig(
        hidden_size=public["text_config"]["hidden_size"],
        num_keyframes=num_keyframes,
        num_motion_frames=FRAMES_PER_WINDOW * num_keyframes,
    )
    config = backbone.config(
        text_config=dict(public["text_config"]),
        vision_config=dict(public["vision_config"]),
        tie_word_embeddings=public["text_config"]["tie_word_embeddings"],
        motion_config=motion.to_dict(),
        clip_config=clip.to_dict(),
    )
    with torch.device("meta"):
        return backbone.model(config)


# Tokens


@dataclass(frozen=True, kw_only=True)
class VideoTokens:
    """Tokens of one prompt."""

    slots: int
    """Frames, or frame pairs, that pass the vision tower."""

    patches: int
    """Patches of one slot."""

    visual: int
    """Visual tokens of all slots."""

    motion: int
    """Motion tokens of all slots."""

    text: int
    """All other tokens."""

    @property
    def prompt(self) -> int:
        return self.visual + self.motion + self.text


def video_tokens(model) -> VideoTokens:
    """Tokens of the prompt for one video of `SOURCE_VIDEO` size."""
    backbone = model.model
    slots, patches = backbone.video_load(*SOURCE_VIDEO)
    return VideoTokens(
        slots=slots,
        patches=patches,
        visual=slots * backbone.visual_tokens(patches),
        motion=backbone.motion.config.tokens_per_frame * backbone.clip_config.num_keyframes,
        text=TEXT_TOKENS + TEXT_TOKENS_PER_SLOT * slots,
    )


# FLOPs


def linear_flops(module: nn.Module) -> int:
    """FLOPs of all linear layers in `module` for one token, without the originals that peft keeps
    aside."""
    return 2 * sum(
        layer.in_features * layer.out_features  # ZeRO-3 leaves no weight, 4 bits another shape
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and "original_module" not in name
    )


def causal_pairs(length: int) -> int:
    """(query, key) pairs of causal attention. Example: `causal_pairs(3) == 6`."""
    return length * (length + 1) // 2


def head_dim(text) -> int:
    """Width of an attention head of a language model, given its configuration."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def language_flops(
    model, tokens: int, pairs: int, head_tokens: int, unread: int = 0, unread_pairs: int = 0
) -> int:
    """FLOPs of the language model: `tokens` pass all layers, with `pairs` of query and key in each
    of them, and `head_tokens` pass the head.

    unread: how many of the tokens need keys and values only in the last layer (last_layer.py), with
    `unread_pairs` of the pairs.
    """
    text, language = model.config.get_text_config(), model.model.language_model
    attention = 4 * text.num_attention_heads * head_dim(text)
    head = 2 * text.hidden_size * text.vocab_size
    return (
        linear_flops(language) * tokens
        - sum(linear_flops(part) for part in skipped_parts(language)) * unread
        + attention * (text.num_hidden_layers * pairs - unread_pairs)
        + head * head_tokens
    )


def vision_flops(backbone: MotionBackbone, tokens: VideoTokens) -> int:
    """FLOPs of the vision tower and its projector for one video."""
    work = backbone.tower_work(tokens.patches)
    embedding = 2 * tokens.patches * 3 * work.patch_pixels * work.width
    layers = linear_flops(work.layers) * work.rows + 4 * work.width * work.pairs
    merged = backbone.projected_tokens(tokens.patches) * linear_flops(backbone.vision_projector)
    return tokens.slots * (embedding + layers + merged)


@lru_cache(maxsize=64)
def motion_flops(config: MotionConfig, frames_shape: tuple[int, ...] | None = None) -> int:
    """FLOPs of SlowFast and its projector for one video, counted by running them on the meta
    device.

    frames_shape: (T, 3, H, W) of the frames that pass; None for the dense frames of `config`.
    """
    dense = (config.num_motion_frames, 3, config.motion_px, config.motion_px)
    with torch.device("meta"):
        motion = MotionEncoder(config)
        frames = torch.empty(1, *(frames_shape or dense), dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        motion(frames)
    return counter.get_total_flops()


@dataclass(frozen=True, kw_only=True)
class VideoFlops:
    """FLOPs of the parts that the stages of a step are made of, for one video."""

    encode: int
    """Vision tower and SlowFast."""

    prefill: int
    """The prompt through the language model."""

    decode: int
    """G completions through the language model, token by token."""

    logprobs: int
    """Prompt and G completions through the language model as one packed row."""


def video_flops(model, tokens: VideoTokens, size: StepSize) -> VideoFlops:
    """The FLOPs of one video whose prompt has `tokens`."""
    p, g, c = tokens.prompt, size.num_generations, size.completion_tokens
    behind = g * (c * p + causal_pairs(c))  # completion queries: the whole prompt, then their own
    # As one packed row, whose last prompt token heads every completion: counted among its tokens.
    shared = p - 1
    packed = causal_pairs(shared) + g * (c * shared + causal_pairs(c))
    unread = shared, causal_pairs(shared)
    return VideoFlops(
        encode=vision_flops(model.model, tokens) + motion_flops(model.model.motion.config),
        prefill=language_flops(model, p, causal_pairs(p), 0),
        decode=language_flops(model, g * c, behind, g * c),
        logprobs=language_flops(model, shared + g * c, packed, g * c, *unread),
    )


def step_flops(model, size: StepSize) -> dict[str, int]:
    """FLOPs by stage, for all videos of a step."""
    flops = video_flops(model, video_tokens(model), size)
    rollout, logprobs = flops.prefill + flops.decode, flops.encode + flops.logprobs
    stages = {
        "encode video (vision, motion)": flops.encode,
        f"rollout: prefill and {size.num_generations} completions": rollout,
        "perturbed copy: encode and rollout (temporal reward only)": flops.encode + rollout,
        "reference logps (beta > 0 only)": logprobs,
        "training forward": logprobs,
        "training backward": 2 * logprobs,
        "recomputation (gradient checkpointing)": logprobs,
    }
    return {name: count * size.num_videos for name, count in stages.items()}


# Memory


def lora_parameters(model, settings: LoraSettings) -> int:
    """Number of parameters that LoRA trains: the adapters of the language model, and both
    projectors in full."""
    adapters = sum(
        settings.r * (m.in_features + m.out_features)
        for name, m in model.model.language_model.named_modules()
        if isinstance(m, nn.Linear) and name.rpartition(".")[2] in settings.target_modules
    )
    parts = model.parts()
    full = sum(p.numel() for k in PROJECTORS for p in parts[k].parameters())
    return adapters + full


def activation_bytes(model, size: StepSize, *, train_vision: bool) -> int:
    """Bytes that the training forward keeps, in bfloat16 and with gradient checkpointing.

    These are a hidden state a layer and token of the language model, and of the vision tower where
    that is trained; and what one layer of the language model holds while it is recomputed: its
    products, and keys and values with the prompt's once for each completion.
    """
    text = model.config.get_text_config()
    prompt, group = video_tokens(model).prompt, size.num_generations
    tokens = prompt + group * size.completion_tokens
    one_layer = 8 * text.hidden_size + 3 * text.intermediate_size
    kept = tokens * (text.num_hidden_layers * text.hidden_size + one_layer)
    kept += 2 * group * (prompt + size.completion_tokens) * text.hidden_size
    if train_vision:
        video = video_tokens(model)
        tower = model.model.tower_work(video.patches)
        kept += video.slots * video.patches * tower.depth * tower.width
    return 2 * kept * size.num_videos


def cache_bytes(model, size: StepSize) -> int:
    """Bytes of keys and values of all rollouts of a step, each with its own copy of the
    prompt's."""
    row = cache_bytes_a_token(model.config.get_text_config(), itemsize=2)
    length = video_tokens(model).prompt + size.completion_tokens
    return row * length * size.num_generations * size.num_videos


def cache_bytes_a_token(text, itemsize: int) -> int:
    """Bytes of the keys and values of one token in all layers of a language model, given its
    configuration; itemsize: bytes of one value."""
    return 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim(text) * itemsize


def report(name: str, size: StepSize, px: int | None = None) -> str:
    """What `thinker estimate` prints of the work; `thinker.plan.cards` has the memory."""
    model = meta_policy(name, size.num_keyframes, px)
    tokens, flops = video_tokens(model), step_flops(model, size)
    lines = [
        f"{name}: {size.num_videos} video(s) a step, {size.num_keyframes} keyframes, "
        f"{size.num_generations} completions of {size.completion_tokens} tokens",
    ]
    lines += ["", "parameters"]
    lines += [f"  {part:<20}{n:>16,}" for part, n in count_parameters(model).items()]
    lines += ["", "tokens a video (text approximate)"]
    lines += [f"  {n:<20}{getattr(tokens, n):>16,}" for n in ("visual", "motion", "text", "prompt")]
    lines += ["", "TFLOPs a step"]
    lines += [f"  {stage:<60}{value / 1e12:>12,.1f}" for stage, value in flops.items()]
    lines += [f"  {'all of it':<60}{sum(flops.values()) / 1e12:>12,.1f}"]
    return "\n".join(lines)
