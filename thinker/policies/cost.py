"""What a GRPO step of a real-size policy costs: parameters, tokens, FLOPs and memory, no weights.

In: the name of a public backbone (`policies/public_configs.yaml`), frames, group size. The policy
is built on the meta device, so that every count is read off the real modules. Out: a text of
tables.

FLOPs are two for a multiply-add, of matrix products and convolutions alone; attention counts each
(query, key) pair once, causal ones only. They follow this package's own schedule: a video is
encoded once, its prompt prefilled once, and its G completions are scored behind one shared prompt
(docs/architecture.md). Memory follows DeepSpeed's mixed-precision AdamW, before any sharding: 2
bytes a weight, 2 a gradient, 12 of optimizer state (float32 copy and two moments).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thinker.config.build import build
from thinker.config.run import LoraSettings
from thinker.policies import BACKBONES, DEFAULT_CLIP
from thinker.policies.card import count_parameters
from thinker.policies.inputs import ClipConfig
from thinker.policies.motion.encoder import MotionConfig
from thinker.video import smart_resize

PUBLIC_CONFIGS = Path(__file__).parent / "policies" / "public_configs.yaml"
FRAMES_PER_WINDOW = 16  # dense frames a keyframe, MotionConfig's default
TEXT_TOKENS = 110  # estimated: 95 words and marks of the user turn, and those of the chat
TEXT_TOKENS_PER_SLOT = 7  # "Frame12:", line break, start and end marks
SOURCE_VIDEO = (1080, 1920)  # whose frames Qwen2.5-VL's aspect-preserving resize is asked about
PROJECTORS = ("vision_projector", "motion_projector")  # which LoRA trains in full
WEIGHT, GRADIENT, OPTIMIZER = 2, 2, 12  # bytes a parameter


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """What one optimisation step of one process handles.

    num_keyframes: K. num_generations: G. completion_tokens: mean length of a completion.
    num_videos: prompts a step.
    """

    num_keyframes: int = 12
    num_generations: int = 8
    completion_tokens: int = 400
    num_videos: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")


def public_configs() -> dict[str, dict[str, Any]]:
    """Sizes of the public backbones by name."""
    return yaml.safe_load(PUBLIC_CONFIGS.read_text(encoding="utf-8"))


def meta_policy(name: str, num_keyframes: int, px: int | None = None):
    """The model of a public backbone with our default motion branch, on the meta device.

    px: side of InternVL's frames (448 by default); Qwen2.5-VL's follow from its pixel limits.
    """
    known = public_configs()
    if name not in known:
        raise ValueError(f"no public configuration {name!r}; known: {', '.join(known)}")
    public = known[name]
    clip = replace(DEFAULT_CLIP[public["backbone"]], num_keyframes=num_keyframes)
    if px is not None:
        if public["backbone"] != "internvl3":
            raise ValueError(
                f"{name} keeps the aspect ratio; a side in pixels is for InternVL only"
            )
        patch = 2 * public["vision_config"]["patch_size"]
        if px < patch or px % patch:
            raise ValueError(f"px is {px}, expected a positive multiple of {patch}")
        clip = replace(clip, keyframe_px=px)
    motion = MotionConfig(
        hidden_size=public["text_config"]["hidden_size"],
        num_keyframes=num_keyframes,
        num_motion_frames=FRAMES_PER_WINDOW * num_keyframes,
    )
    backbone = BACKBONES[public["backbone"]]
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
    """Tokens of one prompt; `slots` frames, or frame pairs, of `patches` patches each."""

    slots: int
    patches: int
    visual: int
    motion: int
    text: int

    @property
    def prompt(self) -> int:
        return self.visual + self.motion + self.text


def video_tokens(model) -> VideoTokens:
    """Tokens of a video of `SOURCE_VIDEO` size (its size matters to Qwen2.5-VL only)."""
    config, vision = model.config, model.config.vision_config
    clip = build(ClipConfig, config.clip_config, "clip_config")
    motion = model.model.motion.config.tokens_per_frame * clip.num_keyframes
    if clip.keyframe_px:
        slots, patches = clip.num_keyframes, (clip.keyframe_px // vision.patch_size[0]) ** 2
    else:
        factor = vision.patch_size * vision.spatial_merge_size
        height, width = smart_resize(
            *SOURCE_VIDEO, factor=factor, min_pixels=clip.min_pixels, max_pixels=clip.max_pixels
        )
        slots = -(-clip.num_keyframes // vision.temporal_patch_size)
        patches = height * width // vision.patch_size**2
    return VideoTokens(
        slots=slots,
        patches=patches,
        visual=slots * patches // 4,  # both backbones merge 2 x 2 patches
        motion=motion,
        text=TEXT_TOKENS + TEXT_TOKENS_PER_SLOT * slots,
    )


# FLOPs


def linear_flops(module: nn.Module) -> int:
    """Of all linear layers in `module`, a token; not of the originals that peft keeps aside."""
    return 2 * sum(
        layer.weight.numel()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and "original_module" not in name
    )


def language_flops(model, tokens: int, pairs: int, head_tokens: int) -> int:
    """Of the language model: `tokens` through all layers, `pairs` of query and key in each of them,
    `head_tokens` through the head."""
    text = model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention = 4 * text.num_attention_heads * head_dim * text.num_hidden_layers
    head = 2 * text.hidden_size * text.vocab_size
    return (
        linear_flops(model.model.language_model) * tokens + attention * pairs + head * head_tokens
    )


def vision_flops(model, tokens: VideoTokens) -> int:
    """Of the vision tower and its projector, a video."""
    vision, s = model.config.vision_config, tokens.patches
    if hasattr(model.model, "vision_tower"):
        tower, projector = model.model.vision_tower, model.model.multi_modal_projector
        patch, rows, pairs = (
            vision.patch_size[0] ** 2,
            s + 1,
            (s + 1) ** 2 * vision.num_hidden_layers,
        )
        layers = linear_flops(tower)
    else:
        visual = model.model.visual
        projector, patch, rows = visual.merger, vision.temporal_patch_size * vision.patch_size**2, s
        window = min((vision.window_size // vision.patch_size) ** 2, s)
        full = len(vision.fullatt_block_indexes)
        pairs = s * s * full + s * window * (vision.depth - full)
        layers = linear_flops(visual.blocks)
    embedding = 2 * s * 3 * patch * vision.hidden_size
    merged = tokens.visual // tokens.slots * linear_flops(projector)
    return tokens.slots * (embedding + layers * rows + 4 * vision.hidden_size * pairs + merged)


def motion_flops(model) -> int:
    """Of SlowFast and its projector, a video; counted by running them on the meta device."""
    motion = model.model.motion
    px, frames = motion.config.motion_px, motion.config.num_motion_frames
    clip = torch.empty(1, frames, 3, px, px, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counter:
        motion(clip)
    return counter.get_total_flops()


def step_flops(model, size: StepSize) -> dict[str, int]:
    """By stage, for all videos of a step."""
    tokens = video_tokens(model)
    p, g, c = tokens.prompt, size.num_generations, size.completion_tokens
    causal = p * (p + 1) // 2
    behind = g * (c * p + c * (c + 1) // 2)  # completion queries: the whole prompt, then their own
    encode = vision_flops(model, tokens) + motion_flops(model)
    rollout = language_flops(model, p + g * c, causal + behind, g * c)
    score = encode + rollout  # the same products, as one packed row
    stages = {
        "encode video (vision, motion)": encode,
        f"rollout: prefill and {g} completions": rollout,
        "perturbed copy: encode and rollout (temporal reward only)": encode + rollout,
        "reference logps (beta > 0 only)": score,
        "training forward": score,
        "training backward": 2 * score,
        "recomputation (gradient checkpointing)": score,
    }
    return {name: flops * size.num_videos for name, flops in stages.items()}


# Memory


def lora_parameters(model, settings: LoraSettings) -> int:
    """What LoRA trains: the adapters of the language model, and both projectors in full."""
    adapters = sum(
        settings.r * (m.in_features + m.out_features)
        for name, m in model.model.language_model.named_modules()
        if isinstance(m, nn.Linear) and name.rpartition(".")[2] in settings.target_modules
    )
    parts = model.parts()
    full = sum(p.numel() for k in PROJECTORS for p in parts[k].parameters())
    return adapters + full


def activation_bytes(model, size: StepSize, *, train_vision: bool) -> int:
    """Of the training forward with gradient checkpointing, bfloat16: a hidden state a layer and
    token of the language model and of the vision tower where that is trained, and what one layer of
    the language model holds while it is recomputed: its products, and keys and values with the
    prompt's once for each completion."""
    text = model.config.get_text_config()
    prompt, group = video_tokens(model).prompt, size.num_generations
    tokens = prompt + group * size.completion_tokens
    one_layer = 8 * text.hidden_size + 3 * text.intermediate_size
    kept = tokens * (text.num_hidden_layers * text.hidden_size + one_layer)
    kept += 2 * group * (prompt + size.completion_tokens) * text.hidden_size
    if train_vision:
        video, vision = video_tokens(model), model.config.vision_config
        depth = getattr(vision, "num_hidden_layers", None) or vision.depth
        kept += video.slots * video.patches * depth * vision.hidden_size
    return 2 * kept * size.num_videos


def cache_bytes(model, size: StepSize) -> int:
    """Keys and values of all rollouts of a step, each with its own copy of the prompt's."""
    text = model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    row = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim
    length = video_tokens(model).prompt + size.completion_tokens
    return row * length * size.num_generations * size.num_videos


def memory_bytes(model, size: StepSize) -> dict[str, dict[str, int]]:
    """Of each way to train: weights, reference, gradients, optimizer, and the larger of rollout
    cache and training activations (they do not live at the same time)."""
    counts = count_parameters(model)
    total = counts["total"]
    trained = {
        "full": total - counts["slowfast"],
        "LoRA": lora_parameters(model, LoraSettings()),
    }
    table = {}
    for way, with_reference in (("full", False), ("full", True), ("LoRA", False), ("LoRA", True)):
        own = trained[way]
        table[f"{way}, {'with' if with_reference else 'no'} reference"] = {
            # LoRA's reference is the same model with its adapters off.
            "weights": WEIGHT * (total + (own if way == "LoRA" else 0)),
            "reference": WEIGHT * total if with_reference and way == "full" else 0,
            "gradients": GRADIENT * own,
            "optimizer": OPTIMIZER * own,
            "cache or activations": max(
                cache_bytes(model, size), activation_bytes(model, size, train_vision=way == "full")
            ),
        }
    return table


def report(name: str, size: StepSize, px: int | None = None) -> str:
    """The text that `thinker estimate` prints."""
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
    lines += [f"  {'all of it':<60}{sum(flops.values()) / 1e12:>12,.1f}", ""]
    lines += ["GiB on one device, nothing sharded"]
    for way, rows in memory_bytes(model, size).items():
        detail = ", ".join(f"{part} {n / 2**30:.1f}" for part, n in rows.items() if n)
        lines.append(f"  {way:<24}{sum(rows.values()) / 2**30:>8.1f}  ({detail})")
    return "\n".join(lines)
