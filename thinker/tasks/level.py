"""The quality of one medium as one of five words.

`LEVELS` are the words by which answers are compared: five equal bins of the 1..5 answer scale. A
policy may be taught others (`LevelConfig.words`), of which each counts as the level of its rank:
VQA²'s "high" is "excellent". Question and prefix are those of VQA²'s scorer (arXiv 2411.03795).
`thinker/score/levels.py` reads the words' logits instead of a generated answer.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import FiniteFloat

from rewards.answer import Answer, InvalidAnswer
from rewards.level import LEVELS, LevelReference, ranked_level
from thinker.config.build import build
from thinker.tasks.base import WordTask

LEVEL_SCORES = (1.0, 2.0, 3.0, 4.0, 5.0)
"""The place of each of `LEVELS` on the answer scale, and what it counts in the mean of a
distribution unless the policy says otherwise."""

VQA2_WORDS = ("low", "poor", "fair", "good", "high")
"""The words of VQA²'s records and checkpoints, worst first."""

LEVEL_QUESTION = "How would you rate the quality of this video?"
LEVEL_PREFIX = "The quality of the video is"
"""VQA²'s scoring question; its answer is forced to begin with the prefix, a level word follows."""


def level_word(target: float) -> str:
    """The level word of a score on the 1..5 answer scale; five equal bins of width 0.8.

    Example: `level_word(1.0) == "bad"`, `level_word(1.8) == "poor"`, `level_word(5.0) ==
    "excellent"`.
    """
    if not 1.0 <= target <= 5.0:
        raise ValueError(f"a level needs a score between 1 and 5, got {target!r}")
    # 1e-9 keeps the decimal bin edges (1.8, 2.6, ...) in the upper bin despite binary rounding.
    return LEVELS[min(int((target - 1.0) / 0.8 + 1e-9), 4)]


@dataclass(frozen=True, kw_only=True)
class LevelConfig:
    """How a policy is scored by level words; part of the saved policy.

    Example: weights 0, .25, .5, .75, 1 of the range 0 to 1 are 1, 2, 3, 4, 5 on the answer scale.
    """

    words: tuple[str, ...] = LEVELS
    """The five words, worst first."""
    weights: tuple[FiniteFloat, ...] = LEVEL_SCORES
    """What each word counts in the mean of the distribution, ascending."""
    weight_range: tuple[FiniteFloat, FiniteFloat] = (1.0, 5.0)
    """The weights that stand for 1 and 5 on the answer scale, which scores are given on."""
    video_question: str = LEVEL_QUESTION
    """What is asked of a video; empty where it is shown without a question."""
    video_prefix: str = LEVEL_PREFIX
    """What the answer to it is forced to begin with; empty where the word comes first."""
    image_question: str = LEVEL_QUESTION
    """What is asked of an image."""
    image_prefix: str = LEVEL_PREFIX
    """What the answer to that is forced to begin with."""

    blank_first: bool = False
    """Whether a word that opens the answer is read behind a blank, as VQA²'s later scorer reads it
    where it forces no prefix."""

    def __post_init__(self) -> None:
        words, weights, (low, high) = self.words, self.weights, self.weight_range
        if len(words) != len(LEVELS) or len(set(words)) < len(words) or not all(words):
            raise ValueError(f"words are {list(words)}, expected five different ones, worst first")
        if any(word != word.strip().lower() for word in words):
            raise ValueError(f"words are {list(words)}, expected lower case without blanks around")
        if len(weights) != len(words) or sorted(set(weights)) != list(weights):
            raise ValueError(f"weights are {list(weights)}, expected five that ascend")
        if not low < high:
            raise ValueError(f"weight_range is {[low, high]}, expected two that ascend")
        if not low <= weights[0] or not weights[-1] <= high:
            raise ValueError(
                f"weights {list(weights)} leave weight_range {[low, high]}, which is the scale "
                "that they are on"
            )

    @property
    def scores(self) -> tuple[float, ...]:
        """The weights on the answer scale, 1..5."""
        low, high = self.weight_range
        return tuple(1 + 4 * (weight - low) / (high - low) for weight in self.weights)

    def question(self, kind: str) -> str:
        """What a medium of a kind is asked, "video" or "image"."""
        return self.image_question if kind == "image" else self.video_question

    def prefix(self, kind: str) -> str:
        """What the answer about a medium of a kind is forced to begin with."""
        return self.image_prefix if kind == "image" else self.video_prefix

    def sentence(self, kind: str, target: float) -> str:
        """The answer that a score on the 1..5 answer scale is taught by, about a medium of a kind.
        Targets of sets whose labels begin at 0 may lie below 1: the lowest level, too.

        >>> LevelConfig().sentence("video", 2.4)
        'The quality of the video is poor.'
        """
        word = self.words[LEVELS.index(level_word(max(target, 1.0)))]
        return f"{self.prefix(kind)} {word}." if self.prefix(kind) else word

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LevelConfig":
        """Raises ValueError for keys and values that are not those of the fields."""
        return build(cls, values, "level_config")


VQA2_LEVELS = LevelConfig(
    words=VQA2_WORDS,
    weights=(0.0, 0.25, 0.5, 0.75, 1.0),
    weight_range=(0.0, 1.0),
    image_question="How would you rate the quality of this image?",
    image_prefix="The overall quality of the image is",
)
"""VQA²'s way: the words of its records, the weights of the paper's scorer, the prefix of its image
scorer. That script asks no question of an image; the words here are those of its videos."""


class LevelTask(WordTask):
    """A sentence such as "The quality of the video is good.", compared with a level word."""

    name: str = "level"
    media_kinds: tuple[str, ...] = ("video", "image")
    num_media: tuple[int, int | None] = (1, 1)
    takes_mos: bool = True
    figures: tuple[str, ...] = ("accuracy", "srcc", "plcc")
    rewards: tuple[str, ...] = ("level",)

    def question(self, text: str, options: tuple[str, ...]) -> str:
        """As the record says it, or `LEVEL_QUESTION`."""
        return text or LEVEL_QUESTION

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> LevelReference:
        """A level word, an answer that names one, or a target on the answer scale. Its answer is
        one of `LEVELS`; its `levels` are the words that completions are read by.

        Targets of sets whose labels begin at 0 (LSVQ) may lie below 1: the lowest level, too.
        """
        if raw is None:
            return LevelReference(levels=LEVELS, answer=None)
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            if not 0 <= raw <= 5:
                raise ValueError(f"target {raw!r} is not on the answer scale, expected 1 to 5")
            return LevelReference(levels=LEVELS, answer=level_word(max(float(raw), 1.0)))
        if not isinstance(raw, str):
            raise ValueError(f"reference {raw!r}: expected one of {', '.join(LEVELS)}")
        ours, theirs = ranked_level(raw, LEVELS), ranked_level(raw, VQA2_WORDS)
        if isinstance(ours, Answer):
            return LevelReference(levels=LEVELS, answer=ours.value)
        if isinstance(theirs, Answer):
            return LevelReference(levels=VQA2_WORDS, answer=theirs.value)
        raise ValueError(
            f"reference {ours.detail}; expected one of {', '.join(LEVELS)}, or low and high for "
            "the ends"
        )

    def parse(self, completion: str, reference: LevelReference) -> Answer[str] | InvalidAnswer:
        """See `rewards.level.ranked_level`."""
        return ranked_level(completion, reference.levels)
