"""One of several options, shown with letters, or a bare yes-or-no question."""

import re
from collections.abc import Iterable
from typing import Any

from rewards.answer import Answer, InvalidAnswer
from rewards.choice import LETTERS, YES_NO, ChoiceReference, option_key, parse_choice
from thinker.tasks.base import Verdict

INSTRUCTION = "Answer with the option's letter from the given choices directly."
"""Behind options that a record gives as a list; without it models write whole sentences."""

_LINE = re.compile(r"[ \t]*\(?([A-Z])[.):][ \t]*(\S.*)")  # "A. blur" on a line of its own


class ChoiceTask:
    """A letter, or yes or no, compared with the right one (`rewards.choice`).

    The options are those of the record's list; else the "A. …" lines of the question itself, which
    is then asked as it stands; else yes and no.
    """

    name: str = "choice"
    media_kinds: tuple[str, ...] = ("video", "image")
    num_media: tuple[int, int | None] = (0, None)
    takes_mos: bool = False
    figures: tuple[str, ...] = ("accuracy",)
    rewards: tuple[str, ...] = ("choice",)

    def options(self, question: str, given: tuple[str, ...]) -> tuple[str, ...]:
        """Without their letters; empty for a bare yes-or-no question."""
        listed = _listed(question)
        if given and listed:
            raise ValueError("the options stand in the question and in a list; give them once")
        found = _without_letters(given) or listed
        if found:
            ChoiceReference(options=found, answer=None)  # raises with the reason
        return found

    def question(self, text: str, options: tuple[str, ...]) -> str:
        """The question, the options a line each, and the wish for a letter.

        Example: `question("Which distortion?", ("blur", "noise"))` is `"Which distortion?\\nA.
        blur\\nB. noise\\n"` and `INSTRUCTION`.
        """
        if not options:
            return text
        lines = [f"{letter}. {o}" for letter, o in zip(LETTERS, options, strict=False)]
        return "\n".join([text, *lines, INSTRUCTION])

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> ChoiceReference:
        """From a letter ("B", "B."), the option's text, both ("B. noise"), or yes or no."""
        reference = ChoiceReference(options=options or YES_NO, answer=None, lettered=bool(options))
        if raw is None:
            return reference
        if isinstance(raw, bool):
            raw = "yes" if raw else "no"
        if not isinstance(raw, str):
            raise ValueError(f"reference {raw!r}: expected the letter or the text of an option")
        answer = self._whole_text(raw, reference) or parse_choice(raw, reference)
        if isinstance(answer, InvalidAnswer):
            known = ", ".join(repr(value) for value in (*reference.values, *reference.options))
            raise ValueError(f"reference {answer.detail}; expected one of {known}")
        value = answer if isinstance(answer, str) else answer.value
        return ChoiceReference(options=reference.options, answer=value, lettered=reference.lettered)

    def lesson(self, raw: str, options: tuple[str, ...]) -> str:
        """Word by word, but the letter in place of an option's text, as the letter is asked for."""
        known = ChoiceReference(options=options or YES_NO, answer=None, lettered=bool(options))
        return (self._whole_text(raw, known) if options else None) or raw

    def _whole_text(self, raw: str, reference: ChoiceReference) -> str | None:
        """The value of the option that is given word by word, however odd its text is."""
        keys = [option_key(option) for option in reference.options]
        is_letter = len(option_key(raw)) == 1 and option_key(raw).upper() in reference.values
        if is_letter or option_key(raw) not in keys:
            return None
        return reference.values[keys.index(option_key(raw))]

    def parse(self, completion: str, reference: ChoiceReference) -> Answer[str] | InvalidAnswer:
        """See `rewards.choice.parse_choice`."""
        return parse_choice(completion, reference)

    def compare(self, answer: str | None, reference: ChoiceReference) -> Verdict:
        """Right is the letter of the right option, or the right one of yes and no."""
        return Verdict(is_correct=answer == reference.answer)


def _without_letters(options: tuple[str, ...]) -> tuple[str, ...]:
    """A record's own list, the letters "A. …", "B. …" taken off where all of it carries them."""
    letters, texts = _lettered(options)
    if not options or len(texts) < len(options):
        return options
    if letters != LETTERS[: len(texts)]:
        raise ValueError(
            f"the options carry the letters {', '.join(letters)}; expected A, B, … in this order, "
            "or none, as they are added"
        )
    return texts


def _listed(question: str) -> tuple[str, ...]:
    """The options that a question lists itself: lines "A. …", "B. …", in this order."""
    letters, texts = _lettered(question.splitlines())
    return texts if len(texts) >= 2 and letters == LETTERS[: len(texts)] else ()


def _lettered(lines: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The letters of those lines that have one, and their texts without it."""
    found = [match for line in lines if (match := _LINE.fullmatch(line))]
    return "".join(match[1] for match in found), tuple(match[2].strip() for match in found)
