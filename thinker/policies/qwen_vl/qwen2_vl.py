"""Qwen2-VL with a motion branch: a native transformers subclass, no remote code.

Its vision tower has neither windows nor features beside its last ones; its configuration calls the
tower's width `embed_dim` and the language model's `hidden_size`.
"""

from functools import partial
from typing import Any

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from thinker.policies.backbone import Backbone, MotionPolicy, PolicyConfig, with_chunks
from thinker.policies.inputs import ClipConfig
from thinker.policies.qwen_vl.family import (
    QwenVLBackbone,
    QwenVLInputs,
    tiny,
    tiny_text,
    tiny_vision,
)
from thinker.policies.tiny import TinySize


class ThinkerQwen2VLConfig(PolicyConfig, Qwen2VLConfig):
    """Qwen2-VL's configuration and what `PolicyConfig` adds to it."""

    model_type = "thinker_qwen2_vl"


class ThinkerQwen2VLModel(QwenVLBackbone, Qwen2VLModel):
    """Qwen2-VL's vision tower and language model with the motion branch."""

    config: ThinkerQwen2VLConfig

    @property
    def tower_width(self) -> int:
        return self.config.vision_config.embed_dim


class ThinkerQwen2VLForConditionalGeneration(MotionPolicy, Qwen2VLForConditionalGeneration):
    """The policy: `ThinkerQwen2VLModel` and a language-model head."""

    config: ThinkerQwen2VLConfig
    backbone_class = ThinkerQwen2VLModel
    projector_names = ("visual.merger", "motion.projector")
    forward = with_chunks(Qwen2VLForConditionalGeneration.forward)


def tiny_tower(size: TinySize) -> dict[str, Any]:
    """Fields of a tiny vision tower's configuration."""
    own = {"embed_dim": size.vision_width, "hidden_size": size.width, "mlp_ratio": 2}
    return tiny_vision(size) | own


BACKBONE = Backbone(
    plain_type="qwen2_vl",
    config=ThinkerQwen2VLConfig,
    model=ThinkerQwen2VLForConditionalGeneration,
    processor=Qwen2VLProcessor,
    inputs=QwenVLInputs,
    # As for Qwen2.5-VL. A still has 4 to 4096 tokens, as the published ViDA program asks for; more
    # (16384 is the processor's own bound) is set by model.clip.
    default_clip=ClipConfig(
        num_keyframes=8,
        keyframe_px=0,
        min_pixels=128 * 28 * 28,
        max_pixels=360 * 420,
        stills="image",
        image_min_pixels=4 * 28 * 28,
        image_max_pixels=4096 * 28 * 28,
    ),
    tiny=partial(
        tiny,
        config=ThinkerQwen2VLConfig,
        processor=Qwen2VLProcessor,
        vision_config=tiny_tower,
        language_model=partial(tiny_text, model_type="qwen2_vl_text"),
    ),
)
