"""Qwen2.5-VL with a motion branch: a native transformers subclass, no remote code.

Most layers of its vision tower attend within windows, whose order the merger's output is put back
from.
"""

from functools import partial
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.vision_utils import get_vision_window_index

from thinker.policies.backbone import Backbone, MotionPolicy, PolicyConfig, TowerWork, with_chunks
from thinker.policies.inputs import ClipConfig
from thinker.policies.qwen_vl.family import (
    QwenVLBackbone,
    QwenVLInputs,
    tiny,
    tiny_text,
    tiny_vision,
)
from thinker.policies.tiny import TinySize


class ThinkerQwen2_5_VLConfig(PolicyConfig, Qwen2_5_VLConfig):
    """Qwen2.5-VL's configuration and what `PolicyConfig` adds to it."""

    model_type = "thinker_qwen2_5_vl"


class ThinkerQwen2_5_VLModel(QwenVLBackbone, Qwen2_5_VLModel):
    """Qwen2.5-VL's vision tower and language model with the motion branch."""

    config: ThinkerQwen2_5_VLConfig

    def project_slots(self, features: list[torch.Tensor], **grids) -> list[torch.Tensor]:
        """Merge, and undo the order of the window attention, as transformers' forward does."""
        grid, vision = grids["image_grid_thw"], self.visual
        window_index, _ = get_vision_window_index(
            grid,
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        merged = vision.merger(torch.cat(features))[torch.argsort(window_index).to(grid.device)]
        return self.by_slot(merged, grid)

    def tower_work(self, num_patches: int) -> TowerWork:
        vision = self.config.vision_config
        window = min((vision.window_size // vision.patch_size) ** 2, num_patches)
        num_full = len(vision.fullatt_block_indexes)
        return TowerWork(
            layers=self.visual.blocks,
            width=self.tower_width,
            depth=vision.depth,
            rows=num_patches,
            pairs=num_patches * (num_patches * num_full + window * (vision.depth - num_full)),
            patch_pixels=vision.temporal_patch_size * vision.patch_size**2,
        )


class ThinkerQwen2_5_VLForConditionalGeneration(MotionPolicy, Qwen2_5_VLForConditionalGeneration):
    """The policy: `ThinkerQwen2_5_VLModel` and a language-model head."""

    config: ThinkerQwen2_5_VLConfig
    backbone_class = ThinkerQwen2_5_VLModel
    projector_names = ("visual.merger", "motion.projector")
    forward = with_chunks(Qwen2_5_VLForConditionalGeneration.forward)


def tiny_tower(size: TinySize) -> dict[str, Any]:
    """Fields of a tiny vision tower's configuration."""
    return tiny_vision(size) | {
        "hidden_size": size.vision_width,
        "intermediate_size": 2 * size.vision_width,
        "out_hidden_size": size.width,
        "window_size": 4 * size.patch_px,
        "fullatt_block_indexes": [size.vision_layers - 1],
    }


BACKBONE = Backbone(
    plain_type="qwen2_5_vl",
    config=ThinkerQwen2_5_VLConfig,
    model=ThinkerQwen2_5_VLForConditionalGeneration,
    processor=Qwen2_5_VLProcessor,
    inputs=QwenVLInputs,
    # Qwen2.5-VL's own video setting: at most 360·420 pixels a frame (VQA²'s scorer). A still has 4
    # to 1280 tokens: transformers' default, of which a checkpoint's own processor asks for more.
    default_clip=ClipConfig(
        num_keyframes=8,
        keyframe_px=0,
        min_pixels=128 * 28 * 28,
        max_pixels=360 * 420,
        stills="image",
        image_min_pixels=4 * 28 * 28,
        image_max_pixels=1280 * 28 * 28,
    ),
    tiny=partial(
        tiny,
        config=ThinkerQwen2_5_VLConfig,
        processor=Qwen2_5_VLProcessor,
        vision_config=tiny_tower,
        language_model=partial(tiny_text, model_type="qwen2_5_vl_text"),
    ),
)
