"""The boundary of one medium: whatever goes wrong behind it comes out as a `VideoError`.

Everything that opens, decodes, resizes or caches a medium runs behind it, here or in a worker
process. So one file costs one row, whatever the decoder, the resampler, the picture reader or the
cache raises. An error that none of them is known for has the reason "unexpected": its class stands
in the row, its traceback in the log. What has nothing to do with one medium runs outside and ends
the run as before, and so do KeyboardInterrupt and SystemExit.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from thinker.utils.names import path_text
from thinker.utils.tensors import out_of_memory
from thinker.video.file import VideoError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def guarded(path: Path, read: Callable[[], Result]) -> Result:
    """What `read()` gives of the medium at `path`. Raises nothing but `VideoError`."""
    try:
        return read()
    except VideoError:
        raise
    except Exception as error:
        problem = _typed(path, error)
    # Outside of `except`: a context would keep the pictures alive that its traceback holds.
    raise problem


def _typed(path: Path, error: Exception) -> VideoError:
    if out_of_memory(error):
        return VideoError(path, "memory", str(error))
    logger.error("%s: an error that the reader does not know", path_text(path), exc_info=error)
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return VideoError(path, "unexpected", f"{module}{kind.__qualname__}: {error}")


def attempt(path: Path, read: Callable[[], Result]) -> Result | VideoError:
    """As `guarded`, but the error is given back."""
    try:
        return guarded(path, read)
    except VideoError as error:
        return error.with_traceback(None)


def error_to_bytes(error: VideoError) -> bytes:
    """For the way out of a worker process.

    Raises MemoryError where that is the reason: the pool tries the medium once more, in a process
    whose memory is empty.
    """
    if error.reason == "memory":
        raise MemoryError(error.detail)
    return json.dumps([error.reason, error.detail]).encode()


def error_from_bytes(path: Path, content: bytes) -> VideoError:
    """What a worker said of a medium. Bytes of another form, which only a worker sends that a file
    took over, are an error of that medium, too."""

    def parsed() -> VideoError:
        reason, detail = json.loads(content)
        return VideoError(path, reason, str(detail))

    return attempt(path, parsed)
