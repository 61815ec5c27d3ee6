"""What a user names on the command line (files, folders, globs) as a list of video files."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from thinker.utils.names import path_text
from thinker.video import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "264", "265", "3gp", "asf", "avc", "avi", "dv", "flv", "gif", "h264", "h265", "hevc", "ivf",
        "m1v", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mpv", "mts", "mxf", "obu",
        "ogv", "ts", "webm", "wmv", "y4m",
    )
)  # fmt: skip


def find_videos(names: Sequence[str | Path]) -> list[Path]:
    """Files as named (also missing ones: they become rows), folders searched, globs expanded.

    A folder gives every file below it with the suffix of a video or picture, sorted. `**` in a glob
    means any folders. Each file counts once, in the order it was first named. Raises ValueError for
    a glob that holds nothing, and for a folder that holds nothing where it is all that is named;
    among others it becomes a row, as a glob of the shell may give it.
    """
    found: dict[Path, None] = {}
    for name in names:
        for path in _expand(str(name), is_alone=len(names) == 1):
            found.setdefault(path)
    return list(found)


def _expand(name: str, *, is_alone: bool) -> list[Path]:
    path = Path(name)
    # os.path says False where pathlib raises: names that are too long, folders that are closed.
    if os.path.isdir(path):
        suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES
        inside = sorted(
            p for p in path.rglob("*") if p.suffix.lower() in suffixes and os.path.isfile(p)
        )
        if not inside and is_alone:
            raise ValueError(f"folder {path_text(path)} holds no video or image file")
        return inside or [path]
    if os.path.exists(path) or not glob.has_magic(name):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True))
    files = [match for match in matches if os.path.isfile(match)]
    if not files:
        raise ValueError(f"{path_text(name)!r} matches no file")
    return files
