"""One run at a time in an output folder, for training and for scoring.

The lock is the kernel's (`flock`): it is free as soon as its holder has ended, however it ended.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_held: set[int] = set()  # descriptors of the locks of this process


@contextmanager
def folder_lock(folder: Path, name: str = "run", *, wait: bool = False) -> Iterator[None]:
    """Hold `<folder>/<name>.lock`, which names the process that holds it.

    Raises ValueError naming that process where another one holds it, unless told to wait. The file
    stays: to delete it would let two processes hold two files of one name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Not inherited by programs that are started; forks are seen to below.
    descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ValueError(
                f"another run (pid {_holder(descriptor)}) is writing to {folder}; wait for it, or "
                "choose another output folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        _held.add(descriptor)
        try:
            yield
        finally:
            _held.discard(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """`folder_lock` for a run of several processes (torchrun, accelerate): its first one holds it;
    where that is refused, the launcher ends the others."""
    if int(os.environ.get("RANK", "0")):
        yield
        return
    with folder_lock(folder):
        yield


def _holder(descriptor: int) -> str:
    for _ in range(20):  # it writes its number just after it got the lock
        text = os.pread(descriptor, 32, 0).decode("ascii", errors="replace").strip()
        if text.isdecimal():
            return text
        time.sleep(0.05)
    return "unknown"


def _close_in_child() -> None:
    """A fork (a data loader's worker) shares the lock of its parent and would hold it beyond the
    parent's end."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
