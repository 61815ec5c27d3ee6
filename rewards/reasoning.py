"""Reasoning: does `<think>` name what is known to impair the video?

Rewards of the score alone leave the reasoning to itself: any words before a right number earn the
same. Where the distortion of a video is known (it was made, or somebody named it), this reward
holds the words to it: the name, and the severity where that is known, too. Whether the score falls
with the distortion is what `thinker faithfulness` measures beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from rewards.answer import InvalidAnswer, parse_answer
from rewards.checks import check_columns, check_rows
from rewards.distortion import (
    NONE,
    SEVERITY_WORDS,
    DistortionConfig,
    DistortionReference,
    DistortionReward,
    read_distortion,
)

TAG = "distortion"
"""The tag of an example that says what impairs it: "noise", "severe noise", "none"."""
SEVERITY_TAG = "severity"
"""The tag that says how strongly, by a word; others (a number) are not compared with."""


@lru_cache
def _known(name: str, severity: str | None) -> DistortionReference:
    known = read_distortion(name)
    if known.severity is None and known.name != NONE and severity in SEVERITY_WORDS:
        return replace(known, severity=severity)
    return known


class ReasoningReward:
    """1.0 for reasoning that names the known distortion and no other, 0.0 for any other reasoning
    and for none at all, None for an invalid answer and for a video whose distortion is not known.

    Names are read as those of the task `distortion`. Where the severity is known, too, the right
    type alone earns `1 - severity_part`.

    >>> words = ("noise, poor", "blur, poor", "poor")
    >>> said = [f"<think>{text}</think><answer>2.10</answer>" for text in words]
    >>> ReasoningReward()(said, ["a"] * 3, [2.0] * 3, tags=[{"distortion": "noise"}] * 3)
    [1.0, 0.0, 0.0]
    """

    name = "reasoning"
    needs_perturbed = False
    tasks = ("score",)

    def __init__(self, config: DistortionConfig | None = None) -> None:
        self.config = config or DistortionConfig()
        self._of_words = DistortionReward(self.config)

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float | None],
        *,
        tags: Sequence[Mapping[str, str]],
        **columns: Any,
    ) -> list[float | None]:
        check_rows(self.name, completions, sample_id, target)
        check_columns(self.name, {"completions": completions}, tags=tags)
        return [self._judge(*row) for row in zip(completions, sample_id, tags, strict=True)]

    def check_tags(self, tags: Sequence[Mapping[str, str]]) -> None:
        """Raises ValueError where no video of the training data has a distortion that is known, and
        for a tag that names none."""
        names = {one[TAG] for one in tags if TAG in one}
        if not names:
            raise ValueError(
                f"reward {self.name!r}: no training example of a score has the tag {TAG!r}; "
                'expected one such as "tags": {"distortion": "noise"} in its line; add it or leave '
                "the reward out"
            )
        for name in sorted(names):
            try:
                read_distortion(name)
            except ValueError as error:
                raise ValueError(f"reward {self.name!r}: tag {TAG!r}: {error}") from None

    def _judge(self, completion: str, sample: str, tags: Mapping[str, str]) -> float | None:
        answer = parse_answer(completion)
        if isinstance(answer, InvalidAnswer) or TAG not in tags:
            return None
        reasoning, known = answer.reasoning or "", _known(tags[TAG], tags.get(SEVERITY_TAG))
        (value,) = self._of_words([reasoning], [sample], [None], reference=[known])
        return value or 0.0
