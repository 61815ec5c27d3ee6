"""Columns of a label sheet: by the names of its header, or by numbers where it has none."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

SHOWN_NAMES = 12


class Row(NamedTuple):
    """The cells of one row in the columns that were asked for."""

    line: int
    """Its line in the file, from 1; of a file without lines, its number among the rows."""
    cells: tuple[Any, ...]
    """In the order of the columns; None where the row is shorter. Empty for a broken row."""
    problem: str = ""
    """Why the row cannot be read, else empty."""


def are_numbers(columns: Sequence[str]) -> bool:
    """Whether columns are meant by number, from 1; a name cannot be a number."""
    return all(column.isdecimal() for column in columns)


def places(columns: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    """Where the columns stand, from 0. Raises ValueError for one that is not there, and for a name
    that stands over several.

    `places(["MOS", "name"], ["name", "sd", "MOS"], "s.csv")` is [2, 0]; so is that of ["3", "1"].
    """
    if are_numbers(columns):
        beyond = [column for column in columns if not 1 <= int(column) <= len(names)]
        if beyond:
            raise ValueError(f"{where} has {len(names)} columns, none of number {beyond[0]}")
        return [int(column) - 1 for column in columns]
    for column in columns:
        if names.count(column) > 1:
            raise ValueError(f"{where} has {names.count(column)} columns of the name {column!r}")
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            shown = ", ".join(map(repr, names[:SHOWN_NAMES]))
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            raise ValueError(
                f"{where} has no column {column!r}; {hint}it has {shown}{more}. A sheet without a "
                "header has columns by number, from 1"
            )
    return [list(names).index(column) for column in columns]


def table_rows(
    table: Iterator[tuple[int, Sequence[Any]]], columns: Sequence[str], where: str
) -> Iterator[Row]:
    """Rows of a table whose first one is its header, unless columns are meant by number. Rows in
    which nothing stands do not count."""
    first = next(table, None)
    if first is None:
        raise ValueError(f"{where} is empty")
    names = ["" if cell is None else str(cell).strip() for cell in first[1]]
    at = places(columns, names, where)
    if are_numbers(columns):
        yield Row(first[0], tuple(first[1][place] for place in at))
    for line, cells in table:
        if any(cell not in (None, "") for cell in cells):
            yield Row(line, tuple([cells[p] if p < len(cells) else None for p in at]))


def column_rows(
    table: dict[str, Sequence[Any]], columns: Sequence[str], where: str
) -> Iterator[Row]:
    """Rows of a table stored by column. Raises ValueError where columns differ in length."""
    names = list(table)
    chosen = [table[names[place]] for place in places(columns, names, where)]
    lengths = {len(column) for column in chosen}
    if len(lengths) > 1:
        told = ", ".join(f"{n} {len(c)}" for n, c in zip(columns, chosen, strict=True))
        raise ValueError(f"{where}: the columns differ in length ({told})")
    for number, cells in enumerate(zip(*chosen, strict=True), start=1):
        yield Row(number, cells)
