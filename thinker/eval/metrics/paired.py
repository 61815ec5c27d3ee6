"""The difference of two models on the same examples, with an interval: of correlations
(`paired_bootstrap`) and of accuracy (`paired_accuracy`)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from thinker.eval.metrics.agreement import (
    MetricResult,
    Scores,
    columns,
    plcc,
    srcc,
    with_interval,
)
from thinker.eval.metrics.bootstrap import (
    FloatArray,
    content_codes,
    count_units,
    difference,
    mean_statistic,
    plcc_statistic,
    resample,
    srcc_statistic,
)


@dataclass(frozen=True, kw_only=True)
class PairedDifference(MetricResult):
    """`value` = figure of a - figure of b on the same videos, None where either is undefined."""

    sign_share: float | None = None
    """Two-sided share of the resamples on the other side of zero.

    min(1, 2 (1 + min(#<=0, #>=0)) / (1 + #)). It reads like a p-value, but is no calibrated test.
    """


@dataclass(frozen=True, kw_only=True)
class PairedReport:
    """The differences of two models."""

    srcc: PairedDifference
    """Difference of Spearman's rank correlation."""
    plcc: PairedDifference
    """Difference of Pearson's raw correlation, so that neither model gains from a mapping."""


def paired_bootstrap(
    predictions_a: Scores,
    predictions_b: Scores,
    labels: Scores,
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> PairedReport:
    """Difference a - b of SRCC and of raw PLCC on the same videos and the same resamples.

    Pairing takes out what the two models share (hard videos, noisy labels), so a difference can be
    clear where the two separate intervals overlap. Raises what `evaluate_scores` raises.

    >>> report = paired_bootstrap([1, 2, 3, 4, 5], [1, 2, 4, 3, 5], [1, 2, 3, 4, 5])
    >>> round(report.srcc.value, 12)  # 1 - 0.9
    0.1
    """
    x_a, y = columns(predictions_a, labels)
    x_b, _ = columns(predictions_b, labels)
    codes = content_codes(clusters, y.size)
    pairs = {"srcc": (srcc(x_a, y), srcc(x_b, y)), "plcc": (plcc(x_a, y), plcc(x_b, y))}
    statistics = {
        "srcc": difference(srcc_statistic(x_a, y), srcc_statistic(x_b, y)),
        "plcc": difference(plcc_statistic(x_a, y), plcc_statistic(x_b, y)),
    }
    samples = resample(statistics, codes, num_resamples, seed)
    differences = {name: _paired(*pairs[name], samples[name], count_units(codes)) for name in pairs}
    return PairedReport(**differences)


def paired_accuracy(
    correct_a: Sequence[bool],
    correct_b: Sequence[bool],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> PairedDifference:
    """Difference a - b of accuracy on the same examples and the same resamples.

    >>> paired_accuracy([True, True, False, True], [True, False, False, False]).value  # 3/4 - 1/4
    0.5
    """
    a, b = (np.array(column, dtype=np.float64) for column in (correct_a, correct_b))
    if a.shape != b.shape:
        raise ValueError(f"{a.size} answers of a but {b.size} of b: give both for every example")
    if not a.size:
        return PairedDifference(value=None, n=0, reason="no example in common")
    codes = content_codes(clusters, a.size)
    samples = resample({"": mean_statistic(a - b)}, codes, num_resamples, seed)[""]
    result_a, result_b = (MetricResult(value=float(x.mean()), n=x.size) for x in (a, b))
    return _paired(result_a, result_b, samples, count_units(codes))


def _paired(
    a: MetricResult, b: MetricResult, samples: FloatArray, num_units: int
) -> PairedDifference:
    if a.value is None or b.value is None:
        reasons = [f"{name}: {r.reason}" for name, r in (("a", a), ("b", b)) if r.value is None]
        return PairedDifference(value=None, n=a.n, reason="; ".join(reasons))
    result = with_interval(MetricResult(value=a.value - b.value, n=a.n), samples, num_units)
    defined = samples[np.isfinite(samples)]
    other_side = 1 + min((defined <= 0).sum(), (defined >= 0).sum())
    share = min(1.0, float(2 * other_side / (1 + defined.size)))
    return PairedDifference(**vars(result), sign_share=None if result.ci_low is None else share)
