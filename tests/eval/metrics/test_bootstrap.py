"""Intervals against a brute-force bootstrap that draws lists, and against the normal theory."""

import numpy as np
import pytest

from tests.helpers.label_columns import FIGURES, brute_force, drawn_rows, fitted_to, load, value_of
from thinker.eval import metrics
from thinker.eval.metrics import bootstrap


def width_of(result):
    assert result.reason is None
    return result.ci_high - result.ci_low


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("name", ["live_yt_gaming", "live_yt_hfr"])
def test_intervals_equal_brute_force(name, clustered):
    x, y, content = load(name, 12)
    clusters = content if clustered else list(range(y.size))
    report = metrics.evaluate_scores(x, y, clusters, y.size, num_resamples=120, seed=7)
    mapped = fitted_to(x, y)(x)
    resamples = drawn_rows(clusters, 120, seed=7)
    for figure in FIGURES:
        samples = [brute_force(figure, x, y, mapped, rows) for rows in resamples]
        result = getattr(report, figure)
        expected = np.quantile(samples, [0.025, 0.975])
        assert [result.ci_low, result.ci_high] == pytest.approx(expected, abs=1e-12, rel=1e-12)
        assert (result.num_resamples, result.num_degenerate) == (120, 0)


def test_every_resample_equals_brute_force_whatever_the_scale():
    x, y, content = load("live_yt_hfr", 12)
    x = 1e6 + x  # a large offset must not eat the digits of the moments
    codes = bootstrap.content_codes(content, y.size)
    statistics = {"srcc": bootstrap.srcc_statistic(x, y), "plcc": bootstrap.plcc_statistic(x, y)}
    for figure, samples in bootstrap.resample(statistics, codes, 50, 3).items():
        expected = [brute_force(figure, x, y, x, rows) for rows in drawn_rows(content, 50, 3)]
        # the digits of x itself end 1e-10 after its point
        assert samples == pytest.approx(np.array(expected), abs=1e-12 if figure == "srcc" else 1e-9)


def test_singleton_clusters_equal_plain_videos():
    x, y, _ = load("live_yt_gaming", 12)
    names = [f"video-{i * 37 % y.size}" for i in range(y.size)]  # distinct, in no sorted order
    plain = metrics.evaluate_scores(x, y, None, y.size, num_resamples=100, seed=5)
    assert metrics.evaluate_scores(x, y, names, y.size, num_resamples=100, seed=5) == plain
    assert metrics.evaluate_scores(x, y, None, y.size, num_resamples=100, seed=6) != plain


def test_draws_do_not_depend_on_chunks():
    codes = np.arange(31)
    whole = np.concatenate(list(bootstrap.resample_weights(codes, 20, 1, chunk_elements=10**6)))
    assert whole.shape == (20, 31) and (whole.sum(axis=1) == 31).all()
    for chunk_elements in (1, 31 * 3):
        chunks = list(bootstrap.resample_weights(codes, 20, 1, chunk_elements=chunk_elements))
        assert len(chunks) > 1
        np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_clusters_widen_the_interval_of_dependent_videos():
    _, y, content = load("live_yt_hfr", 0)
    rng = np.random.default_rng(0)
    offset = dict(zip(sorted(set(content)), rng.normal(0, 15, 16), strict=True))
    x = y + np.array([offset[c] for c in content]) + rng.normal(0, 2, y.size)
    plain = metrics.evaluate_scores(x, y, None, y.size, num_resamples=300).srcc
    clustered = metrics.evaluate_scores(x, y, content, y.size, num_resamples=300).srcc
    assert clustered.value == plain.value
    assert width_of(clustered) > 1.3 * width_of(plain)


def test_interval_is_near_the_normal_theory():
    x, y = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 400).T
    result = metrics.evaluate_scores(x, y, None, 400, num_resamples=1000).plcc
    # Fisher 1915: atanh(r) is normal with deviation 1 / sqrt(n - 3)
    low, high = np.tanh(np.arctanh(value_of(result)) + np.array([-1.96, 1.96]) / np.sqrt(397))
    assert [result.ci_low, result.ci_high] == pytest.approx([low, high], abs=0.01)


def test_constant_resamples_are_left_out_and_counted():
    # 3.37 is no binary fraction: the mean of a constant resample may be off by one rounding
    x, y = np.array([3.37] * 10 + [4.37]), 10.0 * np.arange(11)
    samples = np.array(
        [brute_force("plcc", x, y, x, rows) for rows in drawn_rows(range(11), 300, seed=0)]
    )
    missed = np.isnan(samples).sum()
    assert 75 < missed < 135  # the odd one is missed by 300 (10/11)^11 = 105 resamples
    report = metrics.evaluate_scores(x, y, None, 11, num_resamples=300)
    for figure in ("srcc", "krcc", "plcc", "plcc_mapped"):
        assert getattr(report, figure).num_degenerate == missed
    expected = np.nanquantile(samples, [0.025, 0.975])
    assert [report.plcc.ci_low, report.plcc.ci_high] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("clusters", "num_resamples", "reason"),
    [
        (["one"] * 5, 100, "no interval: one source content"),
        (None, 39, "no interval: 39 usable resamples, at least 40 needed"),
    ],
)
def test_value_without_interval(clusters, num_resamples, reason):
    report = metrics.evaluate_scores(
        [1, 2, 3, 4, 5], [2, 1, 3, 5, 4], clusters, 5, num_resamples=num_resamples, seed=1
    )
    # two swaps of neighbours: 1 - 6 * 4 / (5 * 24) = 0.8
    assert report.srcc.value == pytest.approx(0.8) and report.srcc.ci_low is None
    assert report.rmse_mapped.reason == reason
