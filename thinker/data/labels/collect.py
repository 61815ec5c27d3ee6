"""Rows of a label sheet → `Label`s and bad lines.

Every row is one or the other. What makes a row bad: no path or label, a label that is no number or
out of the scale, a path or id that stood in the sheet before, a path that leads out of the media
root or, where one is given, to no file.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from thinker.data.bad_lines import BadLine
from thinker.data.labels.cells import number_of, path_of, text_of
from thinker.data.labels.columns import Row
from thinker.data.paths import MediaRules, media_rules
from thinker.data.records import BadValueError, show


class Label(NamedTuple):
    """One rated video or picture."""

    path: str
    """Below the media root, with /."""
    mos: float
    """On the sheet's own scale."""
    id: str
    """Its path, where the sheet has no ids."""
    content: str | None
    """The source content that the sheet names; None where it names none."""
    split: str | None
    """The part of the set that the sheet puts it in; None where it has no parts."""


@dataclass(frozen=True, kw_only=True)
class LabelColumns:
    """Which column of a sheet holds what: names, or numbers from 1."""

    path: str
    """Where the path of the video or picture stands."""
    mos: str
    """Where the MOS stands."""
    id: str | None = None
    """Where an id stands; None takes the path."""
    content: str | None = None
    """Where the source content stands; None leaves it to a pattern of the data set, or the path."""
    split: str | None = None
    """Where the part stands that a row belongs to, such as train and test."""

    @property
    def given(self) -> tuple[str, ...]:
        """Those that are there, path and MOS first."""
        optional = (self.id, self.content, self.split)
        return (self.path, self.mos, *(column for column in optional if column is not None))


@dataclass(frozen=True, kw_only=True)
class LabelRules:
    """What every row is held to."""

    columns: LabelColumns
    """Which columns there are."""
    scale: tuple[float, float] | None = None
    """The lowest and the highest label that there can be; None checks no range."""
    decimal_comma: bool = False
    """Whether "3,5" is 3.5."""
    strip_prefix: str = ""
    """The folder that absolute paths begin with."""
    add_suffix: str = ""
    """The ending of the files where the sheet leaves it out, ".mp4"."""
    splits: dict[str, str] = field(default_factory=dict)
    """What parts are called instead of what the sheet calls them."""
    media_root: Path | None = None
    """Where the files lie; None does not look for them."""

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            low, high = self.scale
            raise ValueError(f"scale {low:g}:{high:g}: expected min:max with min below max")


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a sheet holds."""

    labels: list[Label]
    """Good rows, in the order of the sheet."""
    bad_lines: list[BadLine]
    """All others."""

    @property
    def splits(self) -> dict[str | None, int]:
        """Number of labels of each part, in the order in which they come first; None without
        parts."""
        return dict(Counter(label.split for label in self.labels))


def collect(path: Path, rows: Iterable[Row], rules: LabelRules) -> Collected:
    """Read all rows. path: the sheet, for messages."""
    read = _RowReader(rules)
    labels: list[Label] = []
    bad: list[BadLine] = []
    for row in rows:
        try:
            labels.append(read(row))
        except BadValueError as error:
            bad.append(BadLine(file=path, line=row.line, reason=str(error)))
    return Collected(labels=labels, bad_lines=bad)


class _RowReader:
    """Row → Label; remembers what paths and ids were there before, and on which line."""

    def __init__(self, rules: LabelRules) -> None:
        self.rules = rules
        root = rules.media_root
        self.media: MediaRules | None = (
            None if root is None else media_rules(root, None, require_files=True)
        )
        given = rules.columns
        self.prefix = rules.strip_prefix or ("" if root is None else str(root.absolute()))
        self.optional = [n for n in ("id", "content", "split") if getattr(given, n) is not None]
        self.paths: dict[str, int] = {}
        self.ids: dict[str, int] = {}

    def __call__(self, row: Row) -> Label:
        if row.problem:
            raise BadValueError(row.problem)
        rules = self.rules
        path = path_of(row.cells[0], strip_prefix=self.prefix, add_suffix=rules.add_suffix)
        mos = number_of(row.cells[1], decimal_comma=rules.decimal_comma)
        if rules.scale is not None and not rules.scale[0] <= mos <= rules.scale[1]:
            low, high = rules.scale
            raise BadValueError(f"label {mos:g} is outside the declared scale {low:g}..{high:g}")
        more = self._more(row.cells[2:])
        label_id = more.get("id", path)
        for seen, what, value in ((self.paths, "path", path), (self.ids, "id", label_id)):
            if value in seen:
                raise BadValueError(
                    f"{what} {show(value)} is given twice, first on line {seen[value]}"
                )
        if self.media is not None:
            self.media.locate(path)
        self.paths[path] = row.line
        if "id" in more:
            self.ids[label_id] = row.line
        return Label(path, mos, label_id, more.get("content"), more.get("split"))

    def _more(self, cells: Sequence[Any]) -> dict[str, str]:
        more = {name: text_of(cell, name) for name, cell in zip(self.optional, cells, strict=True)}
        if "split" in more:
            more["split"] = self.rules.splits.get(more["split"], more["split"])
        return more
