"""Label sheets as people have them → `Row`s of the columns that are asked for.

CSV, TSV and text are streamed by Python's own reader, Parquet by pyarrow, XLSX by openpyxl; JSON
and MAT are read whole. Which delimiter, encoding or sheet a file has is found out from the file:
by marks, and by where the columns are. Nothing is unpickled.
"""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from thinker.data.labels.columns import Row, are_numbers, column_rows, places, table_rows
from thinker.data.records import BadValueError, load_json
from thinker.utils.text import csv_records, marked_encoding, plain_utf8

DELIMITERS = (",", ";", "\t", "|")
BATCH_ROWS = 65536
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*")  # Excel's own, before the header


@dataclass(frozen=True, kw_only=True)
class SheetOptions:
    """What a file does not say of itself."""

    encoding: str | None = None
    """Encoding of text without a byte order mark, "cp1252". None: UTF-8, or UTF-16 by its zeros."""
    is_transposed: bool = False
    """Whether a row of the file is a column: CSV and XLSX."""


def sheet_rows(path: Path, columns: Sequence[str], options: SheetOptions) -> Iterator[Row]:
    """The rows of a file, in order, by the suffix of its name.

    Raises ValueError for a file that is not there or not what its name says, for a form that is not
    read, and for columns that it does not have.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        hint = " Save it as .xlsx or .csv." if path.suffix.lower() in (".xls", ".ods") else ""
        raise ValueError(f"{path}: expected a file of {', '.join(READERS)}.{hint}")
    try:
        yield from reader(path, columns, options)
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror or error}; give an existing file"
        ) from None


# text


def _text(path: Path, columns: Sequence[str], options: SheetOptions) -> Iterator[Row]:
    encoding = _encoding(path, options)
    try:
        delimiter, skipped = _delimiter(path, encoding, columns)
        with open(path, encoding=encoding, newline="") as file:
            for _ in range(skipped):
                next(file)
            table = csv_records(file, delimiter, first_line=skipped + 1)
            yield from table_rows(_turned(table, options), columns, str(path))
    except UnicodeError as error:
        raise ValueError(
            f"{path} is not {encoding}: {error}; name its encoding, such as cp1252 or gbk"
        ) from None
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from None


def _encoding(path: Path, options: SheetOptions) -> str:
    with open(path, "rb") as file:
        head = file.read(64)
    marked = marked_encoding(head)
    if marked is not None:
        return marked
    if options.encoding is None:
        wide = "utf-16-be" if head.startswith(b"\0") else "utf-16-le"
        return wide if b"\0" in head else "utf-8"
    try:
        "".encode(options.encoding)  # LookupError also for codecs that are of no text, as base64
        return codecs.lookup(options.encoding).name
    except LookupError:
        raise ValueError(
            f"encoding {options.encoding!r} is not known; give one such as cp1252 or gbk"
        ) from None


def _delimiter(path: Path, encoding: str, columns: Sequence[str]) -> tuple[str, int]:
    """The delimiter, and how many lines stand before the header. It is the one by which the header
    has the columns, else the one that gives most fields."""
    with open(path, encoding=encoding, newline="") as file:
        said = _SEPARATOR_LINE.fullmatch(file.readline())
    if said:
        return said[1], 1
    found: list[tuple[bool, int, str]] = []
    suffix = path.suffix.lower()
    for delimiter in ("\t",) if suffix == ".tsv" else (*DELIMITERS, *(" " * (suffix == ".txt"))):
        with open(path, encoding=encoding, newline="") as file:
            first = next(csv.reader(file, delimiter=delimiter), [])
        names = {cell.strip() for cell in first}
        found.append((names.issuperset(columns), len(first), delimiter))
    return max(found, key=lambda one: one[:2])[2], 0


def _turned(
    table: Iterator[tuple[int, Sequence[Any]]], options: SheetOptions
) -> Iterator[tuple[int, Sequence[Any]]]:
    if not options.is_transposed:
        return table
    return iter(list(enumerate(zip_longest(*(cells for _, cells in table)), start=1)))


# spreadsheets


def _xlsx(path: Path, columns: Sequence[str], options: SheetOptions) -> Iterator[Row]:
    """Of the first sheet that has the columns."""
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError:
        raise ValueError(_missing(path, "openpyxl")) from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a zip or XML parser says of a file that is no workbook
        raise ValueError(f"{path} is no XLSX workbook: {error}") from None
    try:
        reasons = []
        for sheet in book.worksheets:
            where = f"{path}, sheet {sheet.title!r}"
            values = enumerate(sheet.iter_rows(values_only=True), start=1)
            rows = table_rows(_turned(values, options), columns, where)
            try:
                first = next(rows, None)
            except ValueError as error:
                reasons.append(str(error))
                continue
            if first is not None:
                yield first
            yield from rows
            return
        raise ValueError("\n".join(reasons) or f"{path} has no sheet")
    finally:
        book.close()


# JSON


def _jsonl(path: Path, columns: Sequence[str], options: SheetOptions) -> Iterator[Row]:
    is_first = True
    with open(path, "rb") as file:
        is_wide = marked_encoding(file.read(4)) not in (None, "utf-8-sig")
        file.seek(0)
        # UTF-16 has no lines of bytes; such a file is read whole.
        lines = plain_utf8(file.read()).splitlines() if is_wide else file
        for line, raw in enumerate(lines, start=1):
            raw = plain_utf8(raw).strip() if line == 1 else raw.strip()
            if not raw:
                continue
            try:
                value = load_json(raw)
            except BadValueError as error:
                yield Row(line, (), str(error))
                continue
            if is_first:
                places(columns, _member_names(value), f"{path}:{line}")
                is_first = False
            yield _json_row(line, value, columns)


def _json(path: Path, columns: Sequence[str], options: SheetOptions) -> Iterator[Row]:
    try:
        value = load_json(plain_utf8(path.read_bytes()))
    except BadValueError as error:
        raise ValueError(f"{path}:{error.line}: {error}") from None
    if isinstance(value, dict):
        if set(columns) <= set(value):
            yield from column_rows(_by_column(value), columns, str(path))
            return
        value = _only_list(value)
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{path}: expected a list of records, an object with one list of records, columns as "
            "lists, or an object of labels by path (columns 1 and 2)"
        )
    places(columns, _member_names(value[0]), str(path))
    for number, record in enumerate(value, start=1):
        yield _json_row(number, record, columns)


def _by_column(value: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Columns as lists, or as pandas writes them: an object by row."""
    return {
        name: list(column.values()) if isinstance(column, dict) else column
        for name, column in value.items()
        if isinstance(column, list | dict)
    }


def _only_list(value: dict[str, Any]) -> Any:
    """The one list of records of an object; of an object of labels by path, its pairs."""
    lists = [part for part in value.values() if isinstance(part, list)]
    if len(lists) == 1 and lists[0] and isinstance(lists[0][0], dict | list):
        return lists[0]
    if value and not any(isinstance(part, dict | list) for part in value.values()):
        return [list(pair) for pair in value.items()]
    return None


def _member_names(value: Any, prefix: str = "") -> list[str]:
    """Names of the members of a record, those of inner objects with dots; of a list, numbers."""
    if isinstance(value, list):
        return [""] * len(value)
    if not isinstance(value, dict):
        return []
    names = [f"{prefix}{name}" for name in value]
    for name, inner in value.items():
        names += _member_names(inner, f"{prefix}{name}.") if isinstance(inner, dict) else []
    return names


def _json_row(line: int, value: Any, columns: Sequence[str]) -> Row:
    by_number = are_numbers(columns)
    if by_number and isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and by_number:
        at = [int(column) - 1 for column in columns]
        return Row(line, tuple(value[place] if place < len(value) else None for place in at))
    if not isinstance(value, dict):
        return Row(line, (), f"{json.dumps(value)[:80]} is no record")
    return Row(line, tuple(_member(value, column) for column in columns))


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name in value:
        return value.get(name) if isinstance(value, dict) else None
    outer, _, inner = name.partition(".")
    return _member(value.get(outer), inner) if inner else None


# binary


def _parquet(path: Path, columns: Sequence[str], options: SheetOptions) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise ValueError(_missing(path, "pyarrow")) from None
    try:
        with open(path, "rb") as file:
            table = ParquetFile(file)
            names = table.schema_arrow.names
            chosen = [names[place] for place in places(columns, names, str(path))]
            number = 0
            for batch in table.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(chosen))):
                cells = [batch.column(name).to_pylist() for name in chosen]
                for row in zip(*cells, strict=True):
                    number += 1
                    yield Row(number, row)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from None


def _mat(path: Path, columns: Sequence[str], options: SheetOptions) -> Iterator[Row]:
    from scipy.io import loadmat

    try:
        variables = loadmat(path, simplify_cells=True)
    except NotImplementedError:
        raise ValueError(
            f"{path} is of MATLAB's version 7.3, which is HDF5 and not read; save it in MATLAB by "
            "save(name, '-v7')"
        ) from None
    except OSError:
        raise
    except Exception as error:  # scipy says all sorts of things of a damaged file
        raise ValueError(f"{path} is no MAT file: {error}") from None
    table = _mat_columns({n: value for n, value in variables.items() if not n.startswith("__")})
    yield from column_rows(table, columns, str(path))


def _mat_columns(value: Mapping[str, Any], prefix: str = "") -> dict[str, Sequence[Any]]:
    """Variables, and fields of structs with dots, that are lists of values."""
    found: dict[str, Sequence[Any]] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            found |= _mat_columns(inner, f"{prefix}{name}.")
        elif len(getattr(inner, "shape", (0,))) != 1 or isinstance(inner, str):
            continue
        elif hasattr(inner, "__len__"):
            cells = inner.tolist() if hasattr(inner, "tolist") else list(inner)
            found[f"{prefix}{name}"] = cells
            if cells and all(isinstance(cell, dict) for cell in cells):
                fields = {key: [cell.get(key) for cell in cells] for key in cells[0]}
                found |= {f"{prefix}{name}.{key}": column for key, column in fields.items()}
    return found


def _missing(path: Path, package: str) -> str:
    return f"{path} needs {package}; install it: pip install 'vqa-thinker[labels]'"


READERS: dict[str, Callable[[Path, Sequence[str], SheetOptions], Iterator[Row]]] = {
    ".csv": _text,
    ".tsv": _text,
    ".txt": _text,
    ".xlsx": _xlsx,
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
    ".mat": _mat,
}
"""Suffix of a file: how it is read."""
