"""Evaluation of annotated sets: one CSV for each set, a row for every annotated video, the figures.

Meta files become samples, and samples windows of `WINDOW` videos, which are dealt out to shards.
Each shard scores its windows (`score/stream.py`) into its row journal. Once all shards are done,
the last one merges their rows into CSVs, a summary and a table. A video that fails is a row with a
status, never a made-up score.

What is scored together does not depend on when a run was interrupted: a window that is not complete
is computed again as a whole, and only the missing rows are kept. So the result is that of the
uninterrupted run, whatever rounding a batch brings with it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from thinker.data.bad_lines import BadLine
from thinker.data.datasets import EvalSet, load_eval_examples
from thinker.data.examples import Example
from thinker.eval.fingerprint import scorer_fingerprint, sets_fingerprint
from thinker.eval.summary import write_results
from thinker.score.prediction import Prediction
from thinker.score.scorer import QualityScorer
from thinker.score.stream import window_predictions
from thinker.utils.journal import Row, RowJournal, claim_folder, read_rows
from thinker.utils.lock import folder_lock
from thinker.video.read_ahead import Reading

WINDOW = 64
"""How many videos are sorted by prompt length and cut into batches together. Shards are dealt whole
windows."""


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


@dataclass(frozen=True, kw_only=True)
class LoadedSet:
    """A set and what its meta file holds."""

    eval_set: EvalSet
    """Where the set is and how it is labelled."""
    samples: list[Example]
    """Its annotated videos, in the order of the file."""
    bad_lines: list[BadLine]
    """Annotations that cannot be used; none unless the user asked to skip them."""


def evaluate_sets(
    scorer: QualityScorer,
    sets: Sequence[EvalSet],
    output_dir: Path,
    reading: Reading,
    *,
    shard: Shard | None = None,
    skip_bad_lines: bool = False,
) -> str:
    """Score this shard of every set. The last shard to finish writes CSVs and `summary.json`.

    Returns the table of figures, or how far the shards are. Raises ValueError before anything is
    scored where a meta file is bad, where the folder belongs to another model or configuration, and
    where another run is writing to it.
    """
    shard = shard or Shard()
    keys = [eval_set.key for eval_set in sets]
    if len(set(keys)) < len(keys):
        raise ValueError(f"sets {', '.join(keys)}: expected each of them once")
    loaded = [_load(eval_set, skip_bad_lines) for eval_set in sets]
    fingerprint = scorer_fingerprint(scorer) | {
        "sets": sets_fingerprint(sets),
        "num_shards": shard.count,
        "window": WINDOW,
        "skip_bad_lines": skip_bad_lines,
    }
    with folder_lock(output_dir, f"run.{shard}"):
        claim_folder(output_dir, fingerprint)
        for one in loaded:
            journal = RowJournal(_journal_path(output_dir, one.eval_set.key, shard))
            _score_shard(scorer, one.samples, journal, shard, reading)
    with folder_lock(output_dir, "merge", wait=True):
        return _merge(output_dir, loaded, shard, fingerprint)


def _load(eval_set: EvalSet, skip_bad_lines: bool) -> LoadedSet:
    loaded = load_eval_examples(eval_set, skip_bad_lines=skip_bad_lines)
    return LoadedSet(eval_set=eval_set, samples=loaded.examples, bad_lines=loaded.bad_lines)


def _journal_path(output_dir: Path, key: str, shard: Shard) -> Path:
    return output_dir / "rows" / f"{key}.{shard}.jsonl"


# scoring


def _score_shard(
    scorer: QualityScorer,
    samples: Sequence[Example],
    journal: RowJournal,
    shard: Shard,
    reading: Reading,
) -> None:
    """Complete this shard's windows of one set."""
    todo = [
        window
        for number, window in enumerate(_windows(len(samples)))
        if number % shard.count == shard.index and any(i not in journal.rows for i in window)
    ]
    paths = [sample.media[0].path for sample in samples]
    num_videos = sum(map(len, todo))
    # disable=None shows no bar where standard error is not a terminal.
    with tqdm(total=num_videos, desc=journal.path.stem, unit="video", disable=None) as bar:
        for index, prediction in window_predictions(scorer, paths, todo, reading):
            journal.append([(index, _row(samples[index], prediction))])
            bar.update()


def _windows(count: int) -> list[range]:
    return [range(start, min(start + WINDOW, count)) for start in range(0, count, WINDOW)]


def _row(sample: Example, prediction: Prediction) -> Row:
    """What the journal keeps: the prediction, and which sample it belongs to."""
    return {"id": sample.id, **replace(prediction, path=sample.media[0].path).to_row()}


# merging


def _merge(output_dir: Path, loaded: Sequence[LoadedSet], shard: Shard, fingerprint: Row) -> str:
    """Write the results if every row of every shard is there, else say how many are."""
    merged = []
    num_rows = num_total = 0
    for one in loaded:
        rows = _all_rows(output_dir, one, shard.count)
        num_rows, num_total = num_rows + len(rows), num_total + len(one.samples)
        merged.append((one, rows))
    if num_rows < num_total:
        return (
            f"shard {shard} is done; {num_rows} of {num_total} rows are there. "
            "The last shard to finish writes the results"
        )
    return write_results(
        output_dir,
        [
            (one.eval_set, one.samples, [rows[i] for i in range(len(one.samples))], one.bad_lines)
            for one, rows in merged
        ],
        fingerprint,
    )


def _all_rows(output_dir: Path, one: LoadedSet, num_shards: int) -> dict[int, Row]:
    """The rows of all shards of a set, by number. Raises ValueError for one that is there twice, or
    that belongs to another sample."""
    rows: dict[int, Row] = {}
    for index in range(num_shards):
        path = _journal_path(output_dir, one.eval_set.key, Shard(index=index, count=num_shards))
        for number, row in read_rows(path).items():
            if number in rows or not 0 <= number < len(one.samples):
                raise ValueError(f"{path}: row {number} is there twice or belongs to no video")
            if row["id"] != one.samples[number].id:
                raise ValueError(
                    f"{path}: row {number} is {row['id']!r}, expected {one.samples[number].id!r}"
                )
            rows[number] = row
    return rows
