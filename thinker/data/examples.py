"""The unit of all data: media, what is said of them, and what the answer is compared with."""

import math
from dataclasses import dataclass
from typing import Any

from thinker.prompts import Turn
from thinker.video.medium import Medium


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question about media, with its reference answer where there is one."""

    id: str
    """Unique in a run: "<dataset>/<id in the file>"."""
    dataset: str
    """Key of the data set, such as "lsvq"."""
    task: str = "score"
    """What the question means: a key of `thinker.tasks.TASKS`."""
    media: tuple[Medium, ...]
    """The media in the order of their placeholders: absolute paths inside the media root. Symbolic
    links below the root are not resolved."""
    turns: tuple[Turn, ...] = ()
    """The conversation. None at all asks the policy's own scoring question."""
    reference: Any = None
    """What the file gives as the right answer, not yet parsed; None where it is only asked."""
    options: tuple[str, ...] = ()
    """The options of a choice, without letters; empty where the question names them itself."""
    target: float | None = None
    """Scores only: the label on the answer scale, 1..5."""
    mos: float | None = None
    """Scores only: the label on the data set's own scale."""
    content: str
    """What it shows, within `dataset`: several versions of one source share it. Without a pattern
    it is the path in the file."""
    tags: tuple[tuple[str, str], ...] = ()
    """(name, value) pairs by which figures are broken down, such as ("type", "yes-or-no")."""

    def __post_init__(self) -> None:
        for medium in self.media:
            if not medium.path.is_absolute():
                raise ValueError(
                    f"example {self.id!r}: path {medium.path} is relative, expected absolute"
                )
        for name in ("mos", "target"):
            value = getattr(self, name)
            if value is not None and not is_finite_number(value):
                raise ValueError(f"example {self.id!r}: {name} is {value!r}, expected finite")
        if self.task == "score" and self.turns == () and self.media == ():
            raise ValueError(f"example {self.id!r} has neither a medium nor a question")


def is_finite_number(value: object) -> bool:
    """Comparison instead of math.isfinite, which raises for integers beyond the range of float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -math.inf < value < math.inf
