"""LLaVA-OneVision with a motion branch: a native transformers subclass, no remote code.

A slot of a video is one keyframe: SigLIP, the projector, and the tokens of a square pooled to half
their side (27 x 27 → 14 x 14). One newline token stands behind the last slot of a video, before
its motion tokens where these stand behind all slots. A still is read as transformers does: tiles of
the best grid, joined, cut to what the picture covers, a newline behind every row; before them the
whole picture as one tile, unless the policy leaves that out (`ClipConfig.tiling`).

Shapes: N slots, D text width, P patches along a side of a slot.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from thinker.policies.backbone import (
    Backbone,
    MotionPolicy,
    PolicyConfig,
    TowerWork,
    with_chunks,
)
from thinker.policies.inputs import ClipConfig, moves
from thinker.policies.square.family import SquareBackbone, SquareInputs, tiny_clip, tiny_vision
from thinker.policies.tiny import (
    CHAT_TEMPLATE,
    TinySize,
    motion_config,
    text_config,
    train_tokenizer,
)
from thinker.video import Clip
from thinker.video.geometry import ANYRES_SIDE, ANYRES_TILINGS

IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"
NAMED_TOKENS = {"image_token": IMAGE_TOKEN, "video_token": VIDEO_TOKEN}
"""Special tokens by the name under which transformers' processor looks for them."""

MEAN_STD = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SHRINK_ABOVE = 1.1
"""A still whose sides are so many times those of the largest area that is kept is shrunk to it."""


class ThinkerLlavaOnevisionConfig(PolicyConfig, LlavaOnevisionConfig):
    """LLaVA-OneVision's configuration and what `PolicyConfig` adds to it."""

    model_type = "thinker_llava_onevision"


@dataclass(frozen=True, kw_only=True)
class Still:
    """How the tiles of a still become tokens, counted in patches."""

    rows: int
    """Rows of tiles."""
    columns: int
    """Columns of tiles."""
    has_base: bool
    """Whether the last slot is the whole picture."""
    top: int
    """First row of patches that shows some of the picture."""
    left: int
    """First such column."""
    height: int
    """Rows of patches that show the picture."""
    width: int
    """Such columns."""
    kept_height: int
    """Rows of tokens, fewer than `height` where there are too many."""
    kept_width: int
    """Tokens of a row, without its newline."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the tiles, without the base."""
        return self.kept_height * (self.kept_width + 1)


def still_of(
    height: int, width: int, rows: int, columns: int, *, side: int, most: int, has_base: bool
) -> Still:
    """Which patches of a grid of tiles show a picture of that size, and how many tokens they make.

    side: patches along a side of a tile. most: tiles whose area is kept; a larger one is shrunk.
    The rule of transformers' `unpad_image` and `pack_image_features` (a test compares them).
    Example: 350 x 700 in a grid of 1 x 2 tiles of 27 patches: all 27 x 54 patches, and 27 newlines.
    """
    top = left = 0
    kept_height, kept_width = rows * side, columns * side
    if width / height > kept_width / kept_height:
        top = (kept_height - int(round(height * (kept_width / width), 7))) // 2
    else:
        left = (kept_width - int(round(width * (kept_height / height), 7))) // 2
    full_height, full_width = kept_height - 2 * top, kept_width - 2 * left
    kept_height, kept_width = full_height, full_width
    ratio = math.sqrt(full_height * full_width / (most * side**2))
    if ratio > SHRINK_ABOVE:
        kept_height, kept_width = int(full_height // ratio), int(full_width // ratio)
    return Still(
        rows=rows,
        columns=columns,
        has_base=has_base,
        top=top,
        left=left,
        height=full_height,
        width=full_width,
        kept_height=kept_height,
        kept_width=kept_width,
    )


class ThinkerLlavaOnevisionModel(SquareBackbone, LlavaOnevisionModel):
    """LLaVA-OneVision's vision tower and language model with the motion branch."""

    config: ThinkerLlavaOnevisionConfig
    image_newline: nn.Parameter
    apply_pooling: Callable[..., Any]

    @property
    def vision_projector(self) -> nn.Module:
        # The newline stands beside what the projector makes, and is trained with it.
        return nn.ModuleList([self.multi_modal_projector, nn.ParameterList([self.image_newline])])

    @property
    def side(self) -> int:
        """P, patches along a side of a slot."""
        vision = self.config.vision_config
        return vision.image_size // vision.patch_size

    def visual_tokens(self, num_patches: int) -> int:
        return math.ceil(math.isqrt(num_patches) / 2) ** 2

    def projected_tokens(self, num_patches: int) -> int:
        return num_patches  # the projector comes before the pooling

    def tower_features(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """pixel_values (N, 3, px, px), normalised → N tensors (P·P, vision width)."""
        output = self.vision_tower(pixel_values, output_hidden_states=True)
        return list(output.hidden_states[self.config.vision_feature_layer])

    def encode_slots(self, pixel_values: torch.Tensor, **grids) -> list[torch.Tensor]:
        """N tensors (P·P, D), not pooled yet: a still keeps all of them."""
        return self.project_slots(self.tower_features(pixel_values))

    def assemble_media(
        self,
        slots: Sequence[torch.Tensor],
        motion: Sequence[torch.Tensor],
        layout: Mapping[str, Any],
    ) -> list[torch.Tensor]:
        """As the base does, of slots that are pooled first, or joined to a still."""
        made: list[torch.Tensor] = []
        counts, start = [], 0
        for count, still in zip(layout["slots"], layout["stills"], strict=True):
            own = torch.stack(list(slots[start : start + count]))
            start += count
            if still is None:
                frames = list(self.apply_pooling(own))
                frames[-1] = torch.cat([frames[-1], self.image_newline[None].to(own)])
            else:
                frames = [self.pack_still(own, still)]
            made += frames
            counts.append(len(frames))
        return super().assemble_media(made, motion, {**layout, "slots": counts})

    def pack_still(self, slots_NPD: torch.Tensor, still: Still) -> torch.Tensor:
        """(tokens, D): the base where there is one, then the rows of the joined tiles."""
        grid = (still.rows, still.columns, self.side, self.side)
        tiles = slots_NPD[: still.rows * still.columns].unflatten(1, grid[2:])
        joined = tiles.unflatten(0, grid[:2]).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2)
        bottom, right = still.top + still.height, still.left + still.width
        joined = joined[:, still.top : bottom, still.left : right]
        size = (still.kept_height, still.kept_width)
        if size != (still.height, still.width):
            joined = nn.functional.interpolate(joined[None], size, mode="bilinear")[0]
        newline = self.image_newline[:, None, None].to(joined).expand(-1, size[0], 1)
        tokens = torch.cat([joined, newline], dim=-1).flatten(1).T
        return torch.cat([slots_NPD[-1], tokens]) if still.has_base else tokens

    def tower_load(self, args, kwargs) -> list[tuple[int, int]]:
        pixel_values = args[0] if args else kwargs["pixel_values"]
        return [(len(pixel_values), self.side**2)]

    def video_load(self, height: int, width: int) -> tuple[int, int]:
        """A frame of any size is stretched to a square."""
        return self.clip_config.num_keyframes, self.side**2

    def tower_work(self, num_patches: int) -> TowerWork:
        vision = self.config.vision_config
        return TowerWork(
            layers=self.vision_tower,
            width=vision.hidden_size,
            depth=vision.num_hidden_layers,
            rows=num_patches,
            pairs=num_patches**2 * vision.num_hidden_layers,
            patch_pixels=vision.patch_size**2,
        )


class ThinkerLlavaOnevisionForConditionalGeneration(
    MotionPolicy, LlavaOnevisionForConditionalGeneration
):
    """The policy: `ThinkerLlavaOnevisionModel` and a language-model head."""

    config: ThinkerLlavaOnevisionConfig
    backbone_class = ThinkerLlavaOnevisionModel
    projector_names = ("multi_modal_projector", "motion.projector")
    # A layer before it is what the projector is given.
    unused_names = ("vision_tower.post_layernorm",)
    forward = with_chunks(LlavaOnevisionForConditionalGeneration.forward)


class LlavaOnevisionInputs(SquareInputs):
    """A slot may be a whole still, too."""

    def __init__(self, processor, config):
        super().__init__(processor, config)
        vision, px = config.vision_config, self.clip_config.keyframe_px
        if px != vision.image_size:
            raise ValueError(
                f"clip.keyframe_px is {px}, expected the {vision.image_size} px that the vision "
                "tower was trained for"
            )
        if self.clip_config.stills == "image" and self.clip_config.tiling not in ANYRES_TILINGS:
            raise ValueError(
                f"clip.tiling is {self.clip_config.tiling!r}, expected one of "
                f"{', '.join(ANYRES_TILINGS)} for LLaVA-OneVision"
            )
        self.side = vision.image_size // vision.patch_size
        self.pooled = math.ceil(self.side / 2) ** 2
        self.most_tiles = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))

    def still(self, clip: Clip) -> Still | None:
        """How the tiles of a still become tokens; None for a video."""
        if moves(clip):
            return None
        geometry = self.clip_spec.geometry(clip.kind, clip.height, clip.width, clip.crop)
        return still_of(
            geometry.part.height,
            geometry.part.width,
            geometry.rows,
            geometry.columns,
            side=self.side,
            most=self.most_tiles,
            has_base=geometry.has_thumbnail,
        )

    def slot_tokens(self, clip: Clip) -> tuple[int, ...]:
        """Of a still all tokens of its tiles count as the first one's."""
        count, still = len(clip.keyframes_KCHW), self.still(clip)
        if still is None:
            return (*(self.pooled,) * (count - 1), self.pooled + 1)
        tiles = (still.num_tokens, *(0,) * (still.rows * still.columns - 1))
        return (*tiles, self.side**2) if still.has_base else tiles

    def max_slot_tokens(self) -> int:
        return self.pooled

    def max_slots(self) -> tuple[int, ...]:
        *others, last = super().max_slots()
        return (*others, last + 1)  # the newline

    def max_image_tokens(self) -> int:
        tiles = min(self.clip_config.max_patches, int(SHRINK_ABOVE**2 * self.most_tiles))
        newlines = min(self.clip_config.max_patches, ANYRES_SIDE) * self.side
        return (tiles + 1) * self.side**2 + newlines

    def grids(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """`stills`: how each clip that is a still is put together."""
        return {"stills": [self.still(clip) for clip in clips]}

    def slot_text(self, num_visual: int, num_motion: int) -> str:
        return self.image_token * (num_visual + num_motion)


def processor_of(
    tokenizer: Any, *, px: int, patch: int, chat_template: str
) -> LlavaOnevisionProcessor:
    """transformers' processor for a SigLIP tower with frames of `px` and patches of `patch`."""
    size = {"height": px, "width": px}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=pinpoints(px), **MEAN_STD
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size, **MEAN_STD),
        num_image_tokens=(px // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=chat_template,
    )


def pinpoints(px: int) -> list[list[int]]:
    """The sizes (height, width) that stills are fitted into, as transformers' configuration has
    them: grids of up to 6 x 6 tiles."""
    sides = range(1, ANYRES_SIDE + 1)
    return [[rows * px, columns * px] for rows in sides for columns in sides]


def tiny(
    size: TinySize, texts: tuple[str, ...]
) -> tuple[ThinkerLlavaOnevisionConfig, LlavaOnevisionProcessor]:
    """Configuration and processor of a tiny policy; see `Backbone.tiny`."""
    tokenizer = train_tokenizer(
        texts, special_tokens=(IMAGE_TOKEN, VIDEO_TOKEN), named_tokens=NAMED_TOKENS
    )
    config = ThinkerLlavaOnevisionConfig(
        vision_config=tiny_vision(size)
        | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=text_config(size, tokenizer),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=pinpoints(size.frame_px),
        tie_word_embeddings=False,
        motion_config=motion_config(size),
        clip_config=tiny_clip(size, tiling="anyres").to_dict(),
    )
    processor = processor_of(
        tokenizer, px=size.frame_px, patch=size.patch_px, chat_template=CHAT_TEMPLATE
    )
    return config, processor


BACKBONE = Backbone(
    plain_type="llava_onevision",
    config=ThinkerLlavaOnevisionConfig,
    model=ThinkerLlavaOnevisionForConditionalGeneration,
    processor=LlavaOnevisionProcessor,
    inputs=LlavaOnevisionInputs,
    # Stills as transformers' processor makes them.
    default_clip=ClipConfig(
        num_keyframes=8,
        keyframe_px=384,
        stills="image",
        tiling="anyres",
        min_patches=1,
        max_patches=ANYRES_SIDE**2,
    ),
    tiny=tiny,
)
