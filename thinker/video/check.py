"""Every video of a data set, read once in worker processes before training starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from thinker.utils.worker_pool import Failure, Limits, map_in_workers
from thinker.video.boundary import attempt, error_from_bytes, error_to_bytes
from thinker.video.cache import ClipReader, FrameCache
from thinker.video.clip import ClipSpec
from thinker.video.file import VideoError
from thinker.video.medium import Medium, Source, medium


class TooManyBadVideosError(ValueError):
    """More videos failed than allowed; `failures` maps each medium to its `VideoError`."""

    def __init__(
        self, failures: dict[Medium, VideoError], num_videos: int, allowed_share: float
    ) -> None:
        self.failures = failures
        super().__init__(
            f"{len(failures)} of {num_videos} videos cannot be read, "
            f"allowed is a share of {allowed_share}:\n"
            + "\n".join(str(error) for error in failures.values())
        )


def check_videos(
    media: Iterable[Source],
    spec: ClipSpec,
    cache: FrameCache | None,
    *,
    max_failed_share: float,
    num_workers: int | None = None,
    limits: Limits | None = None,
) -> dict[Medium, VideoError]:
    """Reads every medium (a path means `medium(path)`) once in worker processes, which fills the
    cache (if there is one), and returns the failing ones.

    The caller leaves these out and says so. Raises `TooManyBadVideosError`, which lists them all,
    where their share exceeds `max_failed_share` (0..1). A video that twice crashes its process
    (reason "crashed") or passes a limit ("timeout", "memory") costs only itself.

    All training processes of a run call this together: each reads a part of the videos, and each
    learns of all failures. num_workers counts the workers of one training process; None divides the
    cores of this machine among its training processes.
    """
    # Imported here because a worker process imports this module and has no use for accelerate.
    from accelerate import PartialState
    from accelerate.utils import gather_object

    if not 0 <= max_failed_share <= 1:
        raise ValueError(f"max_failed_share must lie in 0..1, got {max_failed_share}")
    if num_workers is None:
        num_workers = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    unique = list(dict.fromkeys(map(medium, media)))
    task = partial(_read_once, None if cache is None else cache.folder, spec)
    state = PartialState()
    own = unique[state.process_index :: state.num_processes]
    answers = map_in_workers(task, own, num_workers=num_workers, limits=limits)
    found = {}
    for wanted, answer in zip(own, answers, strict=True):
        if isinstance(answer, Failure):
            found[wanted] = VideoError(wanted.path, answer.reason, answer.detail)
        elif answer:
            found[wanted] = error_from_bytes(wanted.path, answer)
    failures = {wanted: error for part in gather_object([found]) for wanted, error in part.items()}
    if len(failures) > max_failed_share * len(unique):
        raise TooManyBadVideosError(failures, len(unique), max_failed_share)
    return failures


def _read_once(folder: Path | None, spec: ClipSpec, wanted: Medium) -> bytes:
    """Runs in the worker. Gives no bytes for a good video, else the reason and the detail of its
    error."""
    reader = ClipReader(spec, None if folder is None else FrameCache(folder))
    clip = attempt(wanted.path, lambda: reader(wanted))
    return error_to_bytes(clip) if isinstance(clip, VideoError) else b""
