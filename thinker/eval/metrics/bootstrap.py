"""The percentile bootstrap: how far a figure would move had other source contents been rated.

In: the source content of each video, and the predictions and labels of one or two models. Out: the
value of a statistic in every resample (`resample`), and the central 95 % of those values
(`interval`).

Source contents are drawn, not videos, because versions of one content are not independent (Efron &
Tibshirani 1993). A resample is held as weights: how often each video was drawn. Weighted ranks and
moments equal those of the drawn list, and cost a cumulative sum where a list would cost a sort.

Kept by hand, because `scipy.stats.bootstrap` draws single rows and knows no groups of rows that
belong together, draws anew for every statistic, while figures and models are compared here on the
same resamples, and gives no interval at all as soon as one resample is constant, which happens in
small sets.

Shapes: R resamples of a chunk, N videos, U resampling units (contents, or videos without contents).
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]
"""From the weights (R, N) of a chunk to the figure of each resample (R,), NaN where undefined."""

CONFIDENCE = 0.95
MIN_RESAMPLES = 40
"""With fewer than 1 / 2.5 % resamples, the tails beyond the interval hold not one of them."""
CHUNK_ELEMENTS = 2**18
"""Size of an (R, N) array: 2 MiB, so that temporaries stay near the cache."""


def content_codes(clusters: Sequence[Hashable] | None, n: int) -> npt.NDArray[np.intp]:
    """The number of each video's content (N,), in order of appearance.

    Without `clusters` every video is a content of its own.
    """
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(
            f"{len(clusters)} clusters for {n} videos: give one content a video, or None"
        )
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(cluster, len(codes)) for cluster in clusters], dtype=np.intp)


def count_units(codes: npt.NDArray[np.intp]) -> int:
    """How many contents there are to draw from."""
    return int(codes.max()) + 1 if codes.size else 0


def resample_weights(
    codes: npt.NDArray[np.intp], num_resamples: int, seed: int, chunk_elements: int = CHUNK_ELEMENTS
) -> Iterator[FloatArray]:
    """Chunks (R, N) that say how often each video is drawn; they have `num_resamples` rows in all.

    A row draws U of U units with replacement, each bringing all its videos. The draws are
    `default_rng(seed).integers(0, U, (num_resamples, U))`, however they are cut into chunks.
    """
    rng = np.random.default_rng(seed)
    num_units = count_units(codes)
    rows_per_chunk = max(1, chunk_elements // codes.size)
    for first in range(0, num_resamples, rows_per_chunk):
        rows = min(rows_per_chunk, num_resamples - first)
        draws_RU = rng.integers(0, num_units, size=(rows, num_units))
        flat = (draws_RU + num_units * np.arange(rows)[:, None]).ravel()
        counts_RU = np.bincount(flat, minlength=rows * num_units).reshape(rows, num_units)
        yield counts_RU[:, codes].astype(np.float64)


def resample(
    statistics: Mapping[str, Statistic], codes: npt.NDArray[np.intp], num_resamples: int, seed: int
) -> dict[str, FloatArray]:
    """The values (num_resamples,) of each statistic, all of them over the same resamples."""
    chunks: dict[str, list[FloatArray]] = {name: [np.empty(0)] for name in statistics}
    if codes.size:
        for weights_RN in resample_weights(codes, num_resamples, seed):
            for name, statistic in statistics.items():
                chunks[name].append(statistic(weights_RN))
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


# --- statistics of weighted videos ---


def srcc_statistic(x: FloatArray, y: FloatArray) -> Statistic:
    """Spearman's rank correlation of each resample."""
    ranks_x, ranks_y = _weighted_ranks(x), _weighted_ranks(y)
    return lambda weights: _weighted_pearson(weights, ranks_x(weights), ranks_y(weights))


def plcc_statistic(x: FloatArray, y: FloatArray) -> Statistic:
    """Pearson's correlation of each resample."""
    return lambda weights: _weighted_pearson(weights, x, y)


def drawn_statistic(
    function: Callable[[FloatArray, FloatArray], float], x: FloatArray, y: FloatArray
) -> Statistic:
    """A `function` of two columns in each resample, which is drawn as a list for it.

    For figures without a cheap weighted form, such as Kendall's tau, which counts inversions.
    """

    def statistic(weights_RN: FloatArray) -> FloatArray:
        rows = [np.repeat(np.arange(x.size), row) for row in weights_RN.astype(np.intp)]
        return np.array([function(x[row], y[row]) for row in rows])

    return statistic


def rmse_statistic(x: FloatArray, y: FloatArray) -> Statistic:
    """Root mean squared difference of each resample."""
    squared_N = (x - y) ** 2
    return lambda weights: np.sqrt((weights @ squared_N) / weights.sum(axis=1))


def mean_statistic(x: FloatArray) -> Statistic:
    """The mean of each resample."""
    return lambda weights: (weights @ x) / weights.sum(axis=1)


def difference(a: Statistic, b: Statistic) -> Statistic:
    """a - b in each resample, NaN, thus left out, where either of them is undefined."""
    return lambda weights: a(weights) - b(weights)


def _weighted_ranks(x: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """A function from weights (R, N) to the average rank (R, N) of each video in each resample."""
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


# --- intervals ---


def interval(samples: FloatArray, num_units: int) -> tuple[float, float] | str:
    """The central 95 % of the defined resamples, or the reason why there is no interval."""
    defined = samples[np.isfinite(samples)]
    if num_units < 2:
        return "no interval: one source content"
    if defined.size < MIN_RESAMPLES:
        return f"no interval: {defined.size} usable resamples, at least {MIN_RESAMPLES} needed"
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
