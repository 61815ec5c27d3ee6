"""What a user or a record names: a video or a picture, or a part of it.

In: a path, or a path with a time range and a cut-out. Out: a `Medium`, which `read_clip` reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from thinker.video.file import IMAGE_SUFFIXES
from thinker.video.sources.chunks import is_animated
from thinker.video.stalls.intervals import Stalls

KINDS = ("video", "image")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of a picture, in pixels of the picture as displayed: turned upright and stretched to
    square pixels, not resized.

    Whether it lies within the picture shows when that is read.
    """

    left: int
    """First column that is kept."""
    top: int
    """First row that is kept."""
    right: int
    """Column behind the last one that is kept."""
    bottom: int
    """Row behind the last one that is kept."""

    def __post_init__(self) -> None:
        sides = (self.left, self.top, self.right, self.bottom)
        if any(type(side) is not int for side in sides):
            raise ValueError(f"sides of a crop are whole pixels, got {sides}")
        if self.left < 0 or self.top < 0 or self.right <= self.left or self.bottom <= self.top:
            raise ValueError(
                "a crop needs 0 <= left < right and 0 <= top < bottom, got "
                f"left, top, right, bottom = {sides}"
            )

    @property
    def width(self) -> int:
        """Columns that are kept."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows that are kept."""
        return self.bottom - self.top


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A video or a picture, or a part of it: a range of time, a part of the picture."""

    path: Path
    """The file."""
    kind: str
    """What it counts as, one of `KINDS`. A picture file of kind "video" is a video of one frame."""
    start_seconds: float | None = None
    """Frames from this time on count, from the first frame of the video; None: from the first."""
    end_seconds: float | None = None
    """Frames before this time count, itself excluded; None: to the last."""
    crop: Crop | None = None
    """What to cut out of every picture before it is resized; None: all of it."""
    stalls: Stalls | None = None
    """Where the video stalls, of the whole file, which a prompt then says; None: it says nothing
    of stalls."""
    num_keyframes: int | None = None
    """How many keyframes are read of a video, where that is not the number of the `ClipSpec`: two
    videos may have to share one number of frames."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.num_keyframes is not None and (self.kind == "image" or self.num_keyframes < 1):
            raise ValueError(
                f"num_keyframes is {self.num_keyframes} of {self.path}, a {self.kind}; expected at "
                "least 1, of a video"
            )
        start, end = self.start_seconds, self.end_seconds
        if self.kind == "image" and (start is not None or end is not None):
            raise ValueError(f"a range of time is for videos, {self.path} is an image")
        if self.kind == "image" and self.stalls is not None:
            raise ValueError(f"stalls are for videos, {self.path} is an image")
        for name, value in (("start_seconds", start), ("end_seconds", end)):
            if value is None:
                continue
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ValueError(
                    f"{name} must be a finite number of seconds, 0 or more, got {value!r}"
                )
        if end is not None and end <= (start or 0.0):
            raise ValueError(f"the end must lie after the start, got {start}..{end} seconds")


Source = Medium | Path | str  # whatever `medium` takes


def medium(
    source: Source,
    *,
    start: float | None = None,
    end: float | None = None,
    stalls: Stalls | None = None,
) -> Medium:
    """The medium of a path, or its part from `start` to `end` (seconds), and where it stalls. A
    `Medium` is given back as it is, if nothing is given with it.

    An image or a video by its suffix, except that of a picture file the header is read: an animated
    WebP, PNG or AVIF is a video, as a GIF is. A file that is not there goes by its suffix.

    Example: `medium("a/b.PNG")` → `Medium(path=Path("a/b.PNG"), kind="image")`.
    """
    if isinstance(source, Medium):
        assert (start, end, stalls) == (None, None, None), "a Medium has its own"
        return source
    path = Path(source)
    is_still = path.suffix.lower() in IMAGE_SUFFIXES and not is_animated(path)
    kind = "image" if is_still else "video"
    return Medium(path=path, kind=kind, start_seconds=start, end_seconds=end, stalls=stalls)
