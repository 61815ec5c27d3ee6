"""Qwen2.5-VL with a motion branch: a native transformers subclass, no remote code.

The vision tower merges two consecutive frames, so a slot is a frame *pair*, placed as one image
item of grid (1, h, w), followed by an item of grid (1, 2, 2m) that holds the m motion tokens:
`Frame2:<|vision_start|>` visual `<|vision_end|><|vision_start|>` motion `<|vision_end|>`. Image
items get their M-RoPE positions from transformers' own `get_rope_index`, and a rollout engine that
is fed with embeddings computes the same ones from the same grids: one position rule for training,
generation and vLLM.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.vision_utils import get_vision_window_index

from thinker.policies.backbone import MotionBackbone, MotionPolicy, PromptPositions, with_chunks


class ThinkerQwen2_5_VLConfig(Qwen2_5_VLConfig):
    """Qwen2.5-VL's configuration plus `motion_config` (see `MotionConfig`) and
    `clip_config` (see `thinker.policies.inputs.ClipConfig`), both plain dicts,
    and `scoring_question`, what the policy was trained to be asked (None: `prompts.SCORING`)."""

    model_type = "thinker_qwen2_5_vl"
    motion_config: dict | None = None
    clip_config: dict | None = None
    scoring_question: str | None = None
    auto_map: ClassVar[
        dict
    ] = {}  # TRL 1.16 reads it of every architecture that is not transformers' own


class ThinkerQwen2_5_VLModel(MotionBackbone, Qwen2_5_VLModel):
    visual: Any
    get_rope_index: Callable[..., Any]
    config: ThinkerQwen2_5_VLConfig
    config_class = ThinkerQwen2_5_VLConfig

    def __init__(self, config: ThinkerQwen2_5_VLConfig):
        super().__init__(config)
        self.build_motion(config)
        self.post_init()

    @property
    def vision_part(self) -> torch.nn.Module:
        return torch.nn.ModuleList([self.visual.patch_embed, self.visual.blocks])

    @property
    def patches_per_token(self) -> int:
        return self.visual.spatial_merge_size**2

    def encode_slots(self, pixel_values, **grids) -> list[torch.Tensor]:
        """Patches (sum t·h·w, C·2·14·14) with `image_grid_thw`, one row (1, h, w) a slot → N
        tensors (h·w/4, D)."""
        return list(self._vision_outputs(pixel_values, **grids).pooler_output)

    def _vision_outputs(self, pixel_values, image_grid_thw):
        for num_patches in image_grid_thw.prod(-1).tolist():
            self.count_slots(1, num_patches)
        return self.get_image_features(pixel_values, image_grid_thw, return_dict=True)

    def tower_features(self, pixel_values, **grids) -> list[torch.Tensor]:
        """As `encode_slots`, before the merger: N tensors (h·w, vision width), patches in the order
        of the window attention."""
        hidden = self._vision_outputs(pixel_values, **grids).last_hidden_state
        return list(hidden.split(grids["image_grid_thw"].prod(-1).tolist()))

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
        return list(merged.split((grid.prod(-1) // self.patches_per_token).tolist()))

    def item_grids(self, image_grid_thw: torch.Tensor, num_slots: int) -> torch.Tensor:
        """Grids of all items in prompt order: slots (1, h, w) and motion items (1, 2, 2m)."""
        if self.motion is None:
            return image_grid_thw
        motion = self.motion.config
        pooled = motion.mode == "pooled"
        pair = self.config.vision_config.temporal_patch_size
        tokens = 1 if pooled else motion.tokens_per_frame * pair
        every = num_slots if pooled else 1  # a motion item follows the last slot, or every slot
        item = image_grid_thw.new_tensor([[1, 2, 2 * tokens]])
        return torch.cat([torch.cat([grids, item]) for grids in image_grid_thw.split(every)])

    def media_grids(self, media_inputs: dict[str, Any]) -> torch.Tensor:
        return self.item_grids(media_inputs["image_grid_thw"], media_inputs["num_slots"])

    def prompt_positions(self, input_ids, attention_mask, media_inputs) -> PromptPositions:
        """M-RoPE positions by transformers' `get_rope_index`; rows show the videos of
        `media_inputs` in order, one each."""
        ids, deltas = self.get_rope_index(
            input_ids,
            mm_token_type_ids=(input_ids == self.config.image_token_id).int(),
            image_grid_thw=self.media_grids(media_inputs),
            attention_mask=attention_mask,
        )
        return PromptPositions(ids=ids, next=attention_mask.sum(-1) + deltas.squeeze(1))

    def begin_generation(self, position_offsets: torch.Tensor) -> None:
        self.rope_deltas = position_offsets.unsqueeze(1)

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
        """As `Qwen2_5_VLModel.forward`, with videos given as `media_inputs` (pixels of unique
        videos) or `media_embeds` (their embeddings), and `media_rows` (row → video); only hidden
        states from position `hidden_from` on are returned, so that a head need not see the
        prompt."""
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


class ThinkerQwen2_5_VLForConditionalGeneration(MotionPolicy, Qwen2_5_VLForConditionalGeneration):
    config: ThinkerQwen2_5_VLConfig
    config_class = ThinkerQwen2_5_VLConfig

    projector_names = ("visual.merger", "motion.projector")
    forward = with_chunks(Qwen2_5_VLForConditionalGeneration.forward)
    backbone_class = ThinkerQwen2_5_VLModel

    def __init__(self, config: ThinkerQwen2_5_VLConfig):
        # The stock constructor would build the stock backbone; skip to its base and name ours.
        super(Qwen2_5_VLForConditionalGeneration, self).__init__(config)
        self.model = self.backbone_class(config)
        text_config = config.get_text_config()
        self.lm_head = torch.nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=False)
        self.post_init()

    def parts(self) -> dict[str, torch.nn.Module]:
        visual = self.model.visual
        parts = {
            # `visual` also holds the projector, which is a part of its own
            "vision_tower": torch.nn.ModuleList([visual.patch_embed, visual.blocks]),
            "vision_projector": visual.merger,
            "language_model": self.model.language_model,
        }
        return parts | self.motion_parts()
