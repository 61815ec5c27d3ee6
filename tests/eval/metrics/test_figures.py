"""Figures by name: accuracy and its interval against hand and brute force, by tag, coverage."""

from dataclasses import asdict

import numpy as np
import pytest

from tests.helpers.label_columns import drawn_rows, load
from thinker.eval import metrics
from thinker.eval.metrics import FIGURES, Judged, Resampling, evaluate_answers
from thinker.eval.metrics.figures import figures_by_tag


def rows_of(correct, contents=None, **fields):
    contents = contents or [None] * len(correct)
    return [
        Judged(is_valid=True, is_correct=right, content=content, **fields)
        for right, content in zip(correct, contents, strict=True)
    ]


def test_accuracy_has_wilsons_interval_without_shared_contents():
    """z = 1.959964, n = 4, p = 3/4: centre (p + z²/8) / (1 + z²/4) = 1.230182 / 1.960365 = .627527,
    half width z sqrt(p(1-p)/4 + z²/64) / (1 + z²/4) = 1.959964 · .327024 / 1.960365 = .326957."""
    result = evaluate_answers(["accuracy"], rows_of([1, 1, 0, 1]), 4).figures["accuracy"]
    assert (result.value, result.n, result.num_resamples) == (0.75, 4, 0)
    assert (result.ci_low, result.ci_high) == pytest.approx((0.30064, 0.95441), abs=1e-4)
    z = 1.959963984540054
    centre, half = (0.75 + z**2 / 8), z * (0.75 * 0.25 / 4 + z**2 / 64) ** 0.5
    assert result.ci_low == pytest.approx((centre - half) / (1 + z**2 / 4), abs=1e-12)


def test_accuracy_has_the_bootstrap_of_contents_that_are_shared():
    draw = np.random.default_rng(0)
    contents = [f"c{i}" for i in draw.integers(0, 12, size=60)]
    correct = [bool(c) for c in draw.integers(0, 2, size=60)]
    rows = rows_of(correct, contents)
    result = FIGURES["accuracy"](rows, Resampling(num_resamples=200, seed=3))
    means = [np.mean(np.array(correct)[drawn]) for drawn in drawn_rows(contents, 200, seed=3)]
    expected = np.quantile(means, [0.025, 0.975])
    assert (result.ci_low, result.ci_high) == pytest.approx(expected, abs=1e-12)
    assert result.value == np.mean(correct) and result.num_resamples == 200


def test_accuracy_of_one_content_has_no_interval_and_equal_contents_wilsons_of_their_number():
    one = evaluate_answers(["accuracy"], rows_of([1, 0, 1], "aaa"), 3).figures["accuracy"]
    assert one.ci_low is None and one.reason == "no interval: one source content"
    # three contents, all right: Wilson of 3 of 3 begins at 1 / (1 + z²/3) = .43849
    same = evaluate_answers(["accuracy"], rows_of([1] * 6, "aabbcc"), 6).figures["accuracy"]
    assert (same.ci_low, same.ci_high) == pytest.approx((0.43850, 1.0), abs=1e-4)


def test_invalid_answers_are_wrong_and_failed_media_are_no_coverage():
    rows = [
        *rows_of([True, True, False]),
        Judged(is_valid=False, is_correct=False),
        Judged(is_valid=True),  # asked without a reference
    ]
    report = evaluate_answers(["accuracy"], rows, 7)
    assert (report.n_valid, report.n_answered, report.n_total) == (4, 5, 7)
    assert (report.figures["accuracy"].value, report.figures["accuracy"].n) == (0.5, 4)
    nothing = evaluate_answers(["accuracy"], [], 2).figures["accuracy"]
    assert nothing.value is None and "no answer has a reference" in nothing.reason


def test_correlations_by_tag():
    """Of two types: 1 2 3 against 1 2 3 ranks the same, 3 2 1 the other way round."""
    rows = [
        Judged(is_valid=True, score=score, label=label, tags=(("content_type", kind),))
        for kind, scores in (("game", (1, 2, 3)), ("movie", (3, 2, 1)))
        for score, label in zip(scores, (1.0, 2.0, 3.0), strict=True)
    ]
    rows.append(Judged(is_valid=False, label=2.0, tags=(("content_type", "game"),)))
    found = figures_by_tag(["srcc", "plcc"], rows)["content_type"]
    shown = {kind: (f["srcc"].value, f["plcc"].value, f["srcc"].n) for kind, f in found.items()}
    assert shown["game"] == pytest.approx((1, 1, 3)) and shown["movie"] == pytest.approx(
        (-1, -1, 3)
    )
    report = evaluate_answers(["srcc", "plcc"], rows, 7)
    assert set(report.scores_by_tag["content_type"]) == {"game", "movie"} and not report.by_tag


def test_accuracy_by_tag():
    one, two = (("type", "what"), ("concern", "x")), (("type", "how"),)
    rows = [*rows_of([True, False, True], tags=one), *rows_of([False], tags=two)]
    by_tag = evaluate_answers(["accuracy"], rows, 4).by_tag
    shown = {name: {v: (r.value, r.n) for v, r in each.items()} for name, each in by_tag.items()}
    assert shown == {"type": {"how": (0.0, 1), "what": (2 / 3, 3)}, "concern": {"x": (2 / 3, 3)}}
    assert list(by_tag["type"]) == ["how", "what"]


def test_figures_of_scores_are_those_of_evaluate_scores():
    x, y, contents = load("live_yt_hfr", 12)
    rows = [
        Judged(is_valid=True, score=a, label=b, content=c)
        for a, b, c in zip(x, y, contents, strict=True)
    ]
    rows.append(Judged(is_valid=False, label=3.0))  # without a score it is no row of theirs
    expected = metrics.evaluate_scores(x, y, contents, len(rows), num_resamples=50)
    names = ["srcc", "krcc", "plcc", "plcc_mapped", "rmse_mapped"]
    report = evaluate_answers(names, rows, len(rows), Resampling(num_resamples=50))
    for name in names:
        assert asdict(report.figures[name]) == asdict(getattr(expected, name)), name
    assert report.by_tag == {}


def test_unknown_figures_and_too_many_rows_are_refused():
    with pytest.raises(ValueError, match=r"\['recall'\]: expected some of srcc"):
        evaluate_answers(["accuracy", "recall"], [], 0)
    with pytest.raises(ValueError, match="2 answers for n_total = 1"):
        evaluate_answers(["accuracy"], rows_of([True, True]), 1)


def classes(*pairs, contents=None):
    contents = contents or [None] * len(pairs)
    return [
        Judged(is_valid=named is not None, named=named, right=right, content=content)
        for (right, named), content in zip(pairs, contents, strict=True)
    ]


def test_macro_f1_is_the_mean_over_the_classes_of_the_references():
    """a: tp 1, fp 0, fn 1: 2/3. b: tp 1, fp 1, fn 1: 2/4. c is only named and has no F1 of its own;
    naming it in place of b misses b: tp 1, fp 1, fn 2: 2/5. (2/3 + 2/5) / 2 = 8/15."""
    rows = classes(("a", "a"), ("a", "b"), ("b", "b"), ("b", None))
    assert FIGURES["macro_f1"](rows, Resampling(num_resamples=0)).value == pytest.approx(7 / 12)
    rows += classes(("b", "c"))
    result = FIGURES["macro_f1"](rows, Resampling(num_resamples=0))
    assert (result.value, result.n) == (pytest.approx(8 / 15), 5)
    nothing = FIGURES["macro_f1"](rows_of([True]), Resampling())
    assert nothing.value is None and nothing.reason == "no answer has a class to compare with"


def test_macro_f1_has_the_bootstrap_of_contents():
    draw = np.random.default_rng(1)
    pairs = [("abc"[i], "abcd"[j]) for i, j in draw.integers(0, 3, size=(40, 2))]
    contents = [f"c{i}" for i in draw.integers(0, 9, size=40)]
    rows = classes(*pairs, contents=contents)
    result = FIGURES["macro_f1"](rows, Resampling(num_resamples=100, seed=5))

    def by_hand(rows):
        found = []
        for name in {row.right for row in rows}:
            hits = sum(row.right == row.named == name for row in rows)
            wrong = sum((row.right == name) != (row.named == name) for row in rows)
            found.append(2 * hits / (2 * hits + wrong))
        return np.mean(found)

    assert result.value == pytest.approx(by_hand(rows))
    values = [by_hand([rows[i] for i in drawn]) for drawn in drawn_rows(contents, 100, seed=5)]
    assert (result.ci_low, result.ci_high) == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_severity_accuracy_is_of_the_answers_whose_reference_has_one():
    rows = [Judged(is_valid=True, is_severity_correct=mark) for mark in (True, False, None, True)]
    result = FIGURES["severity_accuracy"](rows, Resampling(num_resamples=0))
    assert (result.value, result.n) == (pytest.approx(2 / 3), 3)
    nothing = FIGURES["severity_accuracy"](rows_of([True]), Resampling())
    assert nothing.value is None and nothing.reason == "no answer has a severity to compare with"
