"""Levels: the parser of a quality word, "good" in "The quality of the video is good.", and the
reward of a level that is near the right one."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards.answer import Answer, InvalidAnswer, locate_free, quote
from rewards.checks import check_columns
from rewards.regression import bell

SIGMA = 0.6
"""The width of the reward's bell, in levels."""

LEVELS = ("bad", "poor", "fair", "good", "excellent")
"""The words by which levels are compared, worst first (ITU-T P.910)."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# The verdict of a longer answer (VQA², ViDA): other level words may stand in the depiction before.
_VERDICT = re.compile(r"\bquality of (?:the|this) (?:video|image|picture) is\W{1,8}(\w{1,20})\b")
_NEGATIONS = ("not", "never", "isn't", "isn’t", "hardly")


@dataclass(frozen=True, kw_only=True)
class LevelReference:
    """What the completions of a level question are compared with."""

    levels: tuple[str, ...]
    """The words that can be an answer, worst first."""
    answer: str | None
    """The right one, of `LEVELS`; None where it is not known."""


def parse_level(completion: str, levels: tuple[str, ...]) -> Answer[str] | InvalidAnswer:
    """The one level word of a completion: in its one `<answer>` pair, else behind its reasoning.

    Of an answer that holds several, the last sentence of the form "the quality of the video is …"
    decides.

    >>> words = ("bad", "poor", "fair", "good", "excellent")
    >>> parse_level("The quality of the video is good.", words).value
    'good'
    >>> parse_level("good or fair", words).reason
    'several_options'
    """
    located = locate_free(completion)
    if isinstance(located, InvalidAnswer):
        return located
    text = located.text.lower()
    words = _WORD.findall(text)
    pairs = list(zip(["", *words], words, strict=False))
    named = {word for before, word in pairs if word in levels and before not in _NEGATIONS}
    if len(named) > 1:
        verdicts = [word for word in _VERDICT.findall(text) if word in levels]
        named = {verdicts[-1]} if verdicts else named
    if not named:
        detail = f"{quote(located.text)} names none of {', '.join(levels)}"
        return InvalidAnswer(reason="no_option", detail=detail)
    if len(named) > 1:
        detail = f"{quote(located.text)} names {' and '.join(sorted(named))}"
        return InvalidAnswer(reason="several_options", detail=detail)
    return Answer(
        value=named.pop(),
        text=located.text,
        reasoning=located.reasoning,
        well_formed=located.well_formed,
    )


def ranked_level(completion: str, words: tuple[str, ...]) -> Answer[str] | InvalidAnswer:
    """The level that a completion names by one of five `words`, as the one of `LEVELS` that has its
    rank. "Low" and "high" count alone or in a sentence on quality only: contrast and noise are low
    and high, too.

    >>> ranked_level("The quality is high.", ("low", "poor", "fair", "good", "high")).value
    'excellent'
    """
    answer = parse_level(completion, words)
    if isinstance(answer, InvalidAnswer):
        return answer
    is_bare = answer.text.strip().rstrip(".").lower() == answer.value
    if answer.value in ("low", "high") and not is_bare and "quality" not in answer.text.lower():
        detail = f"{quote(answer.text)} does not say that the quality is {answer.value}"
        return InvalidAnswer(reason="no_option", detail=detail)
    return dataclasses.replace(answer, value=LEVELS[words.index(answer.value)])


class LevelReward:
    """exp(-d² / (2 sigma²)), d the distance in levels, 0 to 4; None for an invalid answer.

    A neighbour earns .249, the level after it .004. It must be far below 1: with `1 - d / 4`, a
    policy in doubt does best by the middle of what it holds for possible, not by the likeliest.

    >>> known = LevelReference(levels=LEVELS, answer="fair")
    >>> said = ["fair", "The quality of the image is good.", "bad", "2.5"]
    >>> paid = LevelReward()(said, ["q"] * 4, [None] * 4, reference=[known] * 4)
    >>> [None if one is None else round(one, 4) for one in paid]
    [1.0, 0.2494, 0.0039, None]
    """

    name = "level"
    needs_perturbed = False
    tasks = ("level",)

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float | None],
        *,
        reference: Sequence[LevelReference],
        **columns: Any,
    ) -> list[float | None]:
        texts = {"completions": completions}
        check_columns(self.name, texts, sample_id=sample_id, target=target, reference=reference)
        return [self._judge(*row) for row in zip(completions, sample_id, reference, strict=True)]

    def _judge(self, completion: str, sample: str, reference: LevelReference) -> float | None:
        if not isinstance(reference, LevelReference) or reference.answer is None:
            raise ValueError(
                f"reward {self.name!r}: got reference {reference!r} (sample {sample!r}); expected "
                "a LevelReference with an answer; leave questions without one out of training"
            )
        answer = ranked_level(completion, reference.levels)
        if isinstance(answer, InvalidAnswer):
            return None
        distance = abs(LEVELS.index(answer.value) - LEVELS.index(reference.answer))
        return bell(distance, 0, SIGMA)
