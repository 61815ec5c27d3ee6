"""One run at a time in an output folder, for training and for scoring.

The lock is the kernel's (`flock`): it is free as soon as its holder has ended, however it ended. A
process that the holder had just forked closes its copy in its first moments (`_close_in_child`);
where the holder is killed before that, the lock outlives it by as much, and is waited for.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thinker.utils.names import path_text

logger = logging.getLogger(__name__)

ORPHAN_SECONDS = 10.0
"""How long a lock whose holder is dead is waited for. A fork closes its copy in milliseconds; on a
machine that swaps it may take seconds."""
_POLL_SECONDS = 0.05

_held: set[int] = set()  # descriptors of the locks of this process


@contextmanager
def folder_lock(folder: Path, name: str = "run", *, wait: bool = False) -> Iterator[None]:
    """Hold `<folder>/<name>.lock`, which names the process that holds it.

    Raises ValueError naming that process where another one holds it, unless told to wait, and where
    the folder cannot be written to. The file stays: to delete it would let two processes hold two
    files of one name.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not inherited by programs that are started; forks are seen to below.
        descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        if wait:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        elif not _taken(descriptor) and not _taken_from_the_dead(descriptor, folder):
            raise ValueError(
                f"another run (pid {_holder(descriptor)}) is writing to {path_text(folder)}, or a "
                "process that it left; wait for it, or choose another output folder"
            )
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


def check_output_folder(folder: Path) -> None:
    """Raises ValueError where a folder cannot be made or written to, before anything slow begins.
    Makes nothing."""
    nearest = folder = Path(folder)
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise unwritable(folder, NotADirectoryError(0, f"{path_text(nearest)} is a file"))
    if not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"{path_text(nearest)} is not yours to write to"
        raise unwritable(folder, PermissionError(0, reason))


def unwritable(folder: Path, error: OSError) -> ValueError:
    """What to tell a user whose output folder cannot be written to."""
    return ValueError(
        f"results cannot be written to {path_text(folder)}: {error.strerror}; choose another "
        "output folder"
    )


def _taken(descriptor: int) -> bool:
    """Whether the lock could be had at once."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _taken_from_the_dead(descriptor: int, folder: Path) -> bool:
    """Whether the lock could be had within `ORPHAN_SECONDS`, where its holder has ended."""
    if not _has_ended(_holder(descriptor)):
        return False
    logger.warning("the last run in %s has ended; waiting for its processes to let go", folder)
    until = time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < until and _has_ended(_holder(descriptor)):
        if _taken(descriptor):
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _has_ended(pid: str) -> bool:
    """Whether there is no such process any more, or only its zombie. A number says nothing where it
    is of another machine (a shared disk), so `False` is never proof of life."""
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    with suppress(OSError):  # no /proc outside of Linux
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return state.rpartition(")")[2].split()[0] in ("Z", "X")
    return False


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
