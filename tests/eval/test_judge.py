"""Figures of predictions, for a run's log: any task, without intervals."""

from pathlib import Path

import pytest

from thinker.data.examples import Example
from thinker.eval.judge import brief_figures, right_answer, set_report
from thinker.eval.metrics import FIGURES, plcc, srcc
from thinker.score.prediction import Prediction
from thinker.tasks import TASKS
from thinker.video.medium import medium


def example(number, task, **fields):
    path = Path(f"/videos/{number}.mp4")
    values = {"id": f"d/{number}", "dataset": "d", "content": str(number), "media": (medium(path),)}
    return Example(**values | {"task": task} | fields)


def prediction(task, answer, score=None, status=None):
    status = status or ("ok" if answer is not None else "invalid_answer")
    return Prediction(path=None, task=task, answer=answer, score=score, status=status)


def test_every_figure_that_a_task_names_is_computed():
    for task in TASKS.values():
        assert set(task.figures) <= set(FIGURES), task.name


def test_brief_figures_by_task():
    targets, scores = [1.5, 2.0, 3.0, 4.5, 2.5], [2.0, 1.8, 3.5, 4.0, None]
    examples = [example(i, "score", target=t, mos=20 * t) for i, t in enumerate(targets)]
    predictions = [prediction("score", s, s) for s in scores]
    letters = ["A", "B", None, "B"]
    options = ("blur", "noise")
    examples += [
        example(10 + i, "choice", options=options, reference="noise") for i in range(len(letters))
    ]
    predictions += [prediction("choice", letter) for letter in letters]
    predictions[-1] = prediction("choice", None, status="missing")
    figures = brief_figures(examples, predictions)
    assert list(figures) == ["score", "choice"]
    assert figures["score"] == {
        "srcc": srcc(scores[:4], targets[:4]).value,
        "plcc": plcc(scores[:4], targets[:4]).value,
        "valid_share": 0.8,
    }
    # A wrong, B right, one invalid and thus wrong, one missing and thus left out
    assert figures["choice"] == {"accuracy": pytest.approx(1 / 3), "valid_share": 0.5}


def test_levels_are_compared_as_words_and_as_scores():
    words, targets = ["good", "bad", "fair"], [4.0, 1.2, None]
    references = [4.0, 1.2, "good"]
    examples = [
        example(i, "level", reference=r, target=t)
        for i, (r, t) in enumerate(zip(references, targets, strict=True))
    ]
    predictions = [prediction("level", w, s) for w, s in zip(words, (4.0, 1.0, 3.0), strict=True)]
    figures = brief_figures(examples, predictions)["level"]
    # levels are .8 wide from 1: 4.0 is good, 1.2 bad
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["srcc"] == srcc([4.0, 1.0, 3.0], [4.0, 1.2, 4.0]).value


def test_the_right_answer_is_what_the_task_reads():
    asked = example(0, "choice", options=("blur", "noise"), reference="noise")
    assert right_answer(asked) == "B"
    assert right_answer(example(1, "choice", reference="Yes")) == "yes"
    assert right_answer(example(2, "open", reference="It stalls.")) is None


def test_distortions_are_counted_by_type_and_by_severity():
    """Right type 2 of 4; F1 of noise 2 * 2 / (3 + 2) = .8, of blur 0: .4; severity 1 of 2."""
    references = ["It is severe noise.", "severe noise", "noise", "blur"]
    said = ["severe noise", "noise", None, "banding"]
    examples = [example(i, "distortion", reference=text) for i, text in enumerate(references)]
    rows = [prediction("distortion", answer).to_row() for answer in said]
    report = set_report("distortion", None, examples, rows, 4)
    values = {name: figure.value for name, figure in report.figures.items()}
    assert values == {
        "accuracy": 0.5,
        "macro_f1": pytest.approx(0.4),
        "severity_accuracy": 0.5,
    }
    assert right_answer(examples[0]) == "severe noise"


def test_boxes_are_counted_by_how_well_they_match():
    """The first answer fits at all five thresholds; the second one by .5 at three of them, beside a
    box that cannot be used: 3/5 · 2/3; the third has none."""
    references = ["Noise: (0,0),(100,100)"] * 3
    said = ["Severe noise (0,0),(100,100)", "Noise: (0,0),(100,50)\nNoise: (5,5),(1,1)", None]
    examples = [example(i, "boxes", reference=text) for i, text in enumerate(references)]
    rows = [prediction("boxes", answer).to_row() for answer in said]
    figure = set_report("boxes", None, examples, rows, 3).figures["matched_f1"]
    assert (figure.value, figure.n) == (pytest.approx((1 + 0.4 + 0) / 3), 3)
    assert figure.ci_low is not None and figure.ci_low < figure.value < figure.ci_high
    # Of three true boxes one is found, and a wrong one is less sure.
    rows[1]["boxes"] = [{"name": "noise", "severity": None, "box": [0, 0, 9, 9], "confidence": 0.4}]
    rows[0]["boxes"] = [
        {"name": "noise", "severity": None, "box": [0, 0, 100, 100], "confidence": 0.5}
    ]
    report = set_report("boxes", None, examples, rows, 3)
    assert report.figures["map_50"].value == pytest.approx(34 / 101)  # recalls 0 to .33
    rows[1]["boxes"][0]["confidence"] = 0.6  # half of what is found until there is right
    report = set_report("boxes", None, examples, rows, 3)
    assert report.figures["map_50"].value == pytest.approx(34 / 101 / 2)
    nothing = set_report("boxes", None, [example(0, "boxes")], rows[:1], 1).figures["matched_f1"]
    assert nothing.value is None and nothing.reason == "no answer has boxes to compare with"


def test_depictions_are_counted_by_level():
    references = ["Sharp. Hence, the quality of this video is good.", "It is sharp."]
    examples = [example(i, "describe", reference=text) for i, text in enumerate(references)]
    rows = [prediction("describe", "The quality of the video is good.").to_row()] * 2
    report = set_report("describe", None, examples, rows, 2)
    assert (report.figures["accuracy"].value, report.figures["accuracy"].n) == (1.0, 1)
