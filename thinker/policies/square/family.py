"""What InternVL and LLaVA-OneVision share: square frames, a projector behind the tower, plain
positions."""

from typing import Any

import torch
from torch import nn

from thinker.policies.backbone import MotionBackbone, PromptPositions
from thinker.policies.inputs import ClipConfig, PolicyInputs
from thinker.policies.tiny import IMAGE_FRAMES, TinySize, sampler


class SquareBackbone(MotionBackbone):
    """Mixin before one of transformers' models."""

    vision_tower: Any
    multi_modal_projector: Any

    @property
    def tower(self) -> nn.Module:
        return self.vision_tower

    @property
    def vision_part(self) -> nn.Module:
        return self.vision_tower

    def project_slots(self, features: list[torch.Tensor], **grids) -> list[torch.Tensor]:
        return list(self.multi_modal_projector(torch.stack(features)))

    def prompt_positions(
        self, input_ids, attention_mask, media_inputs=None, media_rows=None
    ) -> PromptPositions:
        """Plain positions, counted over the unpadded tokens of each row."""
        del input_ids, media_inputs, media_rows  # M-RoPE needs them, 1-D positions do not
        ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return PromptPositions(ids=ids, next=attention_mask.sum(-1))


class SquareInputs(PolicyInputs):
    """A slot is a frame, stretched to a square, or a tile of a still."""

    def frame_pixels(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        """Frames rescaled to 0..1 and normalised: float32 (B·K, 3, px, px)."""
        image_processor = self.processor.image_processor
        frames = torch.cat(videos).float()
        mean = torch.tensor(image_processor.image_mean).view(3, 1, 1)
        std = torch.tensor(image_processor.image_std).view(3, 1, 1)
        return {"pixel_values": frames.div_(255).sub_(mean).div_(std)}


def tiny_clip(size: TinySize, **more: Any) -> ClipConfig:
    """What a tiny policy reads."""
    return ClipConfig(
        num_keyframes=size.num_keyframes,
        keyframe_px=size.frame_px,
        stills="image",
        max_patches=IMAGE_FRAMES,
        sampler=sampler(size),
        **more,
    )


def tiny_vision(size: TinySize) -> dict[str, Any]:
    """Fields of a tiny tower's configuration that both have."""
    return {
        "hidden_size": size.vision_width,
        "intermediate_size": 2 * size.vision_width,
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": 4,
        "image_size": size.frame_px,
        "patch_size": size.patch_px,
    }
