"""The input of an archive as numbered chunks: Parquet files with a column of paths.

In: Parquet files, here or in an object store. Out: how many chunks there are, and the paths of any
one of them. Rows keep their places, so that a chunk is the same in every run and on every machine;
only the footers are read before an actor asks for a chunk.
"""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from thinker.utils.names import path_text
from thinker.video.sources.remote import check_scheme, is_url

MIN_CHUNK, MAX_CHUNK = 64, 1024
"""Rows of a chunk. 64 are enough for a batch, and few enough to lose with an actor; 1,024 keep the
parts of 10^9 rows to a million files."""
FEW_CHUNKS = 2**14
"""Up to so many chunks, they stay small."""


@dataclass(frozen=True, kw_only=True)
class PathFile:
    """One Parquet file of paths."""

    name: str
    """Its path or URL."""
    num_rows: int
    """As its footer says."""
    chunk_rows: int
    """Rows of each of its chunks, but for the last one; no chunk spans two files."""

    @property
    def num_chunks(self) -> int:
        """The last one may be short."""
        return -(-self.num_rows // self.chunk_rows)


@dataclass(frozen=True, kw_only=True)
class PathTable:
    """Files of paths, whose chunks are numbered through from 0."""

    files: tuple[PathFile, ...]
    """In the order of their names."""
    column: str
    """That of the paths."""

    @property
    def num_rows(self) -> int:
        """Of all files."""
        return sum(file.num_rows for file in self.files)

    @property
    def num_chunks(self) -> int:
        """Of all files."""
        return sum(file.num_chunks for file in self.files)


def chunk_rows(num_rows: int) -> int:
    """Rows of a chunk of an input. Example: 64 of 10^6 rows, 610 of 10^7, 1024 of 10^9."""
    return min(MAX_CHUNK, max(MIN_CHUNK, num_rows // FEW_CHUNKS))


def is_table(name: str) -> bool:
    """Whether what a user names is a path table: a file, or a folder of files, `….parquet`."""
    return name.rstrip("/").endswith(".parquet")


def open_tables(names: Sequence[str], column: str) -> tuple[PathTable, str]:
    """The table of all files, and a digest of their footers, which hold the places and the bounds
    of all data. Raises ValueError for a file that is none, or that has no such column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted({file for name in names for file in _table_files(name)})
    digest, counts = hashlib.blake2b(digest_size=16), []
    for name in files:
        try:
            with opened(name) as file:
                digest.update(_footer(file))
                parquet = pq.ParquetFile(file)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"table {path_text(name)} cannot be read: {error}") from None
        _check_column(name, parquet.schema_arrow, column)
        counts.append(parquet.metadata.num_rows)
    if not sum(counts):
        raise ValueError(f"table {', '.join(map(path_text, names))} has no row")
    size = chunk_rows(sum(counts))
    parts = (
        PathFile(name=name, num_rows=count, chunk_rows=size)
        for name, count in zip(files, counts, strict=True)
    )
    table = PathTable(files=tuple(parts), column=column)
    first = TableReader(table).names(0)
    for name in filter(is_url, first):
        check_scheme(name)
    return table, digest.hexdigest()


def _table_files(name: str) -> list[str]:
    """The files of a table: itself, or those of its folder."""
    if is_url(name):
        check_scheme(name)
        import fsspec

        system, path = fsspec.core.url_to_fs(name)
        if not system.isdir(path):
            return [name]
        found = [system.unstrip_protocol(file) for file in system.find(path)]
    else:
        path = os.path.abspath(name)
        if not os.path.isdir(path):
            return [path]
        found = [str(file) for file in Path(path).rglob("*.parquet")]
    files = [file for file in found if file.endswith(".parquet")]
    if not files:
        raise ValueError(f"table {path_text(name)} is a folder without a .parquet file")
    return files


def _footer(file: BinaryIO) -> bytes:
    file.seek(-8, os.SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8 - length))
    footer = file.read()
    file.seek(0)
    return footer


def _check_column(name: str, schema: Any, column: str) -> None:
    import pyarrow as pa

    if column not in schema.names:
        raise ValueError(
            f"table {path_text(name)} has no column {column!r}; its columns are "
            f"{', '.join(schema.names)}. Name the one of the paths by --path-column"
        )
    kind = schema.field(column).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())
    if value not in types:
        raise ValueError(
            f"column {column!r} of table {path_text(name)} is of type {kind}, expected text "
            "(paths or URLs) or binary (the bytes of paths)"
        )


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """A file of this machine or of an object store."""
    if is_url(name):
        import fsspec

        with fsspec.open(name, "rb") as file:
            yield file
    else:
        with open(name, "rb") as file:
            yield file


class TableReader:
    """The paths of chunks. It holds one row group's column of paths at a time, as chunks that
    follow one another mostly lie in one."""

    def __init__(self, table: PathTable) -> None:
        self._table = table
        self._stops = list(accumulate(file.num_chunks for file in table.files))
        self._groups: tuple[str, list[int]] = ("", [])  # a file, and where its row groups end
        self._held: tuple[str, int, Any] = ("", -1, None)  # a file, a row group, its column

    def names(self, chunk: int) -> list[str]:
        """The path or URL of each row, in order: absolute, or "" where the table holds none. A
        relative path is one from the folder of the table."""
        number = bisect_right(self._stops, chunk)
        file = self._table.files[number]
        inside = chunk - (self._stops[number] - file.num_chunks)
        first = inside * file.chunk_rows
        stop = min(first + file.chunk_rows, file.num_rows)
        folder = file.name.rpartition("/")[0]
        return [_absolute(value, folder) for value in self._values(file.name, first, stop)]

    def _values(self, name: str, first: int, stop: int) -> list[str | bytes | None]:
        values: list[str | bytes | None] = []
        ends = self._ends(name)
        while first < stop:
            group = bisect_right(ends, first)
            start = ends[group - 1] if group else 0
            end = min(stop, ends[group])
            values += self._column(name, group).slice(first - start, end - first).to_pylist()
            first = end
        return values

    def _ends(self, name: str) -> list[int]:
        import pyarrow.parquet as pq

        if self._groups[0] != name:
            with opened(name) as file:
                data = pq.ParquetFile(file).metadata
                rows = (data.row_group(group).num_rows for group in range(data.num_row_groups))
                self._groups = (name, list(accumulate(rows)))
        return self._groups[1]

    def _column(self, name: str, group: int) -> Any:
        import pyarrow.parquet as pq

        if self._held[:2] != (name, group):
            self._held = ("", -1, None)  # two of them are never in memory
            with opened(name) as file:
                table = pq.ParquetFile(file).read_row_group(group, columns=[self._table.column])
            self._held = (name, group, table.column(0))
        return self._held[2]


def _absolute(value: str | bytes | None, folder: str) -> str:
    name = os.fsdecode(value) if isinstance(value, bytes) else value
    if not name or is_url(name) or name.startswith("/"):
        return name or ""
    return f"{folder}/{name}"
