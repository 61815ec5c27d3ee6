"""What one generation batch carries from one of TRL's callbacks to the next."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch

from rewards import Answer, InvalidAnswer
from thinker.policies import Prompt
from thinker.utils.tensors import largest_of_all_processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JudgedRows:
    """The rollouts of all processes and what the rewards said of them."""

    columns: dict[str, list]
    """By name, row-aligned: `completions`, `sample_id`, `task`, `target`, `reference` (parsed by
    the task), `options`, `perturbed_completions`."""

    rewards: torch.Tensor
    """(rows, rewards), NaN where a reward could not judge a row."""

    answers: list[Answer | InvalidAnswer]
    """What the parser made of each completion."""

    equal: torch.Tensor
    """(rows,) bool, True for the rows of groups whose weighted reward sums are all equal."""


@dataclass(kw_only=True)
class BatchContext:
    """A generation batch of this process, filled in as TRL walks through it."""

    rows: list[dict[str, Any]]
    """One a rollout, as the data set gives them; the G rollouts of a prompt follow one another."""

    asked: list[Prompt] = field(default_factory=list)
    """The prompts of the rows whose log-probabilities TRL asks for now: of all rows while a batch
    is generated, of a micro-batch while it is trained on."""

    silent: torch.Tensor | None = None
    """(groups,) bool of the micro-batch at hand, True for those that add no gradient; None where
    that is not known."""

    trained_logps: torch.Tensor | None = None
    """Log-probabilities of the last pass with gradient, detached."""

    perturbed_texts: list[str | None] = field(default_factory=list)
    """One a row: a rollout of the perturbed copy of the row's prompt, None where there is none."""

    judged: JudgedRows | None = None
    """Known from the rewards on."""

    @property
    def prompts(self) -> list[Prompt]:
        """What each row asks."""
        return [prompt_of(row) for row in self.rows]


def prompt_of(row: dict[str, Any]) -> Prompt:
    """What a row of the data set asks."""
    return Prompt(clips=row["clips"], turns=row["turns"])


class SavedBatches:
    """The micro-batches of a generation batch that a checkpoint was written in the middle of."""

    def __init__(self, batches: list[dict[str, Any]] | None = None):
        self._batches = batches

    @staticmethod
    def state(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What a checkpoint keeps of them. Prompts are left out: the data loader delivers the rows
        of a batch again."""
        return [{key: value for key, value in b.items() if key != "asked"} for b in batches]

    @staticmethod
    def divided_anew(
        of_processes: list[list[dict[str, Any]] | None],
        process: int,
        num_processes: int,
        parts: int,
    ) -> list[dict[str, Any]] | None:
        """What `process` of `num_processes` would have saved, of what each process of another
        number of them saved: its share of the rows of all, in `parts` micro-batches.

        Rows are padded to the longest prompt and completion of all.
        """
        saved = [batch for batches in of_processes for batch in batches or ()]
        if not saved:
            return None
        joined = {key: _joined([batch[key] for batch in saved], key) for key in saved[0]}
        num_rows = len(joined["advantages"])
        size = num_rows // (num_processes * parts)
        first = process * size * parts
        shares = [slice(first + i * size, first + (i + 1) * size) for i in range(parts)]
        return [
            {key: value[rows] if _has_rows(value) else value for key, value in joined.items()}
            for rows in shares
        ]

    def take(self, rows: list[dict[str, Any]], device: torch.device) -> list[dict[str, Any]] | None:
        """The rollouts, joined with the prompts of the same rows; None where there are none, and
        after the first call.

        None as well where the rows are of other examples (data/rows.py: one stands in for a medium
        that cannot be read any more); then all processes draw rollouts anew.
        """
        saved, self._batches = self._batches, None
        if saved is None:
            return None
        drawn = [name for batch in saved for name in batch.get("sample_id", ())]
        differs = bool(drawn) and drawn != [row["sample_id"] for row in rows]
        if largest_of_all_processes(int(differs), device):
            logger.warning("rollouts of the checkpoint are drawn anew: their media have changed")
            return None
        size = len(rows) // len(saved)
        return [
            {
                **{k: v if isinstance(v, list) else v.to(device) for k, v in batch.items()},
                "asked": [prompt_of(row) for row in rows[i * size : (i + 1) * size]],
            }
            for i, batch in enumerate(saved)
        ]


def _has_rows(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, torch.Tensor) and value.dim() > 0)


def _joined(values: list[Any], key: str) -> Any:
    """The values of several micro-batches under one key: rows behind one another; what is not of
    rows is the same in all."""
    if isinstance(values[0], list):
        return [one for value in values for one in value]
    if not _has_rows(values[0]):
        return values[0]
    if values[0].dim() == 1:
        return torch.cat(values)
    width = max(value.shape[1] for value in values)

    def padded(value: torch.Tensor) -> torch.Tensor:
        """Prompts on the left, completions and what belongs to their tokens on the right. Masks
        hide it, and id 0 is no placeholder."""
        missing = width - value.shape[1]
        left_and_right = (missing, 0) if key.startswith("prompt") else (0, missing)
        return torch.nn.functional.pad(value, left_and_right)

    return torch.cat([padded(value) for value in values])
