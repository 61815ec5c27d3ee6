"""Qwen3-VL with a motion branch: a native transformers subclass, no remote code.

DeepStack (arXiv 2406.04334): features of some layers of the vision tower, each through a projector
of its own, are added to the hidden states that leave the first layers of the language model, at the
places of the visual tokens. So the embedding of a placeholder is wider than the language model:

    [ first | added behind layer 0 | added behind layer 1 | … ]        D · (1 + levels)

Everything that carries embeddings (feature cache, rollout engines, sessions) carries these; `embed`
divides them. Motion tokens have zeros behind their first D, and nothing is added to them.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from thinker.policies.backbone import Backbone, MotionPolicy, PolicyConfig, with_chunks
from thinker.policies.inputs import ClipConfig
from thinker.policies.qwen_vl.family import QwenVLBackbone, QwenVLInputs, tiny, tiny_vision
from thinker.policies.tiny import TinySize, qwen3_text_config


class ThinkerQwen3VLConfig(PolicyConfig, Qwen3VLConfig):
    """Qwen3-VL's configuration and what `PolicyConfig` adds to it."""

    model_type = "thinker_qwen3_vl"


class DeepStackModel(Qwen3VLModel):
    """Qwen3-VL's model with a forward that takes visual features which are already known.

    transformers' own makes the arguments of DeepStack of pixels only, and hands `None` to the
    language model where there are none. They are put in their place on the way. All else, and what
    a head reads off the output, is transformers' own, whose fields differ between its releases.
    """

    def forward(self, *args, **kwargs):
        names = ("visual_pos_masks", "deepstack_visual_embeds")
        deeper = {name: kwargs.pop(name) for name in names if name in kwargs}
        if not deeper:
            return super().forward(*args, **kwargs)
        hook = self.language_model.register_forward_pre_hook(
            lambda module, args, given: (args, given | deeper), with_kwargs=True
        )
        try:
            return super().forward(*args, **kwargs)
        finally:
            hook.remove()


class ThinkerQwen3VLModel(QwenVLBackbone, DeepStackModel):
    """Qwen3-VL's vision tower and language model with the motion branch."""

    config: ThinkerQwen3VLConfig

    @property
    def vision_part(self) -> nn.Module:
        visual = self.visual
        return nn.ModuleList([visual.patch_embed, visual.pos_embed, visual.blocks])

    @property
    def projectors(self) -> list[nn.Module]:
        """Those of the last layer's features and of DeepStack's, in that order."""
        return [self.visual.merger, *self.visual.deepstack_merger_list]

    @property
    def vision_projector(self) -> nn.Module:
        return nn.ModuleList(self.projectors)

    @property
    def embed_width(self) -> int:
        levels = len(self.config.vision_config.deepstack_visual_indexes)
        return self.config.get_text_config().hidden_size * (1 + levels)

    def encode_slots(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """Patches (sum t·h·w, C·2·16·16) with `image_grid_thw`, one row (1, h, w) a slot → N
        tensors (h·w/4, D · (1 + levels))."""
        grid = grids["image_grid_thw"]
        output = self.run_tower(pixel_values, grid)
        wide = [output.pooler_output, *output.deepstack_features]
        return self.by_slot(torch.cat(wide, dim=-1), grid)

    def tower_features(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """As `encode_slots`, before the projectors: N tensors (h·w, vision width · (1 + levels)),
        read off what the projectors are given."""
        given: dict[nn.Module, torch.Tensor] = {}
        hooks = [
            projector.register_forward_pre_hook(
                lambda module, args: given.__setitem__(module, args[0])
            )
            for projector in self.projectors
        ]
        try:
            self.encode_slots(pixel_values, **grids)
        finally:
            for hook in hooks:
                hook.remove()
        features = torch.cat([given[projector] for projector in self.projectors], dim=-1)
        return list(features.split(grids["image_grid_thw"].prod(-1).tolist()))

    def project_slots(self, features: list[torch.Tensor], **grids) -> list[torch.Tensor]:
        levels = torch.cat(features).split(self.tower_width, dim=-1)
        merged = [  # contiguous: a projector views the four patches of a token as one row
            projector(level.contiguous())
            for projector, level in zip(self.projectors, levels, strict=True)
        ]
        return self.by_slot(torch.cat(merged, dim=-1), grids["image_grid_thw"])

    def deeper_inputs(self, places: torch.Tensor, features: torch.Tensor) -> dict[str, Any]:
        width = self.config.get_text_config().hidden_size
        levels = list(features.split(width, dim=-1))
        return {"visual_pos_masks": places, "deepstack_visual_embeds": levels}


class ThinkerQwen3VLForConditionalGeneration(MotionPolicy, Qwen3VLForConditionalGeneration):
    """The policy: `ThinkerQwen3VLModel` and a language-model head."""

    config: ThinkerQwen3VLConfig
    backbone_class = ThinkerQwen3VLModel
    forward = with_chunks(Qwen3VLForConditionalGeneration.forward)

    @property
    def projector_names(self) -> tuple[str, ...]:  # type: ignore[override]
        levels = range(len(self.config.vision_config.deepstack_visual_indexes))
        deeper = [f"visual.deepstack_merger_list.{level}" for level in levels]
        return ("visual.merger", *deeper, "motion.projector")


def tiny_text(size: TinySize, tokenizer: Any) -> dict[str, Any]:
    """Fields of a tiny language model's configuration. Sections of M-RoPE are interleaved in a
    head, nearly as 24 : 20 : 20 of the real 64."""
    text = qwen3_text_config(size, tokenizer)
    half = text["head_dim"] // 2
    rope = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
        "mrope_interleaved": True,
    }
    return text | {"model_type": "qwen3_vl_text", "rope_parameters": rope}


def tiny_tower(size: TinySize) -> dict[str, Any]:
    """Fields of a tiny vision tower's configuration: a level of DeepStack for every layer of the
    tower, as far as another layer of the language model can see what it adds."""
    return tiny_vision(size) | {
        "hidden_size": size.vision_width,
        "intermediate_size": 2 * size.vision_width,
        "out_hidden_size": size.width,
        "num_position_embeddings": (size.frame_px // size.patch_px) ** 2,
        "deepstack_visual_indexes": list(range(min(size.vision_layers, size.layers - 1))),
    }


BACKBONE = Backbone(
    plain_type="qwen3_vl",
    config=ThinkerQwen3VLConfig,
    model=ThinkerQwen3VLForConditionalGeneration,
    processor=Qwen3VLProcessor,
    inputs=QwenVLInputs,
    # A frame pair has as many tokens as a frame of InternVL3, at most: 256 (the model's own bound
    # is one on the pixels of a whole video). A still has 4 to 1280 tokens.
    default_clip=ClipConfig(
        num_keyframes=8,
        keyframe_px=0,
        min_pixels=64 * 32 * 32,
        max_pixels=256 * 32 * 32,
        stills="image",
        image_min_pixels=4 * 32 * 32,
        image_max_pixels=1280 * 32 * 32,
    ),
    tiny=partial(
        tiny,
        config=ThinkerQwen3VLConfig,
        processor=Qwen3VLProcessor,
        video_processor=Qwen3VLVideoProcessor,
        vision_config=tiny_tower,
        language_model=tiny_text,
    ),
)
