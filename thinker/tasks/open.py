"""Any question, answered in words."""

from typing import Any

from rewards.answer import Answer, InvalidAnswer
from rewards.text import parse_text
from thinker.tasks.base import WordTask


class OpenTask(WordTask):
    """A text, beside a reference text where there is one. No figure is computed of it yet: an
    evaluation says "not measured"."""

    name: str = "open"
    media_kinds: tuple[str, ...] = ("video", "image")
    num_media: tuple[int, int | None] = (0, None)
    takes_mos: bool = False
    figures: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()

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

    def parse(self, completion: str, reference: str | None) -> Answer[str] | InvalidAnswer:
        """See `rewards.text.parse_text`."""
        return parse_text(completion)
