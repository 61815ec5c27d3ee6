"""Clips → what a policy eats: prompt token ids and pixel tensors. One builder a backbone.

The frame sampler and the sizes are part of the saved policy (`config.clip_config`), so that
inference reads videos exactly as training did. Prompt ids depend only on the number and size of the
slots.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from thinker import prompts
from thinker.config.build import build
from thinker.policies.motion.encoder import MotionConfig
from thinker.video import Clip, ClipSpec


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What a policy reads of a video, and how its prompt shows it."""

    num_keyframes: int = 6
    """Number K of frames, spread over the whole video."""
    keyframe_px: int = 448
    """Side of the square that frames are stretched to (InternVL); 0 for Qwen2.5-VL."""
    min_pixels: int = 0
    """Smallest area of a frame, whose aspect is kept (Qwen2.5-VL); 0 for InternVL."""
    max_pixels: int = 0
    """Largest area of a frame, whose aspect is kept (Qwen2.5-VL); 0 for InternVL."""
    layout: str = "lines"
    """White space of the prompt around the frames, a key of `thinker.prompts.LAYOUTS`."""
    resampler: str = "torch"
    """Filter that resizes frames, one of `thinker.video.clip.RESAMPLERS`."""

    def __post_init__(self):
        if self.layout not in prompts.LAYOUTS:
            raise ValueError(
                f"layout is {self.layout!r}, expected one of {', '.join(prompts.LAYOUTS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class PolicyInputs:
    """Prompt and pixels of clips for one policy; base of the two backbones' builders."""

    resize = "square"
    size_factor = 1
    pair = 1  # keyframes a slot

    def __init__(self, processor, config):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.clip_config = build(ClipConfig, config.clip_config, "clip_config")
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
        )

    def slot_tokens(self, clip: Clip) -> tuple[int, ...]:
        """Visual tokens of each slot of the clip."""
        raise NotImplementedError

    def max_slot_tokens(self) -> int:
        """Visual tokens of the largest slot that a clip can have."""
        raise NotImplementedError

    def max_prompt_tokens(self) -> int:
        """Upper bound on the length of a prompt with the policy's own question."""
        num_slots = -(-self.clip_config.num_keyframes // self.pair)
        return len(self._prompt_ids((self.max_slot_tokens(),) * num_slots, self.question))

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
        """Arguments of `encode_media` that pixels bring along, for clips whose pixels are not
        needed."""
        return {}

    def pixels(self, clips: list[Clip]) -> dict[str, Any]:
        """Pixel arguments of `encode_media` for the keyframes of clips."""
        return self.frame_pixels([clip.keyframes_KCHW for clip in clips])

    def frame_pixels(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        """The same for any runs of frames (T, 3, H, W), uint8, each of them whole slots."""
        raise NotImplementedError


class InternVLInputs(PolicyInputs):
    """A slot is a frame, stretched to a square."""

    def __init__(self, processor, config):
        super().__init__(processor, config)
        # Not config.image_seq_length, which is that of the size the tower was trained for; at
        # another one transformers resamples the position embedding.
        patches = self.clip_config.keyframe_px // config.vision_config.patch_size[0]
        self.image_seq_length = int(patches * config.downsample_ratio) ** 2

    def slot_tokens(self, clip: Clip) -> tuple[int, ...]:
        return (self.image_seq_length,) * len(clip.keyframes_KCHW)

    def max_slot_tokens(self) -> int:
        return self.image_seq_length

    def slot_text(self, num_visual: int, num_motion: int) -> str:
        tokenizer = self.tokenizer
        placeholders = self.image_token * (num_visual + num_motion)
        return f"{tokenizer.start_image_token}{placeholders}{tokenizer.end_image_token}"

    def frame_pixels(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        """Frames rescaled to 0..1 and normalised: float32 (B·K, 3, px, px)."""
        image_processor = self.processor.image_processor
        frames = torch.cat(videos).float()
        mean = torch.tensor(image_processor.image_mean).view(3, 1, 1)
        std = torch.tensor(image_processor.image_std).view(3, 1, 1)
        return {"pixel_values": frames.div_(255).sub_(mean).div_(std)}


class Qwen2_5_VLInputs(PolicyInputs):
    """A slot is a frame pair, its aspect ratio kept."""

    resize = "smart"

    def __init__(self, processor, config):
        vision = config.vision_config
        self.merge = vision.spatial_merge_size
        self.size_factor = vision.patch_size * self.merge
        self.pair = vision.temporal_patch_size
        super().__init__(processor, config)
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

    def grids(self, clips: list[Clip]) -> dict[str, Any]:
        """`image_grid_thw`: (1, h, w) patches a slot, of all clips in order."""
        patch = self.size_factor // self.merge
        grids = [
            [1, clip.keyframes_KCHW.shape[-2] // patch, clip.keyframes_KCHW.shape[-1] // patch]
            for clip in clips
            for _ in self.slot_tokens(clip)
        ]
        return {"image_grid_thw": torch.tensor(grids)}

    def slot_text(self, num_visual: int, num_motion: int) -> str:
        runs = [n for n in (num_visual, num_motion) if n]
        return "".join(f"<|vision_start|>{self.image_token * n}<|vision_end|>" for n in runs)

    def frame_pixels(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        """Patches of frame pairs from transformers' own video processor, and a (1, h, w) grid a
        pair."""
        patches, grids = [], []
        for frames in videos:
            output = self.processor.video_processor(
                videos=[frames],
                do_resize=False,
                do_sample_frames=False,
                return_tensors="pt",
            )
            patches.append(output["pixel_values_videos"])
            num_slots, height, width = output["video_grid_thw"][0].tolist()
            grids += [[1, height, width]] * num_slots
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}
