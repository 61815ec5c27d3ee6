"""Differences of two models against a brute-force bootstrap that draws lists."""

import numpy as np
import pytest
from scipy import stats

from tests.helpers.label_columns import drawn_rows, load, value_of
from thinker.eval import metrics


def test_paired_equals_brute_force():
    a, y, content = load("live_yt_hfr", 10, seed=0)
    b, _, _ = load("live_yt_hfr", 16, seed=1)
    report = metrics.paired_bootstrap(a, b, y, content, num_resamples=150, seed=2)
    for figure, function in (("srcc", stats.spearmanr), ("plcc", stats.pearsonr)):
        result = getattr(report, figure)
        difference = function(a, y).statistic - function(b, y).statistic
        assert result.value == pytest.approx(difference, abs=1e-12) and difference > 0
        samples = np.array(
            [
                function(a[rows], y[rows]).statistic - function(b[rows], y[rows]).statistic
                for rows in drawn_rows(content, 150, seed=2)
            ]
        )
        expected = np.quantile(samples, [0.025, 0.975])
        assert [result.ci_low, result.ci_high] == pytest.approx(expected, abs=1e-12)
        assert result.sign_share == pytest.approx(2 * (1 + (samples <= 0).sum()) / 151)


def test_paired_is_antisymmetric_and_zero_for_equal_models():
    a, y, content = load("live_yt_hfr", 12, seed=0)
    b, _, _ = load("live_yt_hfr", 12, seed=1)
    forth = metrics.paired_bootstrap(a, b, y, content, num_resamples=100).srcc
    back = metrics.paired_bootstrap(b, a, y, content, num_resamples=100).srcc
    assert (back.value, back.sign_share) == (-value_of(forth), forth.sign_share)
    mirrored = -np.array([forth.ci_high, forth.ci_low])
    assert [back.ci_low, back.ci_high] == pytest.approx(mirrored, abs=1e-12)
    same = metrics.paired_bootstrap(a, a, y, content, num_resamples=100).plcc
    assert (same.value, same.ci_low, same.ci_high, same.sign_share) == (0, 0, 0, 1)


def test_paired_with_a_constant_model_is_undefined():
    result = metrics.paired_bootstrap([1, 2, 3, 4], [3, 3, 3, 3], [1, 2, 3, 5]).srcc
    assert result.value is None and result.sign_share is None
    assert result.reason == "b: all 4 predictions equal 3"
    with pytest.raises(ValueError, match="2 predictions but 3 labels"):
        metrics.paired_bootstrap([1, 2, 3], [1, 2], [1, 2, 3])


def test_paired_accuracy_equals_brute_force():
    draw = np.random.default_rng(4)
    a, b = (draw.integers(0, 2, size=80).astype(bool) for _ in range(2))
    content = [f"c{i}" for i in draw.integers(0, 15, size=80)]
    result = metrics.paired_accuracy(a, b, content, num_resamples=150, seed=2)
    assert result.value == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    samples = [a[rows].mean() - b[rows].mean() for rows in drawn_rows(content, 150, seed=2)]
    expected = np.quantile(samples, [0.025, 0.975])
    assert [result.ci_low, result.ci_high] == pytest.approx(expected, abs=1e-12)
    assert metrics.paired_accuracy([], []).reason == "no example in common"
