"""Evaluation of sets of any task: one CSV for each set, a row for every example, the figures.

Files become examples (`sets.py`), and examples windows of `WINDOW`, which are dealt out to shards.
Each shard answers its windows (`score/stream.py`) into its row journal. Once all shards are done,
the last one merges their rows into CSVs, a summary and a table. What fails is a row with a status,
never a made-up answer.

What is answered together does not depend on when a run was interrupted: a window that is not
complete is computed again as a whole, and only the missing rows are kept. So the result is that of
the uninterrupted run, whatever rounding a batch brings with it. A row that is retried is likewise
that of a run in which its medium could be read at once.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thinker.eval.fingerprint import scorer_fingerprint, sets_fingerprint
from thinker.eval.sets import LoadedSet
from thinker.eval.summary import write_results
from thinker.policies.digest import content_digest
from thinker.score.retry import check_retry, tell_failed
from thinker.score.scorer import QualityScorer, check_mode
from thinker.score.stream import window_predictions
from thinker.utils.journal import Row, RowJournal, check_claimed, claimed_folder, read_rows
from thinker.utils.lock import check_output_folder, folder_lock
from thinker.utils.progress import Progress
from thinker.video import read_clip
from thinker.video.perturb import read_perturbed_clip
from thinker.video.read_ahead import Reading

WINDOW = 64
"""How many examples are sorted by prompt length and cut into batches together. Shards are dealt
whole windows."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of the parts into which an evaluation is divided among processes."""

    index: int = 0
    """Which part, from 0 to `count` - 1."""
    count: int = 1
    """Into how many parts."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index}/{self.count}: expected i/n with i from 0 to n-1")

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


def parse_shard(text: str | None) -> Shard:
    """`"1/4"` is the second of four. None takes torchrun's RANK and WORLD_SIZE, else the whole."""
    if text is None:
        return Shard(
            index=int(os.environ.get("RANK", "0")), count=int(os.environ.get("WORLD_SIZE", "1"))
        )
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"shard {text!r}: expected i/n such as 0/4, i from 0")
    return Shard(index=int(parts[0]), count=int(parts[1]))


def evaluate(
    scorer: QualityScorer,
    loaded: Sequence[LoadedSet],
    output_dir: Path,
    reading: Reading,
    *,
    shard: Shard | None = None,
    retry: Collection[str] = (),
) -> str:
    """Answer this shard of every set that `load_sets` has read. The last shard to finish writes
    CSVs and `summary.json`.

    retry: statuses of rows without an answer that are there and are tried again, such as "missing";
    a row stays until its new one is written. Returns the table of figures, or how far the shards
    are. Raises ValueError before anything is asked where a set has no such mode, where the folder
    holds rows of another model or configuration, where another run is writing to it, and for a
    status that there is not.
    """
    check_retry(retry)
    shard = shard or Shard()
    for one in loaded:
        check_mode(scorer.mode, one.task)
    scorer.prepare([example for one in loaded for example in one.examples])
    fingerprint = scorer_fingerprint(scorer) | {
        "sets": sets_fingerprint(loaded),
        "num_shards": shard.count,
        "window": WINDOW,
    }

    def claim() -> AbstractContextManager[None]:
        return claimed_folder(output_dir, fingerprint, lambda: _has_rows(output_dir))

    with folder_lock(output_dir, f"run.{shard}"):
        with claim():
            pass
        journals = [RowJournal(_journal_path(output_dir, one.key, shard)) for one in loaded]
        statuses = Counter(row["status"] for j in journals for row in j.rows.values())
        tell_failed(statuses, retry)
        for one, journal in zip(loaded, journals, strict=True):
            _answer_shard(scorer, one, journal, shard, reading, retry, claim)
    with folder_lock(output_dir, "merge", wait=True):
        return _merge(output_dir, loaded, shard, fingerprint, scorer.model_name)


def check_folder(output_dir: Path, mode: str, shard: Shard) -> None:
    """Raises ValueError for what `evaluate` would refuse of the folder, as far as it can be told
    before a model is loaded."""
    check_output_folder(output_dir)
    if _has_rows(output_dir):
        check_claimed(output_dir, {"mode": mode, "num_shards": shard.count})


def _journal_path(output_dir: Path, key: str, shard: Shard) -> Path:
    return output_dir / "rows" / f"{key}.{shard}.jsonl"


def _has_rows(output_dir: Path) -> bool:
    """Whether any shard of any set has a whole row there."""
    return any(read_rows(path) for path in (output_dir / "rows").glob("*.jsonl"))


# answering


def _answer_shard(
    scorer: QualityScorer,
    one: LoadedSet,
    journal: RowJournal,
    shard: Shard,
    reading: Reading,
    retry: Collection[str],
    claim: Callable[[], AbstractContextManager[None]],
) -> None:
    """Complete this shard's windows of one set: rows that are missing, and those to be retried."""
    examples = one.examples
    own = [
        window
        for number, window in enumerate(windows(len(examples)))
        if number % shard.count == shard.index
    ]
    wanted = {
        i
        for window in own
        for i in window
        if i not in journal.rows or journal.rows[i]["status"] in retry
    }
    todo = [window for window in own if not wanted.isdisjoint(window)]
    read = partial(read_perturbed_clip, kind=one.perturbed) if one.perturbed else read_clip
    total = sum(map(len, todo))
    with Progress(total, unit="video", name=journal.path.stem) as progress:
        for index, prediction in window_predictions(scorer, examples, todo, reading, read):
            row: Row = {"id": examples[index].id, **prediction.to_row()}
            if index in wanted:
                with nullcontext() if journal.rows else claim():
                    journal.replace([(index, row)])
            progress.update()


def windows(count: int) -> list[range]:
    """The windows of a set of so many examples."""
    return [range(start, min(start + WINDOW, count)) for start in range(0, count, WINDOW)]


# merging


def _merge(
    output_dir: Path, loaded: Sequence[LoadedSet], shard: Shard, fingerprint: Row, model: str
) -> str:
    """Write the results if every row of every shard is there, else say how many are."""
    merged = [(one, _all_rows(output_dir, one, shard.count)) for one in loaded]
    num_rows = sum(len(rows) for _, rows in merged)
    num_total = sum(len(one.examples) for one in loaded)
    if num_rows < num_total:
        return (
            f"shard {shard} is done; {num_rows} of {num_total} rows are there. "
            "The last shard to finish writes the results"
        )
    ordered = [(one, [rows[i] for i in range(len(one.examples))]) for one, rows in merged]
    # For `thinker card`; whether a run may go on is decided without it.
    content = {"content": content_digest(model)}
    return write_results(output_dir, ordered, fingerprint | content)


def _all_rows(output_dir: Path, one: LoadedSet, num_shards: int) -> dict[int, Row]:
    """The rows of all shards of a set, by number. Raises ValueError for one that is there twice, or
    that belongs to another example."""
    rows: dict[int, Row] = {}
    for index in range(num_shards):
        path = _journal_path(output_dir, one.key, Shard(index=index, count=num_shards))
        for number, row in read_rows(path).items():
            if number in rows or not 0 <= number < len(one.examples):
                raise ValueError(f"{path}: row {number} is there twice or belongs to no example")
            if row["id"] != one.examples[number].id:
                raise ValueError(
                    f"{path}: row {number} is {row['id']!r}, expected {one.examples[number].id!r}"
                )
            rows[number] = row
    return rows
