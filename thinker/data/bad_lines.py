"""What reading files gives: the examples of good lines, and the bad lines with their reasons."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from thinker.data.examples import Example
from thinker.utils.names import path_text, printable

logger = logging.getLogger(__name__)

MAX_PRINTED_BAD_LINES = 50  # a screen; the attribute holds all


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line that is no example."""

    file: Path
    """The label file."""
    line: int
    """Number of the line, from 1; in a meta JSON, the line that the annotation starts on."""
    reason: str
    """What was given there and what was expected."""

    def __str__(self) -> str:
        return f"{path_text(self.file)}:{self.line}: {printable(self.reason)}"


class BadLinesError(ValueError):
    """Raised with every bad line of every file that was read."""

    def __init__(self, bad_lines: Sequence[BadLine]) -> None:
        super().__init__(list(bad_lines))
        self.bad_lines: list[BadLine] = list(bad_lines)

    def __str__(self) -> str:
        shown = [f"  {bad}" for bad in self.bad_lines[:MAX_PRINTED_BAD_LINES]]
        num_hidden = len(self.bad_lines) - len(shown)
        if num_hidden:
            shown.append(f"  … and {num_hidden} more")
        head = (
            f"{len(self.bad_lines)} bad line(s); mend them, or, in training and evaluation, leave "
            "them out (skip_bad_lines):"
        )
        return "\n".join([head, *shown])


class Loaded(NamedTuple):
    """What was read."""

    examples: list[Example]
    """The good lines, in file order."""
    bad_lines: list[BadLine]
    """The bad ones, which are raised instead unless they were asked to be skipped."""


def settle(parts: Sequence[Loaded], skip_bad_lines: bool) -> Loaded:
    """All parts as one. Raises BadLinesError, unless bad lines are skipped and one good is left."""
    examples = [sample for part in parts for sample in part.examples]
    bad_lines = [bad for part in parts for bad in part.bad_lines]
    if bad_lines and not (skip_bad_lines and examples):
        raise BadLinesError(bad_lines)
    if not examples:
        raise ValueError("the given files hold no example; expected at least one line")
    if bad_lines:
        logger.warning("skipped %d bad line(s), kept %d example(s)", len(bad_lines), len(examples))
        for bad in bad_lines:
            logger.info("skipped %s", bad)
    return Loaded(examples, bad_lines)
