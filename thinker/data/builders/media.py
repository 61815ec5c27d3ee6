"""What a builder has to know of a file: its length, rate and size."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thinker.video import ClipSpec, VideoError, medium, read_clip

# One small frame: the index of the file says the rest.
_SPEC = ClipSpec(
    num_keyframes=1,
    resize="square",
    keyframe_px=16,
    min_pixels=1,
    max_pixels=1,
    factor=1,
    num_motion_frames=0,
    motion_px=1,
    stills="video",
)


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Of a readable video or picture."""

    num_frames: int
    """1 for a picture."""
    fps: float
    """Frames a second; 0 where the file does not say, and for pictures."""
    width: int
    """In pixels, as displayed."""
    height: int
    """In pixels, as displayed."""

    @property
    def seconds(self) -> float:
        """The length, 0 where the rate is not known."""
        return self.num_frames / self.fps if self.fps else 0.0


def probe(paths: Iterable[str], root: Path) -> tuple[dict[str, FileInfo], list[VideoError]]:
    """What is known of each file that can be read, and why others cannot."""
    infos: dict[str, FileInfo] = {}
    failed: list[VideoError] = []
    for path in paths:
        try:
            clip = read_clip(medium(root / path), _SPEC)
        except VideoError as error:
            failed.append(error)
            continue
        infos[path] = FileInfo(
            num_frames=clip.num_frames, fps=clip.fps, width=clip.width, height=clip.height
        )
    return infos, failed
