"""InternVL3 with a motion branch: a native transformers subclass, no remote code.

A slot is one keyframe: `Frame3:<img>` + visual placeholders + motion placeholders + `</img>`.
Visual and motion tokens of a frame form one run of `<IMG_CONTEXT>`, so that one embedding item a
frame is all that a rollout engine has to know.
"""

from typing import Any, ClassVar

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLPreTrainedModel

from thinker.policies.backbone import MotionBackbone, MotionPolicy, PromptPositions, with_chunks


class ThinkerInternVLConfig(InternVLConfig):
    """InternVL's configuration plus `motion_config` (see `MotionConfig`) and
    `clip_config` (see `thinker.policies.inputs.ClipConfig`), both plain dicts,
    and `scoring_question`, what the policy was trained to be asked (None: `prompts.SCORING`)."""

    model_type = "thinker_internvl"
    motion_config: dict | None = None
    clip_config: dict | None = None
    scoring_question: str | None = None
    auto_map: ClassVar[
        dict
    ] = {}  # TRL 1.16 reads it of every architecture that is not transformers' own


class ThinkerInternVLPreTrainedModel(InternVLPreTrainedModel):
    config: ThinkerInternVLConfig
    config_class = ThinkerInternVLConfig


class ThinkerInternVLModel(MotionBackbone, InternVLModel):
    vision_tower: Any
    multi_modal_projector: Any
    config: ThinkerInternVLConfig
    config_class = ThinkerInternVLConfig

    def __init__(self, config: ThinkerInternVLConfig):
        super().__init__(config)
        self.build_motion(config)
        self.post_init()

    @property
    def vision_part(self) -> torch.nn.Module:
        return self.vision_tower

    @property
    def patches_per_token(self) -> int:
        return round(1 / self.config.downsample_ratio) ** 2

    def encode_slots(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """pixel_values (N, 3, px, px), normalised → N tensors (image_seq_length, D)."""
        patch_height, patch_width = self.config.vision_config.patch_size
        height, width = pixel_values.shape[-2:]
        patches = (height // patch_height) * (width // patch_width)
        self.count_slots(len(pixel_values), patches)
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

    def project_slots(self, features: list[torch.Tensor], **grids) -> list[torch.Tensor]:
        return list(self.multi_modal_projector(torch.stack(features)))

    def prompt_positions(self, input_ids, attention_mask, media_inputs=None) -> PromptPositions:
        """Plain positions, counted over the unpadded tokens of each row."""
        del input_ids, media_inputs  # M-RoPE needs them, 1-D positions do not
        ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return PromptPositions(ids=ids, next=attention_mask.sum(-1))

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        media_embeds=None,
        media_rows=None,
        media_inputs=None,
        hidden_from=0,
        **kwargs,
    ):
        """As `InternVLModel.forward`, with videos given as `media_inputs` (pixels of unique videos)
        or `media_embeds` (their embeddings), and `media_rows` (row → video); only hidden states
        from position `hidden_from` on are returned, so that a head need not see the prompt."""
        if inputs_embeds is None and (media_embeds is not None or media_inputs is not None):
            inputs_embeds = self.media_forward(input_ids, media_embeds, media_rows, media_inputs)
            input_ids = None
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        outputs.last_hidden_state = outputs.last_hidden_state[:, hidden_from:]
        return outputs


class ThinkerInternVLForConditionalGeneration(MotionPolicy, InternVLForConditionalGeneration):
    config: ThinkerInternVLConfig
    config_class = ThinkerInternVLConfig

    projector_names = ("multi_modal_projector", "motion.projector")
    forward = with_chunks(InternVLForConditionalGeneration.forward)
    backbone_class = ThinkerInternVLModel

    def __init__(self, config: ThinkerInternVLConfig):
        # The stock constructor would build the stock backbone; skip to its base and name ours.
        super(InternVLForConditionalGeneration, self).__init__(config)
        self.model = self.backbone_class(config)
        text_config = config.get_text_config()
        self.lm_head = torch.nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=False)
        self.post_init()

    def parts(self) -> dict[str, torch.nn.Module]:
        parts = {
            "vision_tower": self.model.vision_tower,
            "vision_projector": self.model.multi_modal_projector,
            "language_model": self.model.language_model,
        }
        return parts | self.motion_parts()
