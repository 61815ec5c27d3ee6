"""One-step-off rollouts: a batch is drawn before the trainer works on the batch before it.

With W_k for the weights before the updates on batch k:

    usual:         draw batch k with W_k     → train on batch k
    one step off:  draw batch k + 1 with W_k → train on batch k, drawn with W_(k - 1)

So a cluster can draw and train at the same time; here the one follows the other. Batches 0 and 1
are both drawn with W_0. Everything else of a batch happens when it is trained on: rewards, old and
reference log-probabilities. TRL corrects for the older weights by its importance sampling: the
ratio of the policy's probability at that time to the one that a completion was drawn with.

What is drawn ahead is part of a checkpoint, because the weights that drew it are gone by then.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from trl import GRPOConfig

from thinker.rollout.base import Completion
from thinker.train.checkpoint import CheckpointError
from thinker.train.grpo.batch import BatchContext
from thinker.train.resume import EpochOrder
from thinker.utils.tensors import largest_of_all_processes

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Draw = Callable[[BatchContext, bool], list[Completion]]
"""Draws the completions of a batch with the weights at hand; True for the batch that comes next."""


class AheadOrder(EpochOrder):
    """The order of `EpochOrder`, each batch delivered when the one before it is trained on.

    An epoch ends with the first batch of the next one. `first` gives the one that is never
    delivered. Example: epochs of batches a b c and d e f are delivered as b c d and e f g.
    """

    def __iter__(self):
        size = self.batch_size * self.mini_repeat_count * self.repeat_count
        return iter([*self._of_epoch(self.epoch)[size:], *self._of_epoch(self.epoch + 1)[:size]])

    def first(self, count: int, process: int) -> list[int]:
        """Numbers of the rows of a process in the first batch of the run, `count` in each process.
        The data loader hands out the order in pieces of that length, to one process after the
        other."""
        return list(islice(self._of_epoch(0), process * count, (process + 1) * count))

    def _of_epoch(self, epoch: int) -> list[int]:
        now, self.epoch = self.epoch, epoch
        try:
            return list(super().__iter__())
        finally:
            self.epoch = now


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A batch of this process that is not trained on yet."""

    rows: list[Row]
    """As the data set gives them."""
    completions: list[Completion] | None
    """One a row; None where they have to be drawn anew."""
    perturbed_texts: list[str | None]
    """One a row, as in `BatchContext`."""
    perturbations: list[str | None]
    """One a row, as in `BatchContext`."""
    seed: int | None
    """What they were drawn with."""


class OneStepOff:
    """Holds the batch that is drawn ahead, and the rows of the one that is trained on.

    dataset: rows by their numbers. ids: the sample of each number.
    """

    def __init__(self, dataset: Any, ids: Sequence[str], accelerator: Accelerator):
        self._dataset, self._accelerator = dataset, accelerator
        self._numbers = {sample_id: number for number, sample_id in enumerate(ids)}
        self._rows: list[Row] = []
        self._is_new = True  # nothing was trained on yet
        self._delivered: list[Row] | None = None  # to be drawn
        self._ahead: Drawn | None = None

    def rows(self, delivered: list[Row], *, is_due: bool, order: AheadOrder) -> list[Row]:
        """The rows that are trained on now. is_due: whether a new batch begins; `delivered` are
        then the rows of the one after it."""
        if is_due:
            self._delivered = delivered
            self._rows = self._first_rows(order) if self._ahead is None else self._ahead.rows
            self._is_new = False
        return self._rows

    def _first_rows(self, order: AheadOrder) -> list[Row]:
        assert self._delivered is not None
        if not self._is_new:
            raise CheckpointError(
                "the checkpoint holds no rollouts that were drawn ahead, as one_step_off needs "
                "them; it was written without that setting, start over in another output_dir"
            )
        process = self._accelerator.process_index
        return self._dataset.__getitems__(order.first(len(self._delivered), process))

    def completions(self, context: BatchContext, draw: Draw, *, is_last: bool) -> list[Completion]:
        """The completions of the batch at hand, and those of the next one are drawn. is_last:
        whether there is no next one. The perturbed texts go into the context."""
        if self._delivered is None:  # a restart in mid-batch whose media have changed
            return draw(context, False)
        own, ahead = self._ahead, None
        if own is None or own.completions is None:
            completions = draw(context, False)
        else:
            completions, context.perturbed_texts = own.completions, own.perturbed_texts
            context.perturbations, context.seed = own.perturbations, own.seed
        if not is_last:
            upcoming = BatchContext(rows=self._delivered)
            ahead = Drawn(
                rows=upcoming.rows,
                completions=draw(upcoming, True),
                perturbed_texts=upcoming.perturbed_texts,
                perturbations=upcoming.perturbations,
                seed=upcoming.seed,
            )
        self._ahead, self._delivered = ahead, None
        return completions

    # Restarts

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as a tree that state_file.py takes. Media are read again."""
        ahead = self._ahead
        if ahead is None:
            return {"drawn": None, "num_processes": self._accelerator.num_processes}
        completions = ahead.completions or []
        ids = [completion.token_ids for completion in completions]
        logprobs = [
            math.nan if value is None else value
            for completion in completions
            for value in completion.logprobs or ()
        ]
        return {
            "num_processes": self._accelerator.num_processes,
            "drawn": {
                "sample_id": [row["sample_id"] for row in ahead.rows],
                "lengths": [len(row) for row in ids],
                "token_ids": torch.tensor([token for row in ids for token in row]),
                "logprobs": torch.tensor(logprobs, dtype=torch.float64),
                "perturbed_texts": ahead.perturbed_texts,
                "perturbations": ahead.perturbations,
                "seed": ahead.seed,
            },
        }

    def restore(self, state: dict[str, Any] | None, batches: list[dict[str, Any]] | None) -> None:
        """Go on from `state`; batches: the micro-batches that are trained on, where a checkpoint
        was written in the middle of them."""
        self._is_new = False
        self._rows = self._read([name for batch in batches or () for name in batch["sample_id"]])
        if state is None or state["drawn"] is None:
            return
        if state["num_processes"] != self._accelerator.num_processes:
            raise CheckpointError(
                f"the rollouts that {state['num_processes']} processes drew ahead (one_step_off) "
                f"cannot be divided among {self._accelerator.num_processes}; resume with as many"
            )
        drawn = state["drawn"]
        rows = self._read(drawn["sample_id"])
        differs = [row["sample_id"] for row in rows] != drawn["sample_id"] or not drawn["lengths"]
        completions = None
        if largest_of_all_processes(int(differs), self._accelerator.device):
            logger.warning("rollouts drawn ahead are drawn anew: their media have changed")
        else:
            ids, logprobs = (
                drawn[key].split(drawn["lengths"]) for key in ("token_ids", "logprobs")
            )
            completions = [
                Completion(token_ids=some.tolist(), logprobs=own.tolist())
                for some, own in zip(ids, logprobs, strict=True)
            ]
        self._ahead = Drawn(
            rows=rows,
            completions=completions,
            perturbed_texts=drawn["perturbed_texts"],
            perturbations=drawn["perturbations"],
            seed=drawn["seed"],
        )

    def _read(self, sample_ids: Sequence[str]) -> list[Row]:
        """Rows of these samples; of others where a medium cannot be read any more."""
        return self._dataset.__getitems__([self._numbers[name] for name in sample_ids])


def check_one_step_off(args: GRPOConfig, *, reports_logprobs: bool = True) -> None:
    """Raises ValueError where a trainer or a back end cannot do one-step-off rollouts."""
    if not reports_logprobs:
        raise ValueError(
            "one_step_off needs the log-probabilities that completions were drawn with, which this "
            "back end does not report; use rollout.backend=vllm"
        )
    if not args.vllm_importance_sampling_correction:
        raise ValueError(
            "one_step_off is set, but trainer.vllm_importance_sampling_correction is false: "
            "rollouts of older weights would be taken for the policy's own; leave it out"
        )
    updates = args.steps_per_generation * args.num_iterations
    if updates % args.gradient_accumulation_steps:
        raise ValueError(
            f"one_step_off needs whole updates a batch: steps_per_generation x num_iterations is "
            f"{updates}, expected a multiple of gradient_accumulation_steps "
            f"({args.gradient_accumulation_steps})"
        )


def told_at_start(args: GRPOConfig) -> str:
    """What a run says of its correction."""
    return (
        "rollouts are one step off: corrected by importance sampling "
        f"({args.vllm_importance_sampling_mode}, ratios from "
        f"{args.vllm_importance_sampling_clip_min or 0:g} to "
        f"{args.vllm_importance_sampling_clip_max or math.inf:g})"
    )
