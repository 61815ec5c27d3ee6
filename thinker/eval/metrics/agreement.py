"""Agreement of predicted scores with MOS labels on one set.

In: one prediction and one label a video (unscored videos already dropped), the source content of
each video, and how many videos the set holds. Out: SRCC, KRCC, PLCC, PLCC and RMSE after the
logistic mapping, each with n and a 95 % interval (`evaluate_scores`).

Sources: the mapping is that of VQEG, "Final report on the validation of objective models of video
quality assessment" (FR-TV Phase I, 2000); comparing after a fitted monotone mapping is the practice
of ITU-T P.1401 too.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from thinker.eval.metrics.bootstrap import (
    FloatArray,
    Statistic,
    content_codes,
    count_units,
    drawn_statistic,
    interval,
    plcc_statistic,
    resample,
    rmse_statistic,
    srcc_statistic,
)

Scores = Sequence[float] | npt.NDArray[np.floating]
Figure = Callable[[FloatArray, FloatArray], float]

MIN_N = 3
"""Any two points correlate perfectly."""
MIN_N_MAPPED = 5
"""The four parameters of the mapping pass through any four points."""
CONSTANT_RTOL = 1e-12
"""A column that varies less than this is rounding noise around a constant."""
MIN_SCALE, MAX_SCALE = 0.05, 500.0
"""Bounds of beta_4 in standard deviations: almost a step, and almost a line.

Where labels are linear in skewed predictions (7,000 lognormal ones), 500 costs 1.3e-10 of PLCC; 50
would cost 1.3e-6.
"""
MAX_TAIL = 15.0
"""beta_3 may lie this many beta_4 outside the data, where the logistic is exponential to exp(-15).

Scores that saturate at one end need it. Farther out its digits are lost next to 1.
"""


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One figure, and the 95 % interval it takes when the source contents are drawn anew."""

    value: float | None
    """None, never 0 or NaN, where the figure is undefined."""
    n: int
    """Number of videos that the figure is computed from."""
    ci_low: float | None = None
    """Lower end of the 95 % interval; None where there is no interval."""
    ci_high: float | None = None
    """Upper end of the 95 % interval; None where there is no interval."""
    reason: str | None = None
    """Why there is no value, or else why there is no interval; None where both are there."""
    num_resamples: int = 0
    """Number of resamples drawn for the interval."""
    num_degenerate: int = 0
    """Number of those left out because all their predictions, or all their labels, are equal."""


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """All figures of one set; `n_scored / n_total` is the coverage to read beside each of them."""

    srcc: MetricResult
    """Spearman's rank correlation."""
    krcc: MetricResult
    """Kendall's tau-b."""
    plcc: MetricResult
    """Pearson's correlation of the raw predictions."""
    plcc_mapped: MetricResult
    """Pearson's correlation after the logistic mapping, which most VQA papers call PLCC."""
    rmse_mapped: MetricResult
    """Root mean squared error after the same mapping, in units of the labels."""
    n_scored: int
    """Number of videos with a score."""
    n_total: int
    """Number of videos of the set, with those that got no score."""
    num_contents: int
    """Number of source contents among the scored videos: what the bootstrap draws from."""
    by_tag: dict[str, dict[str, dict[str, MetricResult]]] = field(default_factory=dict)
    """SRCC and PLCC by tag name, value and figure; empty where the videos have no tags."""


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """VQEG's mapping, f(x) = beta_2 + (beta_1 - beta_2) / (1 + exp(-(x - beta_3) / beta_4)).

    beta_4 > 0; beta_1 is the asymptote at high x, so a falling mapping has beta_1 < beta_2.

    >>> Logistic(beta_1=5.0, beta_2=1.0, beta_3=3.0, beta_4=0.5)([3.0])
    array([3.])
    """

    beta_1: float
    """The asymptote at high x; below beta_2 where the mapping falls."""
    beta_2: float
    """The asymptote at low x."""
    beta_3: float
    """Where the mapping stands half-way."""
    beta_4: float
    """The width of the step, above 0."""

    def __call__(self, x: Scores) -> FloatArray:
        z = (np.asarray(x, dtype=np.float64) - self.beta_3) / self.beta_4
        return self.beta_2 + (self.beta_1 - self.beta_2) * special.expit(z)


# --- the five figures, without intervals ---


def srcc(predictions: Scores, labels: Scores) -> MetricResult:
    """Spearman's rank correlation, in -1..1: Pearson's over average ranks.

    >>> round(srcc([1, 2, 3, 4, 5], [1, 2, 4, 3, 5]).value, 12)  # 1 - 6 * 2 / (5 * 24)
    0.9
    """
    return _figure(predictions, labels, _spearman)


def krcc(predictions: Scores, labels: Scores) -> MetricResult:
    """Kendall's tau-b (1945), in -1..1: (concordant - discordant) / sqrt(untied in x * in y) pairs.

    >>> round(krcc([1, 2, 3, 4, 5], [1, 2, 4, 3, 5]).value, 12)  # (9 - 1) / 10
    0.8
    """
    return _figure(predictions, labels, _kendall)


def plcc(predictions: Scores, labels: Scores) -> MetricResult:
    """Pearson's linear correlation of the raw predictions, in -1..1.

    >>> round(plcc([1, 2, 3], [1, 3, 2]).value, 12)  # 1 / sqrt(2 * 2)
    0.5
    """
    return _figure(predictions, labels, _pearson)


def plcc_mapped(predictions: Scores, labels: Scores) -> MetricResult:
    """Pearson's correlation after the logistic mapping fitted to these very labels, in 0..1.

    Never negative, since the mapping may fall: predictions that run against the labels show in SRCC
    and in raw PLCC.
    """
    return _mapped_figure(fit_logistic(predictions, labels), predictions, labels, _pearson)


def rmse_mapped(predictions: Scores, labels: Scores) -> MetricResult:
    """sqrt(mean((f(x) - y)^2)) after the logistic mapping f, in units of the labels.

    Divides by n as the VQA literature does, not by n - 4 degrees of freedom.
    """
    return _mapped_figure(fit_logistic(predictions, labels), predictions, labels, _rmse)


def fit_logistic(predictions: Scores, labels: Scores) -> Logistic | str:
    """The least-squares `Logistic` from predictions to labels, or the reason why there is none.

    Any scale and sign of the predictions will do: they are standardised before the fit. For a given
    beta_3 and beta_4 the best beta_1 and beta_2 are a linear regression, so only two parameters are
    searched for, from three starts (steep, natural, almost linear). The last one keeps the mapping
    from being worse than a straight line by more than `MAX_SCALE` says.
    """
    x, y = columns(predictions, labels)
    reason = _undefined(x, y, MIN_N_MAPPED)
    if reason:
        return reason
    x_mean, x_std, y_mean, y_std = x.mean(), x.std(), y.mean(), y.std()
    z, target = (x - x_mean) / x_std, (y - y_mean) / y_std
    middle, half = (z.max() + z.min()) / 2, (z.max() - z.min()) / 2

    def centre_and_scale(params: FloatArray) -> tuple[float, float]:
        scale = np.exp(params[1])
        return middle + params[0] * (half + MAX_TAIL * scale), scale

    def residual(params: FloatArray) -> FloatArray:
        centre, scale = centre_and_scale(params)
        low, height = _asymptotes(z, target, centre, scale)
        return low + height * special.expit((z - centre) / scale) - target

    bounds = ([-1, np.log(MIN_SCALE)], [1, np.log(MAX_SCALE)])
    starts = [(0.0, np.log(scale)) for scale in (0.5, 2.0, 0.9 * MAX_SCALE)]
    try:
        fits = [
            optimize.least_squares(residual, start, bounds=bounds, ftol=1e-12, xtol=1e-12)
            for start in starts
        ]
    except (ValueError, np.linalg.LinAlgError) as error:
        return f"logistic fit failed: {error}"
    fits = [fit for fit in fits if fit.success]
    if not fits:
        return f"logistic fit did not converge from any of {len(starts)} starts"
    centre, scale = centre_and_scale(min(fits, key=lambda fit: fit.cost).x)
    low, height = _asymptotes(z, target, centre, scale)
    return Logistic(
        beta_1=float(y_mean + y_std * (low + height)),
        beta_2=float(y_mean + y_std * low),
        beta_3=float(x_mean + x_std * centre),
        beta_4=float(x_std * scale),
    )


def _asymptotes(
    z: FloatArray, target: FloatArray, centre: float, scale: float
) -> tuple[float, float]:
    """(low, height) of the regression of a zero-mean target on the unit logistic."""
    step = special.expit((z - centre) / scale)
    mean = step.mean()
    step = step - mean
    power = step @ step
    # A steep logistic in a gap of the data may underflow to a constant: nothing to regress on.
    height = float(step @ target / power) if power > 0 else 0.0
    return -height * float(mean), height


def _spearman(x: FloatArray, y: FloatArray) -> float:
    return stats.spearmanr(x, y).statistic


def _pearson(x: FloatArray, y: FloatArray) -> float:
    return stats.pearsonr(x, y).statistic


def _rmse(x: FloatArray, y: FloatArray) -> float:
    return np.sqrt(np.mean((x - y) ** 2))


def _kendall(x: FloatArray, y: FloatArray) -> float:
    return stats.kendalltau(x, y, variant="b", method="asymptotic").statistic


def _figure(
    predictions: Scores, labels: Scores, function: Figure, min_n: int = MIN_N
) -> MetricResult:
    x, y = columns(predictions, labels)
    reason = _undefined(x, y, min_n)
    if reason:
        return MetricResult(value=None, n=x.size, reason=reason)
    value = float(function(x, y))
    if not np.isfinite(value):
        return MetricResult(value=None, n=x.size, reason=f"arithmetic gave {value}")
    return MetricResult(value=value, n=x.size)


def _mapped_figure(
    mapping: Logistic | str, predictions: Scores, labels: Scores, function: Figure
) -> MetricResult:
    if isinstance(mapping, str):
        return MetricResult(value=None, n=len(predictions), reason=mapping)
    return _figure(mapping(predictions), labels, function, MIN_N_MAPPED)


# --- input checks ---


def columns(predictions: Scores, labels: Scores) -> tuple[FloatArray, FloatArray]:
    """Both as float64 (N,). Raises ValueError for values that are not finite and other lengths."""
    x, y = _finite(predictions, "prediction"), _finite(labels, "label")
    if x.shape != y.shape:
        raise ValueError(f"{x.size} predictions but {y.size} labels: give one label a prediction")
    return x, y


def _finite(values: Scores, name: str) -> FloatArray:
    column = np.asarray(values, dtype=np.float64)  # None becomes NaN
    if column.ndim != 1:
        raise ValueError(f"{name}s have shape {column.shape}, expected one dimension")
    bad = np.flatnonzero(~np.isfinite(column))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {column.size} {name}s are not finite, the first is {values[bad[0]]!r} "
            f"at index {bad[0]}: drop unscored rows before, and count them in n_total"
        )
    return column


def _undefined(x: FloatArray, y: FloatArray, min_n: int) -> str | None:
    if x.size < min_n:
        return f"n = {x.size}, at least {min_n} needed"
    for column, name in ((x, "predictions"), (y, "labels")):
        if np.ptp(column) <= CONSTANT_RTOL * np.abs(column).max():
            return f"all {x.size} {name} equal {column[0]:g}"
    return None


def with_interval(result: MetricResult, samples: FloatArray, num_units: int) -> MetricResult:
    """`result` with the interval of its resampled values, or with the reason why there is none."""
    bounds = interval(samples, num_units)
    low, high, reason = (None, None, bounds) if isinstance(bounds, str) else (*bounds, None)
    return MetricResult(
        value=result.value,
        n=result.n,
        ci_low=low,
        ci_high=high,
        reason=reason,
        num_resamples=samples.size,
        num_degenerate=int(samples.size - np.isfinite(samples).sum()),
    )


# --- reports ---


@dataclass(frozen=True, kw_only=True)
class ScoreFigure:
    """How one figure of scores is computed, and how it is resampled."""

    function: Figure
    """Of predictions and labels."""
    resampled: Callable[[FloatArray, FloatArray], Statistic]
    """The same for every resample."""
    is_mapped: bool = False
    """Whether predictions go through the logistic mapping before."""

    def value(self, x: FloatArray, y: FloatArray, mapping: Logistic | str) -> MetricResult:
        """The figure without an interval."""
        if self.is_mapped:
            return _mapped_figure(mapping, x, y, self.function)
        return _figure(x, y, self.function)

    def statistic(self, x: FloatArray, y: FloatArray, mapping: Logistic | str) -> Statistic:
        """For figures that have a value."""
        if self.is_mapped and not isinstance(mapping, str):
            x = mapping(x)
        return self.resampled(x, y)


SCORE_FIGURES: dict[str, ScoreFigure] = {
    "srcc": ScoreFigure(function=_spearman, resampled=srcc_statistic),
    "krcc": ScoreFigure(function=_kendall, resampled=partial(drawn_statistic, _kendall)),
    "plcc": ScoreFigure(function=_pearson, resampled=plcc_statistic),
    "plcc_mapped": ScoreFigure(function=_pearson, resampled=plcc_statistic, is_mapped=True),
    "rmse_mapped": ScoreFigure(function=_rmse, resampled=rmse_statistic, is_mapped=True),
}
"""The figures of `ScoreReport` by name."""


def evaluate_scores(
    predictions: Scores,
    labels: Scores,
    clusters: Sequence[Hashable] | None,
    n_total: int,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> ScoreReport:
    """All figures of one set with 95 % intervals.

    `clusters` names the source content of each video, None = every video is its own; `n_total`
    counts the set's videos with those that got no score; `num_resamples=0` skips the intervals. The
    mapping is fitted once: refitting it to each resample of 160 to 200 real labels moved the bounds
    by 0.001 to 0.003 and left the width.

    Raises ValueError for predictions or labels that are not finite, for lengths that differ, and
    for more scores than videos.

    >>> report = evaluate_scores([1, 2, 3, 4, 5], [1, 2, 4, 3, 5], None, 6, num_resamples=0)
    >>> round(report.srcc.value, 12), report.n_scored, report.n_total
    (0.9, 5, 6)
    """
    x, y = columns(predictions, labels)
    codes = content_codes(clusters, x.size)
    if not max(1, x.size) <= n_total:
        raise ValueError(
            f"{x.size} scores for n_total = {n_total}: n_total counts all videos of the set"
        )
    mapping = fit_logistic(x, y)
    results = {name: figure.value(x, y, mapping) for name, figure in SCORE_FIGURES.items()}
    defined = {
        name: figure.statistic(x, y, mapping)
        for name, figure in SCORE_FIGURES.items()
        if results[name].value is not None
    }
    num_contents = count_units(codes)
    for name, samples in resample(defined, codes, num_resamples, seed).items():
        results[name] = with_interval(results[name], samples, num_contents)
    return ScoreReport(
        srcc=results["srcc"],
        krcc=results["krcc"],
        plcc=results["plcc"],
        plcc_mapped=results["plcc_mapped"],
        rmse_mapped=results["rmse_mapped"],
        n_scored=x.size,
        n_total=n_total,
        num_contents=num_contents,
    )
