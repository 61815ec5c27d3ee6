"""The quality of one medium as one of five words.

The words are ours, question and prefix are those of VQA²'s scorer (arXiv 2411.03795).
`thinker/score/levels.py` reads the words' logits instead of a generated answer.
"""

from typing import Any

from rewards.answer import Answer, InvalidAnswer
from rewards.level import LevelReference, parse_level
from thinker.tasks.base import WordTask

LEVELS = ("bad", "poor", "fair", "good", "excellent")
"""Five equal bins of the 1..5 answer scale, worst first (ITU-T P.910 wording)."""

LEVEL_SCORES = (1.0, 2.0, 3.0, 4.0, 5.0)
"""What each of `LEVELS` counts in the mean of a distribution. VQA² weighs its levels 0, .25, .5,
.75, 1; mapped to the answer scale these are 1, 2, 3, 4, 5."""

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


class LevelTask(WordTask):
    """A sentence such as "The quality of the video is good.", compared with a level word."""

    name: str = "level"
    media_kinds: tuple[str, ...] = ("video", "image")
    num_media: tuple[int, int | None] = (1, 1)
    takes_mos: bool = True
    figures: tuple[str, ...] = ("accuracy", "srcc", "plcc")
    rewards: tuple[str, ...] = ()

    def question(self, text: str, options: tuple[str, ...]) -> str:
        """As the record says it, or `LEVEL_QUESTION`."""
        return text or LEVEL_QUESTION

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> LevelReference:
        """A level word, an answer that names one, or a target on the answer scale.

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
        answer = parse_level(raw, LEVELS)
        if isinstance(answer, InvalidAnswer):
            raise ValueError(f"reference {answer.detail}; expected one of {', '.join(LEVELS)}")
        return LevelReference(levels=LEVELS, answer=answer.value)

    def parse(self, completion: str, reference: LevelReference) -> Answer[str] | InvalidAnswer:
        """See `rewards.level.parse_level`."""
        return parse_level(completion, reference.levels)
