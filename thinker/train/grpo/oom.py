"""Out of memory: score fewer groups at once, with exactly the same update.

TRL's loss, its normalisation and its metrics need the log-probabilities of the whole micro-batch.
So not the loss is split but the forward pass under it: the groups go through the model in chunks,
each under activation checkpointing. Only one chunk's activations then exist at a time, the backward
pass recomputes chunk by chunk, and the loss above sees what it saw before; no normaliser changes,
whichever of TRL's losses is used. Price: one more forward pass, once the memory has run out.

The retry happens inside `model.forward`, below DDP: every process calls the wrapped model once a
micro-batch, however many chunks it needs, so processes need not agree.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

logger = logging.getLogger(__name__)


class TrainingFault(RuntimeError):
    """A fault that ends a run in good order; the message says what happened and what to do."""


@dataclass(frozen=True)
class ScoreGroups:
    """Groups to score. build: a slice of the groups → keyword arguments of the model's forward."""

    count: int
    build: Callable[[slice], dict[str, Any]]


class GroupForward:
    """Gives a model's `forward` the keyword `score_groups`; other calls pass through.

    Such a call returns (log_probs, entropy or None), rows in the order of the groups.
    groups_at_once: None until the memory runs out for the first time; halved each time it does,
    down to one group.
    """

    def __init__(self, model):
        self.groups_at_once: int | None = None
        self._plain = model.forward
        functools.update_wrapper(self, self._plain)  # `generate` reads the signature
        model.forward = self

    def __call__(self, *args, score_groups: ScoreGroups | None = None, **kwargs):
        if score_groups is None:
            return self._plain(*args, **kwargs)
        while True:
            size = min(self.groups_at_once or score_groups.count, score_groups.count)
            try:
                return self._in_chunks(score_groups, size)
            except torch.OutOfMemoryError as error:
                message = str(error)
            # here the traceback, and with it what the failed pass allocated, is gone
            self.halve(size, message)

    def _in_chunks(self, groups: ScoreGroups, size: int):
        slices = [slice(i, i + size) for i in range(0, groups.count, size)]
        if len(slices) == 1 or not torch.is_grad_enabled():
            chunks = [self._score(groups, rows) for rows in slices]
        else:
            chunks = [checkpoint(self._score, groups, rows, use_reentrant=False) for rows in slices]
        # the reference model reports no entropy
        return tuple(
            None if parts[0] is None else torch.cat(parts) for parts in zip(*chunks, strict=True)
        )

    def _score(self, groups: ScoreGroups, rows: slice):
        output = self._plain(**groups.build(rows))
        return output.log_probs, output.entropy

    def halve(self, size: int, message: str) -> None:
        """From now on half of `size` groups at once; TrainingFault if that was one."""
        if size == 1:
            raise TrainingFault(
                f"out of memory with a single group at once: {message}; lower "
                "grpo.num_generations, grpo.max_completion_length or the number of frames"
            )
        self.groups_at_once = (size + 1) // 2
        logger.warning(
            "out of memory with %d groups at once, from now on %d: %s",
            size,
            self.groups_at_once,
            message,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
