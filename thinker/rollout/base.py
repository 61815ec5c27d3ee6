"""What a rollout back end takes and gives; the trainer and the scorer know no more of it.

The policy encodes each video once (`encode_prompts`); a back end gets token ids and the embeddings
that stand at their placeholders, and returns completions. It never sees pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from thinker.policies import Policy
from thinker.video import Clip


class RolloutError(RuntimeError):
    """A back end failed: its engine died, did not answer in time, or disagrees with the trainer."""


class StaleWeightsError(RolloutError):
    """An engine that answers does so from other weights, or another prompt, than the trainer's."""


class RolloutStartError(RolloutError):
    """A back end cannot be used here at all; the message says why in one sentence."""


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt with its video already encoded.

    token_ids: P ids, placeholders expanded; a run of placeholders is one item (a frame, or a motion
    item). embeds: (S, D), one row a placeholder, in order, no gradient. positions: (P,), or (3, P)
    for M-RoPE. next_position: that of the first completion token. item_grids: (items, 3), the
    (t, h, w) that M-RoPE positions follow from; None for plain positions.
    """

    token_ids: list[int]
    embeds: torch.Tensor
    positions: torch.Tensor
    next_position: int
    item_grids: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn; temperature 0 is greedy."""

    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise ValueError(
                f"max_new_tokens is {self.max_new_tokens} and temperature {self.temperature}, "
                "expected at least 1 and at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class Completion:
    """token_ids end with the end-of-sequence id unless cut at max_new_tokens; logprobs, one a
    token, are those of the sampling distribution, None where the back end does not report them."""

    token_ids: list[int]
    logprobs: list[float] | None = None


class Rollout(Protocol):
    """A rollout back end. reports_logprobs: completions carry the logprobs they were drawn with."""

    name: str
    reports_logprobs: bool

    def generate(
        self,
        requests: list[EncodedPrompt],
        num_generations: int,
        sampling: Sampling,
        seed: int,
    ) -> list[list[Completion]]:
        """`num_generations` completions of every request; the same seed gives the same
        completions."""
        ...

    def sync(self, step: int) -> Mapping[str, float]:
        """Make the back end use the trainer's present weights, those of `step`; figures for the
        log."""
        ...

    def close(self) -> None:
        """Give back what the back end holds; it cannot be used afterwards."""
        ...


Encode = Callable[[list[Clip]], tuple[dict[str, Any], list[torch.Tensor]]]


@torch.no_grad()
def encode_prompts(
    policy: Policy,
    clips: list[Clip],
    question: str | None = None,
    encode: Encode | None = None,
) -> list[EncodedPrompt]:
    """Encode every clip once, without gradient, and build its prompt.

    encode: clips of one shape → (their layout, their embeddings), for a caller that keeps features.
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


def to_device(inputs: dict, device) -> dict:
    """Move the tensors of a `media_inputs` dict."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}


def _same_shape(clips: list[Clip]) -> list[list[int]]:
    """Indices of clips whose keyframes have one shape: a batch the encoder can take at once."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, clip in enumerate(clips):
        groups.setdefault(tuple(clip.keyframes_KCHW.shape), []).append(i)
    return list(groups.values())


def left_pad(rows: list[torch.Tensor], value: int | float = 0) -> torch.Tensor:
    """Stack (…, L_i) tensors along a new row axis before the last, padded on the left."""
    length = max(row.shape[-1] for row in rows)
    padded = [
        torch.nn.functional.pad(row, (length - row.shape[-1], 0), value=value) for row in rows
    ]
    return torch.stack(padded, dim=-2)


def largest_of_all_processes(value: int, device: torch.device) -> int:
    """The largest value that any process of a distributed run gave; all must call it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shared = torch.tensor([value], device=device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        value = int(shared.item())
    return value
