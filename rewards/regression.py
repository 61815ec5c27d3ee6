"""Bell-shaped regression reward: how near is the answer to the target?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards.answer import Answer, parse_answer
from rewards.checks import check_number, check_rows

MIN_DECIMALS = 2  # the prompt asks for a rating "rounded to two decimal places"


@dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    """Both defaults are the reference's."""

    sigma: float = 0.5
    """Width of the bell, on the answer scale."""
    short_factor: float = 0.8
    """Multiplies the reward of an answer with fewer than two written decimals; 1 turns it off."""

    def __post_init__(self) -> None:
        check_number("regression.sigma", self.sigma, "> 0", lambda sigma: sigma > 0)
        check_number(
            "regression.short_factor", self.short_factor, "in [0, 1]", lambda f: 0 <= f <= 1
        )


def bell(answer: float, target: float, sigma: float) -> float:
    """exp(-(answer - target)² / (2 sigma²)), in [0, 1]; 0.607 at a distance of one sigma."""
    distance = (answer - target) / sigma
    return math.exp(-0.5 * distance * distance)


class RegressionReward:
    """In [0, 1]; None for an invalid answer.

    r = exp(-(p - y)² / (2 sigma²)) with answer p and target y, times `short_factor` when the answer
    has fewer than two written decimals (VQAThinker, arXiv 2508.06051, "bell-shaped regression
    reward"). The written text counts: "3.50" is full precision, "3.5" and "3" are not. The
    reference's code judges the parsed float and so punishes "3.50".

    With target 3.50, "3.60" earns exp(-0.1² / 0.5) = 0.9802 and "3.6" earns 0.8 of it:

    >>> reward = RegressionReward(RegressionConfig())
    >>> completions = ["<answer>3.60</answer>", "<answer>3.6</answer>", "3.60"]
    >>> rewards = reward(completions, ["a"] * 3, [3.5] * 3)
    >>> [r if r is None else round(r, 4) for r in rewards]
    [0.9802, 0.7842, None]
    """

    name = "regression"
    needs_perturbed = False
    tasks = ("score",)

    def __init__(self, config: RegressionConfig) -> None:
        self.config = config

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float],
        **columns: Any,
    ) -> list[float | None]:
        check_rows(self.name, completions, sample_id, target)
        return [self._score(text, float(y)) for text, y in zip(completions, target, strict=True)]

    def _score(self, completion: str, target: float) -> float | None:
        answer = parse_answer(completion)
        if not isinstance(answer, Answer):
            return None
        factor = 1.0 if answer.num_decimals >= MIN_DECIMALS else self.config.short_factor
        return factor * bell(answer.value, target, self.config.sigma)
