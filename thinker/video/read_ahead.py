"""Decoding ahead of the model in worker processes: a video that hangs or kills its decoder costs
only itself.

Paths go in; clips come out in the same order, or the `VideoError` of a video. Scoring reads like
this. `check_videos` uses the same worker processes to fill the frame cache before training.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from thinker.utils.worker_pool import Failure, Limits, map_in_workers
from thinker.video.clip import Clip, clip_from_tensors, clip_to_tensors
from thinker.video.file import VideoError

Read = Callable[[Path], Clip]  # picklable; raises VideoError
TIMEOUT_SECONDS = Limits().seconds


def read_ahead(
    paths: Iterable[Path],
    read: Read,
    *,
    num_workers: int,
    timeout_seconds: float = TIMEOUT_SECONDS,
    ahead: int = 0,
) -> Iterator[Clip | VideoError]:
    """The clip or the error of every path, in order. 0 workers: read here, without guard.

    ahead: how many may be read or wait while the consumer is busy, if more than `guarded.AHEAD` a
    worker. For a consumer that works on batches, the size of one: the next is then read meanwhile.
    Reasons "crashed", "timeout" and "memory" of a `VideoError` mean that the video did so twice.
    Any other exception of `read` is a bug and is raised, as `guarded.WorkerError`.
    """
    if num_workers < 0 or timeout_seconds <= 0:
        raise ValueError(
            f"num_workers is {num_workers} and timeout_seconds {timeout_seconds}, "
            "expected at least 0 and above 0"
        )
    if num_workers == 0:
        yield from (_attempt(read, path) for path in paths)
        return
    sent, waiting = itertools.tee(paths)  # answers come in the order of the paths
    answers = map_in_workers(
        partial(_read_to_bytes, read),
        sent,
        num_workers=num_workers,
        limits=Limits(seconds=timeout_seconds),
        ahead=ahead,
    )
    with contextlib.closing(answers):
        for path, answer in zip(waiting, answers, strict=True):
            yield _from_worker(path, answer)


def _attempt(read: Read, path: Path) -> Clip | VideoError:
    try:
        return read(path)
    except VideoError as error:
        return error


_CLIP, _ERROR = b"c", b"e"


def _read_to_bytes(read: Read, path: Path) -> bytes:
    """In the worker: a clip, or what is wrong with the video, behind a byte that tells which."""
    from safetensors.torch import save

    result = _attempt(read, path)
    if isinstance(result, VideoError):
        return _ERROR + json.dumps([result.reason, result.detail]).encode()
    return _CLIP + save(clip_to_tensors(result))


def _from_worker(path: Path, answer: bytes | Failure) -> Clip | VideoError:
    from safetensors.torch import load

    if isinstance(answer, Failure):
        return VideoError(path, answer.reason, answer.detail)
    if answer.startswith(_CLIP):
        return clip_from_tensors(load(answer[1:]), path)
    reason, detail = json.loads(answer[1:])
    return VideoError(path, reason, detail)
