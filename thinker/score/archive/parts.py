"""The output of an archive: one Parquet file a chunk, at most a thousand in a folder.

`<output>/000012/part-000012345.parquet` holds the rows of chunk 12345, in the order of the input.
It appears whole or not at all, and a chunk has no other one, so no row is lost and none is there
twice, whoever wrote it and how often. Readers of Parquet take the folder as one table.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thinker.utils.atomic import write_atomic

CHUNKS_A_FOLDER = 1000
"""No folder holds a million files, nor is there a million of folders."""
_THREADS = 16  # that read parts at once; on a network mount they mostly wait
_NAME = re.compile(r"part-(\d{9})\.parquet")

Row = dict[str, Any]


def part_path(output: Path, chunk: int) -> Path:
    """Example: `part_path(Path("out"), 12345)` is `out/000012/part-000012345.parquet`."""
    return output / f"{chunk // CHUNKS_A_FOLDER:06d}" / f"part-{chunk:09d}.parquet"


def write_part(output: Path, chunk: int, flat_rows: Sequence[Row]) -> None:
    """Write the part of a chunk, or put these rows in the place of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(flat_rows), schema=_schema()), content)
    path = part_path(output, chunk)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue().to_pybytes())


def read_part(output: Path, chunk: int) -> list[Row] | None:
    """The rows of a chunk; None where it has no part yet."""
    table = _table(part_path(output, chunk), schema=_schema())
    return None if table is None else table.to_pylist()


def read_statuses(output: Path, chunk: int) -> Counter[str]:
    """How often each status occurs in a part that is there."""
    table = _table(part_path(output, chunk), columns=["status"])
    assert table is not None, "only looked at where it is there"
    return Counter(table.column(0).to_pylist())


def _table(path: Path, **options: Any) -> Any:
    """pyarrow takes no path that is not UTF-8, but any file that is open."""
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as file:
            return pq.read_table(file, **options)
    except FileNotFoundError:
        return None


def flat_row(row: Row) -> Row:
    """The columns of a row of `Prediction.to_row`."""
    span, interval = row["answer_range"] or (None, None), row["interval"] or (None, None)
    return {
        **{name: row[name] for name in _schema().names if name in row},
        "answer_low": span[0],
        "answer_high": span[1],
        "interval_low": interval[0],
        "interval_high": interval[1],
        "scores": [score for score, _ in row["distribution"]],
        "probabilities": [share for _, share in row["distribution"]],
    }


def _schema():
    """The columns of a part. They are stated because a part without a single score would otherwise
    get a column of type null."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    columns = {"path": text, "score": number, "status": text, "mode": text, "reasoning": text}
    columns |= {"completion": text, "error": text, "note": text}
    columns |= {"spread": number, "num_tokens": number}
    columns |= {"answer_low": number, "answer_high": number, "seconds": number}
    columns |= {"interval_low": number, "interval_high": number}
    columns |= {"likeness": number, "calibrated_on": text}
    columns |= {"scores": pa.list_(number), "probabilities": pa.list_(number)}
    columns |= {"frame_indices": pa.list_(pa.int64()), "model": text, "version": text}
    return pa.schema(list(columns.items()))


class Survey(NamedTuple):
    """What an output holds."""

    done: np.ndarray
    """bool, a chunk each: it has a part."""
    again: np.ndarray
    """bool, a chunk each: a row of its part is to be tried again."""
    all_counts: Counter[str]
    """Statuses of all rows that are there."""
    kept_counts: Counter[str]
    """Those of the parts that stay as they are."""


def survey(output: Path, num_chunks: int, retry: Collection[str]) -> Survey:
    """What is there, and what of it is to be tried again. It reads one column of every part."""
    done, again = np.zeros(num_chunks, dtype=bool), np.zeros(num_chunks, dtype=bool)
    for chunk in part_numbers(output):
        done[chunk] = True
    all_counts, kept_counts = Counter[str](), Counter[str]()
    there = np.flatnonzero(done)
    with ThreadPoolExecutor(_THREADS) as threads:
        # By a thousand: `map` takes all of its arguments at once.
        for start in range(0, len(there), CHUNKS_A_FOLDER):
            chunks = there[start : start + CHUNKS_A_FOLDER].tolist()
            found = threads.map(lambda chunk: read_statuses(output, chunk), chunks)
            for chunk, counts in zip(chunks, found, strict=True):
                all_counts.update(counts)
                again[chunk] = not counts.keys().isdisjoint(retry)
                if not again[chunk]:
                    kept_counts.update(counts)
    return Survey(done, again, all_counts, kept_counts)


def part_numbers(output: Path) -> Iterator[int]:
    """The chunks that have a part, one folder after the other."""
    for folder in sorted(output.glob("[0-9]" * 6)):
        with os.scandir(folder) as entries:
            for entry in entries:
                if match := _NAME.fullmatch(entry.name):
                    yield int(match[1])


def check_layout(output: Path) -> None:
    """Raises ValueError for a folder whose parts are named by their paths, as they once were."""
    if next(output.glob("part-*.parquet"), None) is not None:
        raise ValueError(
            f"{output} holds parts of an older version of thinker, which were named by the hash of "
            "their paths; they stay readable, but this version cannot go on with them: choose "
            "another output folder"
        )
