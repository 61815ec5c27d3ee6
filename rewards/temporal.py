"""Temporal consistency reward: is the true video judged better than a perturbed copy of it?

The copy's rollouts come in the column `perturbed_completions`: row j holds a rollout of the
perturbed copy of row j's video. They are compared with and never trained on. A copy perturbed by
`identity` shows the same frames, so the comparison is between two draws of the same distribution:
the bonus is then noise and says nothing about the policy.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rewards.answer import Answer, parse_answer
from rewards.checks import check_columns, check_number, check_rows
from rewards.ranking import RankingReward
from rewards.regression import RegressionConfig, RegressionReward, bell

Rule = Literal["per_video", "parity"]
Values = Sequence[float | None]

PARITY_RANKING_THRESHOLD = 0.5
PARITY_REGRESSION_THRESHOLD = 0.9
PARITY_BONUS = 0.3


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """`rule: parity` fixes every other field, so setting one beside it is an error."""

    rule: Rule = "per_video"
    """How rollouts are compared, "per_video" or as the reference's code does ("parity"); see
    `TemporalReward`."""
    margin: float = 0.02
    """How much lower the perturbed mean must be. 0.02 is what an error of 0.1 costs at the top of
    the bell (1 - 0.980), and about one standard error of the difference for 4 rollouts that scatter
    by 0.1. Zero would pay every policy that ignores time: a tie passes, and a coin flip passes half
    the time."""
    threshold: float = 0.9
    """What a rollout's own base value must exceed. 0.9, the reference's value, is an error below
    0.23 (at sigma 0.5)."""
    bonus: float = 0.3
    """What such a rollout earns; the default is the reference's value."""
    sigma: float = 0.5
    """Width of the bell. Keep it equal to that of the regression reward."""

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(
                f"temporal.rule: got {self.rule!r}; expected one of {list(get_args(Rule))}; "
                "use 'per_video' unless you reproduce the reference"
            )
        check_number("temporal.margin", self.margin, "in [0, 1)", lambda x: 0 <= x < 1)
        check_number("temporal.threshold", self.threshold, "in [0, 1)", lambda x: 0 <= x < 1)
        check_number("temporal.bonus", self.bonus, "> 0", lambda x: x > 0)
        check_number("temporal.sigma", self.sigma, "> 0", lambda x: x > 0)
        if self.rule == "parity":
            for field in dataclasses.fields(self):
                given = getattr(self, field.name)
                if field.name != "rule" and given != field.default:
                    raise ValueError(
                        f"temporal.{field.name}: got {given!r} beside rule 'parity', which fixes "
                        "it; expected no other field; remove it or use rule 'per_video'"
                    )


class TemporalReward:
    """0.0 or `bonus` by rule "per_video"; 0.0, 0.3 or 0.6 by rule "parity"; None as below.

    VQAThinker, arXiv 2508.06051, "temporal consistency reward".

    **per_video** looks at one video alone, whatever else is in the batch. The base value of a
    rollout is the bell exp(-(p - y)² / (2 sigma²)), without the factor for short answers: how many
    decimals were written says nothing about time. When mean(base of the true rollouts) - mean(base
    of the perturbed rollouts) >= margin, true rollouts with base > threshold earn `bonus`; all
    others earn 0.0.

    **parity** is the reference's code: over all rows of the batch, whatever their video, when the
    mean ranking reward of the true rollouts >= that of the perturbed ones, rollouts with ranking >
    0.5 earn 0.3; the same for the regression reward (short answers punished) with 0.9; the two
    parts add up. The reference's batch is one device's, here it is the global one. With one video
    ranking cannot be judged and only regression counts.

    A row without a perturbed copy (a picture has none) is None, and nothing is compared with it.

    Both rules: an invalid answer is left out of the means. The reward of an invalid true rollout is
    None, as there is nothing to score; with no valid perturbed rollout there is nothing to compare
    with, and all rows are None.

    Target 3.50; true answers 3.50 and 3.90 have base 1 and exp(-0.16 / 0.5) = 0.726, perturbed
    answers 4.50 and 2.50 both exp(-1 / 0.5) = 0.135. The means differ by 0.863 - 0.135 = 0.728 >=
    0.02; only the first exceeds 0.9:

    >>> reward = TemporalReward(TemporalConfig())
    >>> true = ["<answer>3.50</answer>", "<answer>3.90</answer>"]
    >>> perturbed = ["<answer>4.50</answer>", "<answer>2.50</answer>"]
    >>> reward(true, ["a", "a"], [3.5, 3.5], perturbed_completions=perturbed)
    [0.3, 0.0]
    """

    name = "temporal"
    needs_perturbed = True
    tasks = ("score",)

    def __init__(self, config: TemporalConfig) -> None:
        self.config = config

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float],
        *,
        perturbed_completions: Sequence[str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        if perturbed_completions is None:
            raise ValueError(
                "reward 'temporal': got no column perturbed_completions; expected one rollout of "
                "the perturbed video per row; generate them, or take 'temporal' out of the rewards"
            )
        texts = {"completions": completions}
        check_columns(self.name, texts, perturbed_completions=perturbed_completions)
        rows = [row for row, other in enumerate(perturbed_completions) if other is not None]
        others = [other for other in perturbed_completions if other is not None]
        check_rows(self.name, completions, sample_id, target)
        check_columns(self.name, {"perturbed_completions": others})
        judge = _parity if self.config.rule == "parity" else self._per_video
        judged = judge(
            [completions[row] for row in rows],
            others,
            [sample_id[row] for row in rows],
            [target[row] for row in rows],
        )
        rewards: list[float | None] = [None] * len(completions)
        for row, reward in zip(rows, judged, strict=True):
            rewards[row] = reward
        return rewards

    def _per_video(
        self,
        completions: Sequence[str],
        perturbed_completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float],
    ) -> list[float | None]:
        base = self._base_values(completions, target)
        perturbed_base = self._base_values(perturbed_completions, target)
        rows_of: dict[str, list[int]] = {}
        for row, video in enumerate(sample_id):
            rows_of.setdefault(video, []).append(row)
        rewards: list[float | None] = [None] * len(completions)
        for rows in rows_of.values():
            bonuses = _bonuses(
                [base[row] for row in rows],
                [perturbed_base[row] for row in rows],
                margin=self.config.margin,
                threshold=self.config.threshold,
                bonus=self.config.bonus,
            )
            for row, bonus in zip(rows, bonuses, strict=True):
                rewards[row] = bonus
        return rewards

    def _base_values(
        self, completions: Iterable[str], target: Iterable[float]
    ) -> list[float | None]:
        answers = map(parse_answer, completions)
        return [
            bell(answer.value, float(y), self.config.sigma) if isinstance(answer, Answer) else None
            for answer, y in zip(answers, target, strict=True)
        ]


def _parity(
    completions: Sequence[str],
    perturbed_completions: Sequence[str],
    sample_id: Sequence[str],
    target: Sequence[float],
) -> list[float | None]:
    ranking, regression = RankingReward(), RegressionReward(RegressionConfig())
    parts = [
        _bonuses(
            reward(completions, sample_id, target),
            reward(perturbed_completions, sample_id, target),
            margin=0.0,
            threshold=threshold,
            bonus=PARITY_BONUS,
        )
        for reward, threshold in (
            (ranking, PARITY_RANKING_THRESHOLD),
            (regression, PARITY_REGRESSION_THRESHOLD),
        )
    ]
    return [_sum_judged(pair) for pair in zip(*parts, strict=True)]


def _bonuses(
    true: Values, perturbed: Values, *, margin: float, threshold: float, bonus: float
) -> list[float | None]:
    """`bonus` for true values > threshold if the true mean leads by the margin, else 0.0."""
    true_mean, perturbed_mean = _mean_judged(true), _mean_judged(perturbed)
    if true_mean is None or perturbed_mean is None:
        return [None] * len(true)
    leads = true_mean - perturbed_mean >= margin
    return [
        None if value is None else bonus if leads and value > threshold else 0.0 for value in true
    ]


def _mean_judged(values: Values) -> float | None:
    judged = [value for value in values if value is not None]
    # fsum: the mean of the same values in another order is the same float, so a tie is a tie.
    return math.fsum(judged) / len(judged) if judged else None


def _sum_judged(values: Values) -> float | None:
    judged = [value for value in values if value is not None]
    return math.fsum(judged) if judged else None
