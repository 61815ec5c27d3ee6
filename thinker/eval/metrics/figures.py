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

from rewards.boxes import LabelledBox
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
    FloatArray,
    Statistic,
    content_codes,
    count_units,
    mean_statistic,
    resample,
)
from thinker.eval.metrics.coco import NO_COCO, has_coco, map_of_pictures
from thinker.score.prediction import FoundBox

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
    named: str | None = None
    """The class that the answer names, where classes are counted; None for an invalid one."""
    right: str | None = None
    """The class that it should name; None where classes are not counted."""
    is_severity_correct: bool | None = None
    """Whether the severity that it names is the reference's; None where that has none."""
    matched_f1: float | None = None
    """How well its boxes match the reference's, 0..1, 0 for an invalid answer; None where there are
    none to compare."""
    true_boxes: tuple[LabelledBox, ...] | None = None
    """The boxes that are there; None for tasks without."""
    found_boxes: tuple[FoundBox, ...] = ()
    """The boxes of its answer; none of an invalid one."""
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


def resampled(
    result: MetricResult,
    statistic: Statistic,
    codes: npt.NDArray[np.intp],
    resampling: Resampling | None = None,
) -> MetricResult:
    """A figure with the percentile interval of its bootstrap over contents.

    statistic: the figure of each resample. codes: the content (N,) of each row (`content_codes`).
    """
    resampling = resampling or Resampling()
    if not resampling.num_resamples:
        return result
    drawn = resample({"": statistic}, codes, resampling.num_resamples, resampling.seed)
    return with_interval(result, drawn[""], count_units(codes))


CORRELATIONS = ("srcc", "plcc")
"""The figures of scores that are given for each value of a tag."""

Figure = Callable[[Sequence[Judged], Resampling], MetricResult]


def accuracy(rows: Sequence[Judged], resampling: Resampling) -> MetricResult:
    """The share of right answers among all that were compared, in 0..1.

    Three of four right, each of its own content: .75, Wilson's 95 % interval .301 to .954.
    """
    return _share(rows, [row.is_correct for row in rows], "reference", resampling)


def severity_accuracy(rows: Sequence[Judged], resampling: Resampling) -> MetricResult:
    """The share of right severities among all answers whose reference has one, in 0..1: whatever
    the type, and an answer that says none is wrong. Its interval is that of accuracy."""
    return _share(rows, [row.is_severity_correct for row in rows], "severity", resampling)


def matched_f1(rows: Sequence[Judged], resampling: Resampling) -> MetricResult:
    """The mean of how well the boxes of each answer match (`rewards.boxes.matched_f1`), in 0..1.
    The interval is the percentile bootstrap over source contents.

    Answers with 1, .5 and 0: .5.
    """
    compared = [row for row in rows if row.matched_f1 is not None]
    if not compared:
        return MetricResult(value=None, n=0, reason="no answer has boxes to compare with")
    values = np.array([row.matched_f1 for row in compared], dtype=np.float64)
    result = MetricResult(value=float(values.mean()), n=values.size)
    return resampled(result, mean_statistic(values), _content_codes(compared), resampling)


def map_50(rows: Sequence[Judged], resampling: Resampling) -> MetricResult:
    """Mean average precision of boxes at an overlap of .5, 0..1, ordered by their confidence; a box
    without one counts as sure. See `thinker.eval.metrics.coco.coco_map`. It has no interval."""
    compared = [row for row in rows if row.true_boxes is not None]
    if not has_coco():
        return MetricResult(value=None, n=len(compared), reason=NO_COCO)
    value, _ = map_of_pictures(
        [row.true_boxes or () for row in compared], [row.found_boxes for row in compared]
    )
    if value is None:
        return MetricResult(value=None, n=len(compared), reason="no picture has a true box")
    return MetricResult(value=value, n=len(compared), reason="no interval: boxes are pooled")


def _share(
    rows: Sequence[Judged], marks: Sequence[bool | None], what: str, resampling: Resampling
) -> MetricResult:
    """The share of True among the marks that are not None, with its interval."""
    compared = [row for row, mark in zip(rows, marks, strict=True) if mark is not None]
    if not compared:
        return MetricResult(value=None, n=0, reason=f"no answer has a {what} to compare with")
    correct = np.array([mark for mark in marks if mark is not None], dtype=np.float64)
    result = MetricResult(value=float(correct.mean()), n=correct.size)
    if not resampling.num_resamples:
        return result
    codes = _content_codes(compared)
    num_contents = count_units(codes)
    shared = num_contents < correct.size
    # Equal values have no spread to resample; the number of contents still says how sure they are.
    if shared and num_contents > 1 and np.ptp(correct) > 0:
        return resampled(result, mean_statistic(correct), codes, resampling)
    if shared and num_contents == 1:
        return replace(result, reason="no interval: one source content")
    num_right = round(result.value * num_contents) if result.value is not None else 0
    low, high = stats.binomtest(num_right, num_contents).proportion_ci(CONFIDENCE, method="wilson")
    return replace(result, ci_low=float(low), ci_high=float(high))


def macro_f1(rows: Sequence[Judged], resampling: Resampling) -> MetricResult:
    """The mean, over the classes that references name, of F1 = 2 tp / (2 tp + fp + fn), in 0..1.

    A class that only answers name has no F1 of its own; naming it misses the right one. An invalid
    answer misses it, too. The interval is the percentile bootstrap over source contents; in a
    resample the classes that are drawn count.

    References a, a, b, b and answers a, b, b, none: F1 of a = 2/3 (tp 1, fn 1), of b = 2/4 (tp 1,
    fp 1, fn 1), so .583.
    """
    compared = [row for row in rows if row.right is not None]
    if not compared:
        return MetricResult(value=None, n=0, reason="no answer has a class to compare with")
    classes = sorted({row.right for row in compared if row.right is not None})
    right_CN = np.array([[row.right == name for row in compared] for name in classes], float)
    named_CN = np.array([[row.named == name for row in compared] for name in classes], float)

    def statistic(weights_RN: FloatArray) -> FloatArray:
        hits_RC = weights_RN @ (right_CN * named_CN).T
        right_RC, named_RC = weights_RN @ right_CN.T, weights_RN @ named_CN.T
        f1_RC = 2 * hits_RC / np.maximum(right_RC + named_RC, 1.0)  # tp + fn and tp + fp
        is_drawn_RC = right_RC > 0
        return (f1_RC * is_drawn_RC).sum(axis=1) / is_drawn_RC.sum(axis=1)

    result = MetricResult(value=float(statistic(np.ones((1, len(compared))))[0]), n=len(compared))
    return resampled(result, statistic, _content_codes(compared), resampling)


def _of_scores(figure: ScoreFigure) -> Figure:
    """The figure where a row has both a score and a label."""

    def measure(rows: Sequence[Judged], resampling: Resampling) -> MetricResult:
        scored = [row for row in rows if row.score is not None and row.label is not None]
        x, y = columns([r.score for r in scored], [r.label for r in scored])  # type: ignore[misc]
        mapping = fit_logistic(x, y) if figure.is_mapped else "not mapped"
        result = figure.value(x, y, mapping)
        if result.value is None:
            return result
        statistic = figure.statistic(x, y, mapping)
        return resampled(result, statistic, _content_codes(scored), resampling)

    return measure


FIGURES: dict[str, Figure] = {
    **{name: _of_scores(figure) for name, figure in SCORE_FIGURES.items()},
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "severity_accuracy": severity_accuracy,
    "matched_f1": matched_f1,
    "map_50": map_50,
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
