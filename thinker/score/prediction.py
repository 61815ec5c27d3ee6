"""What a policy answered to one question: one output row, whatever happened to its media.

`Prediction` is the row of an example of any task. `failed`, `judged`, `of_draws` and `of_levels`
make one: of a medium that cannot be read, of one completion, of several, of probabilities of level
words.
"""

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import Any

from rewards import Answer, shown_reasoning
from rewards.boxes import Box
from thinker.tasks import TASKS
from thinker.tasks.boxes import LOCATING_TASKS, said_boxes
from thinker.tasks.level import LEVEL_SCORES, LEVELS
from thinker.utils.names import path_text
from thinker.video import REASONS, VideoError

OK, INVALID_ANSWER, OUT_OF_MEMORY = "ok", "invalid_answer", "out_of_memory"
PROMPT_TOO_LONG = "prompt_too_long"
FAILED = (INVALID_ANSWER, OUT_OF_MEMORY, PROMPT_TOO_LONG, *REASONS)
"""Statuses of rows without an answer, which may be given a second chance (`retry.py`)."""

Distribution = tuple[tuple[float, float], ...]
"""(score, probability) pairs on the 1..5 answer scale, scores ascending, probabilities sum to 1."""

Votes = tuple[tuple[str, float], ...]
"""(answer, share of the valid rollouts) pairs in the order of the answers; shares sum to 1."""

TAIL = 0.05
"""Share of the answers left out on either side of their range, which holds the central 90 %."""


@dataclass(frozen=True, kw_only=True)
class FoundBox:
    """A place of a picture, and what the policy says is there."""

    name: str | None
    """The class of distortion; None where a place alone was asked for."""
    severity: str | None
    """"minor", "moderate" or "severe"; None where none is said."""
    box: Box
    """Left, top, right, bottom in thousandths of the sides of the picture as displayed."""
    confidence: float | None = None
    """How sure the policy is of these words, 0..1 (`thinker.score.confidence`); None where it was
    not asked for."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the policy answered to one question."""

    path: Path | None
    """The first medium, as it was named. None where the question shows none."""
    score: float | None
    """On the 1..5 answer scale; of a level word its place on that scale. None unless `status` is
    "ok", and for tasks whose answers are no scores."""
    status: str
    """"ok"; "invalid_answer", where the task cannot read the text, or level words have no finite
    probabilities; "out_of_memory", where this question alone does not fit; "prompt_too_long", where
    it leaves no room in the model's context for an answer; or the reason of a `VideoError`
    ("missing", "timeout", …)."""
    task: str = "score"
    """What was asked: a key of `thinker.tasks.TASKS`."""
    answer: float | str | None = None
    """What the task reads: the score, a letter, yes or no, a level word, a text. None unless
    `status` is "ok"."""
    mode: str = "reason"
    """Of the scorer: "reason", "sample", "level" or "expected"."""
    reasoning: str | None = None
    """The reasoning that the completion gives (`rewards.shown_reasoning`). None where there is no
    completion, as in mode "level"."""
    completion: str | None = None
    """The whole text. In mode "sample" that of the rollout nearest the mean, or of the first one
    with the answer that won; of the first invalid one where there is no answer."""
    error: str | None = None
    """Why there is no answer, for a person. None where there is one."""
    note: str | None = None
    """What was done otherwise than asked, though there is an answer: that a medium was read by
    another reader (`Clip.note`), why boxes of the answer are left out, which parts a description
    lacks. None where all is as asked."""
    boxes: tuple[FoundBox, ...] = ()
    """What an answer of the tasks `boxes` and `describe` says of places, in its order, repetitions
    too; what cannot be used is left out."""
    distribution: Distribution | Votes = ()
    """Over the valid rollouts in mode "sample": of their scores, else of their answers. Over the
    five levels in mode "level", over the scores that may stand in the greedy answer in mode
    "expected". Empty in mode "reason", which draws nothing."""
    spread: float | None = None
    """Standard deviation of the scores of `distribution`; in mode "sample" the sample's, over
    K - 1."""
    answer_range: tuple[float, float] | None = None
    """The 5 % and 95 % quantiles of the scores of `distribution`: how far the answers spread. It
    says nothing of how far they are from the truth, which `interval` does."""
    interval: tuple[float, float] | None = None
    """The score's calibrated interval (`thinker.score.calibration`): of media like those of the
    calibration set, it holds the mean opinion score, on the answer scale, of 90 in 100. None for a
    policy without a calibration."""
    likeness: float | None = None
    """How usual the media are among those of the calibration set, a p-value; None without one.
    Small values mean that the interval may not hold, and `note` says so."""
    calibrated_on: str | None = None
    """Key of the calibration set; None without a calibration."""
    kept_mass: float | None = None
    """In mode "expected": probability of the scores of `distribution`, 0..1, before it was
    normalised (`thinker.score.expected`). None in other modes, and where the greedy answer
    stands."""
    num_tree_tokens: int | None = None
    """Tokens that mode "expected" forwarded beside those of the greedy completion."""
    num_tokens: float | None = None
    """Length of the completion; in mode "sample" the mean of all K."""
    frame_indices: tuple[int, ...] = ()
    """The keyframes that the policy saw of the first medium, by their number in the file."""
    seconds: float = 0.0
    """This question's share of the wall clock of its batch, without decoding."""
    model: str = ""
    """The folder that the policy was loaded from."""
    version: str = ""
    """Of this package."""

    def to_row(self) -> dict[str, object]:
        """Plain values that JSON, Parquet and CSV can hold; paths as `thinker.utils.names` says."""
        path = None if self.path is None else path_text(self.path)
        row = asdict(self) | {"path": path, "model": path_text(self.model)}
        if self.task not in LOCATING_TASKS:
            del row["boxes"]
        return row


def failed(error: VideoError, path: Path | None = None, task: str = "score") -> Prediction:
    """The prediction of a question whose medium could not be read.

    path: the first medium, where that is another one.
    """
    return Prediction(
        path=path or error.path, score=None, status=error.reason, task=task, error=str(error)
    )


def judged(blank: Prediction, text: str, num_tokens: int, reference: Any) -> Prediction:
    """The prediction that one completion makes.

    blank: the row of the question, without an answer.
    """
    prediction = replace(
        blank, reasoning=shown_reasoning(text), completion=text, num_tokens=num_tokens
    )
    answer = TASKS[blank.task].parse(text, reference)
    if isinstance(answer, Answer):
        score = score_of(blank.task, answer.value)
        said = said_boxes(blank.task, text, reference)
        faults = [f"{one.reason}: {one.detail}" for one in said.faults]
        boxes = tuple(FoundBox(name=b.name, severity=b.severity, box=b.box) for b in said.boxes)
        note = "; ".join(filter(None, [blank.note, *faults])) or None
        return replace(
            prediction, answer=answer.value, score=score, status=OK, boxes=boxes, note=note
        )
    return replace(prediction, error=f"{answer.reason}: {answer.detail}")


def score_of(task: str, answer: float | str) -> float | None:
    """The place of an answer on the 1..5 answer scale, where it has one.

    Example: `score_of("score", 3.5)` is 3.5, `score_of("level", "good")` is 4.0.
    """
    if task == "level":
        return LEVEL_SCORES[LEVELS.index(str(answer))]
    return answer if isinstance(answer, float) else None


def of_draws(draws: Sequence[Prediction]) -> Prediction:
    """The prediction of K rollouts of one question: mean, spread and range of the valid scores,
    or the answer that most valid rollouts give, the first of those drawn as often.

    The text is that of the rollout nearest the mean, or of the first one with the winning answer.
    Where fewer than half of the rollouts are valid there is no answer, because the valid ones would
    be a selection.
    """
    valid = [draw for draw in draws if draw.status == OK]
    num_tokens = sum(draw.num_tokens or 0 for draw in draws) / len(draws)
    if 2 * len(valid) < len(draws) or len(valid) < 2:
        first = next(draw for draw in draws if draw.status != OK)
        error = f"{len(valid)} of {len(draws)} rollouts are valid; {first.error}"
        return replace(first, error=error, num_tokens=num_tokens)
    summed = _of_scores(valid) if valid[0].score is not None else _of_votes(valid)
    return replace(summed, num_tokens=num_tokens)


def _of_scores(valid: Sequence[Prediction]) -> Prediction:
    scores = [draw.score for draw in valid if draw.score is not None]
    distribution = empirical(scores)
    centre = mean(distribution)
    if isinstance(valid[0].answer, str):
        shown = _of_votes(valid)
    else:
        nearest = min(range(len(scores)), key=lambda place: abs(scores[place] - centre))
        shown = replace(valid[nearest], answer=centre)
    return replace(
        shown,
        score=centre,
        distribution=distribution,
        spread=stdev(scores),
        answer_range=central_range(distribution),
    )


def _of_votes(valid: Sequence[Prediction]) -> Prediction:
    votes = Counter(str(draw.answer) for draw in valid)
    ((winner, _),) = votes.most_common(1)
    shares = tuple((answer, votes[answer] / len(valid)) for answer in sorted(votes))
    first = next(draw for draw in valid if draw.answer == winner)
    return replace(first, distribution=shares)


def of_levels(blank: Prediction, distribution: Distribution) -> Prediction:
    """The prediction that probabilities of level words make, each word at its score.

    blank: the row of the question, without an answer. Its answer is the mean, or where a level was
    asked for the most probable word. It stays without one where a probability is not finite.
    """
    if not all(math.isfinite(probability) for _, probability in distribution):
        return replace(blank, error="the model gives no finite probabilities of the level words")
    score = mean(distribution)
    likeliest = max(range(len(distribution)), key=lambda level: distribution[level][1])
    return replace(
        blank,
        score=score,
        answer=LEVELS[likeliest] if blank.task == "level" else score,
        status=OK,
        distribution=distribution,
        spread=standard_deviation(distribution),
        answer_range=central_range(distribution),
    )


def of_expected(row: Prediction, distribution: Distribution, kept: float) -> Prediction:
    """The row of a greedy completion with the mean of the scores that may stand in its answer.

    distribution: of them, normalised. kept: their probability before that.
    """
    return replace(
        row,
        score=mean(distribution),
        answer=mean(distribution),
        distribution=distribution,
        spread=standard_deviation(distribution),
        answer_range=central_range(distribution),
        kept_mass=kept,
    )


# figures of a distribution


def empirical(scores: Sequence[float]) -> Distribution:
    """The distribution of drawn scores. Example: [3, 2, 3, 3] → ((2, .25), (3, .75))."""
    return tuple((score, scores.count(score) / len(scores)) for score in sorted(set(scores)))


def mean(distribution: Distribution) -> float:
    """Example: ((2, .25), (3, .75)) → 2.75."""
    return sum(score * share for score, share in distribution)


def standard_deviation(distribution: Distribution) -> float:
    """Of the distribution itself, without a sample's correction.

    Example: ((2, .25), (3, .75)) → √.1875 = .433.
    """
    centre = mean(distribution)
    return sum(share * (score - centre) ** 2 for score, share in distribution) ** 0.5


def central_range(distribution: Distribution) -> tuple[float, float]:
    """The 5 % and 95 % quantiles: the lowest scores whose cumulative probability reaches them.

    Example: ((1, .04), (2, .06), (3, .86), (5, .04)) → (2, 3).
    """
    scores = [score for score, _ in distribution]
    reached = list(itertools.accumulate(share for _, share in distribution))
    # 1e-9: twenty draws of .05 each sum to a little less than 1
    places = [bisect.bisect_left(reached, share - 1e-9) for share in (TAIL, 1 - TAIL)]
    low, high = (scores[min(place, len(scores) - 1)] for place in places)
    return low, high
