"""What the training data set calls for a video: path → `Clip`, by decoding or from the cache."""

from dataclasses import dataclass
from pathlib import Path

from thinker.video import Clip, ClipSpec, FrameCache, read_clip


@dataclass(frozen=True)
class ClipReader:
    """Reads clips of one spec, through a frame cache where there is one; safe to pickle into
    workers."""

    spec: ClipSpec
    cache: FrameCache | None = None

    def __call__(self, path: Path) -> Clip:
        """Raises `VideoError` as `read_clip`."""
        if self.cache is None:
            return read_clip(path, self.spec)
        return self.cache.get_or_read(path, self.spec)

    def decodes(self, path: Path) -> bool:
        """Whether the next call has to decode the file: no undamaged clip of it is cached."""
        return self.cache is None or not self.cache.contains(path, self.spec)
