"""Pictures of a page: written as files of their own, inlined as base64; frames of media."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from thinker.eval.report import plots
from thinker.utils.atomic import write_atomic
from thinker.video import ClipSpec, VideoError, read_clip
from thinker.video.medium import Medium
from thinker.video.sources.frames import Still, read_frames

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

    def add_moments(
        self, name: str, shown: Medium, at: Sequence[float], alt: str
    ) -> tuple[Picture | None, str]:
        """The frames of a video at some times, or an image, small; or None and why there is
        none."""
        spec = _small(1, FRAME_PIXELS if at else IMAGE_PIXELS)
        try:
            if not at:
                frames = read_clip(shown, spec).keyframes_KCHW[:MAX_FRAMES]
            else:
                found = [one for _, one in read_frames(shown, spec, at[:MAX_FRAMES])]
                errors = [one for one in found if isinstance(one, VideoError)]
                if errors:
                    raise errors[0]
                stills = [one for one in found if isinstance(one, Still)]
                frames = torch.cat([one.clip.keyframes_KCHW for one in stills])
            return self.add(name, plots.strip(frames.numpy()), alt), ""
        except VideoError as problem:
            return None, problem.reason

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
    spec = _small(num_keyframes or MAX_FRAMES, IMAGE_PIXELS)
    return read_clip(path, spec).keyframes_KCHW.numpy()[:MAX_FRAMES]


def _small(num_keyframes: int, image_pixels: int) -> ClipSpec:
    return ClipSpec(
        num_keyframes=num_keyframes,
        resize="smart",
        keyframe_px=0,
        min_pixels=1,
        max_pixels=FRAME_PIXELS,
        factor=2,
        num_motion_frames=0,
        motion_px=1,
        stills="image",
        image_min_pixels=1,
        image_max_pixels=image_pixels,
    )
