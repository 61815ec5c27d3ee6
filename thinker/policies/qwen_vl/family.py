"""What the Qwen-VL backbones share: frame pairs, image items and their M-RoPE positions.

The vision tower merges two consecutive frames, so a slot is a frame *pair*, placed as one image
item of grid (1, h, w), followed by an item of grid (1, 2, 2m) that holds the m motion tokens:
`Frame2:<|vision_start|>` visual `<|vision_end|><|vision_start|>` motion `<|vision_end|>`. Image
items get their M-RoPE positions from transformers' own `get_rope_index`, and a rollout engine that
is fed with embeddings computes the same ones from the same grids: one position rule for training,
generation and vLLM. A still is one item of grid (1, h, w): the tower pairs the frame with itself.

What differs between Qwen2-VL, Qwen2.5-VL and Qwen3-VL is the tower (windows or none, which
features), the language model, and how the sections of M-RoPE lie in a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from thinker.policies.backbone import (
    MotionBackbone,
    PromptPositions,
    TowerWork,
    row_grids,
)
from thinker.policies.inputs import ClipConfig, PolicyInputs
from thinker.policies.tiny import (
    CHAT_TEMPLATE,
    IMAGE_FRAMES,
    INITIALIZER_RANGE,
    TinySize,
    motion_config,
    text_config,
    train_tokenizer,
)
from thinker.video import Clip, smart_resize

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"


def check_sections(text: Any) -> None:
    """Raises ValueError where the sections of M-RoPE do not fill the heads, on which the first
    forward would fail."""
    sections = text.rope_parameters.get("mrope_section")
    if sections is None:  # older configurations: the default of transformers
        return
    own = getattr(text, "head_dim", None)
    width = own or text.hidden_size // text.num_attention_heads
    if 2 * sum(sections) != width or (own is None and text.hidden_size % text.num_attention_heads):
        raise ValueError(
            f"mrope_section is {sections}, which fills heads of {2 * sum(sections)}, but those of "
            f"a width of {text.hidden_size} and {text.num_attention_heads} heads have "
            f"{own or text.hidden_size / text.num_attention_heads:g}"
        )


class QwenVLBackbone(MotionBackbone):
    """Mixin before one of transformers' Qwen-VL models."""

    visual: Any
    get_rope_index: Callable[..., Any]

    def __init__(self, config):
        check_sections(config.text_config)
        super().__init__(config)

    @property
    def tower(self) -> nn.Module:
        return self.visual

    @property
    def vision_part(self) -> nn.Module:
        # `visual` also holds the projector, which is a part of its own.
        return nn.ModuleList([self.visual.patch_embed, self.visual.blocks])

    @property
    def vision_projector(self) -> nn.Module:
        return self.visual.merger

    @property
    def patches_per_token(self) -> int:
        return self.visual.spatial_merge_size**2

    @property
    def frames_per_slot(self) -> int:
        return self.config.vision_config.temporal_patch_size

    @property
    def tower_width(self) -> int:
        """Width of the tower's hidden states."""
        return self.config.vision_config.hidden_size

    def run_tower(self, pixel_values: torch.Tensor, grid: torch.Tensor) -> Any:
        """What the tower gives for all slots together: `last_hidden_state` before the merger,
        `pooler_output` behind it. transformers' `get_image_features` divides some of it among the
        slots, not the same in every release."""
        return self.visual(pixel_values.to(self.visual.dtype), grid_thw=grid, return_dict=True)

    def encode_slots(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """Patches (sum t·h·w, C·2·14·14) with `image_grid_thw`, one row (1, h, w) a slot → N
        tensors (h·w/4, D)."""
        grid = grids["image_grid_thw"]
        return self.by_slot(self.run_tower(pixel_values, grid).pooler_output, grid)

    def tower_features(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """As `encode_slots`, before the merger: N tensors (h·w, vision width), patches in the order
        in which the tower has them."""
        grid = grids["image_grid_thw"]
        hidden = self.run_tower(pixel_values, grid).last_hidden_state
        return list(hidden.split(grid.prod(-1).tolist()))

    def project_slots(self, features: list[torch.Tensor], **grids) -> list[torch.Tensor]:
        """Merge, as transformers' forward does."""
        return self.by_slot(self.visual.merger(torch.cat(features)), grids["image_grid_thw"])

    def by_slot(self, merged: torch.Tensor, grid: torch.Tensor) -> list[torch.Tensor]:
        """Merged tokens of all slots, divided among them."""
        return list(merged.split((grid.prod(-1) // self.patches_per_token).tolist()))

    def media_grids(self, media_inputs: dict[str, Any]) -> list[torch.Tensor]:
        """Grids of the items of each clip in prompt order: slots (1, h, w) and, of clips that move,
        motion items (1, 2, 2m)."""
        grids = list(media_inputs["image_grid_thw"].split(media_inputs["slots"]))
        moving = media_inputs["moving"]
        if self.motion is None or not moving:
            return grids
        motion = self.motion.config
        pooled = motion.mode == "pooled"
        tokens = 1 if pooled else motion.tokens_per_frame * self.frames_per_slot
        item = grids[0].new_tensor([[1, 2, 2 * tokens]])
        for i in moving:  # a motion item follows the last slot, or every slot
            slots = [grids[i]] if pooled else grids[i].split(1)
            grids[i] = torch.cat([part for slot in slots for part in (slot, item)])
        return grids

    def prompt_positions(
        self, input_ids, attention_mask, media_inputs, media_rows=None
    ) -> PromptPositions:
        """M-RoPE positions by transformers' `get_rope_index`, over the items of each row in
        order."""
        ids, deltas = self.get_rope_index(
            input_ids,
            mm_token_type_ids=(input_ids == self.config.image_token_id).int(),
            image_grid_thw=row_grids(self.media_grids(media_inputs), media_rows, len(input_ids)),
            attention_mask=attention_mask,
        )
        return PromptPositions(ids=ids, next=attention_mask.sum(-1) + deltas.squeeze(1))

    def begin_generation(self, position_offsets: torch.Tensor) -> None:
        self.rope_deltas = position_offsets.unsqueeze(1)

    def tower_load(self, args, kwargs) -> list[tuple[int, int]]:
        grids = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        return [(1, num_patches) for num_patches in grids.prod(-1).tolist()]

    def video_load(self, height: int, width: int) -> tuple[int, int]:
        """The aspect ratio is kept, so the size of the video matters."""
        clip, vision = self.clip_config, self.config.vision_config
        height, width = smart_resize(
            height,
            width,
            factor=vision.patch_size * vision.spatial_merge_size,
            min_pixels=clip.min_pixels,
            max_pixels=clip.max_pixels,
        )
        num_slots = -(-clip.num_keyframes // self.frames_per_slot)
        return num_slots, height * width // vision.patch_size**2

    def tower_work(self, num_patches: int) -> TowerWork:
        """Every patch attends to all of its slot, in every layer."""
        vision = self.config.vision_config
        return TowerWork(
            layers=self.visual.blocks,
            width=self.tower_width,
            depth=vision.depth,
            rows=num_patches,
            pairs=num_patches**2 * vision.depth,
            patch_pixels=vision.temporal_patch_size * vision.patch_size**2,
        )


class QwenVLInputs(PolicyInputs):
    """A slot is a frame pair, or a still, its aspect ratio kept."""

    resize = "smart"

    def __init__(self, processor, config):
        vision = config.vision_config
        self.merge = vision.spatial_merge_size
        self.size_factor = vision.patch_size * self.merge
        self.pair = vision.temporal_patch_size
        super().__init__(processor, config)
        if self.motion_config.per_frame:
            raise ValueError(
                f"motion mode {self.motion_config.mode!r} is for backbones with plain positions; "
                "Qwen2.5-VL takes interleaved, pooled or none"
            )
        if self.motion_config.mode == "interleaved" and self.clip_config.num_keyframes % self.pair:
            raise ValueError(
                f"clip.num_keyframes is {self.clip_config.num_keyframes}, expected an even number: "
                "a slot is a frame pair, and gets the motion tokens of both"
            )

    def slot_tokens(self, clip: Clip) -> tuple[int, ...]:
        num_frames, _, height, width = clip.keyframes_KCHW.shape
        tokens = (height // self.size_factor) * (width // self.size_factor)
        return (tokens,) * -(-num_frames // self.pair)  # an odd last frame is doubled

    def max_slot_tokens(self) -> int:
        return max(1, self.clip_config.max_pixels // self.size_factor**2)

    def max_image_tokens(self) -> int:
        return max(1, self.clip_config.image_max_pixels // self.size_factor**2)

    def grids(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """`image_grid_thw`: (1, h, w) patches a slot, of all clips in order."""
        patch = self.size_factor // self.merge
        grids = [
            [1, clip.keyframes_KCHW.shape[-2] // patch, clip.keyframes_KCHW.shape[-1] // patch]
            for clip in clips
            for _ in self.slot_tokens(clip)
        ]
        return {"image_grid_thw": torch.tensor(grids, dtype=torch.long).view(-1, 3)}

    def slot_text(self, num_visual: int, num_motion: int) -> str:
        runs = [n for n in (num_visual, num_motion) if n]
        return "".join(f"{VISION_START}{self.image_token * n}{VISION_END}" for n in runs)

    def frame_pixels(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        """Patches of frame pairs from transformers' own video processor, and a (1, h, w) grid a
        pair."""
        patches, grids = [], []
        process = self.processor.video_processor
        # Without effect here; unset, there is a warning in the releases that have the setting.
        knows_cap = hasattr(process, "cap_pixels_per_frame")
        uncapped = {"cap_pixels_per_frame": False} if knows_cap else {}
        for frames in videos:
            output = process(
                videos=[frames],
                do_resize=False,
                do_sample_frames=False,
                return_tensors="pt",
                **uncapped,
            )
            patches.append(output["pixel_values_videos"])
            num_slots, height, width = output["video_grid_thw"][0].tolist()
            grids += [[1, height, width]] * num_slots
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}


def tiny(
    size: TinySize,
    texts: tuple[str, ...],
    *,
    config: Any,
    processor: Any,
    video_processor: Any = Qwen2VLVideoProcessor,
    vision_config: Callable[[TinySize], dict[str, Any]],
    language_model: Callable[[TinySize, Any], dict[str, Any]],
) -> tuple[Any, Any]:
    """Configuration and processor of a tiny policy; see `Backbone.tiny`. The classes and the fields
    of the tower's and the language model's configuration are the backbone's own."""
    tokenizer = train_tokenizer(
        texts,
        special_tokens=(VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD),
        named_tokens={"image_token": IMAGE_PAD, "video_token": VIDEO_PAD},
    )
    min_pixels, max_pixels = (2 * size.patch_px) ** 2, size.frame_px**2
    clip = ClipConfig(
        num_keyframes=size.num_keyframes,
        keyframe_px=0,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        stills="image",
        image_min_pixels=min_pixels,
        image_max_pixels=IMAGE_FRAMES * max_pixels,
    )
    built = config(
        vision_config=vision_config(size),
        text_config=language_model(size, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_PAD),
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PAD),
        vision_start_token_id=tokenizer.convert_tokens_to_ids(VISION_START),
        vision_end_token_id=tokenizer.convert_tokens_to_ids(VISION_END),
        tie_word_embeddings=False,
        motion_config=motion_config(size),
        clip_config=clip.to_dict(),
    )
    limits = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    return built, processor(
        image_processor=Qwen2VLImageProcessor(patch_size=size.patch_px, size=limits),
        tokenizer=tokenizer,
        video_processor=video_processor(patch_size=size.patch_px, size=limits),
        chat_template=CHAT_TEMPLATE,
    )


def tiny_vision(size: TinySize) -> dict[str, Any]:
    """Fields of a tiny tower's configuration that all of them have."""
    return {
        "depth": size.vision_layers,
        "num_heads": 4,
        "patch_size": size.patch_px,
        "initializer_range": INITIALIZER_RANGE,
    }


def tiny_text(size: TinySize, tokenizer: Any, *, model_type: str) -> dict[str, Any]:
    """Fields of a tiny Qwen2's configuration with M-RoPE."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": tiny_sections(size)}
    return text_config(size, tokenizer) | {"model_type": model_type, "rope_parameters": rope}


def tiny_sections(size: TinySize) -> list[int]:
    """Temporal, height and width sections of head_dim / 2 of a Qwen2, nearly as 16 : 24 : 24 of the
    real 64."""
    head_dim = size.width // size.heads
    temporal = head_dim // 8
    spatial = (head_dim // 2 - temporal) // 2
    if 2 * (temporal + 2 * spatial) != head_dim:
        raise ValueError(
            f"heads of a tiny policy are {head_dim} wide ({size.width} by {size.heads}), expected "
            "a width that 16 divides"
        )
    return [temporal, spatial, spatial]
