"""InternVL3 and 3.5 with a motion branch: a native transformers subclass, no remote code.

The two are one class and differ in their language models, which the configuration names: Qwen2 in
InternVL3, Qwen3 in InternVL3.5.

A slot is one keyframe: `Frame3:<img>` + visual placeholders + motion placeholders + `</img>`.
Visual and motion tokens of a frame form one run of `<IMG_CONTEXT>`, so that one embedding item a
frame is all that a rollout engine has to know. A still is one such run over its tiles, the
thumbnail last, as transformers' processor writes it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.modeling_internvl import InternVLModel
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from thinker.policies.backbone import (
    Backbone,
    MotionPolicy,
    PolicyConfig,
    TowerWork,
    with_chunks,
)
from thinker.policies.inputs import ClipConfig
from thinker.policies.square.energies import EnergyPatches
from thinker.policies.square.family import SquareBackbone, SquareInputs, tiny_clip, tiny_vision
from thinker.policies.tiny import (
    CHAT_TEMPLATE,
    INITIALIZER_RANGE,
    TinySize,
    motion_config,
    qwen3_text_config,
    text_config,
    train_tokenizer,
)
from thinker.video import Clip

IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",  # of transformers' processor; expanded before the model sees it
}
"""Special tokens by the name under which transformers' processor looks for them."""


class ThinkerInternVLConfig(PolicyConfig, InternVLConfig):
    """InternVL's configuration and what `PolicyConfig` adds to it."""

    model_type = "thinker_internvl"

    patch_energies: bool = False
    """Whether patches are the energies of their frequencies (`EnergyPatches`) in place of a learnt
    embedding; of tiny policies only."""


class ThinkerInternVLModel(SquareBackbone, InternVLModel):
    """InternVL's vision tower and language model with the motion branch."""

    config: ThinkerInternVLConfig

    def __init__(self, config: ThinkerInternVLConfig):
        super().__init__(config)
        if config.patch_energies:
            self.vision_tower.embeddings.patch_embeddings = EnergyPatches(config.vision_config)

    @property
    def vision_projector(self) -> nn.Module:
        return self.multi_modal_projector

    @property
    def patches_per_token(self) -> int:
        return round(1 / self.config.downsample_ratio) ** 2

    def encode_slots(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """pixel_values (N, 3, px, px), normalised → N tensors (image_seq_length, D)."""
        output = self.get_image_features(
            pixel_values,
            vision_feature_layer=self.config.vision_feature_layer,
            vision_feature_select_strategy=self.config.vision_feature_select_strategy,
            return_dict=True,
        )
        return list(output.pooler_output)

    def tower_features(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """pixel_values (N, 3, px, px) → N tensors (image_seq_length, 4 · vision width), read off
        the projector's input, so that transformers' own pixel shuffle stays the only one."""
        given: list[torch.Tensor] = []
        hook = self.multi_modal_projector.register_forward_pre_hook(
            lambda module, args: given.append(args[0])
        )
        try:
            self.encode_slots(pixel_values)
        finally:
            hook.remove()
        return list(given[0])

    def tower_load(self, args, kwargs) -> list[tuple[int, int]]:
        pixel_values = args[0] if args else kwargs["pixel_values"]
        patch_height, patch_width = self.config.vision_config.patch_size
        height, width = pixel_values.shape[-2:]
        return [(len(pixel_values), (height // patch_height) * (width // patch_width))]

    def video_load(self, height: int, width: int) -> tuple[int, int]:
        """A frame of any size is stretched to a square."""
        patches = self.clip_config.keyframe_px // self.config.vision_config.patch_size[0]
        return self.clip_config.num_keyframes, patches**2

    def tower_work(self, num_patches: int) -> TowerWork:
        vision, rows = self.config.vision_config, num_patches + 1  # the class token
        return TowerWork(
            layers=self.vision_tower,
            width=vision.hidden_size,
            depth=vision.num_hidden_layers,
            rows=rows,
            pairs=rows**2 * vision.num_hidden_layers,
            patch_pixels=vision.patch_size[0] ** 2,
        )


class ThinkerInternVLForConditionalGeneration(MotionPolicy, InternVLForConditionalGeneration):
    """The policy: `ThinkerInternVLModel` and a language-model head."""

    config: ThinkerInternVLConfig
    backbone_class = ThinkerInternVLModel
    projector_names = ("multi_modal_projector", "motion.projector")
    forward = with_chunks(InternVLForConditionalGeneration.forward)


class InternVLInputs(SquareInputs):
    """Each slot has as many tokens."""

    def __init__(self, processor, config):
        super().__init__(processor, config)
        # Not config.image_seq_length, which belongs to the size that the tower was trained for: at
        # another size transformers resamples the position embedding.
        patches = self.clip_config.keyframe_px // config.vision_config.patch_size[0]
        self.image_seq_length = int(patches * config.downsample_ratio) ** 2

    def slot_tokens(self, clip: Clip) -> tuple[int, ...]:
        return (self.image_seq_length,) * len(clip.keyframes_KCHW)

    def max_slot_tokens(self) -> int:
        return self.image_seq_length

    def max_image_tokens(self) -> int:
        tiles = self.clip_config.max_patches
        doubled = self.clip_config.tiling == "area"
        return (tiles + (tiles > 1 or doubled)) * self.image_seq_length  # and the thumbnail

    def slot_text(self, num_visual: int, num_motion: int) -> str:
        tokenizer = self.tokenizer
        placeholders = self.image_token * (num_visual + num_motion)
        return f"{tokenizer.start_image_token}{placeholders}{tokenizer.end_image_token}"


def tiny(
    size: TinySize,
    texts: tuple[str, ...],
    language_model: Callable[[TinySize, Any], dict] = text_config,
) -> tuple[ThinkerInternVLConfig, InternVLProcessor]:
    """Configuration and processor of a tiny policy; see `Backbone.tiny`. language_model: the fields
    of its configuration."""
    special = tuple(IMAGE_TOKENS.values())
    tokenizer = train_tokenizer(texts, special_tokens=special, named_tokens=IMAGE_TOKENS)
    tokens = (size.frame_px // size.patch_px // size.patches_merged) ** 2
    config = ThinkerInternVLConfig(
        vision_config=tiny_vision(size)
        | {"initializer_range": INITIALIZER_RANGE, "layer_scale_init_value": 1.0},
        text_config=language_model(size, tokenizer),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=tokens,
        downsample_ratio=1 / size.patches_merged,
        tie_word_embeddings=False,
        patch_energies=size.patch_energies,
        motion_config=motion_config(size),
        clip_config=tiny_clip(size).to_dict(),
    )
    pixels = {"height": size.frame_px, "width": size.frame_px}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=pixels, crop_to_patches=False),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=pixels),
        image_seq_length=tokens,
        chat_template=CHAT_TEMPLATE,
    )
    return config, processor


BACKBONE = Backbone(
    plain_type="internvl",
    config=ThinkerInternVLConfig,
    model=ThinkerInternVLForConditionalGeneration,
    processor=InternVLProcessor,
    inputs=InternVLInputs,
    # Tiles as transformers' processor of the checkpoint makes them.
    default_clip=ClipConfig(
        num_keyframes=6, keyframe_px=448, stills="image", min_patches=1, max_patches=12
    ),
    tiny=tiny,
)

BACKBONE_3_5 = replace(BACKBONE, tiny=partial(tiny, language_model=qwen3_text_config))
