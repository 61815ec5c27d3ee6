"""Figures and mapping against golden numbers by hand, scipy, and a fit of all four parameters."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from tests.helpers.label_columns import FIGURES, fitted_to, load, value_of
from thinker.eval import metrics
from thinker.eval.metrics import agreement


def test_golden_with_a_tie():
    x, y = [1, 2, 2, 4], [10, 20, 30, 40]
    # ranks of x: 1, 2.5, 2.5, 4, centred -1.5, 0, 0, 1.5; of y: -1.5, -.5, .5, 1.5
    # 4.5 / sqrt(4.5 * 5)
    assert metrics.srcc(x, y).value == pytest.approx(0.9486832980505138, abs=1e-12)
    # 6 pairs, one tied in x, the other 5 concordant: 5 / sqrt(5 * 6)
    assert metrics.krcc(x, y).value == pytest.approx(0.912870929175277, abs=1e-12)
    # dx -1.25, -.25, -.25, 1.75; dy -15, -5, 5, 15: 45 / sqrt(4.75 * 500)
    assert metrics.plcc(x, y).value == pytest.approx(0.923380516876642, abs=1e-12)
    assert metrics.srcc(x, [-label for label in y]).value == pytest.approx(-0.9486832980505138)


def test_golden_after_mapping():
    # Two distinct predictions: every logistic that fits passes through the group means 2 and 6.
    # Residuals -1, 1, -1, 1, 0: RMSE sqrt(4 / 5). Labels around 4.4: squares 23.2, so
    # R^2 = 1 - 4 / 23.2 and PLCC = sqrt(19.2 / 23.2).
    x, y = [0, 0, 1, 1, 1], [1, 3, 5, 7, 6]
    assert metrics.rmse_mapped(x, y).value == pytest.approx(0.8944271909999159, abs=1e-9)
    assert metrics.plcc_mapped(x, y).value == pytest.approx(0.909717652294684, abs=1e-9)


@pytest.mark.parametrize(("name", "noise"), [("live_yt_gaming", 12), ("live_yt_hfr", 15)])
def test_values_equal_scipy(name, noise):
    x, y, content = load(name, noise)
    report = metrics.evaluate_scores(x, y, content, y.size + 3, num_resamples=0)
    assert report.srcc.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert report.krcc.value == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert report.plcc.value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    for figure in FIGURES:  # the single functions and the report agree
        assert getattr(metrics, figure)(x, y).value == getattr(report, figure).value
    assert (report.n_scored, report.n_total) == (y.size, y.size + 3)
    assert report.num_contents == len(set(content))


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "n = 0, at least 3 needed"),
        ([1, 2], [1, 2], "n = 2, at least 3 needed"),
        ([3.3] * 6, [1, 2, 3, 4, 5, 6], "all 6 predictions equal 3.3"),
        ([1, 2, 3, 4, 5, 6], [50.0] * 6, "all 6 labels equal 50"),
        ([0.1 + 0.2, 0.3] * 3, [1, 2, 3, 4, 5, 6], "all 6 predictions equal 0.3"),
    ],
)
def test_undefined_is_none_with_a_reason(x, y, reason):
    report = metrics.evaluate_scores(x, y, None, 10, num_resamples=50)
    for figure in ("srcc", "krcc", "plcc"):
        expected = metrics.MetricResult(value=None, n=len(x), reason=reason)
        assert getattr(report, figure) == expected
    assert report.plcc_mapped.value is None and report.rmse_mapped.value is None


def test_mapping_needs_more_points_than_parameters():
    report = metrics.evaluate_scores([1, 2, 3, 4], [1, 3, 2, 4], None, 4, num_resamples=0)
    # dx -1.5, -.5, .5, 1.5; dy -1.5, .5, -.5, 1.5: (2.25 - .25 - .25 + 2.25) / 5
    assert report.plcc.value == pytest.approx(0.8)
    assert report.plcc_mapped.reason == "n = 4, at least 5 needed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([1, None, 3], [1, 2, 3], None, 3),
            "1 of 3 predictions .* None at index 1: drop unscored",
        ),
        (([1, 2, float("inf")], [1, 2, 3], None, 3), "predictions .* inf at index 2"),
        (([1, 2, 3], [float("nan"), 2, 3], None, 3), "labels are not finite"),
        (([1, 2], [1, 2, 3], None, 3), "2 predictions but 3 labels"),
        (([1, 2, 3], [1, 2, 3], ["a"], 3), "1 clusters for 3 videos"),
        (([1, 2, 3], [1, 2, 3], None, 2), "3 scores for n_total = 2"),
        (([], [], None, 0), "0 scores for n_total = 0"),
        (([[1, 2, 3]], [1, 2, 3], None, 3), r"shape \(1, 3\)"),
    ],
)
def test_wrong_input_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate_scores(*arguments)


# --- logistic mapping ---


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("asymptotes", [(90.0, 10.0), (10.0, 90.0)])
def test_known_logistic_recovered(scale, asymptotes):
    truth = metrics.Logistic(
        beta_1=asymptotes[0], beta_2=asymptotes[1], beta_3=3.2 * scale, beta_4=0.4 * scale
    )
    x = np.linspace(1, 5, 60) * scale
    fitted = metrics.fit_logistic(x, truth(x))
    assert list(vars(fitted).values()) == pytest.approx(list(vars(truth).values()), rel=1e-5)
    assert metrics.plcc_mapped(x, truth(x)).value == pytest.approx(1, abs=1e-9)
    assert np.sign(value_of(metrics.plcc(x, truth(x)))) == np.sign(asymptotes[0] - asymptotes[1])


@pytest.mark.parametrize(
    ("name", "seed"),
    [("live_yt_gaming", 1), ("live_yt_gaming", 3), ("live_yt_hfr", 0), ("live_yt_hfr", 3)],
)
def test_fit_equals_curve_fit_over_all_four_parameters(name, seed):
    x, y, _ = load(name, 12, seed)

    def logistic(x, b1, b2, b3, b4):
        return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))

    betas, _ = curve_fit(logistic, x, y, [y.max(), y.min(), x.mean(), x.std()], maxfev=100_000)
    rmse = np.sqrt(np.mean((logistic(x, *betas) - y) ** 2))
    assert metrics.rmse_mapped(x, y).value == pytest.approx(rmse, rel=1e-9)
    fitted = fitted_to(x, y)
    found = [fitted.beta_1, fitted.beta_2, fitted.beta_3, fitted.beta_4]
    assert found == pytest.approx([*betas[:3], abs(betas[3])], rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", [0, 2])
def test_fit_reaches_its_exponential_limit(seed, sign):
    # These columns saturate at one end: the best midpoint is infinitely far out, and the best
    # logistic is a + b exp(c x). A midpoint kept near the data costs 0.1 % of RMSE.
    x, y, _ = load("live_yt_gaming", 12, seed)

    def exponential(x, a, b, c):
        return a + b * np.exp(c * (x - x.mean()))

    params, _ = curve_fit(exponential, x, y, [y.mean(), -10, -0.3], maxfev=100_000)
    rmse = np.sqrt(np.mean((exponential(x, *params) - y) ** 2))
    # 1e-6: the search stops in the flat valley some 10 beta_4 out, exp(-10) of the curve short
    assert metrics.rmse_mapped(sign * x, y).value == pytest.approx(rmse, rel=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("noise", [0.1, 5, 20, 80])
def test_mapping_never_below_a_straight_line(noise, sign):
    for seed in range(3):
        x, y, _ = load("live_yt_hfr", noise, seed)
        mapped = value_of(metrics.plcc_mapped(sign * x, y))
        assert mapped >= abs(value_of(metrics.plcc(x, y))) - 1e-8
    line = np.linspace(1, 5, 50)
    assert metrics.plcc_mapped(sign * line, 20 * line).value == pytest.approx(1, abs=1e-8)


def test_failed_fit_is_undefined(monkeypatch):
    x, y, _ = load("live_yt_hfr", 15)

    def raising(*args, **kwargs):
        raise ValueError("boom")

    monkeypatch.setattr(agreement.optimize, "least_squares", raising)
    report = metrics.evaluate_scores(x, y, None, y.size, num_resamples=50)
    assert report.plcc_mapped.value is None and report.rmse_mapped.value is None
    assert report.plcc_mapped.reason == "logistic fit failed: boom"
    assert report.srcc.ci_low is not None

    lost = SimpleNamespace(success=False)
    monkeypatch.setattr(agreement.optimize, "least_squares", lambda *a, **k: lost)
    assert metrics.fit_logistic(x, y) == "logistic fit did not converge from any of 3 starts"
