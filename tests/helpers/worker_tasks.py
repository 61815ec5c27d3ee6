"""Tasks and readers that misbehave by the name of their item; a small module, because worker
processes import it."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np

from thinker.video import Medium, VideoError
from thinker.video.read import read_clip


def misbehave(name: str) -> bytes:
    """What the item's name (before a dash) says, else the name in capitals."""
    kind = name.split("-")[0]
    if kind == "exit":
        os._exit(3)
    if kind == "segv":
        ctypes.string_at(0)
    if kind == "hang":
        time.sleep(600)
    if kind == "spin":  # inside C code, which holds the GIL: no Python signal handler could run
        sum(range(10**12))
    if kind == "eat":
        # 8 GiB, not written to: on a busy machine the pages alone may take past the deadline.
        held = [np.empty(2**24) for _ in range(64)]
        return str(len(held)).encode()
    if kind == "bug":
        raise RuntimeError("a bug")
    return name.upper().encode()


def fail_once(folder: Path, name: str) -> bytes:
    """Dies where it sees the name for the first time."""
    mark = folder / name
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return b"ok"


def limit_of_data(_: str) -> bytes:
    import resource

    return str(resource.getrlimit(resource.RLIMIT_DATA)[0]).encode()


def read_or_fail(spec, medium: Medium):
    """`read_clip`, but for names that say what shall happen."""
    path = medium.path
    if path.stem in ("hang", "segv", "eat", "bug"):
        misbehave(path.stem)
    if path.stem == "refuse":
        raise VideoError(path, "decode_error", "refused")
    return read_clip(medium, spec)
