"""Clips → encoded prompts: token ids, and the embeddings that stand at their placeholders.

Every video passes the vision tower and the motion branch once here, whatever is then done with the
prompt: rollouts by either back end, level scores, log-probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from thinker.policies.policy import Policy
from thinker.utils.tensors import to_device
from thinker.video import Clip


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt with its video already encoded."""

    token_ids: list[int]
    """P ids, placeholders expanded; a run of placeholders is one item (a frame, or a motion
    item)."""

    embeds: torch.Tensor
    """(S, D), one row a placeholder, in order, without gradient."""

    positions: torch.Tensor
    """(P,), or (3, P) for M-RoPE."""

    next_position: int
    """The position of the first completion token."""

    item_grids: torch.Tensor | None = None
    """(items, 3), the (t, h, w) that M-RoPE positions follow from; None for plain positions."""


Encode = Callable[[list[Clip]], tuple[dict[str, Any], list[torch.Tensor]]]
"""Clips of one shape → (what their positions follow from, their embeddings)."""


@torch.no_grad()
def encode_prompts(
    policy: Policy,
    clips: list[Clip],
    question: str | None = None,
    encode: Encode | None = None,
) -> list[EncodedPrompt]:
    """Encode every clip once, without gradient, and build its prompt.

    encode: how clips become embeddings, for a caller that keeps features; None runs the policy.
    """
    inputs = policy.inputs
    backbone = policy.model.model
    device = policy.model.device
    encoded = []
    for group in _same_shape(clips):
        shown = [clips[i] for i in group]
        if encode is not None:
            media, embeds = encode(shown)
        else:
            media = to_device(inputs.media_inputs(shown), device)
            embeds = backbone.encode_media(**media)
        ids = torch.tensor([inputs.prompt_ids(clips[i], question) for i in group], device=device)
        positions = backbone.prompt_positions(ids, torch.ones_like(ids), media)
        grids = backbone.media_grids(media)
        for j, i in enumerate(group):
            prompt = EncodedPrompt(
                token_ids=ids[j].tolist(),
                embeds=embeds[j],
                positions=positions.ids[..., j, :],
                next_position=int(positions.next[j]),
                item_grids=None if grids is None else grids.view(len(group), -1, 3)[j],
            )
            encoded.append((i, prompt))
    return [prompt for _, prompt in sorted(encoded, key=lambda pair: pair[0])]


def eos_token_ids(policy: Policy) -> list[int]:
    """Ids that end a completion: the tokenizer's and those the checkpoint declares."""
    declared = policy.model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return [i for i in dict.fromkeys([policy.tokenizer.eos_token_id, *declared]) if i is not None]


def _same_shape(clips: list[Clip]) -> list[list[int]]:
    """Indices of clips whose keyframes have one shape: a batch the encoder can take at once."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, clip in enumerate(clips):
        groups.setdefault(tuple(clip.keyframes_KCHW.shape), []).append(i)
    return list(groups.values())
