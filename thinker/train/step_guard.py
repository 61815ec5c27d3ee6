"""Numeric faults and lack of memory: what a training run survives, and when it stops.

- A reward that raises stops the run; `failing_samples` finds whose completions it fails on.
- Rewards that are all equal give a group advantages of exactly 0 (`equal_reward_rows`): the mean
  of equal floats need not be that float, and TRL divides the rest by a deviation of nearly 0.
- A loss or gradient that is not finite: `GuardedTrainer` skips the optimizer step on all processes
  and counts it; after `max_skipped_steps` in a row the run stops. Nothing is saved in between.
- Out of memory: fewer groups at once (memory.py).
"""

import json
import logging
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from rewards import Reward
from thinker.train.grpo.oom import GroupForward, TrainingFault
from thinker.train.resume import ResumableTrainer
from thinker.utils.atomic import write_atomic

logger = logging.getLogger(__name__)
MEMORY = "memory.json"  # groups at once that a restart must not exceed
NAMED_SAMPLES = 4


def failing_samples(reward: Reward, columns: dict[str, list]) -> list[str]:
    """Ids of the samples on whose own completions the reward raises; all if on none of them."""
    failing = []
    ids = columns["sample_id"]
    for sample in sorted(set(ids)):
        rows = [i for i, other in enumerate(ids) if other == sample]
        try:
            reward(**{key: [values[i] for i in rows] for key, values in columns.items()})
        except Exception:  # whatever a reward raises, as in the call that is being explained
            failing.append(sample)
    return failing or sorted(set(ids))


def reward_fault(reward: Reward, columns: dict[str, list], step: int, error: Exception):
    """The exception that ends a run whose reward raised."""
    samples = failing_samples(reward, columns)
    more = "…" if len(samples) > NAMED_SAMPLES else ""
    return TrainingFault(
        f"reward {reward.name!r} failed at step {step} on samples "
        f"{samples[:NAMED_SAMPLES]}{more}: {type(error).__name__}: {error}"
    )


def equal_reward_rows(
    rewards: torch.Tensor, weights: torch.Tensor, num_generations: int
) -> torch.Tensor:
    """Rows of groups whose weighted reward sums are all equal, (rows,) bool.

    rewards: (rows, functions), NaN where a reward judged nothing; rows without any judgement do not
    count. Example: sums [.1, .1, .1 | .2, NaN, .3] in groups of 3 → three times True, then False.
    """
    sums = (rewards * weights.to(rewards.device)).nansum(dim=1)
    judged = ~rewards.isnan().all(dim=1)
    low = sums.masked_fill(~judged, math.inf).view(-1, num_generations).amin(dim=1)
    high = sums.masked_fill(~judged, -math.inf).view(-1, num_generations).amax(dim=1)
    return (low >= high).repeat_interleave(num_generations)


class GuardedTrainer(ResumableTrainer):
    """A trainer that skips steps which are not finite and halves what does not fit into memory.

    max_skipped_steps: the run stops when so many optimizer steps in a row are skipped.
    """

    def __init__(self, *, max_skipped_steps: int = 5, callbacks: list | None = None, **kwargs):
        self._max_skipped = max_skipped_steps
        self._skipped = self._skipped_in_a_row = self._bad_losses = 0
        self._save_is_due = False
        self.redoing_step = False
        self._metrics_before_loss: dict[str, list] | None = None
        super().__init__(callbacks=[*(callbacks or []), _LateSave(self)], **kwargs)
        self.group_forward = GroupForward(self.core)
        if self.ref_model is not None:
            GroupForward(self.accelerator.unwrap_model(self.ref_model))
        if self._memory_file.exists():
            self._limit_groups(json.loads(self._memory_file.read_text(encoding="utf-8")))

    @property
    def core(self):
        """The policy's own model under DDP, DeepSpeed and LoRA wrappers."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def extra_state(self) -> dict[str, Any]:
        return {"skipped": self._skipped, "groups_at_once": self.group_forward.groups_at_once}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._skipped = state["skipped"]
        self._limit_groups(state["groups_at_once"])

    def _limit_groups(self, number: int | None) -> None:
        known = [n for n in (number, self.group_forward.groups_at_once) if n is not None]
        self.group_forward.groups_at_once = min(known, default=None)

    @property
    def _memory_file(self) -> Path:
        return self.output_dir / MEMORY

    def training_step(self, model, inputs, num_items_in_batch):
        """As TRL's; a backward pass that runs out of memory is redone with half the groups.

        Forward passes are retried inside `GroupForward`.
        """
        first = all(parameter.grad is None for parameter in model.parameters())
        while True:
            self._metrics_before_loss = None
            try:
                loss = super().training_step(model, inputs, num_items_in_batch)
                break
            except torch.OutOfMemoryError as error:
                message = str(error)
            self._after_lack_of_memory(message, redo=first)
            model.zero_grad(set_to_none=True)
            self._metrics["train"] = self._metrics_before_loss
            self.redoing_step = True
        self.redoing_step = False
        self._bad_losses += not bool(torch.isfinite(loss))
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self._metrics_before_loss = defaultdict(
            list, {name: list(values) for name, values in self._metrics["train"].items()}
        )
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _after_lack_of_memory(self, message: str, *, redo: bool) -> None:
        """Halve; end the run where part of a sum of gradients is lost, to be redone on restart.

        That is so in later micro-batches of a step, and in DDP, whose reduction was broken off.
        """
        if self._metrics_before_loss is None:
            raise TrainingFault(
                f"out of memory while generating at step {self.state.global_step}: {message}; "
                "lower grpo.max_completion_length or the number of frames"
            )
        whole = self.args.per_device_train_batch_size // self.num_generations
        self.group_forward.halve(self.group_forward.groups_at_once or whole, message)
        if redo and self.accelerator.num_processes == 1:
            return
        number = self.group_forward.groups_at_once
        write_atomic(self._memory_file, json.dumps(number))
        raise TrainingFault(
            f"out of memory in the backward pass of step {self.state.global_step}: {message}; run "
            f"the same command again, it resumes with {number} groups at once"
        )

    def _get_grad_norm(self, model, grad_norm=None):
        """The one place between the reduced gradient and the optimizer step."""
        norm = super()._get_grad_norm(model, grad_norm)
        bad_here = self._bad_losses > 0 or (norm is not None and not math.isfinite(float(norm)))
        self._bad_losses = 0
        flag = torch.tensor(float(bad_here), device=self.accelerator.device)
        if self.accelerator.reduce(flag, reduction="sum") > 0:
            self._skip_step(model, norm)
        else:
            self._skipped_in_a_row = 0
        return norm

    def _skip_step(self, model, norm) -> None:
        step = self.state.global_step
        named = (n for n, p in model.named_parameters() if p.grad is not None)
        first = next((n for n in named if not _finite_grad(model, n)), None)
        self._skipped += 1
        self._skipped_in_a_row += 1
        what = f"gradient norm {float(norm) if norm is not None else math.nan}" + (
            f", first in {first}" if first else ""
        )
        logger.warning("step %d skipped: loss or gradient not finite (%s)", step, what)
        if self.is_deepspeed_enabled:
            raise TrainingFault(
                f"loss or gradient not finite at step {step}, and DeepSpeed has applied it: resume "
                "from the last checkpoint"
            )
        if self._skipped_in_a_row >= self._max_skipped:
            raise TrainingFault(
                f"loss or gradient not finite in {self._skipped_in_a_row} steps in a row, last at "
                f"step {step} ({what}); no checkpoint was written since the first of them"
            )
        if self.accelerator.scaler is None:  # a scaler skips by itself
            # without gradients an optimizer changes neither weights nor its state
            model.zero_grad(set_to_none=True)

    def _save_checkpoint(self, model, trial):
        if self._skipped_in_a_row:
            self._save_is_due = True
            logger.warning(
                "no checkpoint at step %d: its update was skipped; one follows after the next "
                "finite step",
                self.state.global_step,
            )
            return
        self._check_weights(model)
        super()._save_checkpoint(model, trial)
        self._save_is_due = False

    def _check_weights(self, model) -> None:
        bad = [n for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
        flag = torch.tensor(float(bool(bad)), device=self.accelerator.device)
        if self.accelerator.reduce(flag, reduction="sum") > 0:
            raise TrainingFault(
                f"weights are not finite at step {self.state.global_step} ({bad[:3]}): no "
                "checkpoint is written; resume from the last one with a lower learning rate"
            )

    def log(self, logs, start_time=None):
        logs["faults/skipped_steps"] = self._skipped
        super().log(logs, start_time)

    def zero_equal_groups(self, advantages: torch.Tensor, equal: torch.Tensor) -> torch.Tensor:
        """Advantages of this process with those of equal groups exactly 0, logged ones too.

        equal: rows of all processes, as `equal_reward_rows` gives them.
        """
        self._metrics["train"]["groups/equal_rewards_share"].append(float(equal.float().mean()))
        logged = self._logs["advantages"]
        for place in equal.nonzero().flatten().tolist():
            logged[place - len(equal)] = 0.0
        first = self.accelerator.process_index * len(advantages)
        return advantages.masked_fill(equal[first : first + len(advantages)], 0.0)


def _finite_grad(model, name: str) -> bool:
    return bool(torch.isfinite(model.get_parameter(name).grad).all())


class _LateSave(TrainerCallback):
    """Makes up for a checkpoint that was due at a skipped step."""

    def __init__(self, trainer: GuardedTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer._save_is_due and not self.trainer._skipped_in_a_row:
            control.should_save = True
