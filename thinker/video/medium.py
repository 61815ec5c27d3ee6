"""One medium: a file, and which part of it is meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thinker.video.file import IMAGE_SUFFIXES

KINDS = ("video", "image")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of the picture, in pixels of the picture as displayed."""

    left: int
    """First column."""
    top: int
    """First row."""
    right: int
    """The column behind the last."""
    bottom: int
    """The row behind the last."""


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A video or a picture, or a part of one."""

    path: Path
    """The file."""
    kind: str
    """One of `KINDS`."""
    start_seconds: float | None = None
    """Where its part begins; None is the start of the file."""
    end_seconds: float | None = None
    """Where its part ends; None is the end of the file."""
    crop: Crop | None = None
    """The part of the picture that is shown; None is all of it."""


def medium(path: Path | str) -> Medium:
    """The whole of a file; its suffix says whether it is a picture."""
    path = Path(path)
    return Medium(path=path, kind="image" if path.suffix.lower() in IMAGE_SUFFIXES else "video")
