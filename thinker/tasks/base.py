"""What a task is: the meaning of a question.

A task says how its questions are asked, how an answer is read (the parser itself lives in
`rewards/`), what it is compared with, which rewards judge it by default, and the names of the
figures that an evaluation of it yields (`thinker.eval.metrics` computes them). Data keeps the
reference as the file gives it; only the task knows what it means. docs/extending.md adds one.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from rewards.answer import Answer, InvalidAnswer
from rewards.boxes import LabelledBox


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An answer beside the right one, as figures take it."""

    is_correct: bool
    """Whether it is right."""
    named: str | None = None
    """The class that it names, where classes are counted; None for an invalid answer."""
    right: str | None = None
    """The class that it should name."""
    is_severity_correct: bool | None = None
    """Whether the severity is right; None where the reference has none."""
    matched_f1: float | None = None
    """How well boxes match, 0..1; None where there are none to compare."""
    true_boxes: tuple[LabelledBox, ...] | None = None
    """The boxes that are there; None for tasks without."""


class Task(Protocol):
    """One meaning of a question. Tasks hold no state; the one of a name is in `TASKS`."""

    name: str
    """Its key in `TASKS`, and what a record's `task` says."""
    media_kinds: tuple[str, ...]
    """Kinds of media that it is asked of: "video", "image"."""
    num_media: tuple[int, int | None]
    """The fewest and the most media of a question; None is any number."""
    takes_mos: bool
    """Whether an answer can be a MOS, which the data layer maps to the answer scale, as it knows
    the scale of the set: the target."""
    figures: tuple[str, ...]
    """Names of the figures of an evaluation, the most telling one first."""
    rewards: tuple[str, ...]
    """Rewards that judge it unless a run names others: keys of `rewards.REWARDS`. None at all where
    nothing that is shipped can judge it."""

    def options(self, question: str, given: tuple[str, ...]) -> tuple[str, ...]:
        """The options to choose from, of a record's own list (`given`) or of the question's text.

        Empty where the task has none. Raises ValueError with the reason where they make no choice.
        """
        ...

    def question(self, text: str, options: tuple[str, ...]) -> str:
        """The user's words, from a record's question and its own list of options: what is shown
        to the policy."""
        ...

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> Any:
        """The reference as rewards and figures take it, from what the file gives.

        raw: None for a question whose answer is not known. options: as `options` gave them. Raises
        ValueError with the reason where `raw` is no answer to such a question.
        """
        ...

    def lesson(self, raw: str, options: tuple[str, ...]) -> str:
        """What a policy is taught to say where the file's answer is `raw`."""
        ...

    def parse(self, completion: str, reference: Any) -> Answer | InvalidAnswer:
        """The answer of a completion. reference: as `read_reference` gave it, with or without a
        known answer; it may say what the possible answers are."""
        ...

    def compare(self, answer: Any, reference: Any) -> Verdict:
        """An answer beside the right one; asked of tasks with accuracy among their figures.

        answer: the value that `parse` found, None where it found none. reference: one whose
        `answer` is known.
        """
        ...


class WordTask:
    """What most tasks share: no options, the question and the lesson word by word.

    A task inherits it and says the rest.
    """

    name: str
    """Its key in `TASKS`."""

    def options(self, question: str, given: tuple[str, ...]) -> tuple[str, ...]:
        """None. Raises ValueError where a record gives some."""
        if given:
            raise ValueError(
                f"task {self.name} has no options; name the task choice, or leave them out"
            )
        return ()

    def question(self, text: str, options: tuple[str, ...]) -> str:
        """As the record says it."""
        return text

    def lesson(self, raw: str, options: tuple[str, ...]) -> str:
        """As the file gives the answer."""
        return raw

    def compare(self, answer: Any, reference: Any) -> Verdict:
        """Right is what equals the `answer` of the reference."""
        return Verdict(is_correct=answer == reference.answer)
