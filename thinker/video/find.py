"""What a user names on the command line (files, folders, globs) as video files.

In: names. Out: a list (`find_videos`), or a stream that holds one folder at a time
(`stream_videos`), for archives whose list would not fit into memory.
"""

import fnmatch
import glob
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
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

Entry = tuple[str, bool, bool]
"""Name, whether it is a folder (also by a link), whether it is a link."""
ListFolder = Callable[[str], list[Entry]]
"""Gives the entries of a folder in the order of their names; none where it cannot be read."""


def find_videos(names: Sequence[str | Path]) -> list[Path]:
    """Files as named (also missing ones: they become rows), folders searched, globs expanded.

    A folder gives every file below it with the suffix of a video or picture, sorted. `**` in a glob
    means any folders. Each file counts once, in the order it was first named. Raises ValueError for
    a glob that holds nothing, and for a folder that holds nothing where it is all that is named;
    among others it becomes a row, as a glob of the shell may give it.
    """
    found: dict[Path, None] = {}
    for name in names:
        for path in stream_videos(str(name), is_alone=len(names) == 1):
            found.setdefault(path)
    return list(found)


def stream_videos(name: str, *, is_alone: bool) -> Iterator[Path]:
    """As `find_videos` of one name, one file at a time, in the order of `Path`s: by the names of
    folders, from the first one on."""
    # os.path says False where pathlib raises: names that are too long, folders that are closed.
    if os.path.isdir(name):
        inside, rest = peek(map(Path, files_below(name, local_entries)))
        if not inside and is_alone:
            raise ValueError(f"folder {path_text(name)} holds no video or image file")
        yield from rest if inside else [Path(name)]
        return
    if os.path.exists(name) or not glob.has_magic(name):
        yield Path(name)
        return
    inside, rest = peek(map(Path, files_matching(name, local_entries)))
    if not inside:
        raise ValueError(f"{path_text(name)!r} matches no file")
    yield from rest


def peek(items: Iterator[Path]) -> tuple[bool, Iterator[Path]]:
    """Whether there is one, and all of them."""
    first = next(items, None)
    return first is not None, items if first is None else itertools.chain([first], items)


def local_entries(folder: str) -> list[Entry]:
    """The entries of a folder of this machine. A named pipe or a device is none."""
    try:
        with os.scandir(folder or ".") as entries:
            found = [
                (entry.name, entry.is_dir(), entry.is_symlink())
                for entry in entries
                if entry.is_dir() or entry.is_file()
            ]
    except OSError:
        return []
    return sorted(found)


def files_below(folder: str, list_folder: ListFolder) -> Iterator[str]:
    """Every file below a folder with the suffix of a video or picture. Links to folders are not
    followed: they may lead in a circle."""
    for name, is_folder, is_link in list_folder(folder):
        path = join(folder, name)
        if is_folder:
            if not is_link:
                yield from files_below(path, list_folder)
        elif os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            yield path


def files_matching(pattern: str, list_folder: ListFolder) -> Iterator[str]:
    """Every file that a glob matches. As in `glob`, `**` stands for any folders, none included, and
    a `*` matches no name that begins with a dot."""
    parts = pattern.split("/")
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    root = "/".join(parts[:first]) or ("/" if first else "")
    wanted = [None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts]
    hidden = [part.startswith(".") for part in parts]

    def at(places: set[int]) -> set[int]:
        """With the places behind each `**`, which may stand for no folder."""
        reached: set[int] = set()
        while places:
            reached |= places
            places = {p + 1 for p in places if p < len(parts) and wanted[p] is None} - reached
        return reached

    def search(folder: str, places: set[int]) -> Iterator[str]:
        for name, is_folder, _ in list_folder(folder):
            after = set()
            for place in places & set(range(len(parts))):
                part = wanted[place]
                if name.startswith(".") and not hidden[place]:
                    continue
                if part is None:
                    after.add(place)
                elif part.match(name):
                    after.add(place + 1)
            after = at(after)
            if not is_folder and len(parts) in after:
                yield join(folder, name)
            elif is_folder and after - {len(parts)}:
                yield from search(join(folder, name), after)

    yield from search(root, at({first}))


def join(folder: str, name: str) -> str:
    """Also for URLs, which `os.path.join` is not made for."""
    return name if not folder else f"{folder.rstrip('/')}/{name}"
