"""What a rollout back end takes and gives; the trainer and the scorer know no more of it.

The policy encodes each video once (`encode_prompts`); a back end gets token ids and the embeddings
that stand at their placeholders, and returns completions. It never sees pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from thinker.policies.encode import EncodedPrompt


class RolloutError(RuntimeError):
    """A back end failed: its engine died, did not answer in time, or disagrees with the trainer."""


class StaleWeightsError(RolloutError):
    """An engine that answers does so from other weights, or another prompt, than the trainer's."""


class RolloutStartError(RolloutError):
    """A back end cannot be used here at all; the message says why in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn; temperature 0 is greedy."""

    max_new_tokens: int = 2048
    """A completion is cut after so many tokens."""
    temperature: float = 1.0
    """0 is greedy; other values divide the logits."""
    top_p: float = 1.0
    """Share of the probability that is drawn from; 1 is all of it."""
    top_k: int = 0
    """Number of tokens that are drawn from; 0 is all of them."""

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, expected a number from 0")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a back end wrote."""

    token_ids: list[int]
    """They end with the end-of-sequence id, unless cut at `max_new_tokens`."""
    logprobs: list[float] | None = None
    """One a token, of the distribution that it was drawn from (a greedy one's: at temperature 1);
    None where none is reported."""


class Rollout(Protocol):
    """A rollout back end."""

    name: str
    """The key of the run configuration that chooses it, "hf" or "vllm"."""
    reports_logprobs: bool
    """Whether completions carry the logprobs they were drawn with."""

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
