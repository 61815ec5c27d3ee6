"""The parser of scores, and what all parsers of completions share: a text → an `Answer`, or an
`InvalidAnswer` and why.

Training rewards, inference and evaluation all call `parse_answer`, so a completion means the same
everywhere (choice.py, level.py and text.py hold the parsers of the other tasks). What cannot be
parsed stays invalid; no number is ever made up for it (the reference draws a random one in training
and writes 3.00 in inference). `shown_reasoning` gives the reasoning that a person reads, of a valid
or an invalid completion. Every step is one linear pass over the text, whatever the text holds.
"""

import re
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

InvalidReason = Literal[
    "no_answer",  # neither <answer> nor </answer>; of free text, nothing behind the reasoning
    "broken_tags",  # a tag without its partner (typically a cut-off completion), or wrong order
    "several_answers",  # <answer> or </answer> more than once, nested ones included
    "not_a_number",  # what stands between the tags is not digits[.digits]
    "out_of_range",  # a number outside [low, high]
    "no_option",  # nothing names an option (or level), or what names it is negated
    "several_options",  # two options (or levels, or distortions) are named
    "several_severities",  # two severities of a distortion are said
    "unknown_option",  # a letter beyond the options
    "letter_and_text",  # a letter and the text of another option
    "no_box",  # no box, and nothing says that there is nothing to be found
    # a box that cannot be used, and no other (rewards/boxes.py)
    "cut_off",
    "not_finite",
    "outside",
    "swapped",
    "no_class",
    "unknown_class",
]

Value = TypeVar("Value")

_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?")  # [0-9], because \d also takes ٣ and other scripts
_ASCII_WHITESPACE = " \t\n\r\f\v"
_MAX_DETAIL_CHARS = 40  # of a quoted text; a completion may be a megabyte, a log line should not


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[Value]):
    """The one valid answer of a completion."""

    value: Value
    """A score within [low, high], the letter of an option, a level word, or a text."""
    text: str
    """The answer as it was written, such as "3.50"."""
    reasoning: str | None
    """What stands from the first <think> to the last </think> before the answer, or None where
    there is no such pair."""
    well_formed: bool
    """Whether the whole completion is <think>…</think>\\s*<answer>…</answer>."""

    @property
    def num_decimals(self) -> int:
        """Written digits after the point: 2 for "3.50", 0 for "3"."""
        return len(self.text.partition(".")[2])


@dataclass(frozen=True, kw_only=True)
class InvalidAnswer:
    """A completion without a valid answer."""

    reason: InvalidReason
    """For counting."""
    detail: str
    """For a person."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where the answer of a completion stands."""

    text: str
    """The answer, without ASCII white space around it."""
    reasoning: str | None
    """As in `Answer`."""
    well_formed: bool
    """As in `Answer`."""


def parse_answer(
    completion: str, *, low: float = 1.0, high: float = 5.0
) -> Answer[float] | InvalidAnswer:
    """Reads the single `<answer>number</answer>` of a completion.

    The number is ASCII `digits[.digits]` with nothing but ASCII white space around it, and low <=
    number <= high (compared as float64). So "3", "3.5", "3.50" and "03.50" are numbers; ".85",
    "3.", "+3", "-3", "1e0", "1_0", "3,5", "NaN", "inf", "٣.٥" and "3/5" are not. Tags are matched
    exactly, lower case and without blanks. Text around the answer is allowed and makes the answer
    valid but not `well_formed`, which is a full match of the reference's
    `<think>.*?</think>\\s*<answer>.*?</answer>` (dot matches newline).

    Raises ValueError when low < high does not hold.

    >>> parse_answer("<think>sharp, a little noisy</think><answer>3.50</answer>")
    Answer(value=3.5, text='3.50', reasoning='sharp, a little noisy', well_formed=True)
    >>> parse_answer("I would say 3.50")
    InvalidAnswer(reason='no_answer', detail='no <answer> tag')
    """
    if not low < high:
        raise ValueError(f"got low={low}, high={high}; expected low < high, e.g. low=1.0, high=5.0")
    located = locate_tagged(completion)
    if isinstance(located, InvalidAnswer):
        return located
    text = located.text
    if not _DECIMAL.fullmatch(text):
        return InvalidAnswer(reason="not_a_number", detail=quote(text))
    value = float(text)  # inf for 400 digits: out of range like any other large number
    if not low <= value <= high:
        return InvalidAnswer(
            reason="out_of_range", detail=f"{quote(text)} is not in [{low}, {high}]"
        )
    return Answer(
        value=value, text=text, reasoning=located.reasoning, well_formed=located.well_formed
    )


def locate_tagged(completion: str) -> Located | InvalidAnswer:
    """What stands in the single `<answer>…</answer>` of a completion."""
    num_open, num_close = completion.count("<answer>"), completion.count("</answer>")
    if num_open == num_close == 0:
        return InvalidAnswer(reason="no_answer", detail="no <answer> tag")
    if max(num_open, num_close) > 1:
        return InvalidAnswer(
            reason="several_answers", detail=f"{num_open} <answer>, {num_close} </answer>"
        )
    before, opened, rest = completion.partition("<answer>")
    inside, closed, after = rest.partition("</answer>")
    if not (opened and closed):
        return InvalidAnswer(
            reason="broken_tags", detail="<answer> and </answer> do not form one pair in this order"
        )
    reasoning, is_enclosed = _reasoning(before)
    head = before.rstrip()  # Unicode white space, the \s of the reference
    return Located(
        text=inside.strip(_ASCII_WHITESPACE),
        reasoning=reasoning if is_enclosed else None,
        well_formed=head.startswith("<think>") and head.endswith("</think>") and not after,
    )


def locate_free(completion: str) -> Located | InvalidAnswer:
    """The answer of a completion that need not have tags: what its one pair of them encloses, else
    all that stands behind the reasoning.

    >>> locate_free("<think>The edges are soft.</think> B").text
    'B'
    """
    located = locate_tagged(completion)
    if isinstance(located, Located):
        return located
    before, closed, rest = completion.rpartition("</think>")
    if "<think>" in rest:
        return InvalidAnswer(reason="broken_tags", detail="<think> without </think>")
    text = rest.replace("<answer>", "\n").replace("</answer>", "\n").strip(_ASCII_WHITESPACE)
    if not text:
        return InvalidAnswer(reason="no_answer", detail="nothing behind the reasoning")
    reasoning, is_enclosed = _reasoning(before + closed)
    return Located(text=text, reasoning=reasoning if is_enclosed else None, well_formed=False)


def shown_reasoning(completion: str) -> str:
    """The reasoning to show to a person, without white space around it; any completion has one.

    It begins behind the first <think>, and ends at the last </think> between that and <answer>.
    Where a tag is missing, nothing is cut off at that side. So it is `Answer.reasoning`, stripped,
    wherever that is not None, and "" for a completion that says nothing before its answer.

    >>> shown_reasoning("<think> sharp, a little noisy </think><answer>3.50</answer>")
    'sharp, a little noisy'
    >>> shown_reasoning("I would say it is sharp. <answer>3.50</answer>")
    'I would say it is sharp.'
    >>> shown_reasoning("<think>sharp, but the completion was cut o")
    'sharp, but the completion was cut o'
    """
    return _reasoning(completion.partition("<answer>")[0])[0].strip()


def _reasoning(before: str) -> tuple[str, bool]:
    """The reasoning in the text before the answer, and whether <think> and </think> enclose it."""
    head, opened, rest = before.partition("<think>")
    inside, closed, tail = (rest if opened else head).rpartition("</think>")
    return (inside if closed else tail), bool(opened and closed)


def quote(text: str) -> str:
    """A text as a detail shows it."""
    shown = text[:_MAX_DETAIL_CHARS]
    return repr(shown) if shown == text else f"{shown!r}… ({len(text)} characters)"
