"""Every video of a data set, read once in worker processes before training starts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TypeVar

from thinker.clip import ClipSpec
from thinker.frame_cache import FrameCache
from thinker.video_file import VideoError


class TooManyBadVideosError(ValueError):
    """More videos failed than allowed; `failures` maps each path to its `VideoError`."""

    def __init__(
        self, failures: dict[Path, VideoError], num_videos: int, allowed_share: float
    ) -> None:
        self.failures = failures
        super().__init__(
            f"{len(failures)} of {num_videos} videos cannot be read, "
            f"allowed is a share of {allowed_share}:\n"
            + "\n".join(str(error) for error in failures.values())
        )


def check_videos(
    paths: Iterable[Path | str],
    spec: ClipSpec,
    cache: FrameCache,
    *,
    max_failed_share: float,
    num_workers: int,
) -> dict[Path, VideoError]:
    """Reads every video once in worker processes, which fills the cache, and returns the failing
    ones.

    The caller leaves these out and says so. Raises `TooManyBadVideosError`, listing all, where
    their share exceeds
    `max_failed_share` (0..1). A video that kills its worker (reason "crashed") costs only itself.
    """
    if not 0 <= max_failed_share <= 1:
        raise ValueError(f"max_failed_share must lie in 0..1, got {max_failed_share}")
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    unique = list(dict.fromkeys(Path(path) for path in paths))
    task = partial(_cache_one, FrameCache(cache.folder), spec)
    failures = {}
    for path, error in _map_guarded(task, unique, num_workers).items():
        if isinstance(error, _Died):
            failures[path] = VideoError(path, "crashed")
        elif error is not None:
            failures[path] = error
    if len(failures) > max_failed_share * len(unique):
        raise TooManyBadVideosError(failures, len(unique), max_failed_share)
    return failures


def _cache_one(cache: FrameCache, spec: ClipSpec, path: Path) -> VideoError | None:
    try:
        cache.get_or_read(path, spec)
    except VideoError as error:
        return error
    return None


class _Died:
    """Stands for the result of an item whose worker process died."""


Item = TypeVar("Item")
Result = TypeVar("Result")


def _map_guarded(
    task: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> dict[Item, Result | _Died]:
    """{item: task(item)} over processes; an item whose process dies (twice, the second time alone)
    gives `_Died`."""
    results: dict[Item, Result | _Died] = {}
    pending = list(items)
    while pending:
        results.update(_map_until_death(task, pending, num_workers))
        pending = [item for item in pending if item not in results]
        # Work is handed out in order: the killer is among the first unfinished ones. Alone, it
        # shows.
        for item in pending[:num_workers]:
            results[item] = _map_until_death(task, [item], 1).get(item, _Died())
        pending = pending[num_workers:]
    return results


def _map_until_death(
    task: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> dict[Item, Result]:
    """{item: task(item)}, incomplete where a worker process died."""
    results = {}
    # spawn: forking a process in which torch or the decoder already runs threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(items)), mp_context=context) as pool:
        futures = {pool.submit(task, item): item for item in items}
        for future in as_completed(futures):
            try:
                results[futures[future]] = future.result()
            except BrokenProcessPool:
                continue
    return results
