"""Pictures of a page: written as files of their own, inlined as base64; frames of media."""

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thinker.eval.report import plots
from thinker.utils.atomic import write_atomic
from thinker.video import ClipSpec, VideoError, read_clip

MAX_FRAMES = 6
"""Number of frames shown of a video: as many as fit side by side."""
FRAME_PIXELS = 180 * 120
IMAGE_PIXELS = 360 * 240
"""Areas of a frame of a video, and of an image, which stands alone."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG to be inlined into the page."""

    alt: str
    """What a reader sees where the picture cannot be shown."""
    base64: str
    """The PNG's bytes."""


class Pictures:
    """Writes every picture of a page as a file of its own, and hands it back for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, png: bytes, alt: str) -> Picture:
        """Write `name`.png."""
        write_atomic(self.folder / f"{name}.png", png)
        return Picture(alt=alt, base64=base64.b64encode(png).decode())

    def add_frames(
        self, name: str, path: Path, num_keyframes: int, alt: str
    ) -> tuple[Picture | None, str]:
        """What the policy was shown of a medium, small, or None and why there is none."""
        try:
            return self.add(name, plots.strip(_thumbnails(path, num_keyframes)), alt), ""
        except VideoError as problem:
            return None, problem.reason


def _thumbnails(path: Path, num_keyframes: int) -> np.ndarray:
    """Keyframes of a video, or the one of an image: uint8 (K, 3, H, W)."""
    spec = ClipSpec(
        num_keyframes=num_keyframes or MAX_FRAMES,
        resize="smart",
        keyframe_px=0,
        min_pixels=1,
        max_pixels=FRAME_PIXELS,
        factor=2,
        num_motion_frames=0,
        motion_px=1,
        stills="image",
        image_min_pixels=1,
        image_max_pixels=IMAGE_PIXELS,
    )
    return read_clip(path, spec).keyframes_KCHW.numpy()[:MAX_FRAMES]
