"""Clips → what a policy eats: prompt token ids and pixel tensors.

This is what all backbones share; each has its own subclass of `PolicyInputs`. The frame sampler and
the sizes are part of the saved policy (`config.clip_config`), so that inference reads videos
exactly as training did. Prompt ids depend only on the number and size of the slots.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from thinker import prompts
from thinker.config.build import build
from thinker.policies.motion import MotionConfig
from thinker.video import Clip, ClipSpec


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What a policy reads of a video."""

    num_keyframes: int = 6
    """K frames over the whole video."""

    keyframe_px: int = 448
    """Side of the square that frames are stretched to; 0 where the aspect ratio is kept."""

    min_pixels: int = 0
    """Smallest area of a frame where the aspect ratio is kept; 0 for squares."""

    max_pixels: int = 0
    """Largest area of a frame where the aspect ratio is kept; 0 for squares."""

    layout: str = "lines"
    """White space of the prompt around the frames, one of `thinker.prompts.LAYOUTS`."""

    resampler: str = "torch"
    """How frames are resized, one of `thinker.video.clip.RESAMPLERS`."""

    stills: str = "video"
    """How images are read, one of `thinker.video.clip.STILLS`: "image" at their own resolution,
    without motion; "video" as a video of one frame, K times, with motion, which is the way of
    VQAThinker and of every policy that was saved without this key."""

    min_patches: int = 1
    """Fewest tiles of an image, where frames are squares."""

    max_patches: int = 12
    """Most tiles of an image, where frames are squares; the thumbnail comes on top."""

    image_min_pixels: int = 4 * 28**2
    """Smallest area of an image, where the aspect ratio is kept."""

    image_max_pixels: int = 1280 * 28**2
    """Largest area of an image, where the aspect ratio is kept."""

    def __post_init__(self):
        if self.layout not in prompts.LAYOUTS:
            raise ValueError(
                f"layout is {self.layout!r}, expected one of {', '.join(prompts.LAYOUTS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClipConfig":
        """Raises ValueError for keys and values that are not those of the fields."""
        return build(cls, values, "clip_config")


class PolicyInputs:
    """Prompt and pixels of clips for one policy; the base of each backbone's own inputs class."""

    resize = "square"
    """How keyframes get their size, as `ClipSpec.resize`."""

    size_factor = 1
    """Sides of a keyframe are multiples of it, where the aspect ratio is kept."""

    pair = 1
    """Keyframes that one slot shows."""

    def __init__(self, processor, config):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.clip_config = ClipConfig.from_dict(config.clip_config)
        self.motion_config = MotionConfig.from_dict(config.motion_config)
        self.question = config.scoring_question or prompts.SCORING
        self.image_token = self.tokenizer.convert_ids_to_tokens(config.image_token_id)
        self._prompt_ids = lru_cache(maxsize=256)(self._build_prompt_ids)

    @property
    def clip_spec(self) -> ClipSpec:
        """What the clip reader has to deliver for this policy."""
        interleaved = self.motion_config.mode == "interleaved"
        return ClipSpec(
            num_keyframes=self.clip_config.num_keyframes,
            resize=self.resize,
            keyframe_px=self.clip_config.keyframe_px,
            min_pixels=self.clip_config.min_pixels,
            max_pixels=self.clip_config.max_pixels,
            factor=self.size_factor,
            num_motion_frames=self.motion_config.num_motion_frames if interleaved else 0,
            motion_px=self.motion_config.motion_px,
            resampler=self.clip_config.resampler,
            stills=self.clip_config.stills,
            min_patches=self.clip_config.min_patches,
            max_patches=self.clip_config.max_patches,
            image_min_pixels=self.clip_config.image_min_pixels,
            image_max_pixels=self.clip_config.image_max_pixels,
        )

    def slot_tokens(self, clip: Clip) -> tuple[int, ...]:
        """Visual tokens of each slot of the clip."""
        raise NotImplementedError

    def max_slot_tokens(self) -> int:
        """Visual tokens of the largest slot that a clip can have."""
        raise NotImplementedError

    def max_prompt_tokens(self) -> int:
        """Upper bound on the length of a prompt with the policy's own question."""
        return len(self.longest_prompt_ids())

    def longest_prompt_ids(self) -> list[int]:
        """As `prompt_ids` with the policy's own question, for a clip with slots of the largest
        size."""
        num_slots = -(-self.clip_config.num_keyframes // self.pair)
        return list(self._prompt_ids((self.max_slot_tokens(),) * num_slots, self.question))

    def slot_text(self, num_visual: int, num_motion: int) -> str:
        """Placeholder text of one slot."""
        raise NotImplementedError

    def prompt_ids(self, clip: Clip, question: str | None = None) -> list[int]:
        """Token ids of the chat prompt for one clip, placeholders expanded, ready for a completion.

        question: None asks for a score, in the words the policy was trained with.
        """
        return list(self._prompt_ids(self.slot_tokens(clip), question or self.question))

    def _build_prompt_ids(self, slot_tokens: tuple[int, ...], question: str) -> tuple[int, ...]:
        mode = self.motion_config.mode
        per_slot = self.motion_config.tokens_per_frame * self.pair if mode == "interleaved" else 0
        slots = [self.slot_text(tokens, per_slot) for tokens in slot_tokens]
        motion_slot = self.slot_text(1, 0) if mode == "pooled" else None
        layout = self.clip_config.layout
        text = prompts.video_text(slots, question, motion_slot=motion_slot, layout=layout)
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        chat = self.processor.apply_chat_template([message], add_generation_prompt=True)
        return tuple(self.tokenizer(chat, add_special_tokens=False)["input_ids"])

    def media_inputs(self, clips: list[Clip]) -> dict[str, Any]:
        """Arguments of the backbone's `encode_media` for these clips, in order."""
        inputs = self.pixels(clips)
        if self.motion_config.mode != "none":
            inputs["motion_frames"] = self.motion_frames(clips)
        inputs["num_slots"] = len(self.slot_tokens(clips[0]))
        return inputs

    def motion_frames(self, clips: list[Clip]) -> torch.Tensor:
        """What the motion branch sees, uint8: dense frames (B, M, 3, px, px), or in mode "pooled"
        the keyframes (B, K, 3, H, W)."""
        if self.motion_config.mode == "interleaved":
            return torch.stack([clip.motion_MCHW for clip in clips])
        return torch.stack([clip.keyframes_KCHW for clip in clips])

    def grids(self, clips: list[Clip]) -> dict[str, Any]:
        """The arguments of `encode_media` beside the pixels that follow from the size of the clips,
        for callers that do not need the pixels."""
        return {}

    def pixels(self, clips: list[Clip]) -> dict[str, Any]:
        """Pixel arguments of `encode_media` for the keyframes of clips."""
        return self.frame_pixels([clip.keyframes_KCHW for clip in clips])

    def frame_pixels(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        """The same for any runs of frames (T, 3, H, W), uint8, each of them whole slots."""
        raise NotImplementedError
