"""Media in object stores: fetched into bounded temporary space, read, and deleted.

In: a URL that fsspec knows (`s3://…`, `gs://…`, `https://…`, `file://…`). Out: the same file on
this machine, for as long as it is read. It is fetched by the process that decodes it, so its time
and its crashes are those of that file, and what lies in the temporary space is at most one file of
at most `MAX_FETCHED_BYTES` for each decoding process.

Each file is locked by the process that reads it, and the kernel frees the lock however that process
ends. Whoever fetches next deletes the files that nobody holds, so kills leave nothing for long.
"""

import fcntl
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from thinker.video.file import IMAGE_SUFFIXES, VideoError
from thinker.video.medium import Medium, medium

MAX_FETCHED_BYTES = 4 * 2**30
"""Of one file. An hour of video at 9 Mbit/s; larger ones are a row `too_large`."""
_BLOCK_BYTES = 4 * 2**20
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(frozen=True, kw_only=True)
class RemoteMedium(Medium):
    """A medium that has to be fetched. Its `path` is the last name of the URL: no path of this
    machine, but what a message can show."""

    url: str
    """Where it lies."""


def is_url(name: str) -> bool:
    """Whether fsspec has to open it. Example: "s3://videos/a.mp4" has to, "/videos/a.mp4" not."""
    return _URL.match(name) is not None


def any_medium(name: str) -> Medium:
    """The medium of a path or of a URL. Whether a picture moves shows only once it is fetched."""
    path = shown_path(name)
    if not is_url(name):
        return medium(path)
    kind = "image" if path.suffix.lower() in IMAGE_SUFFIXES else "video"
    return RemoteMedium(path=path, kind=kind, url=name)


def shown_path(name: str) -> Path:
    """The path of a medium: of a URL the last name, since a `Path` cannot hold `//`.

    Example: that of "https://host/v/a.mp4?key=1" is `a.mp4`.
    """
    return Path(urlsplit(name).path.rpartition("/")[2] or name) if is_url(name) else Path(name)


def check_scheme(name: str) -> None:
    """Raises ValueError where fsspec has nothing that opens such a URL."""
    try:
        from fsspec import get_filesystem_class
    except ImportError:
        raise ValueError(f"{name} needs fsspec: pip install fsspec") from None
    try:
        get_filesystem_class(name.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise ValueError(f"{name} cannot be opened by fsspec: {error}") from None


@contextmanager
def fetched(wanted: RemoteMedium) -> Iterator[Medium]:
    """The file as a medium of this machine, until the block ends. Raises `VideoError`."""
    suffix = _SUFFIX.fullmatch(wanted.path.suffix)
    with _own_file(_folder(), suffix[0] if suffix else "") as (path, file):
        _fetch(wanted, file)
        yield medium(path)


def _fetch(wanted: RemoteMedium, file: BinaryIO) -> None:
    import fsspec

    if "::" in wanted.url:  # fsspec would take it for a chain of file systems, some with a cache
        raise VideoError(wanted.path, "unsupported", "a URL with ::")
    size = 0
    try:
        with fsspec.open(wanted.url, "rb") as source:
            while block := source.read(_BLOCK_BYTES):
                size += len(block)
                if size > MAX_FETCHED_BYTES:
                    detail = f"more than {MAX_FETCHED_BYTES} bytes are not fetched"
                    raise VideoError(wanted.path, "too_large", detail)
                file.write(block)
        file.flush()
    except (VideoError, MemoryError):
        raise
    except Exception as error:  # every store has errors of its own
        raise _typed(wanted, error) from None


def _typed(wanted: RemoteMedium, error: BaseException) -> VideoError:
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    # Of HTTP, fsspec says that there is no file also where no server answers.
    cause = root if wanted.url.startswith("http") else error
    if isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) in (404, 410):
        return VideoError(wanted.path, "missing")
    return VideoError(wanted.path, "unreadable", f"{type(cause).__qualname__}: {cause}")


def _folder() -> Path:
    """The temporary space, in `TMPDIR`. Raises OSError where somebody else made it."""
    folder = Path(tempfile.gettempdir()) / f"thinker-fetched-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is not yours; set TMPDIR to a folder that is")
    return folder


@contextmanager
def _own_file(folder: Path, suffix: str) -> Iterator[tuple[Path, BinaryIO]]:
    """A new locked file, deleted when the block ends; before it, what the dead left is deleted."""
    _sweep(folder)
    while True:
        path = folder / f"{uuid.uuid4().hex}{suffix}"
        with open(path, "xb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(file.fileno()).st_nlink:
                    continue
            except BlockingIOError:  # another process sweeps it this very moment
                continue
            try:
                yield path, file
            finally:
                path.unlink(missing_ok=True)
            return


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except (BlockingIOError, FileNotFoundError):
            continue
