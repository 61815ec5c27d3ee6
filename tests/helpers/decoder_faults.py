"""A reader that misbehaves by file name; a small module, because decoding processes import it."""

import os
import signal
import time

from thinker.video import Medium, VideoError


def hang_or_die(medium: Medium):
    path = medium.path
    if path.name == "hang.mp4":
        time.sleep(600)
    if path.name == "die.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name == "bug.mp4":
        raise RuntimeError("a bug")
    raise VideoError(path, "decode_error", path.name)


def leave_a_mark(medium: Medium):
    medium.path.with_suffix(".read").touch()
    raise VideoError(medium.path, "decode_error")
