"""Prompts → encoded prompts: token ids, and the embeddings that stand at their placeholders.

Every clip passes the vision tower and the motion branch once here, however many prompts show it and
whatever is then done with them: rollouts by either back end, level scores, log-probabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from thinker.policies.inputs import Prompt, distinct_clips
from thinker.policies.policy import Policy
from thinker.utils.tensors import left_pad, to_device
from thinker.video import Clip


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt with its media already encoded."""

    token_ids: list[int]
    """P ids, placeholders expanded; a run of placeholders is one item (a frame, a motion item, or a
    still)."""

    embeds: torch.Tensor
    """(S, E), one row a placeholder, in order, without gradient; (0, E) where no media stand."""

    positions: torch.Tensor
    """(P,), or (3, P) for M-RoPE."""

    next_position: int
    """The position of the first completion token."""

    item_grids: torch.Tensor | None = None
    """(items, 3), the (t, h, w) that M-RoPE positions follow from; None for plain positions."""


@torch.no_grad()
def last_hidden(
    policy: Policy, requests: Sequence[EncodedPrompt], following: Sequence[Sequence[int]], keep: int
) -> torch.Tensor:
    """Hidden states (B, keep, D) of the last positions of prompts with other tokens behind them,
    from one forward in eval mode. Rows end together: what is shorter is padded on the left."""
    model = policy.model
    rows = [
        torch.tensor([*request.token_ids, *tokens], device=model.device)
        for request, tokens in zip(requests, following, strict=True)
    ]
    counts = map(len, following)
    positions = [_following_positions(r, count) for r, count in zip(requests, counts, strict=True)]
    training = model.training
    model.eval()
    try:
        return model.model(
            input_ids=left_pad(rows, policy.tokenizer.pad_token_id),
            attention_mask=left_pad([torch.ones_like(row) for row in rows]),
            position_ids=left_pad(positions),
            media_embeds=[request.embeds for request in requests],
            hidden_from=-keep,
            use_cache=False,
        ).last_hidden_state
    finally:
        model.train(training)


def _following_positions(request: EncodedPrompt, count: int) -> torch.Tensor:
    """The request's positions and those of `count` tokens after it, (…, P + count)."""
    positions = request.positions
    after = torch.arange(count, device=positions.device, dtype=positions.dtype)
    after = (request.next_position + after).expand(*positions.shape[:-1], count)
    return torch.cat([positions, after], dim=-1)


Encode = Callable[[list[Clip]], list[torch.Tensor]]
"""Clips of one kind and shape → their embeddings."""


@torch.no_grad()
def encode_prompts(
    policy: Policy, prompts: Sequence[Prompt], encode: Encode | None = None
) -> list[EncodedPrompt]:
    """Encode every distinct clip of all prompts once, without gradient, and build the prompts.

    encode: how clips become embeddings, for a caller that keeps features; None runs the policy.
    """
    if not prompts:
        return []
    inputs, backbone, device = policy.inputs, policy.model.model, policy.model.device
    clips, rows = distinct_clips(prompts)
    embeds = _encode_clips(clips, encode or partial(run_policy, policy))
    token_ids = [inputs.prompt_ids(prompt) for prompt in prompts]
    ids = [torch.tensor(row, device=device) for row in token_ids]
    mask = left_pad([torch.ones_like(row) for row in ids])
    layout = to_device(inputs.layout(clips), device)
    positions = backbone.prompt_positions(left_pad(ids), mask, layout, rows)
    next_positions = positions.next.tolist()
    grids = backbone.media_grids(layout)
    no_embeds = torch.empty(0, backbone.embed_width, dtype=policy.model.dtype, device=device)
    no_grids = torch.empty(0, 3, dtype=torch.long, device=device)
    return [
        EncodedPrompt(
            token_ids=token_ids[i],
            embeds=_joined([embeds[j] for j in row], no_embeds),
            positions=positions.ids[..., i, mask.shape[1] - len(ids[i]) :],
            next_position=next_positions[i],
            item_grids=None if grids is None else _joined([grids[j] for j in row], no_grids),
        )
        for i, row in enumerate(rows)
    ]


def run_policy(policy: Policy, clips: list[Clip]) -> list[torch.Tensor]:
    """The embeddings of clips of one kind and shape, by the vision tower and the motion branch."""
    media = to_device(policy.inputs.media_inputs(clips), policy.model.device)
    return policy.model.model.encode_media(**media)


def _encode_clips(clips: list[Clip], encode: Encode) -> list[torch.Tensor]:
    """The embeddings of each clip; those of one shape pass the encoder together."""
    embeds: dict[int, torch.Tensor] = {}
    for group in _same_shape(clips):
        embeds |= zip(group, encode([clips[i] for i in group]), strict=True)
    return [embeds[i] for i in range(len(clips))]


def _joined(parts: list[torch.Tensor], nothing: torch.Tensor) -> torch.Tensor:
    """The rows of all parts; a single part as it is."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else nothing


def eos_token_ids(policy: Policy) -> list[int]:
    """Ids that end a completion: the tokenizer's and those the checkpoint declares."""
    declared = policy.model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return [i for i in dict.fromkeys([policy.tokenizer.eos_token_id, *declared]) if i is not None]


def _same_shape(clips: list[Clip]) -> list[list[int]]:
    """Indices of clips of one kind whose keyframes have one shape."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, clip in enumerate(clips):
        groups.setdefault((clip.kind, *clip.keyframes_KCHW.shape), []).append(i)
    return list(groups.values())
