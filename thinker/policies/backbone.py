"""What all backbones share: a motion branch inside a native vision-language model.

Flow: pixels of unique videos → `encode_media` (vision tower + projector, motion encoder,
interleaved in prompt order) → embeddings scattered at the placeholder positions of every row that
shows the video → language model. A row is one token sequence. Several rows may show one video
(`media_rows`): that is how G completions share one encoding, with gradient in the training forward.

The branch lives in the backbone (`...Model`), not in `...ForConditionalGeneration`, because TRL's
fused LM head calls the backbone alone.

A backbone is one file beside this one. It holds a configuration (`PolicyConfig` and transformers'
own), a model (`MotionBackbone` and transformers' `...Model`), a policy (`MotionPolicy` and
transformers' `...ForConditionalGeneration`), an inputs class, a builder of tiny policies, and a
`Backbone` that names them all; one line of `thinker.policies.registry` makes it known.

Shapes: B unique videos, R rows, N slots (frames, or frame pairs for Qwen2.5-VL) of all videos,
M dense frames, S placeholder tokens of a video, L row length, D text width.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from thinker.policies.inputs import ClipConfig, PolicyInputs
from thinker.policies.motion import MotionConfig, MotionEncoder, init_motion_weights
from thinker.policies.tiny import TinySize

FORBIDDEN_LOGIT_BIAS = -1e4
"""Added to the logits of placeholder ids: exp(-1e4) is exactly 0 in every dtype, and finite, so
that the entropy p·log p stays 0 instead of becoming 0·inf = NaN."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Everything that differs between backbones: one line of `thinker.policies.BACKBONES`."""

    plain_type: str
    """`model_type` of the plain transformers checkpoint that a policy can start from."""

    config: Any
    """Configuration class; its own `model_type` is that of a saved policy."""

    model: Any
    """The `...ForConditionalGeneration` class with the motion branch, a `MotionPolicy`."""

    processor: Any
    """transformers' processor class, whose tokenizer and image settings the policy is saved
    with."""

    inputs: type[PolicyInputs]
    """Builds prompt ids and pixel tensors from clips."""

    default_clip: ClipConfig
    """What a policy that starts from a plain checkpoint reads of a video, unless told otherwise."""

    tiny: Callable[[TinySize, tuple[str, ...]], tuple[Any, Any]]
    """Configuration and processor of a tiny policy. The texts are what its tokenizer should know
    beyond the prompts."""


@dataclass(init=False, repr=False, eq=False)
class PolicyConfig:
    """Mixin before a transformers configuration: the fields that a policy's config.json has beyond
    transformers' own.

    These are dataclass fields only; transformers makes each configuration class a dataclass with a
    constructor of its own.
    """

    motion_config: dict | None = None
    """The fields of a `MotionConfig`, as plain values."""

    clip_config: dict | None = None
    """The fields of a `ClipConfig`, as plain values."""

    scoring_question: str | None = None
    """What the policy was trained to be asked; None stands for `thinker.prompts.SCORING`."""

    auto_map: ClassVar[dict] = {}
    """TRL 1.16 reads it of every architecture that is not transformers' own."""


@dataclass(frozen=True, kw_only=True)
class PromptPositions:
    """Position ids of a padded prompt batch and the position of the first token after it."""

    ids: torch.Tensor
    """(R, L), or (3, R, L) for M-RoPE."""

    next: torch.Tensor
    """(R,), the position that the first completion token takes."""


@dataclass(frozen=True, kw_only=True)
class TowerWork:
    """What the vision tower does with one slot, for the formulas of `thinker.policies.cost`."""

    layers: nn.Module
    """Holds the linear layers that every row passes."""

    depth: int
    """Number of transformer layers."""

    rows: int
    """Rows that pass the layers: the patches, and a class token where there is one."""

    pairs: int
    """(query, key) pairs of the attention, summed over the layers."""

    patch_pixels: int
    """Pixels of a patch, over all frames of the slot."""


class MotionBackbone(nn.Module):
    """Mixin before a transformers backbone `…Model`; see the module docstring.

    The class of a backbone says how its vision tower is run; what is not given here raises
    NotImplementedError.
    """

    config: Any
    motion: MotionEncoder | None
    # of the host class
    get_input_embeddings: Callable[[], nn.Module]
    get_image_features: Callable[..., Any]
    post_init: Callable[[], None]

    def __init__(self, config):
        super().__init__(config)
        motion_config = MotionConfig.from_dict(config.motion_config)
        width = config.get_text_config().hidden_size
        if motion_config.mode != "none" and motion_config.hidden_size != width:
            raise ValueError(
                f"motion_config.hidden_size is {motion_config.hidden_size}, expected the language "
                f"model's width {width}"
            )
        self.motion = MotionEncoder(motion_config) if motion_config.mode != "none" else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        init_motion_weights(module)

    @property
    def clip_config(self) -> ClipConfig:
        """What the policy reads of a video."""
        return ClipConfig.from_dict(self.config.clip_config)

    # What a backbone says of its vision tower

    @property
    def tower(self) -> nn.Module:
        """The module whose call every slot passes exactly once when it is encoded."""
        raise NotImplementedError

    @property
    def vision_part(self) -> nn.Module:
        """The weights of the vision tower without its projector."""
        raise NotImplementedError

    @property
    def vision_projector(self) -> nn.Module:
        """The projector from the vision tower to the language model."""
        raise NotImplementedError

    @property
    def patches_per_token(self) -> int:
        """Patches that become one visual token."""
        raise NotImplementedError

    @property
    def frames_per_slot(self) -> int:
        """Keyframes that one slot shows."""
        return 1

    def encode_slots(self, pixel_values: torch.Tensor, **grids: Any) -> list[torch.Tensor]:
        """Visual tokens of every slot, in order: N tensors of shape (tokens, D)."""
        raise NotImplementedError

    def tower_features(self, pixel_values: torch.Tensor, **grids: Any) -> list[torch.Tensor]:
        """What the projector is given of every slot: N tensors; `project_slots` finishes them."""
        raise NotImplementedError

    def project_slots(self, features: list[torch.Tensor], **grids: Any) -> list[torch.Tensor]:
        """Visual tokens of slots whose `tower_features` are known: N tensors (tokens, D)."""
        raise NotImplementedError

    def prompt_positions(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        media_inputs: dict[str, Any],
    ) -> PromptPositions:
        """Positions of padded prompts; row i shows video i of `media_inputs`."""
        raise NotImplementedError

    def tower_load(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[int, int]]:
        """What a call of `tower` with these arguments encodes, as (number of slots, patches of each
        of them)."""
        raise NotImplementedError

    def video_load(self, height: int, width: int) -> tuple[int, int]:
        """(number of slots, patches of each of them) of a video of that size in pixels, read as
        `clip_config` says."""
        raise NotImplementedError

    def tower_work(self, num_patches: int) -> TowerWork:
        """What `tower` does with one slot of `num_patches` patches."""
        raise NotImplementedError

    # Videos to embeddings

    def motion_features(self, motion_frames: torch.Tensor) -> torch.Tensor:
        """Features of dense frames (B, M, 3, px, px) before the motion projector."""
        assert self.motion is not None
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

    # Embeddings to hidden states

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

        It is 0 for plain positions; a prompt under M-RoPE is longer than its positions reach.
        """

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
        """As the `forward` of the host class, with videos.

        Videos are given as `media_inputs` (arguments of `encode_media`, for unique videos) or as
        `media_embeds` (what `encode_media` returned); `media_rows` names the video of each row,
        None is row i for video i. Only hidden states from position `hidden_from` on are returned,
        so that a head need not see the prompt.
        """
        if inputs_embeds is None and (media_embeds is not None or media_inputs is not None):
            if media_embeds is None:
                media_embeds = self.encode_media(**media_inputs)
            inputs_embeds = self.embed(input_ids, media_embeds, media_rows)
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


class MotionPolicy(nn.Module):
    """Mixin before `…ForConditionalGeneration`: freezing by part and the placeholder ban."""

    backbone_class: type[MotionBackbone]
    """The class of `model`."""

    projector_names: tuple[str, ...]
    """Modules of `model` that are trained in full beside LoRA."""

    config: Any
    model: Any
    # of the host class
    get_output_embeddings: Callable[[], Any]
    post_init: Callable[[], None]

    def __init__(self, config):
        # The stock constructor would build the stock backbone, so its base is called instead.
        PreTrainedModel.__init__(self, config)
        self.model = self.backbone_class(config)
        text_config = config.get_text_config()
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        init_motion_weights(module)

    def parts(self) -> dict[str, nn.Module]:
        """Named parts for freezing, learning rates and reports."""
        parts = {
            "vision_tower": self.model.vision_part,
            "vision_projector": self.model.vision_projector,
            "language_model": self.model.language_model,
        }
        motion = self.model.motion
        if motion is None:
            return parts
        projector = nn.ModuleList([motion.projector])
        if motion.config.mode == "interleaved":
            projector += [motion.position_embedding, motion.standardise]
        return parts | {"slowfast": motion.slowfast, "motion_projector": projector}

    def freeze(self, names: list[str] | tuple[str, ...]) -> None:
        """Stop gradients of the named parts and put them in eval mode for good (see `train`)."""
        parts = self.parts()
        for name in names:
            if name not in parts:
                raise ValueError(f"no part {name!r} to freeze; parts are {sorted(parts)}")
            parts[name].requires_grad_(False)
        self.train(self.training)

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

        A sampled placeholder would break the forward that computes log-probabilities, which would
        then see more placeholders than features. As a bias of the head it holds for generation and
        log-probabilities alike, so both see one distribution. The buffer is not saved: the
        checkpoint stays a plain one.
        """
        head = self.get_output_embeddings()
        bias = torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device)
        bias[self.placeholder_ids()] = FORBIDDEN_LOGIT_BIAS
        if "bias" in head._parameters:
            del head._parameters["bias"]
        head.register_buffer("bias", bias, persistent=False)

    def placeholder_ids(self) -> list[int]:
        """Token ids that stand for visual or motion embeddings in a prompt."""
        ids = [self.config.image_token_id, getattr(self.config, "video_token_id", None)]
        return [i for i in ids if i is not None]


def host_class(cls: type) -> type:
    """The transformers class that one of ours extends."""
    return next(c for c in cls.__mro__ if c.__module__.startswith("transformers."))


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
