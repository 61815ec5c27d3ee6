"""What a policy said about one video: one output row, whatever happened to the video.

`Prediction` is the row. `failed`, `judged`, `of_draws` and `of_levels` make one: of a video that
cannot be scored, of one completion, of several, of probabilities of level words.
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import stdev

from rewards import Answer, parse_answer, shown_reasoning
from thinker.video import Clip, VideoError

OK, INVALID_ANSWER, OUT_OF_MEMORY = "ok", "invalid_answer", "out_of_memory"

Distribution = tuple[tuple[float, float], ...]
"""(score, probability) pairs on the 1..5 answer scale, scores ascending, probabilities sum to 1."""

TAIL = 0.05
"""Probability left out on either side of an interval: it holds the central 90 %."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the policy said about one video."""

    path: Path
    """The video, as it was named."""
    score: float | None
    """On the 1..5 answer scale. None unless `status` is "ok"."""
    status: str
    """"ok"; "invalid_answer", where the text holds no valid score; "out_of_memory", where this
    video alone does not fit; or the reason of a `VideoError` ("missing", "timeout", …)."""
    mode: str = "reason"
    """Of the scorer: "reason", "sample" or "level"."""
    reasoning: str | None = None
    """The reasoning that the completion gives (`rewards.shown_reasoning`). None where there is no
    completion, as in mode "level"."""
    completion: str | None = None
    """The whole text. In mode "sample" that of the rollout nearest the mean, or of the first
    invalid one where there is no score."""
    error: str | None = None
    """Why there is no score, for a person. None where there is one."""
    distribution: Distribution = ()
    """Of the score: over the valid rollouts in mode "sample", over the five levels in mode "level".
    Empty in mode "reason", which draws nothing."""
    spread: float | None = None
    """Standard deviation of `distribution`; in mode "sample" the sample's, over K - 1."""
    interval: tuple[float, float] | None = None
    """The 5 % and 95 % quantiles of `distribution`."""
    num_tokens: float | None = None
    """Length of the completion; in mode "sample" the mean of all K."""
    frame_indices: tuple[int, ...] = ()
    """The keyframes that the policy saw, by their number in the file."""
    seconds: float = 0.0
    """This video's share of the wall clock of its batch, without decoding."""
    model: str = ""
    """The folder that the policy was loaded from."""
    version: str = ""
    """Of this package."""

    def to_row(self) -> dict[str, object]:
        """Plain values that JSON can hold."""
        return asdict(self) | {"path": str(self.path)}


def failed(error: VideoError) -> Prediction:
    """The prediction of a video that could not be read."""
    return Prediction(path=error.path, score=None, status=error.reason, error=str(error))


def judged(clip: Clip, text: str, num_tokens: int) -> Prediction:
    """The prediction that one completion makes."""
    prediction = Prediction(
        path=clip.path,
        score=None,
        status=INVALID_ANSWER,
        reasoning=shown_reasoning(text),
        completion=text,
        num_tokens=num_tokens,
        frame_indices=clip.keyframe_indices,
    )
    answer = parse_answer(text)
    if isinstance(answer, Answer):
        return replace(prediction, score=answer.value, status=OK)
    return replace(prediction, error=f"{answer.reason}: {answer.detail}")


def of_draws(draws: Sequence[Prediction]) -> Prediction:
    """The prediction of K rollouts of one video: mean, spread and interval of the valid ones.

    The text is that of the rollout nearest the mean. Where fewer than half of the rollouts are
    valid there is no score, because the valid ones would be a selection.
    """
    valid = [(draw.score, draw) for draw in draws if draw.score is not None]
    scores = [score for score, _ in valid]
    num_tokens = sum(draw.num_tokens or 0 for draw in draws) / len(draws)
    if 2 * len(valid) < len(draws) or len(valid) < 2:
        first = next(draw for draw in draws if draw.score is None)
        error = f"{len(valid)} of {len(draws)} rollouts are valid; {first.error}"
        return replace(first, error=error, num_tokens=num_tokens)
    distribution = empirical(scores)
    centre = mean(distribution)
    _, nearest = min(valid, key=lambda pair: abs(pair[0] - centre))
    return replace(
        nearest,
        score=centre,
        distribution=distribution,
        spread=stdev(scores),
        interval=quantile_interval(distribution),
        num_tokens=num_tokens,
    )


def of_levels(clip: Clip, distribution: Distribution) -> Prediction:
    """The prediction that probabilities of level words make, each word at its score."""
    return Prediction(
        path=clip.path,
        score=mean(distribution),
        status=OK,
        distribution=distribution,
        spread=standard_deviation(distribution),
        interval=quantile_interval(distribution),
        frame_indices=clip.keyframe_indices,
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


def quantile_interval(distribution: Distribution) -> tuple[float, float]:
    """The 5 % and 95 % quantiles: the lowest scores whose cumulative probability reaches them.

    Example: ((1, .04), (2, .06), (3, .86), (5, .04)) → (2, 3).
    """
    scores = [score for score, _ in distribution]
    reached = list(itertools.accumulate(share for _, share in distribution))
    # 1e-9: twenty draws of .05 each sum to a little less than 1
    places = [bisect.bisect_left(reached, share - 1e-9) for share in (TAIL, 1 - TAIL)]
    low, high = (scores[min(place, len(scores) - 1)] for place in places)
    return low, high
