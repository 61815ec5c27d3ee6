"""Animated WebP, PNG and AVIF as videos: every picture as composed for display, at its own time.

In: a path. Out: the index of its pictures, then those asked for. PIL composes them (libwebp's own
decoder, PNG's disposal and blending), because FFmpeg's WebP decoder knows stills only, and because
of an AVIF with transparency FFmpeg cannot tell the picture's stream from that of its alpha. Alpha
is dropped, as of stills.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from thinker.video.decode import FrameIndex
from thinker.video.file import VideoError, opened_picture, upright_pixels
from thinker.video.sources.chunks import start_seconds, starts_of


class AnimatedPicture:
    """The pictures of one file by number. Raises `VideoError`, as all readers of frames do."""

    pixel_aspect = Fraction(1)

    def __init__(self, path: Path) -> None:
        self.path = path
        with opened_picture(path) as image:
            self._first = _hidden_pictures(image)
            num_shown = getattr(image, "n_frames", 1) - self._first
            if image.format == "AVIF":
                seconds = _avif_seconds(path, image)
            else:
                seconds = start_seconds(path)
        if len(seconds) != num_shown:
            detail = f"{num_shown} pictures are declared, {len(seconds)} are there"
            raise VideoError(path, "truncated", detail)
        fps = (len(seconds) - 1) / seconds[-1] if len(seconds) > 1 else 0.0
        self.index = FrameIndex(pts=None, starts=[], seconds=seconds, fps=fps)

    def frames(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, RGB (H, W, 3)) of the pictures `wanted` (ascending)."""
        with opened_picture(self.path) as image:
            for number in wanted:
                image.seek(number + self._first)
                yield number, upright_pixels(image)


def _hidden_pictures(image: Image.Image) -> int:
    """PIL counts a PNG's picture for programs that know no animation as the first of it."""
    return int(bool(getattr(image, "default_image", False)))


def _avif_seconds(path: Path, image: Image.Image) -> list[float]:
    """PIL tells the time of an AVIF's picture once that is decoded."""
    durations = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        durations.append(Fraction(image.info.get("duration", 0), 1000))
    return starts_of(path, durations)
