"""Golden numbers by hand, scipy and a brute-force bootstrap on real label columns (thinned)."""

import doctest
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from tests.helpers.places import FIXTURES
from thinker.eval.metrics import agreement as metrics

FIGURES = FIXTURES / "metrics"
FIGURES = ("srcc", "krcc", "plcc", "plcc_mapped", "rmse_mapped")


def load(name, noise, seed=0):
    """Real labels, answers on 1..5 with two decimals (so with ties), and contents, interleaved."""
    columns = json.loads((FIGURES / f"{name}.json").read_text())
    order = np.random.default_rng(99).permutation(len(columns["mos"]))
    mos = np.array(columns["mos"])[order]
    noisy = mos + np.random.default_rng(seed).normal(0, noise, mos.size)
    content = [columns["content"][i] for i in order]
    return np.round(1 + np.clip(noisy, 0, 100) / 25, 2), mos, content


def drawn_rows(clusters, num_resamples, seed):
    """The resamples as lists of row numbers: the definition, without weights or chunks."""
    contents = list(dict.fromkeys(clusters))
    members = [[i for i, c in enumerate(clusters) if c == content] for content in contents]
    draws = np.random.default_rng(seed).integers(0, len(contents), (num_resamples, len(contents)))
    return [np.concatenate([members[unit] for unit in row]) for row in draws]


def value_of(result):
    assert result.value is not None, result.reason
    return result.value


def fitted_to(x, y):
    mapping = metrics.fit_logistic(x, y)
    assert isinstance(mapping, metrics.Logistic), mapping
    return mapping


def width_of(result):
    assert result.reason is None
    return result.ci_high - result.ci_low


def report_of(value, n_total, n_scored=None):
    result = metrics.MetricResult(value=value, n=n_total, reason=None if value else "flat")
    return metrics.ScoreReport(
        srcc=result,
        krcc=result,
        plcc=result,
        plcc_mapped=result,
        rmse_mapped=result,
        n_scored=n_total if n_scored is None else n_scored,
        n_total=n_total,
        num_contents=n_total,
    )


# --- figures ---


def test_docstring_examples():
    outcome = doctest.testmod(metrics)
    assert outcome.attempted >= 7 and outcome.failed == 0


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

    monkeypatch.setattr(metrics.optimize, "least_squares", raising)
    report = metrics.evaluate_scores(x, y, None, y.size, num_resamples=50)
    assert report.plcc_mapped.value is None and report.rmse_mapped.value is None
    assert report.plcc_mapped.reason == "logistic fit failed: boom"
    assert report.srcc.ci_low is not None

    lost = SimpleNamespace(success=False)
    monkeypatch.setattr(metrics.optimize, "least_squares", lambda *a, **k: lost)
    assert metrics.fit_logistic(x, y) == "logistic fit did not converge from any of 3 starts"


# --- bootstrap ---


def brute_force(figure, x, y, mapped, rows):
    if np.ptp(x[rows]) == 0 or np.ptp(y[rows]) == 0:
        return np.nan
    if figure == "rmse_mapped":
        return np.sqrt(np.mean((mapped[rows] - y[rows]) ** 2))
    function = {"srcc": stats.spearmanr, "krcc": stats.kendalltau}.get(figure, stats.pearsonr)
    return function((mapped if figure == "plcc_mapped" else x)[rows], y[rows]).statistic


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
    codes = metrics._content_codes(content, y.size)
    statistics = {"srcc": metrics._srcc_statistic(x, y), "plcc": metrics._plcc_statistic(x, y)}
    for figure, samples in metrics._bootstrap(statistics, codes, 50, 3).items():
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
    whole = np.concatenate(list(metrics.resample_weights(codes, 20, 1, chunk_elements=10**6)))
    assert whole.shape == (20, 31) and (whole.sum(axis=1) == 31).all()
    for chunk_elements in (1, 31 * 3):
        chunks = list(metrics.resample_weights(codes, 20, 1, chunk_elements=chunk_elements))
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


# --- two models ---


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


# --- averages ---


def test_averages_by_hand():
    summary = metrics.summarise(
        [("x", "in", report_of(0.9, 100, 50)), ("y", "in", report_of(0.8, 100)),
         ("z", "out", report_of(0.4, 300))]
    )  # fmt: skip
    averages = {average.name: average for average in summary.averages}
    assert averages["unweighted"].srcc == pytest.approx(0.7)  # 2.1 / 3
    # (90 + 80 + 120) / 500; the unscored half of x keeps its weight
    assert averages["size-weighted"].krcc == pytest.approx(0.58)
    assert averages["in-domain"].plcc == pytest.approx(0.85)
    assert averages["out-domain"].plcc_mapped == pytest.approx(0.4)
    coverage = averages["size-weighted"]
    assert (coverage.n_scored, coverage.n_total, coverage.num_sets) == (450, 500, 3)


def test_undefined_set_makes_its_averages_undefined():
    rows = [("x", "in", report_of(0.9, 100)), ("z", "out", report_of(None, 300))]
    averages = {average.name: average for average in metrics.summarise(rows).averages}
    assert averages["in-domain"].srcc == 0.9 and averages["in-domain"].reason is None
    for name in ("unweighted", "size-weighted", "out-domain"):
        assert averages[name].srcc is None and averages[name].reason == "undefined on z"


def test_summarise_rejects():
    for rows in ([], [("x", "in", report_of(0.9, 9))] * 2):
        with pytest.raises(ValueError, match="one report a set"):
            metrics.summarise(rows)
    with pytest.raises(ValueError, match="'x' has domain 'inside'"):
        metrics.summarise([("x", "inside", report_of(0.9, 9))])


def test_table():
    interval = metrics.MetricResult(value=0.9, n=50, ci_low=0.85, ci_high=0.9312)
    report = replace(report_of(0.5, 100, 50), srcc=interval)
    rows = [("lsvq", "in", report), ("yt", "out", report_of(None, 300))]
    assert metrics.format_table(metrics.summarise(rows)) == TABLE.strip()


TABLE = """
set            domain  scored   SRCC [95%]            PLCC [95%]  PLCC mapped  KRCC       RMSE
lsvq           in      50/100   0.900 [0.850, 0.931]  0.500       0.500        0.500      0.500
yt             out     300/300  undefined             undefined   undefined    undefined  undefined
unweighted     2 sets  350/400  undefined             undefined   undefined    undefined
size-weighted  2 sets  350/400  undefined             undefined   undefined    undefined
in-domain      1 sets  50/100   0.900                 0.500       0.500        0.500
out-domain     1 sets  300/300  undefined             undefined   undefined    undefined
yt: flat
unweighted: undefined on yt
size-weighted: undefined on yt
out-domain: undefined on yt
"""
