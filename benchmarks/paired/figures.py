"""Means of conditions, and their differences to the first one, paired by seed.

Of the differences d_s = figure(condition, seed s) - figure(first condition, seed s), over n seeds,
the 95 % interval is mean(d) ± t(.975, n - 1) · sd(d) / √n (Student); of a mean likewise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scipy import stats

from thinker.eval.compare import compare_runs, format_comparison

from .plan import Plan
from .runs import Results


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure of one condition, and its difference to the first condition."""

    figure: str
    """The figure's dotted path."""
    condition: str
    """Name of the condition."""
    values: dict[int, float | None]
    """The figure by seed; None where the run failed or the figure is undefined."""
    mean: float | None
    """Mean of the values that are there."""
    mean_interval: tuple[float, float] | str
    """Its 95 % interval over seeds, or why there is none."""
    num_pairs: int
    """Seeds in which this condition and the first one have the figure."""
    difference: float | None
    """Mean difference of the pairs; None where there is none, and for the first condition."""
    interval: tuple[float, float] | str
    """Its 95 % interval over seeds, or why there is none; empty for the first condition."""
    verdict: str
    """ "higher" or "lower" where the interval excludes 0, else "not shown"."""


def compare(plan: Plan, results: Results) -> list[Line]:
    """A line for each figure and condition."""
    lines = []
    for figure in plan.figures:
        values: dict[str, dict[int, float | None]] = {name: {} for name in plan.conditions}
        for run, result in results.items():
            values[run.condition][run.seed] = figure_of(result, figure)
        first = next(iter(values.values()))
        for name, of_seed in values.items():
            there = [value for value in of_seed.values() if value is not None]
            both = [(of_seed[seed], first[seed]) for seed in plan.seeds if of_seed is not first]
            paired = [a - b for a, b in both if a is not None and b is not None]
            interval = t_interval(paired) if both else ""
            lines.append(
                Line(
                    figure=figure,
                    condition=name,
                    values=of_seed,
                    mean=fmean(there) if there else None,
                    mean_interval=t_interval(there),
                    num_pairs=len(paired),
                    difference=fmean(paired) if paired else None,
                    interval=interval,
                    verdict=verdict(interval) if both else "",
                )
            )
    return lines


def figure_of(result: dict[str, Any] | str, figure: str) -> float | None:
    """The number at a dotted path, or of `PATH - PATH`; None where there is none."""
    numbers = []
    for path in figure.split(" - "):
        value: Any = result
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        numbers.append(value)
    difference = float(numbers[0] - sum(numbers[1:]))
    return difference if math.isfinite(difference) else None


def t_interval(values: Sequence[float]) -> tuple[float, float] | str:
    """Of .1, .2 and .3: .2 ± 4.3027 · .1 / √3, that is (-.048, .448)."""
    if len(values) < 2:
        return "an interval needs two seeds"
    if math.isclose(max(values), min(values), abs_tol=1e-12):
        return "equal in all seeds: no spread to judge by"
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return float(low), float(high)


def verdict(interval: tuple[float, float] | str) -> str:
    """What may be said of the sign of a difference."""
    if isinstance(interval, str) or interval[0] <= 0 <= interval[1]:
        return "not shown"
    return "higher" if interval[0] > 0 else "lower"


def over_contents(plan: Plan, results: Results) -> str:
    """Seed by seed, the differences of the evaluations with intervals by paired bootstrap over
    held-out contents; empty where the plan has no evaluation."""
    done = {
        (r.condition, r.seed): r.folder / "eval" for r in results if isinstance(results[r], dict)
    }
    first, *others = plan.conditions
    return "\n\n".join(
        f"A: {name}, B: {first}, seed {seed}\n"
        + format_comparison(compare_runs(done[name, seed], done[first, seed]))
        for name in others
        for seed in plan.seeds
        if plan.evaluate and {(name, seed), (first, seed)} <= done.keys()
    )
