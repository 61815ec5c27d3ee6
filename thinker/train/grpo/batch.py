"""What one generation batch carries from one of TRL's callbacks to the next."""

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rewards import Answer, InvalidAnswer
from thinker.policies import Prompt
from thinker.rollout.base import Completion
from thinker.utils.names import path_text
from thinker.utils.tensors import largest_of_all_processes
from thinker.video import Clip

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

    sums: list[float | None]
    """Weighted sum of each row's rewards; None where none of them judged it."""

    equal: torch.Tensor
    """(rows,) bool, True for the rows of groups whose weighted reward sums are all equal."""

    drawn: list[dict[str, Any]]
    """What the log says of how each row was drawn (`drawn_facts`)."""


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

    perturbations: list[str | None] = field(default_factory=list)
    """One a row: how the copy was perturbed (`thinker.video.perturb`), None where there is none."""

    seed: int | None = None
    """What the rollouts of this process were drawn with."""

    drawn: list[dict[str, Any]] = field(default_factory=list)
    """One a row, from the rollouts on: `drawn_facts`."""

    judged: JudgedRows | None = None
    """Known from the rewards on."""

    @property
    def prompts(self) -> list[Prompt]:
        """What each row asks."""
        return [prompt_of(row) for row in self.rows]


def prompt_of(row: dict[str, Any]) -> Prompt:
    """What a row of the data set asks."""
    return Prompt(clips=row["clips"], turns=row["turns"])


def drawn_facts(
    context: BatchContext, completions: Sequence[Completion], eos_token_ids: Collection[int]
) -> list[dict[str, Any]]:
    """What `rollouts.jsonl` says of how each row was drawn: its media, its tokens, the copy."""
    perturbed = context.perturbed_texts or [None] * len(completions)
    kinds = context.perturbations or [None] * len(completions)
    return [
        {
            "media": [_shown(clip) for clip in row["clips"]],
            "question": row["turns"][-1].text if row["turns"] else None,
            "num_tokens": len(completion.token_ids),
            "is_ended": completion.token_ids[-1:] != []
            and completion.token_ids[-1] in eos_token_ids,
            "mean_logprob": _mean(completion.logprobs),
            "perturbation": kind,
            "perturbed_completion": text,
            "seed": context.seed,
        }
        for row, completion, kind, text in zip(
            context.rows, completions, kinds, perturbed, strict=True
        )
    ]


def _shown(clip: Clip) -> dict[str, Any]:
    """A medium and which pictures of it were shown, as plain values."""
    crop = clip.crop and (clip.crop.left, clip.crop.top, clip.crop.right, clip.crop.bottom)
    seconds = [round(one, 4) for one in clip.keyframe_seconds.tolist()]
    return {
        "path": path_text(clip.path),
        "kind": clip.kind,
        "seconds": seconds if clip.kind == "video" else [],
        "crop": crop,
    }


def _mean(logprobs: Sequence[float | None] | None) -> float | None:
    """To four digits: the fifth may depend on how rows were padded together."""
    known = [one for one in logprobs or () if one is not None and math.isfinite(one)]
    return round(sum(known) / len(known), 4) if known else None


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
