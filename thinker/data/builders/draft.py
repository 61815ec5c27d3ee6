"""A question before it is a record: words, answer, and what of it must survive a rewriting."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rewards.choice import LETTERS
from thinker.data.builders.wording import WORDINGS, draw_of


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question and its answer."""

    question: str
    """Without options and without places for media."""
    answer: str
    """What is taught. Of a choice its letter, yes or no: never rewritten."""
    options: tuple[str, ...] = ()
    """Listed behind the question, a line each."""
    keep: tuple[str, ...] = ()
    """Facts, word by word: what of them stands in the question or in the answer stays there."""

    @property
    def text(self) -> str:
        """The question with its options."""
        lines = [f"{letter}. {o}" for letter, o in zip(LETTERS, self.options, strict=False)]
        return "\n".join([self.question, *lines])


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What becomes one record."""

    paths: tuple[str, ...]
    """Its media, in the order of their places."""
    medium: str
    """"video" or "image": what its media are."""
    task: str
    """A key of `thinker.tasks.TASKS`: what its last answer means."""
    asked: tuple[Asked, ...]
    """Its turns; all but the last are context."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Fields such as `type`, by which figures are broken down."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the record: `start`, `end`, `crop`, `gt_score`, `stalls`."""
    introduction: str = ""
    """What stands between the media and the first question: the stalling condition."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How questions are worded and which of several are asked."""

    seed: int = 0
    """Of every draw."""
    is_published: bool = True
    """Whether the words around media are those of VQA²'s records, rather than none."""
    with_severity: bool = False
    """Whether distortion questions ask for the severity, and reasons name it."""
    stall_form: str = "sentences"
    """One of `thinker.prompts.STALL_FORMS`."""
    words: tuple[str, ...] = ()
    """The level words, worst first."""

    def word(self, key: str, path: str, **facts: str) -> str:
        """One of `WORDINGS[key]`, drawn for the medium, with the facts in it."""
        return draw_of(self.seed, key, path).choice(WORDINGS[key]).format(**facts)
