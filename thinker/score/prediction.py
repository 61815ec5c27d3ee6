"""What a policy said about one video: one output row, whatever happened to the video."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from thinker.video import VideoError

OK, INVALID_ANSWER, OUT_OF_MEMORY = "ok", "invalid_answer", "out_of_memory"

Distribution = tuple[tuple[float, float], ...]
"""(score, probability) pairs on the 1..5 answer scale, scores ascending, probabilities sum to 1."""

TAIL = 0.05
"""Probability left out on either side of an interval: it holds the central 90 %."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the policy said about one video.

    score: on the 1..5 answer scale, None unless status is "ok". status: "ok", "invalid_answer" (the
    text holds no valid score; it is kept in `completion`), "out_of_memory" (this video alone does
    not fit) or the reason of a `VideoError` ("missing", "decode_error", "timeout", …).
    reasoning: the content of <think>; of the rollout nearest the mean in mode "sample".
    distribution: over scores; of the K rollouts in mode "sample", of the five levels in mode
    "level", empty in mode "reason", which draws nothing. spread: its standard deviation (over K - 1
    in mode "sample"). interval: its 5 % and 95 % quantiles. num_tokens: of the completion(s), mean.
    frame_indices: keyframes shown. seconds: share of the wall clock of its batch. model: folder it
    was loaded from. version: of this package.
    """

    path: Path
    score: float | None
    status: str
    mode: str = "reason"
    reasoning: str | None = None
    completion: str | None = None
    error: str | None = None
    distribution: Distribution = ()
    spread: float | None = None
    interval: tuple[float, float] | None = None
    num_tokens: float | None = None
    frame_indices: tuple[int, ...] = ()
    seconds: float = 0.0
    model: str = ""
    version: str = ""

    def to_row(self) -> dict[str, object]:
        """Plain values that JSON can hold."""
        return asdict(self) | {"path": str(self.path)}


def failed(path: Path, error: VideoError) -> Prediction:
    """The row of a video that could not be read."""
    return Prediction(path=path, score=None, status=error.reason, error=str(error))


def empirical(scores: Sequence[float]) -> Distribution:
    """The distribution of drawn scores. Example: [3, 2, 3, 3] → ((2, .25), (3, .75))."""
    return tuple((score, scores.count(score) / len(scores)) for score in sorted(set(scores)))


def mean(distribution: Distribution) -> float:
    """Example: ((2, .25), (3, .75)) → 2.75."""
    return sum(score * share for score, share in distribution)


def standard_deviation(distribution: Distribution) -> float:
    """Of the distribution itself, no sample correction. ((2, .25), (3, .75)) → √.1875 = .433."""
    centre = mean(distribution)
    return sum(share * (score - centre) ** 2 for score, share in distribution) ** 0.5


def quantile_interval(distribution: Distribution) -> tuple[float, float]:
    """The 5 % and 95 % quantiles: the lowest score whose cumulative probability reaches them.

    Example: ((1, .04), (2, .06), (3, .86), (5, .04)) → (2, 3).
    """
    scores = [score for score, _ in distribution]
    reached = list(itertools.accumulate(share for _, share in distribution))
    # 1e-9: twenty draws of .05 each sum to a little less than 1
    places = [bisect.bisect_left(reached, share - 1e-9) for share in (TAIL, 1 - TAIL)]
    low, high = (scores[min(place, len(scores) - 1)] for place in places)
    return low, high
