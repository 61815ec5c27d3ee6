"""Whole archives, by Ray Data (`thinker score --engine ray`), on one machine or on a cluster.

Files that are not in the output yet are cut into chunks. Ray Data hands the chunks to actors, each
of which has its own model and worker processes, and an actor writes the rows of a chunk as one
Parquet part. Only counts come back. Ray schedules, holds back work that no actor is free for,
restarts actors that die and gives their chunk to another one.

The output is a folder of parts, which readers of Parquet take as one table. A part is named by a
hash of the paths in it, so a chunk that is done twice (a retry) overwrites itself. A restart reads
which paths are there and does the rest, so no row is lost and none is there twice. Rows that are
tried again replace the old ones within their part, which is written anew as a whole.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from thinker.policies.digest import model_digest
from thinker.score.prediction import OK
from thinker.score.retry import check_retry, tell_failed
from thinker.utils.atomic import write_atomic
from thinker.utils.journal import claimed_folder
from thinker.utils.lock import folder_lock
from thinker.utils.names import path_text
from thinker.video.read_ahead import Reading

CHUNK = 64
"""Videos of one part: enough for a batch, and few enough to lose with an actor."""
MAX_TASK_RETRIES = 3
"""How often a chunk is given to another actor before the run stops: a chunk that ended four actors
would end the next ones, too."""


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How an archive is divided among actors."""

    num_actors: int = 1
    """Models that work at the same time."""
    num_gpus: float = 0.0
    """GPUs of one actor, which may be a share of one; 0 on a machine without."""
    reading: Reading = field(default_factory=Reading)
    """How each actor decodes."""


class ScoreActor:
    """One model on Ray: it loads the policy once, then takes chunks of paths and writes a part for
    each."""

    def __init__(self, output: str, model: str, scorer: dict[str, Any], settings: RaySettings):
        from thinker.score.scorer import QualityScorer

        self.output, self.settings = Path(output), settings
        self.scorer = QualityScorer.from_pretrained(model, **scorer)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = Counter[str]()
        for text, part in zip(batch["paths"], batch["part"], strict=True):
            counts += self.score_chunk([Path(path) for path in json.loads(text)], str(part))
        return {"status": list(counts), "count": list(counts.values())}

    def score_chunk(self, paths: list[Path], part: str) -> Counter[str]:
        """Score the chunk, write its part and count its statuses. part: the name of the one that
        has rows of these paths; empty where there is none."""
        from thinker.score.stream import predictions

        scored = predictions(self.scorer, paths, self.settings.reading)
        rows = [prediction.to_row() for prediction in scored]
        if part:
            replace_rows(self.output / part, rows)
        else:
            write_part(self.output, rows)
        return Counter(str(row["status"]) for row in rows)


def score_archive(
    paths: Sequence[Path],
    output: Path,
    model: Path,
    scorer: dict[str, Any],
    settings: RaySettings,
    *,
    retry: Collection[str] = (),
) -> dict[str, int]:
    """Score every path that `output` has no row for, and those whose row has a status of `retry`,
    such as "missing". Returns how often each status occurs among all of `paths`.

    Raises ValueError where Ray is not installed, where another run writes to `output`, where the
    rows there are of another model or configuration, and for a status that there is not.
    """
    check_retry(retry)
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install 'vqa-thinker[ray]'") from None
    # This process never loads the model and knows it by its files.
    identity = {"model": model_digest(str(model), None), "settings": scorer}
    absolute = {path_text(path.absolute()): str(path.absolute()) for path in paths}
    with folder_lock(output / "_run"):
        with claimed_folder(output / "_run", identity, lambda: any(_parts(output))):
            pass
        done = done_paths(output)
        tell_failed((done[text].status for text in absolute if text in done), retry)
        todo = _chunks(absolute, done, retry)
        if todo:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends usage statistics
            ray.init(ignore_reinit_error=True, log_to_driver=False)
            _run(ray, todo, output.absolute(), model, scorer, settings)
        done = done_paths(output)
    counts = Counter(done[text].status for text in absolute if text in done)
    missing = len(absolute) - counts.total()
    if missing > 0:
        raise RuntimeError(f"{missing} of {len(absolute)} videos have no row; run it again")
    return dict(counts)


def _chunks(
    absolute: dict[str, str], done: dict[str, "DoneRow"], retry: Collection[str]
) -> list[dict[str, str]]:
    """What is left, as chunks of paths: new ones, and of each part those that are tried again."""
    new = [path for text, path in absolute.items() if text not in done]
    again: dict[str, list[str]] = {}
    for text, path in absolute.items():
        if text in done and done[text].status in retry:
            again.setdefault(done[text].part, []).append(path)
    chunks = [("", new[start : start + CHUNK]) for start in range(0, len(new), CHUNK)]
    return [{"part": part, "paths": json.dumps(paths)} for part, paths in [*chunks, *again.items()]]


def _run(ray, chunks, output, model, scorer, settings: RaySettings) -> None:
    # A block is what Ray schedules, holds back and retries; here each chunk is one.
    dataset = ray.data.from_items(chunks, override_num_blocks=len(chunks))
    scored = dataset.map_batches(
        ScoreActor,
        fn_constructor_args=(str(output), str(model), scorer, settings),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=settings.num_actors),
        num_gpus=settings.num_gpus,
        max_restarts=-1,
        max_task_retries=MAX_TASK_RETRIES,
    )
    for _ in scored.iter_rows():
        pass


# parts


def write_part(output: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write one Parquet file, named by the paths in it. It appears whole or not at all."""
    digest = hashlib.sha256("\n".join(str(row["path"]) for row in rows).encode()).hexdigest()[:24]
    path = output / f"part-{digest}.parquet"
    _write(path, [_flat(row) for row in rows])
    return path


def replace_rows(part: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Put these rows in place of the part's own of the same paths; the part keeps its name."""
    import pyarrow.parquet as pq

    new = {row["path"]: _flat(row) for row in rows}
    kept = pq.read_table(io.BytesIO(part.read_bytes()), schema=_schema()).to_pylist()
    _write(part, [new.get(row["path"], row) for row in kept])


def _write(part: Path, flat_rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(flat_rows), schema=_schema()), content)
    write_atomic(part, content.getvalue().to_pybytes())


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    interval = row["interval"] or (None, None)
    return {
        **{name: row[name] for name in _schema().names if name in row},
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
    columns |= {"interval_low": number, "interval_high": number, "seconds": number}
    columns |= {"scores": pa.list_(number), "probabilities": pa.list_(number)}
    columns |= {"frame_indices": pa.list_(pa.int64()), "model": text, "version": text}
    return pa.schema(list(columns.items()))


class DoneRow(NamedTuple):
    """Where a path has its row."""

    status: str
    """What became of it."""
    part: str
    """Name of the part that holds the row."""


def _parts(output: Path) -> list[Path]:
    return sorted(output.glob("part-*.parquet"))


def done_paths(output: Path) -> dict[str, DoneRow]:
    """The row of every path that has one, by the path's text (`thinker.utils.names`). Raises
    ValueError for a path that has two."""
    import pyarrow.parquet as pq

    done: dict[str, DoneRow] = {}
    for part in _parts(output):
        # pyarrow takes no path that is not UTF-8, but any file that is open.
        with open(part, "rb") as file:
            table = pq.read_table(file, columns=["path", "status"]).to_pydict()
        for path, status in zip(table["path"], table["status"], strict=True):
            if path in done:
                raise ValueError(f"{part}: {path} has a row in another part, too")
            done[path] = DoneRow(status, part.name)
    return done


def format_counts(counts: dict[str, int]) -> str:
    """Example: `3 videos: 2 ok, 1 missing`."""
    ordered = sorted(counts.items(), key=lambda pair: (pair[0] != OK, pair[0]))
    shown = ", ".join(f"{count} {status}" for status, count in ordered)
    return f"{sum(counts.values())} videos: {shown}"
