"""The driver of an archive: it divides what is left among actors on Ray and adds up what they
count. Its memory grows by nine bytes a chunk, whatever the rows.

Of Ray Data this takes the pool of actors: it scales between bounds, restarts actors that die, and
gives their work to others. Rows are no data of Ray's. Its readers number no rows, so that a part
could not be found again; its `CheckpointConfig` brings the names of all rows that are done into
memory, and counts no tries (docs/log.md).
"""

import os
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thinker.policies.digest import model_digest
from thinker.policies.hub import local_folder, pinned
from thinker.score.archive.actor import Job, ScoreActor
from thinker.score.archive.listing import open_listing, update_listing
from thinker.score.archive.parts import check_layout, part_numbers, survey
from thinker.score.archive.table import PathTable, is_table, open_tables
from thinker.score.archive.tries import Starts
from thinker.score.prediction import OK
from thinker.score.retry import check_retry, tell_failed
from thinker.utils.journal import claimed_folder
from thinker.utils.lock import folder_lock
from thinker.video.read_ahead import Reading

TASKS_AN_ACTOR, MAX_TASKS = 32, 8192
"""What is left is divided into so many tasks: an actor that has the last one keeps the others
waiting for 3 % of the run at most, and Ray's books stay small whatever the rows."""


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How an archive is divided among actors."""

    min_actors: int = 1
    """Models that work at the same time, from the start on."""
    max_actors: int = 1
    """Up to so many are started while there is work and room for them."""
    num_gpus: float = 0.0
    """GPUs of one actor, which may be a share of one; 0 on a machine without."""
    reading: Reading = field(default_factory=Reading)
    """How each actor decodes."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_actors <= self.max_actors or not self.num_gpus >= 0:
            raise ValueError(
                f"{self.min_actors} to {self.max_actors} actors with {self.num_gpus} GPUs each, "
                "expected 1 ≤ lower bound ≤ upper bound, and at least 0 GPUs"
            )

    @property
    def max_starts(self) -> int:
        """Models that may fail to load in a row: all may lie on a machine that is lost, twice."""
        return 2 * self.max_actors + 2


def score_archive(
    names: Sequence[str],
    output: Path,
    model: Path,
    scorer: dict[str, Any],
    settings: RaySettings,
    *,
    column: str = "path",
    retry: Collection[str] = (),
) -> dict[str, int]:
    """Score every row of the input that `output` has no row for, and those whose row has a status
    of `retry`, such as "missing". Returns how often each status occurs among all rows.

    model: a folder that every machine reaches under this path, or a name on a hub.
    names: path tables (`….parquet`: files, folders or URLs) with the paths in `column`, of which
        each row becomes one, also of a path that stands in several; or files, folders and globs,
        of which each file counts once. What a later run finds besides is added.

    Raises ValueError where Ray is not installed, where another run writes to `output`, where the
    rows there are of another model, configuration or table, and for a status that there is not.
    """
    check_retry(retry)
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install 'vqa-thinker[ray]'") from None
    output = output.absolute()
    check_layout(output)
    with folder_lock(output / "_run"):
        # This process never loads the model and knows it by its files.
        model = pinned(model)
        identity = {"model": model_digest(str(local_folder(model)), None), "settings": scorer}
        table = _claimed_table(names, column, output, identity)
        found = survey(output, table.num_chunks, retry)
        tell_failed(found.all_counts, retry)
        todo = np.flatnonzero(~found.done | found.again)
        counts = Counter(found.kept_counts)
        if len(todo):
            job = Job(
                output=output,
                model=model,
                scorer=scorer,
                table=table,
                reading=settings.reading,
                retry=tuple(retry),
                max_starts=settings.max_starts,
            )
            counts += _run(ray, todo, job, settings)
    missing = table.num_rows - counts.total()
    if missing:
        raise RuntimeError(f"{missing} of {table.num_rows} videos have no row; run it again")
    return dict(counts)


def _claimed_table(
    names: Sequence[str], column: str, output: Path, identity: dict[str, Any]
) -> PathTable:
    """The input, in a folder that belongs to it and to this configuration from now on."""
    run_folder = output / "_run"

    def has_rows() -> bool:
        return next(part_numbers(output), None) is not None

    kinds = {is_table(name) for name in names}
    if kinds == {True, False}:
        raise ValueError("--input is either path tables (….parquet) or files, folders and globs")
    if kinds == {True}:
        table, digest = open_tables(names, column)
        identity["input"] = {"table": digest, "column": column, "rows": table.num_rows}
        identity["input"]["chunk"] = table.files[0].chunk_rows
        with claimed_folder(run_folder, identity, has_rows):
            return table
    identity["input"] = {"table": None}
    with claimed_folder(run_folder, identity, has_rows):
        listing = run_folder / "listing"
        if not has_rows():  # of a command that was mended
            shutil.rmtree(listing, ignore_errors=True)
        update_listing(names, listing)
        return open_listing(listing)


def _start(ray: Any) -> None:
    """Join the cluster that there is, or start one of this machine. Raises ValueError where neither
    comes up."""
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False)
    except Exception as error:  # Ray raises a plain Exception where a node does not start in time
        ray.shutdown()
        reason = " ".join(str(error).split())
        raise ValueError(
            f"Ray does not start: {reason}. On a busy machine give it more time "
            "(RAY_raylet_start_wait_time_s=300), or start it before (ray start --head)"
        ) from error


def _run(ray: Any, todo: np.ndarray, job: Job, settings: RaySettings) -> Counter[str]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends usage statistics
    _start(ray)
    Starts(job.run_folder / "tries", job.max_starts).forget()
    # Without it a machine that is lost while an actor on it loads its model would end the run.
    ray.data.DataContext.get_current().max_consecutive_actor_init_deaths = job.max_starts
    num_tasks = min(len(todo), TASKS_AN_ACTOR * settings.max_actors, MAX_TASKS)
    # A block is what Ray schedules, holds back and retries: for ever, as actors are restarted for
    # ever, which are its defaults. `tries.py` counts.
    dataset = ray.data.from_numpy(np.array_split(todo, num_tasks))
    scored = dataset.map_batches(
        ScoreActor,
        fn_constructor_args=(job,),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(
            min_size=settings.min_actors, max_size=settings.max_actors
        ),
        num_gpus=settings.num_gpus,
    )
    counts = Counter[str]()
    for row in scored.iter_rows():
        counts[row["status"]] += int(row["count"])
    return counts


def format_counts(counts: dict[str, int]) -> str:
    """Example: `3 videos: 2 ok, 1 missing`."""
    ordered = sorted(counts.items(), key=lambda pair: (pair[0] != OK, pair[0]))
    shown = ", ".join(f"{count} {status}" for status, count in ordered)
    return f"{sum(counts.values())} videos: {shown}"
