"""When memory runs out: fewer groups at once, with exactly the same update.

TRL's loss, its normalisation and its metrics need the log-probabilities of the whole micro-batch.
So the loss cannot be split, but the forward pass under it can: the groups go through the model in
chunks, each under activation checkpointing. Only one chunk's activations then exist at a time, the
backward pass recomputes them chunk by chunk, and the loss above sees what it saw before. That holds
for every loss that TRL has. The price is one more forward pass, from the first time on that memory
has run out.

The retry happens inside the model's own `forward`, below DDP: every process calls the wrapped model
once a micro-batch, however many chunks it needs, so processes need not agree on a number.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from thinker.train.step_guard import TrainingFault
from thinker.utils.atomic import write_atomic

logger = logging.getLogger(__name__)

MEMORY = "memory.json"
"""File in a run's folder: how many groups at once a restart must not exceed."""


class GroupsAtOnce:
    """How many groups go through the model at once: all of them until memory runs out, then half
    of what did not fit, down to one. It never rises again within a run."""

    def __init__(self) -> None:
        self.number: int | None = None  # None: no limit yet

    def at_most(self, number: int | None) -> None:
        """Take over a limit that an earlier process of the run found out."""
        known = [n for n in (number, self.number) if n is not None]
        self.number = min(known, default=None)

    def halve(self, size: int, message: str) -> None:
        """From now on half of `size` groups at once; TrainingFault if that was one."""
        if size == 1:
            raise TrainingFault(
                f"out of memory with a single group at once: {message}; lower "
                "num_generations, max_completion_length or the number of frames"
            )
        self.number = (size + 1) // 2
        logger.warning(
            "out of memory with %d groups at once, from now on %d: %s", size, self.number, message
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class GroupChunks:
    """Groups that pass the model in chunks, for the `in_chunks` argument of a policy's forward.

    bunches: the groups, by forward (bunches.py). build: some groups → arguments of one forward,
    whose completions may be shorter than others'. shape: (G, C) of the results. The call returns
    (log_probs, entropy or None), (groups, G, C), in the order of the groups, 0 where a completion
    was cut.
    """

    def __init__(
        self,
        bunches: list[list[int]],
        build: Callable[[list[int]], dict[str, Any]],
        limit: GroupsAtOnce,
        shape: tuple[int, int],
    ):
        self.bunches, self.build, self.limit, self.shape = bunches, build, limit, shape

    def __call__(self, forward: Callable[..., Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        while True:
            longest = max(map(len, self.bunches))
            size = min(self.limit.number or longest, longest)
            try:
                return self._forward(forward, size)
            except torch.OutOfMemoryError as error:
                message = str(error)
            # Only here is the traceback gone, and with it what the failed pass had allocated.
            self.limit.halve(size, message)

    def _forward(self, forward, size: int):
        def one_chunk(groups: list[int]):
            output = forward(**self.build(groups))
            return self._whole(output.log_probs), self._whole(output.entropy)

        chunks = [bunch[i : i + size] for bunch in self.bunches for i in range(0, len(bunch), size)]
        if len(chunks) == 1 or self.limit.number is None or not torch.is_grad_enabled():
            found = [one_chunk(groups) for groups in chunks]
        else:
            found = [checkpoint(one_chunk, groups, use_reentrant=False) for groups in chunks]
        order = torch.tensor([group for groups in chunks for group in groups]).argsort()
        # the reference model reports no entropy
        return tuple(
            None if parts[0] is None else torch.cat(parts)[order.to(parts[0].device)]
            for parts in zip(*found, strict=True)
        )

    def _whole(self, values: torch.Tensor | None) -> torch.Tensor | None:
        """(groups, G·c) of completions that were cut to c tokens → (groups, G, C)."""
        if values is None:
            return None
        num_generations, length = self.shape
        values = values.view(len(values), num_generations, -1)
        return torch.nn.functional.pad(values, (0, length - values.shape[-1]))


class BackwardRetry:
    """Redoes a training step whose backward pass ran out of memory, with half the groups.

    Forward passes are retried by `GroupChunks`. A backward pass can only be redone where nothing is
    lost by it: in the first micro-batch of an optimizer step, and in a single process (DDP's
    reduction was broken off). Elsewhere the run ends with a message, and the same command goes on
    from the last checkpoint with fewer groups.
    """

    def __init__(self, limit: GroupsAtOnce, *, folder: Path, num_groups: int, num_processes: int):
        self.limit, self.file = limit, folder / MEMORY
        self.num_groups, self.num_processes = num_groups, num_processes
        self.redoing = False  # the batch at hand is trained on again, so it must not be drawn anew
        self._metrics_before: dict[str, list] | None = None
        if self.file.exists():
            limit.at_most(json.loads(self.file.read_text(encoding="utf-8")))

    def loss_begins(self, metrics: dict[str, dict[str, list]]) -> None:
        """Remember TRL's metrics: a pass that is redone must not be logged twice."""
        values = {name: list(values) for name, values in metrics["train"].items()}
        self._metrics_before = defaultdict(list, values)

    def run(
        self,
        step: Callable[[], torch.Tensor],
        model: torch.nn.Module,
        metrics: dict[str, dict[str, list]],
        step_number: int,
    ) -> torch.Tensor:
        """The loss that `step` returns, after as many tries as memory needs."""
        is_first = all(parameter.grad is None for parameter in model.parameters())
        while True:
            self._metrics_before = None
            try:
                loss = step()
                break
            except torch.OutOfMemoryError as error:
                message = str(error)
            metrics["train"] = self._give_way(message, is_first, step_number)
            model.zero_grad(set_to_none=True)
            self.redoing = True
        self.redoing = False
        return loss

    def _give_way(self, message: str, is_first: bool, step_number: int) -> dict[str, list]:
        """Halve, or end the run; the metrics as they were before the failed pass."""
        if self._metrics_before is None:
            raise TrainingFault(
                f"out of memory while generating at step {step_number}: {message}; "
                "lower max_completion_length or the number of frames"
            )
        self.limit.halve(self.limit.number or self.num_groups, message)
        if is_first and self.num_processes == 1:
            return self._metrics_before
        write_atomic(self.file, json.dumps(self.limit.number))
        raise TrainingFault(
            f"out of memory in the backward pass of step {step_number}: {message}; run the same "
            f"command again, it resumes with {self.limit.number} groups at once"
        )
