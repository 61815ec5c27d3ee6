"""Levels: the parser of a quality word, "good" in "The quality of the video is good."."""

import re
from dataclasses import dataclass

from rewards.answer import Answer, InvalidAnswer, locate_free, quote

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
    """The right one, of the words by which answers are compared (`thinker.tasks.level.LEVELS`);
    None where it is not known."""


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
