"""Depictions: the parser of a text about the quality, and of the level that it ends in.

"… Hence, the quality of this video is good." is VQA²'s form (arXiv 2411.03795). The text is the
answer; how near it comes to the reference text is not measured here.
"""

import re
from dataclasses import dataclass

from rewards.answer import Answer, InvalidAnswer
from rewards.text import parse_text

LEVEL_OF = {
    "bad": "bad",
    "low": "bad",
    "poor": "poor",
    "fair": "fair",
    "good": "good",
    "excellent": "excellent",
    "high": "excellent",
}
"""Level words as texts end in them, ours and VQA²'s (low to high): the level that each stands
for."""

VERDICT = re.compile(
    r"\bquality of (?:the|this) (?:video|image|picture|clip) is\W{1,8}"
    r"(?:(?:overall|very|rather|quite|fairly|relatively|only)\W{1,3})?(\w{1,20})\b",
    re.IGNORECASE,
)
"""The words of a verdict; its last word is the level."""


@dataclass(frozen=True, kw_only=True)
class DescribeReference:
    """What the completions of a wish for a depiction are compared with."""

    text: str | None
    """The depiction; None where it is not known."""
    answer: str | None
    """The level that it ends in, worst "bad", best "excellent"; None where it ends in none."""


def final_level(text: str) -> str | None:
    """The level of the last sentence "the quality of … is …"; None where there is none, or where
    that sentence names no level.

    >>> final_level("It is sharp, but noisy. Hence, the quality of this video is high.")
    'excellent'
    >>> final_level("The sharpness is good.") is None
    True
    """
    verdicts = VERDICT.findall(text)
    word = verdicts[-1] if verdicts else text.strip().strip(".*")
    return LEVEL_OF.get(word.lower())


def parse_description(completion: str) -> Answer[str] | InvalidAnswer:
    """The text in the one `<answer>` pair, else all that stands behind the reasoning.

    >>> parse_description("<think>Hm.</think> It is sharp.").value
    'It is sharp.'
    """
    return parse_text(completion)
