"""What both policies share: a motion branch inside a native vision-language backbone.

Flow: pixels of unique videos → `encode_media` (vision tower + projector, motion encoder,
interleaved in prompt order) → embeddings scattered at the placeholder positions of every row that
shows the video → language model. A row is one token sequence; several rows may show one video
(`media_rows`), which is how G completions share one encoding, with gradient in the training
forward.

The branch lives in the backbone (`...Model`), not in `...ForConditionalGeneration`: TRL's fused LM
head calls the backbone alone.

Shapes: B unique videos, R rows, N slots (frames, or frame pairs for Qwen2.5-VL) of all videos,
M dense frames, S placeholder tokens of a video, L row length, D text width.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thinker.policies.motion.encoder import MotionConfig, MotionEncoder, init_motion_weights

FORBIDDEN_LOGIT_BIAS = -1e4
"""Added to the logits of placeholder ids: exp(-1e4) is exactly 0 in every dtype, and finite, so
that the entropy p·log p stays 0 instead of becoming 0·inf = NaN."""


@dataclass(frozen=True, kw_only=True)
class PromptPositions:
    """Position ids of a padded prompt batch and the position of the first token after it.

    ids: (R, L), or (3, R, L) for M-RoPE; next: (R,), the position that the first completion token
    takes.
    """

    ids: torch.Tensor
    next: torch.Tensor


class MotionBackbone(nn.Module):
    """Mixin for a transformers backbone `…Model`; see the module docstring.

    The host class supplies `encode_slots`, `tower_features`, `project_slots`, `vision_part`, its
    stock `forward` and `get_input_embeddings`. `counters`, where set, is told of every frame.
    """

    config: Any
    motion: MotionEncoder | None
    counters: Any = None  # a thinker.train.counters.Counters, which imports the policies
    # of the host class
    get_input_embeddings: Callable[[], nn.Module]
    get_image_features: Callable[..., Any]
    post_init: Callable[[], None]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        init_motion_weights(module)

    def build_motion(self, config) -> None:
        motion_config = MotionConfig.from_dict(config.motion_config)
        width = config.get_text_config().hidden_size
        if motion_config.mode != "none" and motion_config.hidden_size != width:
            raise ValueError(
                f"motion_config.hidden_size is {motion_config.hidden_size}, expected the language "
                f"model's width {width}"
            )
        self.motion = MotionEncoder(motion_config) if motion_config.mode != "none" else None

    def encode_slots(self, pixel_values: torch.Tensor, **grids: Any) -> list[torch.Tensor]:
        """Visual tokens of every slot, in order: N tensors of shape (tokens, D)."""
        raise NotImplementedError

    @property
    def vision_part(self) -> nn.Module:
        """The vision tower without its projector."""
        raise NotImplementedError

    @property
    def patches_per_token(self) -> int:
        """Patches that become one visual token."""
        raise NotImplementedError

    def count_slots(self, num_slots: int, num_patches: int) -> None:
        if self.counters is not None:
            self.counters.count_frames(self, num_slots, num_patches)

    def tower_features(self, pixel_values: torch.Tensor, **grids: Any) -> list[torch.Tensor]:
        """What the projector is given of every slot: N tensors; `project_slots` finishes them."""
        raise NotImplementedError

    def project_slots(self, features: list[torch.Tensor], **grids: Any) -> list[torch.Tensor]:
        """Visual tokens of slots whose `tower_features` are known: N tensors (tokens, D)."""
        raise NotImplementedError

    def motion_features(self, motion_frames: torch.Tensor) -> torch.Tensor:
        """Features of dense frames (B, M, 3, px, px) before the motion projector."""
        assert self.motion is not None
        if self.counters is not None:
            self.counters.count_motion(self, tuple(motion_frames.shape))
        return self.motion.features(motion_frames)

    def encode_motion(self, features: torch.Tensor, num_slots: int) -> torch.Tensor:
        """Motion tokens (B, num_slots, m, D) of `motion_features`; (B, 1, D) in mode "pooled". A
        slot of several keyframes gets the tokens of all of them."""
        assert self.motion is not None
        tokens = self.motion.project(features)
        if self.motion.config.mode == "pooled":
            return tokens
        return tokens.reshape(len(tokens), num_slots, -1, tokens.shape[-1])

    def assemble_media(
        self, slots: list[torch.Tensor], motion: torch.Tensor | None, num_slots: int
    ) -> list[torch.Tensor]:
        """Interleave: the placeholder embeddings of each video in prompt order, B tensors (S,
        D)."""
        videos = [slots[i : i + num_slots] for i in range(0, len(slots), num_slots)]
        if motion is None or self.motion is None:
            return [torch.cat(video) for video in videos]
        if self.motion.config.mode == "pooled":  # one token, after the last frame
            return [torch.cat([*video, m]) for video, m in zip(videos, motion, strict=True)]
        return [
            torch.cat([part for pair in zip(video, m, strict=True) for part in pair])
            for video, m in zip(videos, motion, strict=True)
        ]

    def encode_media(
        self,
        pixel_values: torch.Tensor | None = None,
        motion_frames: torch.Tensor | None = None,
        num_slots: int = 1,
        slot_features: list[torch.Tensor] | None = None,
        motion_features: torch.Tensor | None = None,
        **grids: Any,
    ) -> list[torch.Tensor]:
        """All placeholder embeddings of B videos with `num_slots` slots each: B tensors (S, D).

        slot_features, motion_features: results of `tower_features` and `motion_features` for the
        same videos, which then run only their projectors (`thinker.train.grpo.features`).
        """
        if slot_features is not None:
            slots = self.project_slots(slot_features, **grids)
        else:
            assert pixel_values is not None, "neither pixel_values nor slot_features are given"
            slots = self.encode_slots(pixel_values, **grids)
        motion = None
        if self.motion is not None:
            if motion_features is None:
                if motion_frames is None:
                    raise ValueError(
                        "this policy has a motion branch but got no motion_frames; "
                        "build its inputs with the policy's own inputs class"
                    )
                motion_features = self.motion_features(motion_frames)
            motion = self.encode_motion(motion_features, num_slots)
        return self.assemble_media(slots, motion, num_slots)

    def embed(
        self,
        input_ids: torch.Tensor,
        media_embeds: list[torch.Tensor],
        media_rows: list[int] | None = None,
    ) -> torch.Tensor:
        """Token embeddings (R, L, D), placeholders of a row replaced by its video's."""
        inputs_embeds = self.get_input_embeddings()(input_ids)
        rows = range(len(input_ids)) if media_rows is None else media_rows
        mask = input_ids == self.config.image_token_id
        counts = mask.sum(1).tolist()
        wanted = [len(media_embeds[i]) for i in rows]
        if counts != wanted:
            raise ValueError(
                f"placeholder tokens a row {counts} differ from the embeddings of its video "
                f"{wanted}; the prompt was built for other frames, or a completion holds one"
            )
        if not media_embeds:
            return inputs_embeds
        features = torch.cat([media_embeds[i] for i in rows]).to(inputs_embeds)
        return inputs_embeds.masked_scatter(mask.unsqueeze(-1), features)

    def media_grids(self, media_inputs: dict[str, Any]) -> torch.Tensor | None:
        """Grids (t, h, w) of all items of all videos in prompt order, (items, 3); None where
        positions do not depend on them."""
        return None

    def begin_generation(self, position_offsets: torch.Tensor) -> None:
        """Told before `generate` continues from a cache: (R,) next position minus prompt length.

        0 for plain positions; M-RoPE prompts are longer than their positions reach.
        """

    def media_forward(
        self,
        input_ids: torch.Tensor,
        media_embeds: list[torch.Tensor] | None,
        media_rows: list[int] | None,
        media_inputs: dict[str, Any] | None,
    ) -> torch.Tensor:
        """`inputs_embeds` from ready embeddings, or by encoding `media_inputs` (see
        `encode_media`)."""
        if media_embeds is None:
            media_embeds = self.encode_media(**(media_inputs or {}))
        return self.embed(input_ids, media_embeds, media_rows)


class MotionPolicy(nn.Module):
    """Mixin for `…ForConditionalGeneration`: freezing by part and the placeholder ban."""

    config: Any
    model: Any
    # of the host class
    get_output_embeddings: Callable[[], Any]
    post_init: Callable[[], None]

    projector_names: tuple[str, ...]  # trained in full beside LoRA

    def parts(self) -> dict[str, nn.Module]:
        """Named parts for freezing, learning rates and reports."""
        raise NotImplementedError

    def freeze(self, names: list[str] | tuple[str, ...]) -> None:
        """Stop gradients of the named parts and put them in eval mode for good (see `train`)."""
        parts = self.parts()
        for name in names:
            if name not in parts:
                raise ValueError(f"no part {name!r} to freeze; parts are {sorted(parts)}")
            parts[name].requires_grad_(False)
        self.train(self.training)

    def motion_parts(self) -> dict[str, nn.Module]:
        motion = self.model.motion
        if motion is None:
            return {}
        projector = nn.ModuleList([motion.projector])
        if motion.config.mode == "interleaved":
            projector += [motion.position_embedding, motion.standardise]
        return {"slowfast": motion.slowfast, "motion_projector": projector}

    def train(self, mode: bool = True):
        """As `nn.Module.train`, but a part whose parameters are all frozen stays in eval mode."""
        super().train(mode)
        for part in self.parts().values():
            parameters = list(part.parameters())
            if mode and parameters and not any(p.requires_grad for p in parameters):
                part.eval()
        return self

    def forbid_placeholders(self) -> None:
        """Give the LM head a fixed bias that rules the placeholder ids out.

        A sampled placeholder would break the scoring forward (more placeholders than features). As
        a bias of the head it holds for generation and scoring alike, so both see one distribution.
        The buffer is not saved: the checkpoint stays a plain one.
        """
        head = self.get_output_embeddings()
        bias = torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device)
        bias[self.placeholder_ids()] = FORBIDDEN_LOGIT_BIAS
        if "bias" in head._parameters:
            del head._parameters["bias"]
        head.register_buffer("bias", bias, persistent=False)

    def placeholder_ids(self) -> list[int]:
        ids = [self.config.image_token_id, getattr(self.config, "video_token_id", None)]
        return [i for i in ids if i is not None]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        init_motion_weights(module)


def with_chunks(host_forward: Callable[..., Any]) -> Callable[..., Any]:
    """A `…ForConditionalGeneration.forward` that also takes `in_chunks`.

    `model(in_chunks=call)` returns what `call(forward)` makes of this model's forward, which it may
    use as often as it likes. DDP and FSDP, which wrap the model, see one call. The signature stays
    that of the host, which `generate` reads.
    """

    @functools.wraps(host_forward)
    def forward(self, *args, in_chunks: Callable[..., Any] | None = None, **kwargs):
        if in_chunks is not None:
            return in_chunks(self.forward)  # with TRL's fused head, where it was added
        return host_forward(self, *args, **kwargs)

    return forward
