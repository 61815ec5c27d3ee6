"""Averages over sets by hand, and the table as it is printed."""

from dataclasses import replace

import pytest

from thinker.eval import metrics


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
