"""Any question, answered in words."""

from typing import Any

from rewards.answer import Answer, InvalidAnswer
from rewards.text import parse_text


class OpenTask:
    """A text, beside a reference text where there is one. No figure is computed of it yet: an
    evaluation says "not measured"."""

    name: str = "open"
    media_kinds: tuple[str, ...] = ("video", "image")
    num_media: tuple[int, int | None] = (0, None)
    takes_mos: bool = False
    figures: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()

    def options(self, question: str, given: tuple[str, ...]) -> tuple[str, ...]:
        """An open question has none."""
        if given:
            raise ValueError("an open question has no options; name the task choice")
        return ()

    def question(self, text: str, options: tuple[str, ...]) -> str:
        """As the record says it."""
        return text

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> str | None:
        """The reference text."""
        if raw is None or isinstance(raw, str):
            return raw
        hint = ""
        if isinstance(raw, int | float):
            hint = (
                f'; write "{raw}" in quotes if it is one, or name the task score and give the '
                "number as mos if it rates the quality"
            )
        raise ValueError(f"reference {raw!r}: expected a text{hint}")

    def lesson(self, raw: str, options: tuple[str, ...]) -> str:
        """Word by word."""
        return raw

    def parse(self, completion: str, reference: str | None) -> Answer[str] | InvalidAnswer:
        """See `rewards.text.parse_text`."""
        return parse_text(completion)
