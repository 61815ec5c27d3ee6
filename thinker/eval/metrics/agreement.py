"""Agreement of predicted scores with MOS labels, per set, between two models, and over sets.

In: one prediction and one label a video (unscored videos already dropped), the source content of
each video, and how many videos the set holds. Out: SRCC, KRCC, PLCC, PLCC and RMSE after the
logistic mapping, each with n and a 95 % interval (`evaluate_scores`); the difference of two models
on the same videos (`paired_bootstrap`); averages over sets (`summarise`, `format_table`).

Sources: the mapping is that of VQEG, "Final report on the validation of objective models of video
quality assessment" (FR-TV Phase I, 2000); comparing after a fitted monotone mapping is the practice
of ITU-T P.1401 too. Intervals: the percentile bootstrap (Efron & Tibshirani 1993) over source
contents rather than videos, because versions of one content are not independent.

A resample is held as weights: how often each video was drawn. Weighted ranks and moments equal
those of the drawn list, and cost a cumulative sum where a list would cost a sort.

Shapes: R resamples of a chunk, N videos, U resampling units (contents, or videos without contents).
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from thinker.data.datasets import DOMAINS

FloatArray = npt.NDArray[np.float64]
Scores = Sequence[float] | npt.NDArray[np.floating]
# Weights of a chunk (R, N) -> the statistic of each resample (R,), NaN where it is undefined.
Statistic = Callable[[FloatArray], FloatArray]
Figure = Callable[[FloatArray, FloatArray], float]

MIN_N = 3  # any two points correlate perfectly
MIN_N_MAPPED = 5  # four parameters pass through four points
CONFIDENCE = 0.95
MIN_RESAMPLES = 40  # 1 / 2.5 %: with fewer, the tails beyond the interval hold not one resample
CHUNK_ELEMENTS = 2**18  # of an (R, N) array: 2 MiB, so that temporaries stay near the cache
CONSTANT_RTOL = 1e-12  # a column that varies less than this is rounding noise around a constant
# Bounds of beta_4 in standard deviations: almost a step .. almost a line. Where labels are linear
# in skewed predictions (7,000 lognormal ones), 500 costs 1.3e-10 of PLCC; 50 would cost 1.3e-6.
MIN_SCALE, MAX_SCALE = 0.05, 500.0
# beta_3 may lie this many beta_4 outside the data, where the logistic is exponential to exp(-15):
# scores that saturate at one end need it. Farther out its digits are lost next to 1.
MAX_TAIL = 15.0


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One figure. `value` is None ("undefined", never 0 or NaN) where it cannot be computed."""

    value: float | None
    n: int  # videos the figure stands on
    ci_low: float | None = None
    ci_high: float | None = None
    reason: str | None = None  # why the value, or else its interval, is None
    num_resamples: int = 0  # resamples drawn ...
    num_degenerate: int = 0  # ... of which left out, their predictions or labels being constant


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """All figures of one set; `n_scored / n_total` is the coverage to read beside each of them."""

    srcc: MetricResult
    krcc: MetricResult
    plcc: MetricResult  # raw, no mapping
    plcc_mapped: MetricResult  # after the 4-parameter logistic; what most VQA papers call PLCC
    rmse_mapped: MetricResult  # after the same mapping, in units of the labels
    n_scored: int
    n_total: int
    num_contents: int


@dataclass(frozen=True, kw_only=True)
class PairedDifference(MetricResult):
    """`value` = figure of a - figure of b on the same videos, None where either is undefined."""

    # Two-sided share of the resamples on the other side of zero,
    # min(1, 2 (1 + min(#<=0, #>=0)) / (1 + #)). Reads like a p-value, but is no calibrated test.
    sign_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class PairedReport:
    srcc: PairedDifference
    plcc: PairedDifference  # raw, so that neither model gains from a mapping of its own


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """VQEG's mapping, f(x) = beta_2 + (beta_1 - beta_2) / (1 + exp(-(x - beta_3) / beta_4)).

    beta_4 > 0; beta_1 is the asymptote at high x, so a falling mapping has beta_1 < beta_2.

    >>> Logistic(beta_1=5.0, beta_2=1.0, beta_3=3.0, beta_4=0.5)([3.0])
    array([3.])
    """

    beta_1: float
    beta_2: float
    beta_3: float
    beta_4: float

    def __call__(self, x: Scores) -> FloatArray:
        z = (np.asarray(x, dtype=np.float64) - self.beta_3) / self.beta_4
        return self.beta_2 + (self.beta_1 - self.beta_2) * special.expit(z)


# --- the five figures, without intervals ----------------------------------------------------------


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
    x, y = _columns(predictions, labels)
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
    x, y = _columns(predictions, labels)
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


# --- input checks ---------------------------------------------------------------------------------


def _columns(predictions: Scores, labels: Scores) -> tuple[FloatArray, FloatArray]:
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


def _content_codes(clusters: Sequence[Hashable] | None, n: int) -> npt.NDArray[np.intp]:
    """Contents numbered in order of appearance, so that singleton contents number the videos."""
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(
            f"{len(clusters)} clusters for {n} videos: give one content a video, or None"
        )
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(cluster, len(codes)) for cluster in clusters], dtype=np.intp)


def _num_units(codes: npt.NDArray[np.intp]) -> int:
    return int(codes.max()) + 1 if codes.size else 0


# --- bootstrap ------------------------------------------------------------------------------------


def resample_weights(
    codes: npt.NDArray[np.intp], num_resamples: int, seed: int, chunk_elements: int = CHUNK_ELEMENTS
) -> Iterator[FloatArray]:
    """Chunks (R, N) of how often each video is drawn; `num_resamples` rows in all.

    A row draws U of U units with replacement, each bringing all its videos. The draws are
    `default_rng(seed).integers(0, U, (num_resamples, U))`, however they are cut into chunks.
    """
    rng = np.random.default_rng(seed)
    num_units = _num_units(codes)
    rows_per_chunk = max(1, chunk_elements // codes.size)
    for first in range(0, num_resamples, rows_per_chunk):
        rows = min(rows_per_chunk, num_resamples - first)
        draws_RU = rng.integers(0, num_units, size=(rows, num_units))
        flat = (draws_RU + num_units * np.arange(rows)[:, None]).ravel()
        counts_RU = np.bincount(flat, minlength=rows * num_units).reshape(rows, num_units)
        yield counts_RU[:, codes].astype(np.float64)


def _bootstrap(
    statistics: Mapping[str, Statistic], codes: npt.NDArray[np.intp], num_resamples: int, seed: int
) -> dict[str, FloatArray]:
    """Every statistic over the same resamples, each (num_resamples,)."""
    chunks: dict[str, list[FloatArray]] = {name: [np.empty(0)] for name in statistics}
    if codes.size:
        for weights_RN in resample_weights(codes, num_resamples, seed):
            for name, statistic in statistics.items():
                chunks[name].append(statistic(weights_RN))
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def _weighted_ranks(x: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """weights (R, N) -> average ranks (R, N) that each video has within each resample."""
    order = np.argsort(x, kind="stable")
    _, starts, ties_N = np.unique(x[order], return_index=True, return_inverse=True)
    value_of_N = np.empty_like(ties_N)
    value_of_N[order] = ties_N

    def ranks(weights_RN: FloatArray) -> FloatArray:
        drawn = np.add.reduceat(weights_RN[:, order], starts, axis=1)  # (R, distinct values)
        # t equal values below which b are drawn share the mean of the ranks b + 1 .. b + t
        return (np.cumsum(drawn, axis=1) - drawn + (drawn + 1) / 2)[:, value_of_N]

    return ranks


def _weighted_pearson(weights_RN: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Pearson's correlation of each resample; x and y are (N,) or (R, N)."""
    total = weights_RN.sum(axis=1, keepdims=True)
    dx = x - (weights_RN * x).sum(axis=1, keepdims=True) / total
    dy = y - (weights_RN * y).sum(axis=1, keepdims=True) / total
    wdx = weights_RN * dx
    power = (wdx * dx).sum(axis=1) * (weights_RN * dy * dy).sum(axis=1)
    # Rounding may leave a constant resample a tiny power, so constancy is judged on the values.
    defined = ~(_is_constant(weights_RN, x) | _is_constant(weights_RN, y)) & (power > 0)
    correlation = np.full(total.size, np.nan)
    np.divide((wdx * dy).sum(axis=1), np.sqrt(power), out=correlation, where=defined)
    return np.clip(correlation, -1, 1)


def _is_constant(weights_RN: FloatArray, x: FloatArray) -> npt.NDArray[np.bool_]:
    drawn = weights_RN > 0
    high = np.where(drawn, x, -np.inf).max(axis=1)
    return high == np.where(drawn, x, np.inf).min(axis=1)


def _srcc_statistic(x: FloatArray, y: FloatArray) -> Statistic:
    ranks_x, ranks_y = _weighted_ranks(x), _weighted_ranks(y)
    return lambda weights: _weighted_pearson(weights, ranks_x(weights), ranks_y(weights))


def _plcc_statistic(x: FloatArray, y: FloatArray) -> Statistic:
    return lambda weights: _weighted_pearson(weights, x, y)


def _krcc_statistic(x: FloatArray, y: FloatArray) -> Statistic:
    # Counting inversions has no cheap weighted form, so each list is drawn for scipy's O(n log n).
    def statistic(weights_RN: FloatArray) -> FloatArray:
        rows = [np.repeat(np.arange(x.size), row) for row in weights_RN.astype(np.intp)]
        return np.array([_kendall(x[row], y[row]) for row in rows])

    return statistic


def _rmse_statistic(x: FloatArray, y: FloatArray) -> Statistic:
    squared_N = (x - y) ** 2
    return lambda weights: np.sqrt((weights @ squared_N) / weights.sum(axis=1))


def _interval(samples: FloatArray, num_units: int) -> tuple[float, float] | str:
    """The central 95 % of the defined resamples, or the reason why there is no interval."""
    defined = samples[np.isfinite(samples)]
    if num_units < 2:
        return "no interval: one source content"
    if defined.size < MIN_RESAMPLES:
        return f"no interval: {defined.size} usable resamples, at least {MIN_RESAMPLES} needed"
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _with_interval(result: MetricResult, samples: FloatArray, num_units: int) -> MetricResult:
    interval = _interval(samples, num_units)
    low, high, reason = (None, None, interval) if isinstance(interval, str) else (*interval, None)
    return MetricResult(
        value=result.value,
        n=result.n,
        ci_low=low,
        ci_high=high,
        reason=reason,
        num_resamples=samples.size,
        num_degenerate=int(samples.size - np.isfinite(samples).sum()),
    )


# --- reports --------------------------------------------------------------------------------------


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
    x, y = _columns(predictions, labels)
    codes = _content_codes(clusters, x.size)
    if not max(1, x.size) <= n_total:
        raise ValueError(
            f"{x.size} scores for n_total = {n_total}: n_total counts all videos of the set"
        )
    mapping = fit_logistic(x, y)
    mapped = x if isinstance(mapping, str) else mapping(x)
    results = {
        "srcc": srcc(x, y),
        "krcc": krcc(x, y),
        "plcc": plcc(x, y),
        "plcc_mapped": _mapped_figure(mapping, x, y, _pearson),
        "rmse_mapped": _mapped_figure(mapping, x, y, _rmse),
    }
    statistics = {
        "srcc": _srcc_statistic(x, y),
        "krcc": _krcc_statistic(x, y),
        "plcc": _plcc_statistic(x, y),
        "plcc_mapped": _plcc_statistic(mapped, y),
        "rmse_mapped": _rmse_statistic(mapped, y),
    }
    defined = {
        name: statistics[name] for name, result in results.items() if result.value is not None
    }
    num_contents = _num_units(codes)
    for name, samples in _bootstrap(defined, codes, num_resamples, seed).items():
        results[name] = _with_interval(results[name], samples, num_contents)
    return ScoreReport(**results, n_scored=x.size, n_total=n_total, num_contents=num_contents)


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
    x_a, y = _columns(predictions_a, labels)
    x_b, _ = _columns(predictions_b, labels)
    codes = _content_codes(clusters, y.size)
    pairs = {"srcc": (srcc(x_a, y), srcc(x_b, y)), "plcc": (plcc(x_a, y), plcc(x_b, y))}
    statistics = {
        "srcc": _difference(_srcc_statistic(x_a, y), _srcc_statistic(x_b, y)),
        "plcc": _difference(_plcc_statistic(x_a, y), _plcc_statistic(x_b, y)),
    }
    samples = _bootstrap(statistics, codes, num_resamples, seed)
    differences = {name: _paired(*pairs[name], samples[name], _num_units(codes)) for name in pairs}
    return PairedReport(**differences)


def _difference(a: Statistic, b: Statistic) -> Statistic:
    return lambda weights: a(weights) - b(weights)  # NaN, thus left out, where either is undefined


def _paired(
    a: MetricResult, b: MetricResult, samples: FloatArray, num_units: int
) -> PairedDifference:
    if a.value is None or b.value is None:
        reasons = [f"{name}: {r.reason}" for name, r in (("a", a), ("b", b)) if r.value is None]
        return PairedDifference(value=None, n=a.n, reason="; ".join(reasons))
    result = _with_interval(MetricResult(value=a.value - b.value, n=a.n), samples, num_units)
    defined = samples[np.isfinite(samples)]
    other_side = 1 + min((defined <= 0).sum(), (defined >= 0).sum())
    share = min(1.0, float(2 * other_side / (1 + defined.size)))
    return PairedDifference(**vars(result), sign_share=None if result.ci_low is None else share)


# --- averages over sets ---------------------------------------------------------------------------

# RMSE is left out: each set has a label scale of its own.
AVERAGED = ("srcc", "krcc", "plcc", "plcc_mapped")


@dataclass(frozen=True, kw_only=True)
class Average:
    """Mean of each figure over sets; None, with a reason, where one set has it undefined."""

    name: str
    srcc: float | None
    krcc: float | None
    plcc: float | None
    plcc_mapped: float | None
    num_sets: int
    n_scored: int
    n_total: int
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    rows: tuple[tuple[str, str, ScoreReport], ...]  # (set, "in" or "out", report)
    averages: tuple[Average, ...]


def summarise(reports: Sequence[tuple[str, str, ScoreReport]]) -> Summary:
    """Averages over (name, domain, report) of sets; domain is "in" (seen in training) or "out".

    "size-weighted" weighs by `n_total`, so that failing on half a set does not halve its weight;
    the other averages weigh every set alike. A domain without sets has no average.

    SRCC 0.9 on 100 videos and 0.6 on 300 average (0.9 + 0.6) / 2 = 0.75 unweighted and
    (90 + 180) / 400 = 0.675 size-weighted.
    """
    names = [name for name, _, _ in reports]
    if not reports or len(set(names)) < len(names):
        raise ValueError(f"expected one report a set and at least one set, got {names}")
    for name, domain, _ in reports:
        if domain not in DOMAINS:
            raise ValueError(f"set {name!r} has domain {domain!r}, expected one of {DOMAINS}")
    averages = [_average("unweighted", reports), _average("size-weighted", reports, by_size=True)]
    for domain in DOMAINS:
        members = [row for row in reports if row[1] == domain]
        if members:
            averages.append(_average(f"{domain}-domain", members))
    return Summary(rows=tuple(reports), averages=tuple(averages))


def _average(
    name: str, members: Sequence[tuple[str, str, ScoreReport]], *, by_size: bool = False
) -> Average:
    weights = [report.n_total if by_size else 1 for _, _, report in members]
    means: dict[str, float | None] = {}
    undefined = set()
    for figure in AVERAGED:
        values = [getattr(report, figure).value for _, _, report in members]
        missing = {row[0] for row, value in zip(members, values, strict=True) if value is None}
        means[figure] = None if missing else float(np.average(values, weights=weights))
        undefined |= missing
    return Average(
        name=name,
        **means,
        num_sets=len(members),
        n_scored=sum(report.n_scored for _, _, report in members),
        n_total=sum(report.n_total for _, _, report in members),
        reason=f"undefined on {', '.join(sorted(undefined))}" if undefined else None,
    )


def format_table(summary: Summary) -> str:
    """Plain text: one line a set, one an average, then one a reason for what is undefined."""
    header = ["set", "domain", "scored", "SRCC [95%]", "PLCC [95%]"]
    header += ["PLCC mapped", "KRCC", "RMSE"]
    lines, reasons = [header], []
    for name, domain, r in summary.rows:
        cells = [_cell(r.srcc, interval=True), _cell(r.plcc, interval=True)]
        cells += [_cell(result) for result in (r.plcc_mapped, r.krcc, r.rmse_mapped)]
        lines.append([name, domain, f"{r.n_scored}/{r.n_total}", *cells])
        results = (r.srcc, r.krcc, r.plcc, r.plcc_mapped, r.rmse_mapped)
        reasons += [f"{name}: {reason}" for reason in {x.reason: None for x in results if x.reason}]
    for a in summary.averages:
        values = [_number(value) for value in (a.srcc, a.plcc, a.plcc_mapped, a.krcc)]
        coverage = f"{a.n_scored}/{a.n_total}"
        lines.append([a.name, f"{a.num_sets} sets", coverage, *values, ""])
        reasons += [f"{a.name}: {a.reason}"] if a.reason else []
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rows = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join(rows + reasons)


def _cell(result: MetricResult, *, interval: bool = False) -> str:
    if not interval or result.ci_low is None or result.ci_high is None:
        return _number(result.value)
    return f"{_number(result.value)} [{result.ci_low:.3f}, {result.ci_high:.3f}]"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
