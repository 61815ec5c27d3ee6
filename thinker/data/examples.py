"""The unit of all data: media, what is said of them, and what the answer is compared with."""

import math
from dataclasses import dataclass
from typing import Any

from thinker.prompts import Turn
from thinker.tasks import TASKS
from thinker.tasks.level import LevelConfig
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
    """What is asked, up to the last user turn, word by word. None at all asks the policy's own
    scoring question."""
    reference: Any = None
    """What the file gives as the right answer, not yet parsed (`parsed_reference` does): the text
    of a conversation's last assistant turn, or a field. None where it is only asked, and where the
    file gives nothing but a MOS."""
    options: tuple[str, ...] = ()
    """The options of a choice, without letters, in the order of the question; empty for a bare
    yes-or-no question."""
    target: float | None = None
    """Scores only: the label on the answer scale, 1..5. None where the scale of the labels is not
    known."""
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


def parsed_reference(example: Example) -> Any:
    """What rewards and figures compare an answer with: the reference as the example's task reads
    it, or its reading of the target where there is one.

    A MOS without a target is on a scale that is not known, and no reference. Raises ValueError with
    the task's reason.
    """
    is_rated = example.target is not None or example.mos is not None
    raw = example.target if is_rated else example.reference
    return TASKS[example.task].read_reference(raw, example.options)


def lesson_turns(example: Example, levels: LevelConfig | None = None) -> tuple[Turn, ...]:
    """The whole conversation, for supervised training: what is asked, then the answer.

    The answer is the reference as the task teaches it; of a level whose label is a MOS it is the
    sentence of `levels`, the policy's (None: the usual ones). An example that asks the policy's own
    scoring question has one turn, the assistant's. Raises ValueError where there is no answer in
    words.
    """
    if example.task == "level" and example.target is not None:
        said = (levels or LevelConfig()).sentence(example.media[0].kind, example.target)
        return (*example.turns, Turn(role="assistant", text=said))
    if not isinstance(example.reference, str):
        raise ValueError(
            f"example {example.id!r} has no answer in words to learn (its reference is "
            f"{example.reference!r}); end its conversation with an assistant turn"
        )
    answer = TASKS[example.task].lesson(example.reference, example.options)
    return (*example.turns, Turn(role="assistant", text=answer))


def is_finite_number(value: object) -> bool:
    """Comparison instead of math.isfinite, which raises for integers beyond the range of float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -math.inf < value < math.inf
