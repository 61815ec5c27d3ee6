"""Files and folders that appear whole: written aside, flushed to disk, then renamed into place.

Whatever moment a process dies at, a name holds either what it held before or all of what it was
meant to hold. Every result that a restart looks for is written by these functions.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""Endings of files that PyTorch and its users pickle, which may run code when they are read. None
belongs into a folder of ours."""


def check_new_file(path: Path) -> None:
    """Raises ValueError for an output that is there already or whose folder is not, before the work
    that it is for."""
    if path.exists():
        raise ValueError(f"{path} is there; delete it, or choose another output")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"output {path}: {path.parent} is no folder")


def write_atomic(path: Path, content: str | bytes, *, flush: bool = True) -> None:
    """Replace a file: its old or its new content is there at any moment.

    flush: wait until it is on disk, so that this holds for a machine that loses power, too, and not
    only for a process that dies. It takes some milliseconds a file.
    """
    with atomic_file(path, flush=flush) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path, *, flush: bool = True) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` when the block ends without an exception,
    and vanishes with one. flush: as in `write_atomic`."""
    # Beside the target, so that the rename stays in one file system; a name of its own for each
    # writer, because several processes or threads may write one file.
    aside = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        with open(aside, "xb") as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if flush:
        fsync(path.parent)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target` when the block ends without an exception, and
    vanishes with one."""
    aside = target.with_name(f".{target.name}.tmp")
    remove_tree(aside)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        remove_tree(aside)
        raise
    publish(aside, target)


def publish(aside: Path, target: Path) -> None:
    """Flush a written folder to disk and rename it; a folder that is in the way is replaced."""
    for folder, _, files in os.walk(aside):
        for name in files:
            fsync(Path(folder) / name)
        fsync(Path(folder))
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        remove_tree(old)
        os.rename(target, old)
    os.rename(aside, target)
    fsync(target.parent)
    remove_tree(old)


def remove_tree(folder: Path) -> None:
    """Delete a folder, absent or half deleted ones included."""
    if folder.exists():
        shutil.rmtree(folder)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
