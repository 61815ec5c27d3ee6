"""Figures of benchmarks, and tables of them as text and for the report's page.

Means are over questions, each a number in 0..1 (a choice right or wrong, the judge's score over 2);
their 95 % intervals are the percentile bootstrap over what was shown, because questions about one
video are not independent (`eval/metrics/bootstrap.py`). A pair counts as a thing of its own.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from thinker.eval.metrics import Judged, MetricResult, Resampling
from thinker.eval.metrics.bootstrap import content_codes, mean_statistic
from thinker.eval.metrics.figures import accuracy, resampled


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report."""

    title: str
    """What stands over it."""
    header: tuple[str, ...]
    """Of each column."""
    lines: tuple[tuple[str, ...], ...]
    """As many cells as the header has; none where nothing is measured."""
    notes: tuple[str, ...] = ()
    """What to know of it, a sentence each."""

    def __str__(self) -> str:
        cells = [self.header, *self.lines] if self.lines else []
        widths = [
            max(len(line[i]) for line in cells) for i in range(len(self.header) if cells else 0)
        ]
        rows = [
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        return "\n".join([self.title, *rows, *self.notes])


@dataclass(frozen=True, kw_only=True)
class Point:
    """One question and what its answer is worth."""

    value: float
    """In 0..1."""
    content: Hashable
    """What was shown."""
    tags: tuple[tuple[str, str], ...] = ()
    """As those of the example."""


def mean(points: Sequence[Point]) -> MetricResult:
    """The mean with its interval. Of right and wrong alone it is the accuracy of every evaluation
    (`eval/metrics/figures.py`), whose interval is Wilson's where no two questions share a video;
    other values have none where all are equal or one thing was shown.

    >>> mean([Point(value=1.0, content="a"), Point(value=0.5, content="b")]).value
    0.75
    """
    if not points:
        return MetricResult(value=None, n=0, reason="no question")
    if all(point.value in (0.0, 1.0) for point in points):
        rows = [Judged(is_valid=True, is_correct=p.value == 1.0, content=p.content) for p in points]
        return accuracy(rows, Resampling())
    values = np.array([point.value for point in points], dtype=np.float64)
    result = MetricResult(value=float(values.mean()), n=values.size)
    codes = content_codes([point.content for point in points], values.size)
    if np.ptp(values) == 0:
        return MetricResult(
            value=result.value, n=result.n, reason=f"no interval: all {values.size} are equal"
        )
    return resampled(result, mean_statistic(values), codes)


def percent(result: MetricResult) -> str:
    """As tables print it: `56.7 [41.2, 70.1]`, `–` where there is no value."""
    if result.value is None:
        return "–"
    shown = f"{100 * result.value:.2f}"
    if result.ci_low is None or result.ci_high is None:
        return shown
    return f"{shown} [{100 * result.ci_low:.1f}, {100 * result.ci_high:.1f}]"


def groups(points: Sequence[Sequence[Point]]) -> list[tuple[str, list[list[Point]]]]:
    """All questions, then those of each value of each tag; one list of points a column."""
    found = [("all", [list(column) for column in points])]
    pairs = sorted({pair for column in points for point in column for pair in point.tags})
    for name, value in pairs:
        of_value = [[p for p in column if (name, value) in p.tags] for column in points]
        found.append((f"{name}={value}", of_value))
    return found
