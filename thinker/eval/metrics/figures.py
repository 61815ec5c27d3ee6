"""Every figure by its name, for examples of any task.

In: one `Judged` an example that was answered, validly or not, and the names of the figures. Out: an
`AnswerReport`. A task names its figures as strings (`thinker.tasks`); `FIGURES` says how each one
is computed. What could not be asked, because a medium failed, is no row here and shows in the
coverage, `n_answered / n_total`.

Accuracy counts an invalid answer as a wrong one. Its interval is the percentile bootstrap over
source contents where examples share contents, else Wilson's (1927), which scipy computes.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from thinker.eval.metrics.agreement import (
    SCORE_FIGURES,
    MetricResult,
    ScoreFigure,
    columns,
    fit_logistic,
    with_interval,
)
from thinker.eval.metrics.bootstrap import (
    CONFIDENCE,
    content_codes,
    count_units,
    mean_statistic,
    resample,
)

ByTag = dict[str, dict[str, dict[str, MetricResult]]]
"""Tag name → value → figure name → result."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One example and what became of its answer."""

    is_valid: bool
    """Whether the task could parse the answer."""
    is_correct: bool | None = None
    """Whether it is the reference; False for an invalid answer. None where there is no reference,
    or none that an answer could equal."""
    score: float | None = None
    """The number that the answer stands for, where it stands for one."""
    label: float | None = None
    """What `score` is compared with, on the same scale."""
    content: Hashable = None
    """The source that the media were made from; None makes the example one of its own."""
    tags: tuple[tuple[str, str], ...] = ()
    """(name, value) pairs by which figures are broken down."""


@dataclass(frozen=True, kw_only=True)
class AnswerReport:
    """All figures of one set of a task."""

    figures: dict[str, MetricResult]
    """By the names that the task gives."""
    by_tag: dict[str, dict[str, MetricResult]]
    """Accuracy by tag name and value; empty where the task names no accuracy."""
    scores_by_tag: ByTag
    """The correlations that the task names, by tag name, value and figure."""
    n_valid: int
    """Number of examples with a valid answer."""
    n_answered: int
    """Number of examples with an answer, valid or not: those whose media could be read."""
    n_total: int
    """Number of examples of the set."""
    num_contents: int
    """Number of source contents among the answered examples: what the bootstrap draws from."""


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are drawn."""

    num_resamples: int = 1000
    """Of the bootstrap over contents; 0 gives no intervals at all."""
    seed: int = 0
    """Of the draws."""


CORRELATIONS = ("srcc", "plcc")
"""The figures of scores that are given for each value of a tag."""

Figure = Callable[[Sequence[Judged], Resampling], MetricResult]


def accuracy(rows: Sequence[Judged], resampling: Resampling) -> MetricResult:
    """The share of right answers among all that were compared, in 0..1.

    Three of four right, each of its own content: .75, Wilson's 95 % interval .301 to .954.
    """
    compared = [row for row in rows if row.is_correct is not None]
    if not compared:
        return MetricResult(value=None, n=0, reason="no answer has a reference to compare with")
    correct = np.array([row.is_correct for row in compared], dtype=np.float64)
    result = MetricResult(value=float(correct.mean()), n=correct.size)
    if not resampling.num_resamples:
        return result
    codes = _content_codes(compared)
    num_contents = count_units(codes)
    shared = num_contents < correct.size
    # Equal values have no spread to resample; the number of contents still says how sure they are.
    if shared and num_contents > 1 and np.ptp(correct) > 0:
        statistics = {"accuracy": mean_statistic(correct)}
        drawn = resample(statistics, codes, resampling.num_resamples, resampling.seed)
        return with_interval(result, drawn["accuracy"], num_contents)
    if shared and num_contents == 1:
        return replace(result, reason="no interval: one source content")
    num_right = round(result.value * num_contents) if result.value is not None else 0
    low, high = stats.binomtest(num_right, num_contents).proportion_ci(CONFIDENCE, method="wilson")
    return replace(result, ci_low=float(low), ci_high=float(high))


def _of_scores(figure: ScoreFigure) -> Figure:
    """The figure where a row has both a score and a label."""

    def measure(rows: Sequence[Judged], resampling: Resampling) -> MetricResult:
        scored = [row for row in rows if row.score is not None and row.label is not None]
        x, y = columns([r.score for r in scored], [r.label for r in scored])  # type: ignore[misc]
        mapping = fit_logistic(x, y) if figure.is_mapped else "not mapped"
        result = figure.value(x, y, mapping)
        if result.value is None or not resampling.num_resamples:
            return result
        codes = _content_codes(scored)
        statistics = {"": figure.statistic(x, y, mapping)}
        drawn = resample(statistics, codes, resampling.num_resamples, resampling.seed)
        return with_interval(result, drawn[""], count_units(codes))

    return measure


FIGURES: dict[str, Figure] = {
    **{name: _of_scores(figure) for name, figure in SCORE_FIGURES.items()},
    "accuracy": accuracy,
}
"""name: how it is computed. Figures of scores leave out what has no score; accuracy does not."""


def evaluate_answers(
    names: Sequence[str],
    rows: Sequence[Judged],
    n_total: int,
    resampling: Resampling | None = None,
) -> AnswerReport:
    """The named figures of one set, with 95 % intervals, and accuracy by tag.

    Raises ValueError for a name that is none of `FIGURES`, and for more rows than `n_total`.

    >>> rows = [Judged(is_valid=True, is_correct=True), Judged(is_valid=False, is_correct=False)]
    >>> report = evaluate_answers(["accuracy"], rows, 3)
    >>> report.figures["accuracy"].value, report.n_valid, report.n_answered, report.n_total
    (0.5, 1, 2, 3)
    """
    resampling = resampling or Resampling()
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise ValueError(f"figures {unknown}: expected some of {', '.join(FIGURES)}")
    if len(rows) > n_total:
        raise ValueError(f"{len(rows)} answers for n_total = {n_total}, which counts all examples")
    return AnswerReport(
        figures={name: FIGURES[name](rows, resampling) for name in names},
        by_tag=_accuracy_by_tag(rows, resampling) if "accuracy" in names else {},
        scores_by_tag=figures_by_tag([n for n in names if n in CORRELATIONS], rows, resampling),
        n_valid=sum(row.is_valid for row in rows),
        n_answered=len(rows),
        n_total=n_total,
        num_contents=count_units(_content_codes(rows)),
    )


def figures_by_tag(
    names: Sequence[str], rows: Sequence[Judged], resampling: Resampling | None = None
) -> ByTag:
    """The named figures of the rows of each value of each tag, values in the order of their names.

    Example: SRCC and PLCC by `content_type`, as streaming sets are reported.
    """
    resampling = resampling or Resampling()
    groups: dict[str, dict[str, list[Judged]]] = {}
    for row in rows:
        for name, value in row.tags if names else ():
            groups.setdefault(name, {}).setdefault(value, []).append(row)
    return {
        tag: {
            value: {name: FIGURES[name](values[value], resampling) for name in names}
            for value in sorted(values)
        }
        for tag, values in groups.items()
    }


def _accuracy_by_tag(
    rows: Sequence[Judged], resampling: Resampling
) -> dict[str, dict[str, MetricResult]]:
    found = figures_by_tag(["accuracy"], rows, resampling)
    return {
        tag: {value: figures["accuracy"] for value, figures in values.items()}
        for tag, values in found.items()
    }


def _content_codes(rows: Sequence[Judged]) -> npt.NDArray[np.intp]:
    own = [(place,) if row.content is None else row.content for place, row in enumerate(rows)]
    return content_codes(own, len(rows))
