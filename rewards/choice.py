"""Choices: the parser of letters, option texts and yes or no, and the reward of exact matches.

In: a completion and the options that were shown. Out: the letter (or "yes", "no") that it names, or
an `InvalidAnswer`. A completion names an option by its letter or by its text; whoever names two, a
letter that was not shown, or a letter beside the text of another option, has not answered. What
looks like a letter and is none: the article ("A blurry video"), the pronoun "I", a part of a
compound ("B-frames", "H.264"). One linear pass over the text, whatever the text holds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase as LETTERS
from typing import Any

from rewards.answer import Answer, InvalidAnswer, locate_free, quote
from rewards.checks import check_columns

# A word (no underscore, which is markup), any other sign, or a line break.
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|\n|[^\w\s]|_")
_MARKUP = frozenset("*_`\"“”„‘’'$#\\<>")
_SEPARATORS = frozenset("\n.,;:!?/&|()[]{}-–—=→")
_OUTER = _SEPARATORS - frozenset("-&/")  # may stand around the text of an option: "(blur)."
_JOINS = frozenset({"and", "or", "vs"})
# Words that an option follows: "the answer is", "option", "\boxed{".
_CUES = frozenset(
    [
        "answer",
        "option",
        "choice",
        "letter",
        "is",
        "be",
        "are",
        "select",
        "choose",
        "pick",
        "boxed",
        "it's",
        "that's",
        "i'd",
        "say",
    ]
)
_ARTICLES = frozenset({"a", "an", "the"})
# Words that can follow the letter A, but not the article.
_AFTER_LETTER = _JOINS | frozenset(
    [
        "is",
        "was",
        "because",
        "since",
        "as",
        "for",
        "due",
        "but",
        "seems",
        "looks",
        "would",
        "should",
        "fits",
        "matches",
    ]
)
_BEHIND_LETTER = _SEPARATORS | _AFTER_LETTER
_NEGATIONS = frozenset({"not", "never", "neither", "nor", "cannot"})
_STARTS = _SEPARATORS | _JOINS | _CUES
_AFTER_NO = frozenset({"it", "there", "this", "that", "they", "the", "i"})  # "No there is none"


@dataclass(frozen=True, kw_only=True)
class ChoiceReference:
    """What the completions of a choice are compared with."""

    options: tuple[str, ...]
    """The options without their letters, in the order that was shown: the first is "A"."""
    answer: str | None
    """The right one's letter (its text in lower case where there are no letters), or None where it
    is not known."""
    lettered: bool = True
    """Whether the options have letters. A bare yes-or-no question has none."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"{len(self.options)} options, expected 2 to {len(LETTERS)}")
        names = [option_key(option) for option in self.options]
        if "" in names:
            raise ValueError(f"option {LETTERS[names.index('')]} is empty")
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ValueError(
                    f"options {self.options[names.index(name)]!r} and {self.options[number]!r} "
                    "are the same"
                )
        if self.answer is not None and self.answer not in self.values:
            raise ValueError(
                f"answer {self.answer!r} is none of the {len(self.options)} options' "
                f"{', '.join(self.values)}"
            )

    @property
    def values(self) -> tuple[str, ...]:
        """What an answer's value can be, one an option."""
        if self.lettered:
            return tuple(LETTERS[: len(self.options)])
        return tuple(option.lower() for option in self.options)


YES_NO = ("Yes", "No")


def option_key(text: str) -> str:
    """What two spellings of one option share: case, white space, markup and outer signs ignored.

    >>> option_key("**Motion  blur.**")
    'motion blur'
    """
    return " ".join(_option_words(text))


def parse_choice(completion: str, reference: ChoiceReference) -> Answer[str] | InvalidAnswer:
    """The option that a completion names: in its one `<answer>` pair, else behind its reasoning.

    >>> shown = ChoiceReference(options=("blur", "motion blur", "noise"), answer="B")
    >>> parse_choice("The answer is **B**.", shown).value
    'B'
    >>> parse_choice("<think>It smears.</think><answer>Motion blur</answer>", shown).value
    'B'
    >>> parse_choice("A blurry video", shown).reason, parse_choice("A or C", shown).reason
    ('no_option', 'several_options')
    """
    located = locate_free(completion)
    if isinstance(located, InvalidAnswer):
        return located
    named = _Scan(located.text, reference).run()
    values, shown = reference.values, quote(located.text)
    if named.unknown is not None:
        detail = f"{named.unknown!r} in {shown} is beyond the last option, {values[-1]}"
        return InvalidAnswer(reason="unknown_option", detail=detail)
    options = named.letters | named.texts
    if not options or named.negated:
        what = "names no option" if not options else "says what it is not"
        return InvalidAnswer(reason="no_option", detail=f"{shown} {what}")
    if len(options) > 1:
        both = " and ".join(values[number] for number in sorted(options)[:2])
        if len(named.letters) == len(named.texts) == 1:
            detail = f"{shown}: letter and text name {both}"
            return InvalidAnswer(reason="letter_and_text", detail=detail)
        return InvalidAnswer(reason="several_options", detail=f"{shown} names {both}")
    return Answer(
        value=values[options.pop()],
        text=located.text,
        reasoning=located.reasoning,
        well_formed=located.well_formed,
    )


@dataclass(frozen=True)
class _Token:
    """A word or a sign of the text."""

    text: str
    """As written."""
    glued: bool
    """Whether it follows the token before it without a blank."""

    @property
    def word(self) -> str:
        """In lower case, with one form of the apostrophe."""
        return self.text.lower().replace("’", "'")


def _tokens(text: str) -> list[_Token]:
    tokens, end = [], -1
    for match in _TOKEN.finditer(text):
        if match[0] not in _MARKUP:
            tokens.append(_Token(match[0], glued=match.start() == end))
        elif match.start() != end:
            continue
        end = match.end()
    return tokens


def _option_words(text: str) -> list[str]:
    words = [token.word for token in _tokens(text) if token.text != "\n"]
    first, last = 0, len(words)
    while first < last and words[first] in _OUTER:
        first += 1
    while last > first and words[last - 1] in _OUTER:
        last -= 1
    return words[first:last] or words


class _Scan:
    """One pass over an answer. It tests at the beginning of every part of a sentence whether the
    text of an option stands there, and looks at every single letter."""

    def __init__(self, text: str, reference: ChoiceReference) -> None:
        self.tokens = _tokens(text)
        self.words = [token.word for token in self.tokens]
        self.lettered = reference.lettered
        self.num_options = len(reference.options)
        by_length = [(_option_words(o), number) for number, o in enumerate(reference.options)]
        self.options = sorted(by_length, key=lambda option: -len(option[0]))
        self.letters: set[int] = set()
        self.texts: set[int] = set()
        self.unknown: str | None = None
        self.negated = False

    def run(self) -> "_Scan":
        place, is_start = 0, True
        while place < len(self.tokens):
            after = self._text_at(place) if is_start else None
            if after is None:
                is_letter = self.lettered and self._letter_at(place, is_start)
                word = self.words[place]
                is_start = is_letter or word in _STARTS or (is_start and word in _ARTICLES)
                place += 1
            else:
                place, is_start = after, True
        return self

    def _text_at(self, place: int) -> int | None:
        """Where the longest option that stands here ends, if one does and nothing follows it."""
        for words, number in self.options:
            end = place + len(words)
            if self.words[place:end] == words and self._ends(place, end):
                if self.lettered and len(words) == 1 and self._number(words[0]) is not None:
                    return None  # where the text of an option is a letter, the letter counts
                self.texts.add(number)
                self.negated = self.negated or self._follows_negation(place)
                return end
        return None

    def _ends(self, first: int, end: int) -> bool:
        if end == len(self.words):
            return True
        word = self.words[end]
        if self.words[first:end] == ["yes"] and first == 0:
            return True
        if self.words[first:end] == ["no"] and first == 0 and word in _AFTER_NO:
            return True
        if word == "-" and self.tokens[end].glued:  # "blur-free"
            return False
        return word in _SEPARATORS | _JOINS

    def _letter_at(self, place: int, is_start: bool) -> bool:
        """Whether the token names an option by its letter; notes which."""
        text = self.tokens[place].text
        if not (len(text) == 1 and text.isascii() and text.isalpha()) or self._in_compound(place):
            return False
        before = self.words[place - 1] if place else ""
        after = self.words[place + 1] if place + 1 < len(self.words) else ""
        is_enclosed = (before in ("(", "[", "{") and after in (")", "]", "}")) or after == ")"
        is_alone = is_start and (after in _SEPARATORS or after == "") and after != "-"
        is_firm = is_enclosed or is_alone or before in ("option", "choice", "letter")
        if not (is_firm or text.isupper()):
            return False
        if text == "A" and not is_firm and not self._is_letter_a(place, after):
            return False
        number = self._number(text)
        if number is None:
            if is_firm and text != "I":
                self.unknown = self.unknown or text
            return False
        if text == "I" and not is_firm:
            return False
        self.letters.add(number)
        self.negated = self.negated or self._follows_negation(place)
        return True

    def _number(self, text: str) -> int | None:
        """Which option a letter stands for; None for any other text, and beyond the options."""
        number = LETTERS.find(text.upper()) if len(text) == 1 else -1
        return number if 0 <= number < self.num_options else None

    def _follows_negation(self, place: int) -> bool:
        """Whether one of the three words before negates what stands here: "is not option B"."""
        before = self.words[max(place - 3, 0) : place]
        return any(word in _NEGATIONS or word.endswith("n't") for word in before)

    def _is_letter_a(self, place: int, after: str) -> bool:
        """Whether an "A" with no sign around it is the letter: an article stands before a word."""
        if after == "" or after in _BEHIND_LETTER or self.tokens[place + 1].text in LETTERS:
            return True
        return any(
            self.words[place + 1 : place + 1 + len(words)] == words
            and self._ends(place + 1, place + 1 + len(words))
            for words, _ in self.options
        )

    def _in_compound(self, place: int) -> bool:
        """Whether the letter is part of something longer: "B-frames", "H.264", "U.S.", "e.g."."""
        return self._glued(place, 1) or self._glued(place, -1)

    def _glued(self, place: int, step: int) -> bool:
        """Whether a sign and then a word follow (or precede) without a blank between them."""
        sign, other = place + step, place + 2 * step
        if not (0 <= other < len(self.tokens)) or self.words[sign] not in ("-", ".", "'", "’", "+"):
            return False
        low, high = min(place, other) + 1, max(place, other)
        if not (self.tokens[low].glued and self.tokens[high].glued):
            return False
        word = self.words[other]
        if self.words[sign] == "." and step > 0:  # "B.blur" is a letter and a text
            return len(word) == 1 or word.isdigit()
        return word[0].isalnum()


class ChoiceReward:
    """1.0 for the right option, 0.0 for another, None for an invalid answer.

    >>> shown = ChoiceReference(options=("blur", "noise"), answer="B")
    >>> ChoiceReward()(["B.", "(A)", "both"], ["q"] * 3, [None] * 3, reference=[shown] * 3)
    [1.0, 0.0, None]
    """

    name = "choice"
    needs_perturbed = False
    tasks = ("choice",)

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Sequence[float | None],
        *,
        reference: Sequence[ChoiceReference],
        **columns: Any,
    ) -> list[float | None]:
        texts = {"completions": completions}
        check_columns(self.name, texts, sample_id=sample_id, target=target, reference=reference)
        return [self._judge(*row) for row in zip(completions, sample_id, reference, strict=True)]

    def _judge(self, completion: str, sample: str, reference: ChoiceReference) -> float | None:
        if not isinstance(reference, ChoiceReference) or reference.answer is None:
            raise ValueError(
                f"reward {self.name!r}: got reference {reference!r} (sample {sample!r}); expected "
                "a ChoiceReference with an answer; leave questions without one out of training"
            )
        answer = parse_choice(completion, reference)
        return float(answer.value == reference.answer) if isinstance(answer, Answer) else None
