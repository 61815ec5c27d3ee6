"""What the page shows of sets of tasks other than scores: figures, accuracy by tag, wrong answers.

In: the entry of a set in `summary.json` and its rows. Out: `AnswerSection`s for `page.html.j2`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker.eval.report import plots
from thinker.eval.report.pictures import Picture, Pictures
from thinker.eval.rows import ResultRow
from thinker.utils.names import text_path

NUM_SHOWN = 3
"""Number of wrong answers that are shown with their media."""
NUM_LISTED = 20
"""Number of wrong answers in the table of a set."""


@dataclass(frozen=True, kw_only=True)
class TagLine:
    """Accuracy at one value of a tag."""

    tag: str
    """The tag's name."""
    value: str
    """The value of the tag."""
    accuracy: dict[str, Any]
    """As `summary.json` holds it (`MetricResult`)."""


@dataclass(frozen=True, kw_only=True)
class WrongAnswer:
    """One answer that is not the right one, with what the policy was shown."""

    row: ResultRow
    """Its line of the CSV."""
    media: tuple[tuple[str, Picture | None, str], ...]
    """Of each medium its path, its frames, and why there are none, else empty."""


@dataclass(frozen=True, kw_only=True)
class AnswerSection:
    """One set of a task other than scores."""

    name: str
    """The set's name."""
    task: str
    """The task's name."""
    report: dict[str, Any]
    """Its figures as `summary.json` holds them (`AnswerReport`)."""
    tags: tuple[TagLine, ...]
    """Accuracy by each value of each tag."""
    by_tag: Picture | None
    """The same as a plot; None where no example has a tag."""
    num_wrong: int
    """Number of wrong answers, invalid ones among them."""
    listed: tuple[ResultRow, ...]
    """The first wrong answers: wrong ones before invalid ones."""
    shown: tuple[WrongAnswer, ...]
    """The first of those, with their media."""


def answer_section(
    key: str, entry: dict[str, Any], rows: Sequence[ResultRow], pictures: Pictures
) -> AnswerSection:
    """What the page shows of one set."""
    tags = tuple(
        TagLine(tag=tag, value=value, accuracy=result)
        for tag, values in entry["report"]["by_tag"].items()
        for value, result in values.items()
    )
    wrong = [row for row in rows if row.correct is False]
    wrong.sort(key=lambda row: row.answer == "")  # a wrong answer says more than an invalid one
    bars = [(f"{line.tag}={line.value}", line.accuracy) for line in tags]
    root = text_path(entry["media_root"])
    return AnswerSection(
        name=entry["name"],
        task=entry["task"],
        report=entry["report"],
        tags=tags,
        by_tag=pictures.add(f"{key}_by_tag", plots.shares(bars), "accuracy by tag")
        if bars
        else None,
        num_wrong=len(wrong),
        listed=tuple(wrong[:NUM_LISTED]),
        shown=tuple(
            WrongAnswer(row=row, media=_media(f"{key}_wrong{number}", row, root, pictures))
            for number, row in enumerate(wrong[:NUM_SHOWN])
        ),
    )


def _media(
    name: str, row: ResultRow, root: Path, pictures: Pictures
) -> tuple[tuple[str, Picture | None, str], ...]:
    return tuple(
        (text, *pictures.add_frames(f"{name}_{i}", root / path, len(row.frame_indices), text))
        for i, (text, path) in enumerate((text, text_path(text)) for text in row.media)
    )
