"""Where a video file stalls: pictures that repeat, and gaps in the times of its frames.

In: a file. Out: intervals of time. Every frame is decoded, made small and grey (`SIDE` squared),
compared and forgotten; what is kept is a number a frame.

By content: a frame stands still where it differs from the one before, and from the first one of its
run, by less than coding makes one picture differ from its own repetition. A run counts as a stall
where motion stops or begins at one of its ends. A shot that stands still by itself begins and ends
with a cut, or fills the file; so does a title card. By time: a frame that is shown much longer than
its neighbours, as files of variable frame rate hold a pause.

What cannot be told: a camera that comes to rest in a scene without noise is a stall to the eye of
this program, and a stall under which something moves (a wheel that turns while the player loads) is
none. docs/log.md has precision and recall on generated stalls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from thinker.video.boundary import guarded
from thinker.video.decode import VideoFile
from thinker.video.file import IMAGE_SUFFIXES, VideoError, check_file

SIDE = 32
"""Rows and columns of the pictures that are compared: small enough that coding noise averages out,
large enough for the motion of a quarter of a pixel in a hundred to show."""

MIN_SECONDS = 0.25
"""Shortest stall. Films in a faster container repeat one frame in two to four; viewers begin to
complain between .2 and .4 s."""

MAX_STEP = 0.4
"""Most that a frame that stands still usually differs from the one before, mean grey levels of
255."""

MAX_DRIFT = 4.0
"""Most that it differs from the first frame of its run. Encoders refine a picture that stands
still, and a key frame codes it anew, at low quality by 2 to 4 levels."""

CUT_STEP = 24.0
"""A step between two frames from which on it is a cut."""

MOTION_STEP = 2.0
"""A step between two frames from which on something moves at the end of a run: what a key frame
makes of a still shot is no motion."""


@dataclass(frozen=True, kw_only=True)
class FileStalls:
    """What was found in a file."""

    intervals: tuple[tuple[float, float], ...]
    """(start, end) of each stall in seconds from the first frame, ascending."""
    num_frames: int
    """Frames of the file."""
    seconds: float
    """How long the file lasts."""


def detect_stalls(path: Path) -> FileStalls:
    """The stalls of a video file. Raises `VideoError`, and nothing else, for what is none."""
    return guarded(path, lambda: _detect(path))


def _detect(path: Path) -> FileStalls:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise VideoError(path, "unsupported", "a picture file has no stalls; give a video")
    check_file(path, is_picture=False)
    with VideoFile(path) as file:
        seconds = file.index.seconds
        steps, starts = _compare(_small_frames(file))
    frame = median(b - a for a, b in pairwise(seconds)) if len(seconds) > 1 else 0.0
    ends = [*seconds[1:], seconds[-1] + frame]
    found = still_runs(steps, starts, seconds, ends) + long_frames(seconds, frame)
    return FileStalls(intervals=_united(found), num_frames=len(seconds), seconds=round(ends[-1], 6))


def _small_frames(file: VideoFile) -> Iterator[np.ndarray]:
    for _, frame in file.raw_frames(list(range(len(file.index.seconds)))):
        small = frame.reformat(width=SIDE, height=SIDE, format="gray", threads=1)
        yield small.to_ndarray().astype(np.int16)


def _compare(frames: Iterator[np.ndarray]) -> tuple[list[float], list[int]]:
    """Of each frame how much it differs from the one before, and the first frame of its run: of
    those that differ from that first one by `MAX_DRIFT` at most."""
    steps: list[float] = []
    starts: list[int] = []
    before = first = np.empty(0, dtype=np.int16)
    for number, frame in enumerate(frames):
        steps.append(_difference(frame, before) if number else 0.0)
        if number and _difference(frame, first) <= MAX_DRIFT:
            starts.append(starts[-1])
        else:
            starts.append(number)
            first = frame
        before = frame
    return steps, starts


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def still_runs(
    steps: Sequence[float], starts: Sequence[int], seconds: Sequence[float], ends: Sequence[float]
) -> list[tuple[float, float]]:
    """Stalls by content. steps, starts: as `_compare` gives them; seconds, ends: when each frame is
    shown."""
    bounds = [number for number, start in enumerate(starts) if number == start]
    found = []
    for first, stop in pairwise([*bounds, len(starts)]):
        quiet = [number for number in range(first + 1, stop) if steps[number] <= MAX_STEP]
        if not quiet:
            continue
        begin, end = quiet[0], quiet[-1] + 1
        is_opening = begin == 1  # initial buffering: its first picture waits, too
        start_second = seconds[0] if is_opening else seconds[begin]
        share = len(quiet) / (end - begin)
        if share < 0.75 or ends[end - 1] - start_second < MIN_SECONDS:
            continue
        if _moves(steps, begin - 1) or _moves(steps, end):
            found.append((start_second, ends[end - 1]))
    return found


def _moves(steps: Sequence[float], number: int) -> bool:
    """Whether something moves from the frame before `number` to that frame, without a cut."""
    return 0 < number < len(steps) and MOTION_STEP <= steps[number] < CUT_STEP


def long_frames(seconds: Sequence[float], frame: float) -> list[tuple[float, float]]:
    """Stalls by time: what a frame is shown longer than `frame` seconds, where that is three times
    as long and long enough for a stall."""
    return [
        (shown + frame, until)
        for shown, until in pairwise(seconds)
        if until - shown > 3 * frame and until - shown - frame >= MIN_SECONDS
    ]


def _united(found: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The intervals in order, those that touch as one, to the microsecond."""
    united: list[tuple[float, float]] = []
    for start, end in sorted((round(start, 6), round(end, 6)) for start, end in found):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(end, united[-1][1]))
        else:
            united.append((start, end))
    return tuple(united)
