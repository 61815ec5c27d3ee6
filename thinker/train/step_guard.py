"""What a training run survives, and when it stops: losses and gradients that are not finite.

`StepGuard` looks at every gradient between its reduction and the optimizer. Where it is not finite
in any process, all of them skip the step, and the step is counted. After `max_skipped_steps` in a
row the run stops. No checkpoint is written between a skipped step and the next finite one.
"""

import logging
import math

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from thinker.train.processes.sharded import local_part

logger = logging.getLogger(__name__)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether what this process holds of a tensor is."""
    return bool(torch.isfinite(local_part(tensor)).all())


class TrainingFault(RuntimeError):
    """A fault that ends a run in good order; the message says what happened and what to do."""


class StepGuard:
    """Skips optimizer steps that are not finite.

    max_skipped_steps: the run stops when so many optimizer steps in a row are skipped.
    """

    def __init__(self, accelerator: Accelerator, max_skipped_steps: int):
        self.accelerator, self.max_skipped_steps = accelerator, max_skipped_steps
        self.num_skipped = 0  # in the whole run
        self.in_a_row = 0
        self._bad_losses = 0
        self._save_is_due = False

    def saw_loss(self, loss: torch.Tensor) -> None:
        """Remember whether the loss of a micro-batch was finite."""
        self._bad_losses += not bool(torch.isfinite(loss))

    def check_gradient(
        self, model: torch.nn.Module, norm: torch.Tensor | float | None, step: int
    ) -> None:
        """Drop the gradient if it, or a loss that it came from, is not finite in any process.

        norm: of the whole gradient, None where it is not known.
        """
        bad_here = self._bad_losses > 0 or (norm is not None and not math.isfinite(float(norm)))
        self._bad_losses = 0
        if self._anywhere(bad_here):
            self._skip(model, norm, step)
        else:
            self.in_a_row = 0

    def _anywhere(self, here: bool) -> bool:
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _skip(self, model: torch.nn.Module, norm: torch.Tensor | float | None, step: int) -> None:
        first = next(
            (
                name
                for name, parameter in model.named_parameters()
                if parameter.grad is not None and not is_finite(parameter.grad)
            ),
            None,
        )
        self.num_skipped += 1
        self.in_a_row += 1
        what = f"gradient norm {float(norm) if norm is not None else math.nan}" + (
            f", first in {first}" if first else ""
        )
        logger.warning("step %d skipped: loss or gradient not finite (%s)", step, what)
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise TrainingFault(
                f"loss or gradient not finite at step {step}, and DeepSpeed has applied it: resume "
                "from the last checkpoint"
            )
        if self.in_a_row >= self.max_skipped_steps:
            raise TrainingFault(
                f"loss or gradient not finite in {self.in_a_row} steps in a row, last at "
                f"step {step} ({what}); no checkpoint was written since the first of them"
            )
        if self.accelerator.scaler is None:  # a scaler skips by itself
            # without gradients an optimizer changes neither weights nor its state
            model.zero_grad(set_to_none=True)

    def may_save(self, model: torch.nn.Module, step: int) -> bool:
        """Whether a checkpoint may be written now; if not, one is due after the next finite step.

        Raises TrainingFault where weights are not finite.
        """
        if self.in_a_row:
            self._save_is_due = True
            logger.warning(
                "no checkpoint at step %d: its update was skipped; one follows after the next "
                "finite step",
                step,
            )
            return False
        bad = [n for n, p in model.named_parameters() if not is_finite(p)]
        if self._anywhere(bool(bad)):
            raise TrainingFault(
                f"weights are not finite at step {step} ({bad[:3]}): no "
                "checkpoint is written; resume from the last one with a lower learning rate"
            )
        return True

    def saved(self) -> None:
        """A checkpoint was written."""
        self._save_is_due = False

    @property
    def must_save(self) -> bool:
        """Whether a checkpoint that was put off can be written now."""
        return self._save_is_due and not self.in_a_row
