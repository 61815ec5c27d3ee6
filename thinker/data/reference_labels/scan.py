"""A source, seen once and small: how its colours change, where it moves and has detail.

In: a video file. Out: a `Scan`, from which windows and crops are planned without decoding again. It
is kept in the output folder, so that a run that is started again does not look at the source anew.
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import av
import numpy as np

from thinker.data.reference_labels.shots import colour_change, colours
from thinker.utils.atomic import write_atomic
from thinker.utils.progress import Progress
from thinker.utils.worker_pool import Failure, map_in_workers
from thinker.video import VideoError
from thinker.video.boundary import attempt, error_from_bytes, error_to_bytes
from thinker.video.decode import FrameIndex, VideoFile, upright

logger = logging.getLogger(__name__)

SCAN_VERSION = 1
"""Part of the run's configuration: raise it with any change of what a scan holds."""
SHORT_SIDE = 90  # pixels that a picture is seen at, about
CELL = 8  # pixels of such a picture on a side of a cell
CHUNK_FRAMES = 500  # of one piece of work
_RESULT, _ERROR = b"r", b"e"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What is known of one source. R and C are the rows and columns of its cells."""

    width: int
    """Of the picture as displayed, in pixels."""
    height: int
    """Of the picture as displayed, in pixels."""
    fps: float
    """Mean rate."""
    changes_T: np.ndarray
    """`colour_change` of each frame to the one before, 0 for the first; float32."""
    motion_TRC: np.ndarray
    """Mean absolute difference of luma to the frame before, of each cell; float16."""
    detail_TRC: np.ndarray
    """Mean absolute difference of luma to the pixels right and below, of each cell; float16."""

    @property
    def num_frames(self) -> int:
        """Frames of the source."""
        return len(self.changes_T)


def scan_sources(
    paths: Sequence[Path], kept: Sequence[Path], *, num_workers: int
) -> list[Scan | VideoError]:
    """The scan of each file, or what is wrong with it. kept: where the scan of each is kept."""
    found: dict[Path, Scan | VideoError] = {}
    chunks: list[tuple[Path, int, int]] = []
    for path, file in zip(paths, kept, strict=True):
        if file.is_file():
            found[path] = _load(file)
            continue
        counted = attempt(path, partial(_count, path))
        if isinstance(counted, VideoError):
            found[path] = counted
            continue
        starts = range(0, counted, CHUNK_FRAMES)
        chunks += [(path, start, min(start + CHUNK_FRAMES, counted)) for start in starts]
    parts: dict[Path, list[Scan]] = {}
    answers = map_in_workers(_scan_chunk, chunks, num_workers=num_workers)
    with Progress(len(chunks), unit="chunk", name="scan") as progress:
        for (path, _, _), answer in zip(chunks, answers, strict=True):
            if isinstance(answer, Failure):
                found[path] = VideoError(path, answer.reason, answer.detail)
            elif answer.startswith(_ERROR):
                found[path] = error_from_bytes(path, answer[1:])
            else:
                parts.setdefault(path, []).append(_from_bytes(answer[1:]))
            progress.update()
    for path, file in zip(paths, kept, strict=True):
        if path not in found:
            found[path] = _joined(parts[path])
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, _to_bytes(_joined(parts[path])))
    return [found[path] for path in paths]


def _count(path: Path) -> int:
    return len(frame_index(path).seconds)


@lru_cache(maxsize=4)
def frame_index(path: Path) -> FrameIndex:
    """The index of a source, which several reads of it share; of a film it takes .2 s."""
    with VideoFile(path) as file:
        return file.index


def _scan_chunk(chunk: tuple[Path, int, int]) -> bytes:
    """Runs in a worker: frames start to end (excluded) of a file."""
    path, start, end = chunk
    scan = attempt(path, lambda: _scan(path, start, end))
    if isinstance(scan, VideoError):
        return _ERROR + error_to_bytes(scan)
    return _RESULT + _to_bytes(scan)


def _scan(path: Path, start: int, end: int) -> Scan:
    before: tuple[np.ndarray, np.ndarray] | None = None
    changes, motion, detail = [], [], []
    height = width = 0
    with VideoFile(path, index=frame_index(path)) as file:
        fps = file.index.fps
        for number, frame in file.raw_frames(list(range(max(start - 1, 0), end))):
            stored_HWC = _small(frame)
            small_HWC = upright(path, frame, stored_HWC)
            width, height = frame.width, frame.height
            if small_HWC.shape != stored_HWC.shape:
                width, height = height, width
            colours_now = colours(small_HWC)
            luma_HW = small_HWC @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
            if number >= start:
                colours_then, luma_then_HW = before or (colours_now, luma_HW)
                changes.append(colour_change(colours_then, colours_now))
                motion.append(_cells(np.abs(luma_HW - luma_then_HW)))
                detail.append(_cells(_gradient(luma_HW)))
            before = colours_now, luma_HW
    return Scan(
        width=width,
        height=height,
        fps=fps,
        changes_T=np.array(changes, dtype=np.float32),
        motion_TRC=np.stack(motion).astype(np.float16),
        detail_TRC=np.stack(detail).astype(np.float16),
    )


def reduction(width: int, height: int) -> int:
    """Pixels of the source for one of the scan, so that the shorter side has about `SHORT_SIDE`.

    >>> reduction(1280, 720), reduction(64, 64)
    (8, 1)
    """
    return max(round(min(width, height) / SHORT_SIDE), 1)


def _small(frame: av.VideoFrame) -> np.ndarray:
    """The stored picture, RGB; each pixel the mean of those that it stands for."""
    factor = reduction(frame.width, frame.height)
    width, height = max(frame.width // factor, 1), max(frame.height // factor, 1)
    small = frame.reformat(
        width=width, height=height, format="rgb24", interpolation="AREA", threads=1
    )
    return small.to_ndarray()


def _gradient(luma_HW: np.ndarray) -> np.ndarray:
    right = np.abs(np.diff(luma_HW, axis=1, append=luma_HW[:, -1:]))
    below = np.abs(np.diff(luma_HW, axis=0, append=luma_HW[-1:]))
    return (right + below) / 2


def _cells(values_HW: np.ndarray) -> np.ndarray:
    """The mean of each cell; pixels beyond the last whole cell do not count, and a picture smaller
    than a cell is one."""
    rows, columns = (max(size // CELL, 1) for size in values_HW.shape)
    cut = values_HW[: rows * CELL, : columns * CELL]
    return cut.reshape(rows, cut.shape[0] // rows, columns, cut.shape[1] // columns).mean((1, 3))


def _to_bytes(scan: Scan) -> bytes:
    out = io.BytesIO()
    np.savez(
        out,
        shape=np.array([scan.width, scan.height, scan.fps]),
        changes=scan.changes_T,
        motion=scan.motion_TRC,
        detail=scan.detail_TRC,
    )
    return out.getvalue()


def _from_bytes(content: bytes) -> Scan:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        width, height, fps = arrays["shape"].tolist()
        return Scan(
            width=int(width),
            height=int(height),
            fps=fps,
            changes_T=arrays["changes"],
            motion_TRC=arrays["motion"],
            detail_TRC=arrays["detail"],
        )


def _load(file: Path) -> Scan:
    return _from_bytes(file.read_bytes())


def _joined(parts: Sequence[Scan]) -> Scan:
    return Scan(
        width=parts[0].width,
        height=parts[0].height,
        fps=parts[0].fps,
        changes_T=np.concatenate([part.changes_T for part in parts]),
        motion_TRC=np.concatenate([part.motion_TRC for part in parts]),
        detail_TRC=np.concatenate([part.detail_TRC for part in parts]),
    )
