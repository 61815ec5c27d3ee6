"""Predictions and references → figures, of any task.

`set_report` is what an evaluation writes; `brief_figures` is what a training run logs of held-out
examples. Both judge by the same rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinker.data.examples import Example, parsed_reference
from thinker.data.scale import MosScale
from thinker.eval.metrics import (
    AnswerReport,
    Judged,
    MetricResult,
    Resampling,
    ScoreReport,
    evaluate_answers,
    evaluate_scores,
)
from thinker.eval.metrics.figures import CORRELATIONS, figures_by_tag
from thinker.score.prediction import INVALID_ANSWER, OK, FoundBox, Prediction, score_of
from thinker.tasks import TASKS
from thinker.tasks.base import Verdict

Row = Mapping[str, Any]
"""A prediction as plain values (`Prediction.to_row`)."""

NUM_BRIEF = 2
"""Figures of a task in a log: tasks name the most telling ones first."""

COMPARING = {"accuracy", "matched_f1"}
"""Figures of tasks whose answers are held against a right one."""

NO_SCALE = "RMSE is left out, the scale of the MOS is not given (--mos-scale)"

Report = ScoreReport | AnswerReport


def set_report(
    task: str,
    scale: MosScale | None,
    examples: Sequence[Example],
    rows: Sequence[Row],
    n_total: int,
) -> Report:
    """The figures of one set with their intervals; of scores on the set's own scale.

    scale: None where it is not known. Scores then stay on the answer scale, which no correlation
    depends on, and there is no RMSE: nobody could say what its units are.
    """
    if task != "score":
        return evaluate_answers(TASKS[task].figures, judged_rows(examples, rows), n_total)
    scored = [
        (example, row["score"])
        for example, row in zip(examples, rows, strict=True)
        if row["score"] is not None and example.mos is not None
    ]
    report = evaluate_scores(
        [score if scale is None else scale.from_answer(score) for _, score in scored],
        [example.mos for example, _ in scored if example.mos is not None],
        [example.content for example, _ in scored],
        n_total,
    )
    tagged = judged_rows(examples, rows) if any(example.tags for example in examples) else []
    report = replace(report, by_tag=figures_by_tag(CORRELATIONS, tagged))
    if scale is None:
        left_out = MetricResult(value=None, n=report.n_scored, reason=NO_SCALE)
        return replace(report, rmse_mapped=left_out)
    return report


def brief_figures(
    examples: Sequence[Example], predictions: Sequence[Prediction]
) -> dict[str, dict[str, float | None]]:
    """By task, in the order in which tasks occur: the values of its first `NUM_BRIEF` figures,
    without intervals, and `valid_share`, the share of all examples with a valid answer.

    None where a figure is undefined. Scores are compared with targets, on the answer scale, or with
    MOS on a scale that is not known: correlations, which these are, do not depend on it.
    """
    pairs = list(zip(examples, predictions, strict=True))
    brief: dict[str, dict[str, float | None]] = {}
    for task in dict.fromkeys(example.task for example in examples):
        own = [(example, made.to_row()) for example, made in pairs if example.task == task]
        judged = judged_rows([example for example, _ in own], [row for _, row in own])
        names, without = TASKS[task].figures[:NUM_BRIEF], Resampling(num_resamples=0)
        report = evaluate_answers(names, judged, len(own), without)
        values = {name: result.value for name, result in report.figures.items()}
        brief[task] = values | {"valid_share": report.n_valid / len(own)}
    return brief


def judged_rows(examples: Sequence[Example], rows: Sequence[Row]) -> list[Judged]:
    """What figures are computed from: examples that were answered, validly or not."""
    return [
        _judged(example, row)
        for example, row in zip(examples, rows, strict=True)
        if row["status"] in (OK, INVALID_ANSWER)
    ]


def _judged(example: Example, row: Row) -> Judged:
    judged = Judged(
        is_valid=row["status"] == OK,
        score=row["score"],
        label=_label(example),
        content=example.content,
        tags=example.tags,
    )
    verdict = _verdict(example, row["answer"])
    if verdict is None:
        return judged
    found = tuple(FoundBox(**one | {"box": tuple(one["box"])}) for one in row.get("boxes", ()))
    return replace(judged, **vars(verdict), found_boxes=found)


def right_answer(example: Example) -> Any:
    """What an answer is held against, of a task that compares; None where it is unknown.

    The references of such a task have it as `answer` (`rewards.choice.ChoiceReference`).
    """
    if not COMPARING & set(TASKS[example.task].figures):
        return None
    return parsed_reference(example).answer


def is_correct(example: Example, answer: object) -> bool | None:
    """Whether an answer is the right one; None (no answer at all) never is."""
    verdict = _verdict(example, answer)
    return None if verdict is None else verdict.is_correct


def _verdict(example: Example, answer: object) -> Verdict | None:
    """What the example's task says of an answer; None where there is nothing to compare it with."""
    if right_answer(example) is None:
        return None
    return TASKS[example.task].compare(answer, parsed_reference(example))


def _label(example: Example) -> float | None:
    """What a score is compared with: on the answer scale, or a MOS on a scale that is not known."""
    if example.target is not None or example.mos is not None:
        return example.mos if example.target is None else example.target
    right = right_answer(example)
    return None if right is None else score_of(example.task, right)
