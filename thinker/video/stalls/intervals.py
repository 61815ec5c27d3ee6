"""Stalls as intervals of time, as a 0/1 sequence with a digit a frame, and as runs of frames.

In: `Stalls`, what a record or a user says of a file. Out: `FrameStalls`, the same in frames of the
part that is read, from which the text of a prompt is made (`thinker.tasks.stall_text`).

Frames are counted at the mean rate of the video. In a file of constant rate these are its frames;
where a file holds one picture for seconds instead of repeating it, its mean rate counts the pause
as the frames that would have been shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from thinker.prompts import STALL_FORMS

MAX_TIME = 1e9
"""Seconds or frames that no video has; a number beyond may be none that can be computed with."""

Runs = tuple[tuple[int, int], ...]
"""(first frame, frame behind the last one) of each stall, ascending."""


@dataclass(frozen=True, kw_only=True)
class Stalls:
    """Where a file stalls, and how a prompt says so. No interval at all: it plays smoothly."""

    intervals: tuple[tuple[float, float], ...] = ()
    """(start, end) of each stall, the end not included, ascending and apart from each other: in
    seconds from the first frame of the file, or in numbers of frames where `num_frames` is
    given."""
    num_frames: int | None = None
    """Length of the 0/1 sequence that the stalls were given as; the file must have as many frames.
    None: they are given in seconds."""
    form: str = "sentences"
    """How a prompt says it, one of `thinker.prompts.STALL_FORMS`."""

    def __post_init__(self) -> None:
        if self.form not in STALL_FORMS:
            raise ValueError(
                f"the form of stalls is {self.form!r}, expected one of {', '.join(STALL_FORMS)}"
            )
        behind = None
        for interval in self.intervals:
            start, end = interval
            if not all(_is_time(value) for value in interval) or end <= start:
                raise ValueError(
                    f"a stall is {list(interval)}, expected [start, end] with 0 <= start < end"
                )
            if behind is not None and start <= behind:
                raise ValueError(
                    f"the stall {list(interval)} begins before the one before it has ended "
                    f"({behind}); expected stalls in order and apart from each other"
                )
            behind = end
        if self.num_frames is not None and behind is not None and behind > self.num_frames:
            raise ValueError(f"a stall ends at frame {behind} of {self.num_frames}")


@dataclass(frozen=True, kw_only=True)
class FrameStalls:
    """The stalls of a video, or of the part of it that was read, in frames."""

    runs: Runs
    """Each stall, numbered from the first frame of the part."""
    num_frames: int
    """Frames of the part, at the mean rate of the video."""
    form: str = "sentences"
    """As `Stalls.form`."""


def _is_time(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= MAX_TIME  # type: ignore[operator]


def runs_of(flags: Iterable[int]) -> Runs:
    """The runs of ones in a 0/1 sequence. Example: `runs_of([0, 1, 1, 0, 1])` → `((1, 3), (4,
    5))`."""
    runs: list[tuple[int, int]] = []
    for number, flag in enumerate(flags):
        if not flag:
            continue
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return tuple(runs)


def stalls_of_sequence(flags: str | Sequence[int], form: str = "sentences") -> Stalls:
    """Stalls that are given as a 0/1 sequence, a digit a frame: "00110", or a list.

    Raises ValueError for anything else. Example: `stalls_of_sequence("00110").intervals` → `((2,
    4),)`.
    """
    digits = list(flags)
    if not digits or any(str(digit) not in ("0", "1") or digit is True for digit in digits):
        raise ValueError("a sequence of stalls consists of 0 and 1, one for each frame")
    return Stalls(
        intervals=runs_of(str(digit) == "1" for digit in digits),
        num_frames=len(digits),
        form=form,
    )


def seconds_of_runs(runs: Runs, fps: float) -> tuple[tuple[float, float], ...]:
    """Runs of frames in seconds. Example: `seconds_of_runs(((2, 4),), 4)` → `((0.5, 1.0),)`."""
    return tuple((first / fps, stop / fps) for first, stop in runs)


def flags_of(runs: Runs, num_frames: int) -> str:
    """The 0/1 sequence of runs. Example: `flags_of(((2, 4),), 5)` → `"00110"`."""
    flags = bytearray(b"0" * num_frames)
    for first, stop in runs:
        flags[first:stop] = b"1" * (stop - first)
    return flags.decode()


def runs_of_seconds(intervals: Sequence[tuple[float, float]], num_frames: int, fps: float) -> Runs:
    """Intervals in seconds as runs of frames: each bound goes to the nearest frame, a stall keeps
    at least one frame, and stalls less than a frame apart are one.

    Raises ValueError for a stall that ends more than a frame behind the last one.
    Example: `runs_of_seconds([(0.5, 1.02)], 10, 4)` → `((2, 4),)`.
    """
    runs: list[tuple[int, int]] = []
    for start, end in intervals:
        if end * fps > num_frames + 1:
            raise ValueError(
                f"the stall {start:g}..{end:g} s ends behind the video, which lasts "
                f"{num_frames / fps:.3f} s"
            )
        first = min(round(start * fps), num_frames - 1)
        stop = min(max(round(end * fps), first + 1), num_frames)
        if runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(stop, runs[-1][1]))
        else:
            runs.append((first, stop))
    return tuple(runs)


def frame_stalls(
    stalls: Stalls,
    seconds: Sequence[float],
    start: float | None = None,
    end: float | None = None,
) -> FrameStalls:
    """The stalls of the part of a video from `start` to `end` (seconds), in frames.

    seconds: when each frame of the video is shown, the first one at 0. Raises ValueError where the
    stalls do not fit the video.
    """
    num_frames = len(seconds)
    if num_frames < 2:
        raise ValueError("stalls are given of a video of one frame")
    fps = (num_frames - 1) / seconds[-1]
    if stalls.num_frames is None:
        runs = runs_of_seconds(stalls.intervals, num_frames, fps)
    elif stalls.num_frames == num_frames:
        runs = tuple((int(first), int(stop)) for first, stop in stalls.intervals)
    else:
        raise ValueError(
            f"the sequence of stalls has {stalls.num_frames} digits, the video {num_frames} frames"
        )
    times = [number / fps + 1e-6 for number in range(num_frames)]  # 1e-6: rounding of the rate
    low = bisect_left(times, start or 0.0)
    high = num_frames if end is None else bisect_left(times, end)
    inside = [(max(first, low) - low, min(stop, high) - low) for first, stop in runs]
    return FrameStalls(
        runs=tuple((first, stop) for first, stop in inside if first < stop),
        num_frames=max(high - low, 1),
        form=stalls.form,
    )
