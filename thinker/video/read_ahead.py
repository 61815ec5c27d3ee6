"""Decoding ahead of the model in worker processes: a video that hangs or kills its decoder costs
only itself.

Media go in; clips come out in the same order, or the `VideoError` of a medium. Scoring reads like
this. `check_videos` uses the same worker processes to fill the frame cache before training.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thinker.utils.worker_pool import Failure, Limits, map_in_workers
from thinker.video.boundary import attempt, error_from_bytes, error_to_bytes
from thinker.video.clip import Clip, clip_from_tensors, clip_to_tensors
from thinker.video.file import VideoError
from thinker.video.medium import Medium, Source, medium

Read = Callable[[Medium], Clip]  # picklable; what it raises is an error of the medium


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are decoded ahead of the model."""

    num_workers: int = 2
    """Processes that decode. 0 decodes in this process, which a bad file can then crash or hang."""
    timeout_seconds: float = Limits().seconds
    """Wall clock that one file may take. Without effect where `num_workers` is 0."""

    def __post_init__(self) -> None:
        if self.num_workers < 0 or not self.timeout_seconds > 0:
            raise ValueError(
                f"num_workers is {self.num_workers} and timeout_seconds {self.timeout_seconds}, "
                "expected at least 0 and above 0"
            )


def read_ahead(
    sources: Iterable[Source], read: Read, reading: Reading, *, ahead: int = 0
) -> Iterator[Clip | VideoError]:
    """The clip or the error of every medium, in order; a path means `medium(path)`.

    ahead: how many clips may be read, or wait, while the consumer is busy, if that is more than
    `worker_pool.AHEAD` for each worker. A consumer that works on batches gives the size of one, so
    that the next batch is read meanwhile.

    The reasons "crashed", "timeout" and "memory" of a `VideoError` mean that the video did so
    twice; any other exception of `read` is one of that medium, too (boundary.py).
    """
    media = map(medium, sources)
    if reading.num_workers == 0:
        yield from (attempt(wanted.path, partial(read, wanted)) for wanted in media)
        return
    sent, waiting = itertools.tee(media)  # answers come in the order of the media
    answers = map_in_workers(
        partial(_read_to_bytes, read),
        sent,
        num_workers=reading.num_workers,
        limits=Limits(seconds=reading.timeout_seconds),
        ahead=ahead,
    )
    with contextlib.closing(answers):
        for wanted, answer in zip(waiting, answers, strict=True):
            yield _from_worker(wanted.path, answer)


_CLIP, _ERROR = b"c", b"e"


def _read_to_bytes(read: Read, wanted: Medium) -> bytes:
    """Runs in the worker: a clip, or what is wrong with the video, behind a byte that tells
    which."""
    from safetensors.torch import save

    result = attempt(wanted.path, lambda: save(clip_to_tensors(read(wanted))))
    if isinstance(result, VideoError):
        return _ERROR + error_to_bytes(result)
    return _CLIP + result


def _from_worker(path: Path, answer: bytes | Failure) -> Clip | VideoError:
    from safetensors.torch import load

    if isinstance(answer, Failure):
        return VideoError(path, answer.reason, answer.detail)
    if answer.startswith(_CLIP):
        return attempt(path, lambda: clip_from_tensors(load(answer[1:]), path))
    return error_from_bytes(path, answer[1:])
