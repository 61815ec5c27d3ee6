"""The counters of a trainer: what is timed around TRL's steps, and logged once a step."""

from typing import Any

import torch

from thinker.train.counters import Counters, counter_names


class CountedSteps:
    """Mixin before a GRPO trainer that has `counters`; see counters.py for the names."""

    counters: Counters
    # of the trainer
    accelerator: Any
    current_gradient_accumulation_steps: int
    _metrics: Any
    _step: int

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As transformers' own, the wait for the data loader timed."""
        with self.counters.stage("data"):
            return super().get_batch_samples(  # type: ignore[misc]
                epoch_iterator, num_batches, device
            )

    def training_step(self, model, inputs, num_items_in_batch):
        """As TRL's own; what no inner stage claims is the training pass."""
        with self.counters.stage("train"):
            loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        if self._step % self.current_gradient_accumulation_steps == 0:
            self._log_counters()
        return loss

    def _log_counters(self) -> None:
        """Counts of one optimizer step: sums over processes, seconds their mean."""
        taken = self.counters.take()
        values = torch.tensor([taken[name] for name in counter_names()], dtype=torch.float64)
        total = self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")
        for name, value in zip(counter_names(), total.tolist(), strict=True):
            timed = name.startswith("seconds/")
            self._metrics["train"][name].append(
                value / self.accelerator.num_processes if timed else value
            )
