"""The questions of our tasks in lmms-eval, and figures of the texts that a model answered them by.

In: the sets of `thinker eval` and `thinker bench`, their files below $THINKER_DATA. Out: what the
YAMLs in tasks/ name by `!function`. A document of lmms-eval holds the key of its set and a place in
it; the example is looked up there, so questions, right answers, parsers and figures are those of
our own commands, whatever model answers.
"""

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from thinker.data.datasets import EVAL_CONFIGS, load_dataset_config
from thinker.data.examples import Example, parsed_reference
from thinker.eval.bench.asking import FrameCounts
from thinker.eval.bench.load import Protocol, load_bench
from thinker.eval.bench.rules import verdicts
from thinker.eval.judge import judged_rows
from thinker.eval.metrics import MetricResult, Resampling, evaluate_answers, plcc, srcc
from thinker.eval.sets import LoadedSet, load_sets
from thinker.prompts import SCORING, scoring_answer, words
from thinker.score.prediction import FAILED, INVALID_ANSWER, OK, Prediction, judged
from thinker.utils.names import path_text

MOS_SETS = tuple(sorted(path.stem for path in EVAL_CONFIGS.glob("*.yaml")))
"""Keys of the ten sets of data_configs/eval."""
Q_BENCH_VIDEO = "q_bench_video_dev"
"""Key of the choice questions of Q-Bench-Video's dev split."""
PLACEHOLDER = {"data_files": {"test": str(Path(__file__).parent / "tasks" / "placeholder.jsonl")}}
"""What lmms-eval loads before `documents` puts a set in its place: it can load nothing but files
whose paths a YAML gives, and ours lie wherever $THINKER_DATA says."""

Document = Mapping[str, Any]
Item = dict[str, Any]
"""A document's `thinker_set` and `place`, and the `text` that a model answered."""

_UNANSWERED = re.compile(r"\[no answer: (\w+)\]")
_NO_INTERVALS = Resampling(num_resamples=0)


@lru_cache
def loaded_set(key: str) -> LoadedSet:
    """The set of a task, read once. Raises ValueError for an unknown key, where THINKER_DATA is
    not set, and for bad lines."""
    if key == Q_BENCH_VIDEO:
        return _q_bench_video()
    if key not in MOS_SETS:
        raise ValueError(f"set {key!r}: expected one of {', '.join((*MOS_SETS, Q_BENCH_VIDEO))}")
    (one,) = load_sets(load_dataset_config(EVAL_CONFIGS / f"{key}.yaml").eval)
    return one


def _q_bench_video() -> LoadedSet:
    root = os.environ.get("THINKER_DATA")
    if not root:
        raise ValueError(
            "THINKER_DATA is not set; let it name the folder that holds "
            "meta/Q_Bench_Video_dev.json and videos/q_bench_video"
        )
    folder = Path(root)
    data = load_bench(
        Protocol(bench="q-bench-video", split="dev"),
        [folder / "meta" / "Q_Bench_Video_dev.json"],
        folder / "videos" / "q_bench_video",
        FrameCounts(single=1, pair=1, motion_per_keyframe=0),  # not said by the prompt "own"
    )
    (choices,) = [one for one in data.sets if one.task == "choice"]
    return choices


# documents


def documents(dataset: Any) -> Any:
    """`process_docs`: the documents of the set that a YAML names as its `dataset_name`, in place of
    the placeholder's."""
    key = dataset.config_name
    rows = [
        {
            "thinker_set": key,
            "place": place,
            "id": example.id,
            "question": _question(example),
            "videos": [path_text(medium.path) for medium in example.media],
            "answer": _right(example),
        }
        for place, example in enumerate(loaded_set(key).examples)
    ]
    return type(dataset).from_list(rows)


def example_of(document: Document) -> Example | None:
    """The example of a document; None of one that is not ours."""
    if "thinker_set" not in document:
        return None
    return loaded_set(document["thinker_set"]).examples[document["place"]]


def doc_to_visual(document: Document) -> list[str]:
    """The paths of its videos."""
    example = example_of(document)
    assert example is not None
    return [str(medium.path) for medium in example.media]


def doc_to_text(document: Document) -> str:
    """What a model is asked that is no policy of ours: a policy has a scoring question of its own.

    The question of a score is VQAThinker's, with the wish for `<think>` and `<answer>`.
    """
    return document["question"]


def doc_to_target(document: Document) -> str:
    """The MOS, or the letter of the right option."""
    return document["answer"]


def _question(example: Example) -> str:
    return words(example.turns[-1]) if example.turns else SCORING


def _right(example: Example) -> str:
    if example.task == "score":
        return "" if example.mos is None else repr(example.mos)
    return parsed_reference(example).answer or ""


# texts


def said(prediction: Prediction, *, whole: bool = True) -> str:
    """What our model tells lmms-eval: the completion as it is, or a score that is no text of the
    policy (modes "sample", "level", "expected") in the tags that it would stand in.

    whole: False leaves the reasoning and the tags out, for tasks that know neither.

    >>> row = Prediction(path=None, score=3.25, answer=3.25, status="ok", mode="level")
    >>> said(row), said(Prediction(path=None, score=None, status="missing"))
    ('<think></think><answer>3.25</answer>', '[no answer: missing]')
    """
    if prediction.status not in (OK, INVALID_ANSWER):
        return f"[no answer: {prediction.status}]"
    if prediction.status == INVALID_ANSWER or prediction.answer is None:
        return prediction.completion or ""
    if not whole:
        return str(prediction.answer)
    if prediction.task != "score" or prediction.mode == "reason" or prediction.score is None:
        return prediction.completion or ""
    score = min(max(prediction.score, 1.0), 5.0)  # means of probabilities may round beyond
    return scoring_answer(prediction.reasoning or "", repr(score))


def read(example: Example, text: str) -> Prediction:
    """The row of what any model answered, by the parser of the example's task."""
    blank = Prediction(path=None, score=None, status=INVALID_ANSWER, task=example.task)
    unanswered = _UNANSWERED.fullmatch(text.strip())
    if unanswered and unanswered[1] in FAILED:
        return Prediction(path=None, score=None, status=unanswered[1], task=example.task)
    return judged(blank, text, 0, parsed_reference(example))


# figures


def score_results(document: Document, results: Sequence[str]) -> dict[str, Item]:
    """`process_results` of a set of scores."""
    return dict.fromkeys(("srcc", "plcc", "answered"), _item(document, results))


def choice_results(document: Document, results: Sequence[str]) -> dict[str, Item]:
    """`process_results` of choices."""
    names = ("accuracy", "accuracy_official", "accuracy_vlmevalkit", "answered")
    return dict.fromkeys(names, _item(document, results))


def _item(document: Document, results: Sequence[str]) -> Item:
    return {"thinker_set": document["thinker_set"], "place": document["place"], "text": results[0]}


def _read_all(items: Sequence[Item]) -> tuple[list[Example], list[Prediction]]:
    examples = [loaded_set(item["thinker_set"]).examples[item["place"]] for item in items]
    texts = [item["text"] for item in items]
    return examples, [read(example, text) for example, text in zip(examples, texts, strict=True)]


def score_srcc(items: Sequence[Item]) -> float:
    """SRCC of the scores that there are with the MOS; NaN where it is undefined."""
    return _value(srcc(*_scores(items)))


def score_plcc(items: Sequence[Item]) -> float:
    """PLCC, as `score_srcc`."""
    return _value(plcc(*_scores(items)))


def _scores(items: Sequence[Item]) -> tuple[list[float], list[float]]:
    """Scores on the scale of the set, and MOS."""
    examples, rows = _read_all(items)
    scale = loaded_set(items[0]["thinker_set"]).mos_scale
    pairs = [
        (row.score if scale is None else scale.from_answer(row.score), example.mos)
        for example, row in zip(examples, rows, strict=True)
        if row.score is not None and example.mos is not None
    ]
    return [score for score, _ in pairs], [mos for _, mos in pairs]


def answered(items: Sequence[Item]) -> float:
    """The share of documents with a valid answer, 0..1."""
    _, rows = _read_all(items)
    return sum(row.status == OK for row in rows) / len(rows)


def choice_accuracy(items: Sequence[Item]) -> float:
    """The share of right answers, 0..1, by our parser; an invalid answer is wrong, a question whose
    video could not be read counts for nothing."""
    examples, rows = _read_all(items)
    judgements = judged_rows(examples, [row.to_row() for row in rows])
    report = evaluate_answers(["accuracy"], judgements, len(items), _NO_INTERVALS)
    return _value(report.figures["accuracy"])


def choice_accuracy_official(items: Sequence[Item]) -> float:
    """The same by VQA²'s rule (`thinker.eval.bench.rules`)."""
    return _by_rule(items, "official")


def choice_accuracy_vlmevalkit(items: Sequence[Item]) -> float:
    """The same by VLMEvalKit's rule."""
    return _by_rule(items, "vlmevalkit")


def _by_rule(items: Sequence[Item], rule: str) -> float:
    examples, rows = _read_all(items)
    found = [
        verdicts(example, row.completion or "")[rule]
        for example, row in zip(examples, rows, strict=True)
        if row.status in (OK, INVALID_ANSWER)
    ]
    known = [is_right for is_right in found if is_right is not None]
    return sum(known) / len(known) if known else float("nan")


def _value(figure: MetricResult) -> float:
    return float("nan") if figure.value is None else figure.value
