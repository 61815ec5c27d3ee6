"""The groups of a run: what its rollouts earned, and which of them a person should look at.

In: lines of `rollouts.jsonl`. Out: `Group`s, ranked in three ways.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

LAST_SHARE = 0.2
"""Where no steps are asked for, the last fifth of them is shown: what the policy does now."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The G rollouts of one prompt, which were drawn together."""

    step: int
    """Of the first update that they were trained in."""
    rollouts: tuple[dict[str, Any], ...]
    """Their lines (`thinker.train.run_log.rollout_lines`), in the order of drawing."""

    @property
    def sample_id(self) -> str:
        """Of the example."""
        return self.rollouts[0]["sample_id"]

    @property
    def reward(self) -> float | None:
        """Mean weighted sum of the rewards; None where none judged a rollout."""
        judged = [one["weighted_sum"] for one in self.rollouts if one["weighted_sum"] is not None]
        return fmean(judged) if judged else None

    @property
    def surprise(self) -> float | None:
        """How much more the rollout earned that the policy held for least likely than the one that
        it held for likeliest, by their mean log-probabilities a token. None where those are not
        known, and where fewer than two rollouts were judged.

        Rollouts that earned .2, .9 and .5 at -.1, -1.5 and -.7 make .9 - .2 = .7.
        """
        known = [
            (one["mean_logprob"], one["weighted_sum"])
            for one in self.rollouts
            if one["weighted_sum"] is not None and one["mean_logprob"] is not None
        ]
        if len(known) < 2:
            return None
        return min(known)[1] - max(known)[1]


def read_groups(path: Path) -> list[Group]:
    """All groups of a run, in order. Raises ValueError for a file that is none, or that an older
    version wrote."""
    return [
        Group(step=step, rollouts=tuple(lines))
        for (step, _), lines in groupby(_lines(path), lambda one: (one["step"], one["sample_id"]))
    ]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
            except ValueError as error:
                if text.endswith("\n"):
                    raise ValueError(f"{path}, line {number} is no JSON: {error}") from None
                return  # the last line of a run that goes on, or was killed
            if not isinstance(line, dict) or "weighted_sum" not in line or "media" not in line:
                raise ValueError(
                    f"{path}, line {number} has no weighted_sum or media; an older version of "
                    "thinker wrote it, whose runs cannot be inspected"
                )
            yield line


def in_steps(groups: Sequence[Group], steps: tuple[int, int] | None) -> list[Group]:
    """Those of the steps from the first to the last one, both included; of the last `LAST_SHARE` of
    all steps where None is asked for. Raises ValueError where there are none."""
    numbers = sorted({group.step for group in groups})
    if not numbers:
        raise ValueError("the run has no rollouts yet; inspect it after its first step")
    if steps is None:
        steps = numbers[-max(1, round(LAST_SHARE * len(numbers)))], numbers[-1]
    chosen = [group for group in groups if steps[0] <= group.step <= steps[1]]
    if not chosen:
        raise ValueError(
            f"no rollouts at the steps {steps[0]} to {steps[1]}, expected some of {numbers[0]} to "
            f"{numbers[-1]}"
        )
    return chosen


def ranked(groups: Sequence[Group], count: int) -> dict[str, list[Group]]:
    """The best, the worst and the most surprising groups, `count` of each at most."""
    judged = [group for group in groups if group.reward is not None]
    by_reward = sorted(judged, key=lambda group: group.reward or 0.0, reverse=True)
    odd = [group for group in judged if (group.surprise or 0.0) > 0]
    odd.sort(key=lambda group: group.surprise or 0.0, reverse=True)
    return {"best": by_reward[:count], "worst": by_reward[::-1][:count], "surprising": odd[:count]}
