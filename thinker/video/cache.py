"""Clips on disk: decoded once, read back by every later epoch and process."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from thinker.utils.atomic import write_atomic
from thinker.utils.names import path_text
from thinker.video.boundary import guarded
from thinker.video.clip import Clip, ClipSpec, clip_from_tensors, clip_to_tensors
from thinker.video.file import VideoError, require_regular
from thinker.video.medium import Medium, Source, medium
from thinker.video.read import READER_VERSION, read_clip

logger = logging.getLogger(__name__)


class FrameCache:
    """Clips on disk, lossless (raw uint8), one safetensors file each: `<folder>/<key>.safetensors`.

    The key is a hash of the file's *content*, the kind, range, crop and stalls of the medium, the
    spec and `READER_VERSION`: a moved or copied video hits, an edited one misses. The hash is
    BLAKE2b over all bytes, because two encodes of one source may share size, header and tail. A
    process hashes the content once for each path, size and modification time. Files appear
    atomically (written aside, then renamed) and carry a checksum, so readers of a shared folder
    never see half a clip, and a damaged file is read again from the video. A cache can be pickled
    into workers.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._content_hashes: dict[tuple[str, int, int], str] = {}

    def get_or_read(self, source: Source, spec: ClipSpec) -> Clip:
        """The cached clip of a medium or path. Where there is none, it is read by `read_clip`,
        whose errors pass through, and the clip is stored for the next time. Whatever else goes
        wrong is a `VideoError`, too."""
        return self.fetch(source, spec)[0]

    def fetch(self, source: Source, spec: ClipSpec) -> tuple[Clip, bool]:
        """The clip, as `get_or_read` gives it, and whether the file had to be decoded."""
        wanted = medium(source)
        return guarded(wanted.path, lambda: self._fetch(wanted, spec))

    def _fetch(self, wanted: Medium, spec: ClipSpec) -> tuple[Clip, bool]:
        file = self._file(wanted, spec)
        clip = _load_clip(file, wanted.path)
        if clip is not None:
            if wanted.stalls is not None and clip.stalls is not None:
                clip = replace(clip, stalls=replace(clip.stalls, form=wanted.stalls.form))
            return clip, False
        clip = read_clip(wanted, spec)
        try:
            _save_clip(file, clip)
        except OSError as error:  # a full disk costs time, not the clip
            logger.warning("%s cannot be cached: %s", path_text(wanted.path), error)
        return clip, True

    def _file(self, wanted: Medium, spec: ClipSpec) -> Path:
        part = asdict(wanted)
        path, stalls = part.pop("path"), part.pop("stalls")
        if stalls is not None:  # the same pictures, however their stalls are told
            part["stalls"] = {k: value for k, value in stalls.items() if k != "form"}
        key = [READER_VERSION, self._content_hash(path), path.suffix.lower(), part, asdict(spec)]
        digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=20)
        return self.folder / f"{digest.hexdigest()}.safetensors"

    def _content_hash(self, path: Path) -> str:
        require_regular(path)
        try:
            stat = path.stat()
            key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
            if key not in self._content_hashes:
                with open(path, "rb") as file:
                    self._content_hashes[key] = hashlib.file_digest(file, "blake2b").hexdigest()
            return self._content_hashes[key]
        except FileNotFoundError:
            raise VideoError(path, "missing") from None
        except OSError as error:
            raise VideoError(path, "unreadable", str(error)) from None


def _checksum(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """uint8 (20,) over all tensors."""
    digest = hashlib.blake2b(digest_size=20)
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _save_clip(file: Path, clip: Clip) -> None:
    from safetensors.torch import save

    tensors = clip_to_tensors(clip)
    write_atomic(file, save(tensors | {"checksum": _checksum(tensors)}))


def _load_clip(file: Path, path: Path) -> Clip | None:
    """The clip, or None where there is no file, one that cannot be read or a damaged one (which the
    next write replaces)."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(file.read_bytes())
        checksum = tensors.pop("checksum", torch.empty(0))
        if not torch.equal(checksum, _checksum(tensors)):
            return None
        return clip_from_tensors(tensors, path)
    except (OSError, SafetensorError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class ClipReader:
    """Reads clips of one spec, through a frame cache where there is one. It can be pickled into
    workers."""

    spec: ClipSpec
    """What to read of each video."""
    cache: FrameCache | None = None
    """Where clips are kept; None decodes every time."""

    def __call__(self, source: Source) -> Clip:
        """The clip of a medium or path. Raises `VideoError` as `read_clip`."""
        return self.fetch(source)[0]

    def fetch(self, source: Source) -> tuple[Clip, bool]:
        """The clip, and whether the file had to be decoded: no undamaged clip of it was cached."""
        if self.cache is None:
            return read_clip(source, self.spec), True
        return self.cache.fetch(source, self.spec)
