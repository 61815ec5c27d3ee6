"""What all backbones share: a motion branch inside a native vision-language model.

Flow: pixels of distinct clips (videos of any size, stills) → `encode_media` (vision tower +
projector, motion encoder, interleaved in prompt order) → embeddings scattered at the placeholder
positions of every row that shows the clip → language model. A row is one token sequence, and shows
any number of clips. Several rows may show one clip (`media_rows`), which is then encoded once, with
gradient in the training forward.

The branch lives in the backbone (`...Model`), not in `...ForConditionalGeneration`, because TRL's
fused LM head calls the backbone alone.

A backbone is one file beside this one. It holds a configuration (`PolicyConfig` and transformers'
own), a model (`MotionBackbone` and transformers' `...Model`), a policy (`MotionPolicy` and
transformers' `...ForConditionalGeneration`), an inputs class, a builder of tiny policies, and a
`Backbone` that names them all; one line of `thinker.policies.registry` makes it known.

Shapes: B distinct clips, V of them that move (videos), R rows, N slots (frames, or frame pairs for
the Qwen-VL models, or tiles of a still) of all clips, M dense frames, S placeholder tokens of a
clip, L row length, D text width, E width of an embedding (`MotionBackbone.embed_width`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from thinker.policies.inputs import ClipConfig, PolicyInputs, placeholder_ids
from thinker.policies.motion import MotionConfig, MotionEncoder, init_motion_weights
from thinker.policies.tiny import TinySize

MediaRows = Sequence[tuple[int, ...]]
"""The clips that each row of a batch shows, by number, in the order of their places."""

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

    level_config: dict | None = None
    """The fields of a `LevelConfig` (`thinker.tasks.level`), as plain values; None stands for its
    defaults, which are those of every policy that was saved without this key."""

    quantized_base: str | None = None
    """"nf4" where a LoRA was trained on this policy in 4 bits: its weights then lie close to their
    codes, and putting them into 4 bits again would lose what it has learnt. None: it was not."""

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

    width: int
    """Width of a row."""

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

    def visual_tokens(self, num_patches: int) -> int:
        """Visual tokens of a slot of a video with so many patches."""
        return num_patches // self.patches_per_token

    def projected_tokens(self, num_patches: int) -> int:
        """Tokens of such a slot that pass the projector."""
        return self.visual_tokens(num_patches)

    @property
    def frames_per_slot(self) -> int:
        """Keyframes that one slot shows."""
        return 1

    @property
    def embed_width(self) -> int:
        """E, the width of what stands for a visual token: D, and D more for every later layer of
        the language model at which features are added (`deeper_inputs`)."""
        return self.config.get_text_config().hidden_size

    def encode_slots(self, pixel_values: torch.Tensor, **grids: Any) -> list[torch.Tensor]:
        """Visual tokens of every slot, in order: N tensors of shape (tokens, E)."""
        raise NotImplementedError

    def tower_features(self, pixel_values: torch.Tensor, **grids: Any) -> list[torch.Tensor]:
        """What the projector is given of every slot: N tensors; `project_slots` finishes them."""
        raise NotImplementedError

    def project_slots(self, features: list[torch.Tensor], **grids: Any) -> list[torch.Tensor]:
        """Visual tokens of slots whose `tower_features` are known: N tensors (tokens, E)."""
        raise NotImplementedError

    def prompt_positions(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        media_inputs: dict[str, Any],
        media_rows: MediaRows | None = None,
    ) -> PromptPositions:
        """Positions of padded prompts; `media_rows` as in `forward`. Of `media_inputs` only
        `PolicyInputs.layout` matters."""
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

    # Clips to embeddings

    def motion_features(self, motion_frames: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Features before the motion projector of each of V clips, of their frames: one tensor
        (clips, frames, 3, H, W) for each size."""
        assert self.motion is not None
        return [one for frames in motion_frames for one in self.motion.features(frames)]

    def encode_motion(
        self, features: Sequence[torch.Tensor], num_slots: Sequence[int]
    ) -> list[torch.Tensor]:
        """Motion tokens of V clips from their `motion_features`: each (slots, m, D), a slot of
        several keyframes getting the tokens of all of them; (tokens, D) where they stand behind all
        slots."""
        assert self.motion is not None
        tokens: list[torch.Tensor] = []
        for _, run in groupby(features, lambda one: one.shape):
            tokens += self.motion.project(torch.stack(list(run)))
        if self.motion.config.stands_behind:
            return tokens
        return [x.reshape(n, -1, x.shape[-1]) for x, n in zip(tokens, num_slots, strict=True)]

    @property
    def motion_copies(self) -> int:
        """How often the motion tokens of a video stand in a prompt."""
        return 2 if self.motion is not None and self.motion.config.twice else 1

    def assemble_media(
        self,
        slots: Sequence[torch.Tensor],
        motion: Sequence[torch.Tensor],
        layout: Mapping[str, Any],
    ) -> list[torch.Tensor]:
        """Interleave: the placeholder embeddings of each clip in prompt order, B tensors (S, E).

        motion: tokens of the clips that move, in order; none without a motion branch. They have no
        deeper features: zeros stand there.
        """
        if motion and (deeper := slots[0].shape[-1] - motion[0].shape[-1]):
            motion = [nn.functional.pad(tokens, (0, deeper)) for tokens in motion]
        tokens = dict(zip(layout["moving"], motion, strict=True)) if motion else {}
        behind = self.motion is not None and self.motion.config.stands_behind
        clips, start = [], 0
        for i, count in enumerate(layout["slots"]):
            parts = list(slots[start : start + count])
            start += count
            if i in tokens and behind:  # the last frame
                parts += [tokens[i]] * self.motion_copies
            elif i in tokens:
                parts = [x for pair in zip(parts, tokens[i], strict=True) for x in pair]
            clips.append(torch.cat(parts))
        return clips

    def encode_media(
        self,
        slots: Sequence[int] = (1,),
        moving: Sequence[int] = (0,),
        pixel_values: torch.Tensor | None = None,
        motion_frames: Sequence[torch.Tensor] | None = None,
        slot_features: list[torch.Tensor] | None = None,
        motion_features: Sequence[torch.Tensor] | None = None,
        **grids: Any,
    ) -> list[torch.Tensor]:
        """All placeholder embeddings of B clips: B tensors (S, E).

        slots: how many slots each clip has. moving: the numbers of the clips that the motion branch
        sees. slot_features, motion_features: results of `tower_features` and `motion_features` for
        the same clips, which then run only their projectors (`thinker.train.grpo.features`).
        """
        if not slots:
            return []
        if slot_features is not None:
            visual = self.project_slots(slot_features, **grids)
        else:
            assert pixel_values is not None, "neither pixel_values nor slot_features are given"
            visual = self.encode_slots(pixel_values, **grids)
        motion: list[torch.Tensor] = []
        if self.motion is not None and moving:
            if motion_features is None:
                if motion_frames is None:
                    raise ValueError(
                        "this policy has a motion branch but got no motion_frames; "
                        "build its inputs with the policy's own inputs class"
                    )
                motion_features = self.motion_features(motion_frames)
            motion = self.encode_motion(motion_features, [slots[i] for i in moving])
        return self.assemble_media(visual, motion, {"slots": slots, "moving": moving, **grids})

    # Embeddings to hidden states

    def embed(
        self,
        input_ids: torch.Tensor,
        media_embeds: Sequence[torch.Tensor],
        media_rows: MediaRows | None = None,
    ) -> dict[str, Any]:
        """What the host's forward is given in place of token ids: `inputs_embeds` (R, L, D),
        placeholders of a row replaced by its clips', and `deeper_inputs`.

        A clip that no row shows changes nothing, but the gradient of all that encoded it is 0
        instead of None (`PolicyInputs.for_every_part`).
        """
        inputs_embeds = self.get_input_embeddings()(input_ids)
        rows = _rows(media_rows, len(input_ids))
        shown = [[media_embeds[i] for i in row] for row in rows]
        for i in set(range(len(media_embeds))) - {i for row in rows for i in row}:
            inputs_embeds = inputs_embeds + 0 * media_embeds[i].sum().to(inputs_embeds)
        mask = input_ids == self.config.image_token_id
        counts = mask.sum(1).tolist()
        wanted = [sum(map(len, row)) for row in shown]
        if counts != wanted:
            raise ValueError(
                f"placeholder tokens a row {counts} differ from the embeddings of its clips "
                f"{wanted}; the prompt was built for others, or a completion holds one"
            )
        if not any(wanted):
            return {"inputs_embeds": inputs_embeds}
        features = torch.cat([embeds for row in shown for embeds in row]).to(inputs_embeds)
        first, deeper = features.tensor_split([inputs_embeds.shape[-1]], dim=-1)
        inputs_embeds = inputs_embeds.masked_scatter(mask.unsqueeze(-1), first)
        more = self.deeper_inputs(mask, deeper) if deeper.shape[-1] else {}
        return {"inputs_embeds": inputs_embeds, **more}

    def deeper_inputs(self, places: torch.Tensor, features: torch.Tensor) -> dict[str, Any]:
        """Arguments by which the host's forward adds features to the hidden states behind its first
        layers: places (R, L) bool, features (their number, E - D) in order."""
        raise NotImplementedError

    def media_grids(self, media_inputs: dict[str, Any]) -> list[torch.Tensor] | None:
        """Grids (t, h, w) of the items of each clip in prompt order, each (items, 3); None where
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
        inputs_embeds=None,
        media_embeds=None,
        media_rows=None,
        media_inputs=None,
        hidden_from=0,
        **kwargs,
    ):
        """As the `forward` of the host class, with media.

        Clips are given as `media_inputs` (arguments of `encode_media`, for distinct clips) or as
        `media_embeds` (what `encode_media` returned); `media_rows` names the clips of each row,
        None is clip i for row i. Only hidden states from position `hidden_from` on are returned,
        so that a head need not see the prompt.
        """
        given = {"inputs_embeds": inputs_embeds}
        if inputs_embeds is None and (media_embeds is not None or media_inputs is not None):
            if media_embeds is None:
                media_embeds = self.encode_media(**media_inputs)
            given = self.embed(input_ids, media_embeds, media_rows)
            input_ids = None
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **given,
            **kwargs,
        )
        outputs.last_hidden_state = outputs.last_hidden_state[:, hidden_from:]
        return outputs


class MotionPolicy(nn.Module):
    """Mixin before `…ForConditionalGeneration`: freezing by part and the placeholder ban."""

    backbone_class: type[MotionBackbone]
    """The class of `model`."""

    unused_names: ClassVar[tuple[str, ...]] = ()
    """Modules of `model` that checkpoints hold and nothing uses: they never have a gradient."""

    projector_names: tuple[str, ...]
    """Modules of `model` that are trained in full beside LoRA: those of the vision projector, then
    the motion branch's."""

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
        if motion.config.has_positions:
            projector += [motion.position_embedding]
        if motion.config.mode == "interleaved":
            projector += [motion.standardise]
        return parts | {"slowfast": motion.slowfast, "motion_projector": projector}

    def freeze(self, names: list[str] | tuple[str, ...]) -> None:
        """Stop gradients of the named parts and put them in eval mode for good (see `train`)."""
        parts = self.parts()
        for name in names:
            if name not in parts:
                raise ValueError(f"no part {name!r} to freeze; parts are {sorted(parts)}")
            parts[name].requires_grad_(False)
        for name in self.unused_names:
            self.model.get_submodule(name).requires_grad_(False)
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
        return placeholder_ids(self.config)


def _rows(media_rows: MediaRows | None, num_rows: int) -> MediaRows:
    """The clips of each row, spelled out."""
    return [(i,) for i in range(num_rows)] if media_rows is None else media_rows


def row_grids(
    grids: Sequence[torch.Tensor], media_rows: MediaRows | None, num_rows: int
) -> torch.Tensor | None:
    """Grids of all items of all rows, in order: (items, 3), None without any item."""
    shown = [grids[i] for row in _rows(media_rows, num_rows) for i in row]
    return torch.cat(shown) if shown else None


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
