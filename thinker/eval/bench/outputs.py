"""What every benchmark leaves behind, beside what the evaluation wrote: `bench.txt`, `bench.json`
and the entry `bench` of `summary.json`, from which `thinker report` makes its page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thinker.eval.bench.tables import Table
from thinker.eval.summary import load_summary
from thinker.utils.atomic import write_atomic

NOT_FINISHED = "the benchmark's own figures follow with the last shard"


def is_finished(folder: Path) -> bool:
    """Whether all shards of an evaluation are done."""
    return (folder / "summary.json").is_file()


def coverage(num_answered: int, num_asked: int) -> str:
    """How many questions were answered, validly or not."""
    lost = num_asked - num_answered
    return f"{num_answered}/{num_asked} questions answered" + (
        f"; {lost} without an answer (media that could not be read) are left out" if lost else ""
    )


def write_bench(
    folder: Path,
    tables: Sequence[Table],
    *,
    figures: Mapping[str, Mapping[str, Any]] | None = None,
    **entry: Any,
) -> str:
    """Write the tables and what `entry` says besides; returns the tables as text.

    figures: by the key of a set, what its entry in the summary says more.
    """
    text = "\n\n".join(map(str, tables))
    values = {**entry, "tables": [asdict(table) for table in tables]}
    write_atomic(folder / "bench.json", json.dumps(values, indent=1))
    write_atomic(folder / "bench.txt", f"{text}\n")
    summary = load_summary(folder)
    summary["bench"] = values
    for key, more in (figures or {}).items():
        summary["sets"][key]["report"]["figures"] |= more
    write_atomic(folder / "summary.json", json.dumps(summary, indent=1))
    return text
