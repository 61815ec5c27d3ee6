"""Folders, globs and files as a path table: what a walk finds, written as it is found.

A walk gives files in the order of the names of their folders, so walks and earlier listings can be
merged like sorted files: memory holds one folder of each level, whatever is below it. A run that
goes on walks again; what is new is written to another file of the listing, whose chunks follow
those that are there.
"""

import glob
import heapq
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from thinker.score.archive.table import PathFile, PathTable, chunk_rows
from thinker.utils.atomic import atomic_file
from thinker.utils.names import path_text
from thinker.video.find import Entry, files_below, files_matching, stream_videos
from thinker.video.sources.remote import check_scheme, is_url

COLUMN = "path"
"""Of the listing; it holds the bytes of names, which need not be UTF-8."""
_CHUNK_ROWS = "thinker.chunk_rows"
_BLOCK = 2**16  # paths of one row group


def update_listing(names: Sequence[str], folder: Path) -> None:
    """Write what the names give and the listing in `folder` has not yet. Raises ValueError as
    `find_videos` does, and where none of the names exists."""
    if not any(is_url(name) or glob.has_magic(name) or os.path.exists(name) for name in names):
        shown = ", ".join(map(path_text, names[:5]))
        raise ValueError(f"none of the files exists: {shown}{' …' if len(names) > 5 else ''}")
    folder.mkdir(parents=True, exist_ok=True)
    there = _listings(folder)
    known = heapq.merge(*(_listed(path) for path in there), key=_order)
    walks = (_walk(name, is_alone=len(names) == 1) for name in names)
    found = heapq.merge(*walks, key=_order)
    _write(folder / f"{len(there):06d}.parquet", _without(found, known))


def open_listing(folder: Path) -> PathTable:
    """The listing as a table."""
    import pyarrow.parquet as pq

    files = []
    for path in _listings(folder):
        with open(path, "rb") as file:
            data = pq.ParquetFile(file).metadata
        size = int(data.metadata[_CHUNK_ROWS.encode()])
        files.append(PathFile(name=str(path), num_rows=data.num_rows, chunk_rows=size))
    return PathTable(files=tuple(files), column=COLUMN)


def _listings(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.parquet"))


def _order(name: str) -> list[str]:
    """By folders, as `Path`s are ordered and walks go."""
    return name.split("/")


def _walk(name: str, *, is_alone: bool) -> Iterator[str]:
    if is_url(name):
        yield from _walk_url(name)
    else:
        for path in stream_videos(name, is_alone=is_alone):
            yield str(path.absolute())


def _walk_url(name: str) -> Iterator[str]:
    check_scheme(name)
    import fsspec

    system, root = fsspec.core.url_to_fs(name)

    def entries(folder: str) -> list[Entry]:
        listed = system.ls(folder, detail=True)
        found = [(one["name"].rstrip("/"), one["type"] == "directory") for one in listed]
        inside = [(path.rpartition("/")[2], is_folder, False) for path, is_folder in found]
        return sorted(inside)

    if glob.has_magic(root) and not system.exists(root):
        files = files_matching(root, entries)
    elif system.isdir(root):
        files = files_below(root, entries)
    else:
        files = iter([root])
    yield from map(system.unstrip_protocol, files)


def _without(found: Iterable[str], known: Iterator[str]) -> Iterator[str]:
    """Those of `found` that are not known, each once. Both come in order."""
    there = next(known, None)
    last = None
    for name in found:
        while there is not None and _order(there) < _order(name):
            there = next(known, None)
        if name not in (there, last):
            yield name
        last = name


def _listed(path: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    with open(path, "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(_BLOCK):
            yield from map(os.fsdecode, batch.column(0).to_pylist())


def _write(path: Path, names: Iterator[str]) -> None:
    """Write the names in blocks; no file where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = next(names, None)
    if first is None:
        return
    schema, count, block = pa.schema({COLUMN: pa.binary()}), 0, [os.fsencode(first)]
    with atomic_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        while block:
            writer.write_table(pa.table({COLUMN: block}, schema=schema))
            count += len(block)
            block = [os.fsencode(name) for name in itertools.islice(names, _BLOCK)]
        writer.add_key_value_metadata({_CHUNK_ROWS: str(chunk_rows(count))})
