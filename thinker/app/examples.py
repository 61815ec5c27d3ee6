"""Media to begin with, drawn from the scenes of the demo set when they are first asked for: nothing
is shipped, and nothing is downloaded.

In: a folder and the size that the policy reads. Out: the path of an example, by its name.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from thinker.data.demo.local import render
from thinker.data.demo.render import CLEAN_QP, encode, render_clip
from thinker.data.demo.scenes import Scene
from thinker.video import ClipSpec

FPS = 24
NUM_FRAMES = 48
SEED = 17
SMALLEST_PX, LARGEST_PX = 64, 320
"""Noise and edges are drawn in pixels: a policy should read an example at about its own size."""

_CLIPS: dict[str, tuple[int, str, float]] = {
    "a sharp video": (0, "none", 0.0),
    "the same, blurred": (0, "blur", 0.7),
    "a noisy video": (1, "noise", 0.8),
    "a stuttering video": (2, "stutter", 0.8),
    "an underexposed video": (3, "underexposure", 0.8),
}
"""Content, distortion and severity of the videos."""
_IMAGES: dict[str, tuple[int, str, float]] = {"a blurred image": (4, "blur", 0.6)}
_LOCAL = "a picture with local distortions"
_PLACES = (
    ("Noise", "Severe", (0.08, 0.1, 0.48, 0.5)),
    ("Meaningless solid color", "Moderate", (0.6, 0.15, 0.9, 0.45)),
    ("Out of focus blur", "Severe", (0.35, 0.58, 0.85, 0.92)),
)
"""Distortion, severity and box, in shares of the sides."""
_LONG = "a longer video with a bad part"
_LONG_PARTS = (("none", 0.0), ("none", 0.0), ("noise", 0.9), ("noise", 0.9), ("none", 0.0))
"""Two seconds each."""

SINGLE = (*_CLIPS, *_IMAGES)
"""Names of the examples that are scored as a whole."""
PAIR = ("a sharp video", "the same, blurred")
LONG = (_LONG,)
LOCAL = (_LOCAL,)


class Examples:
    """The examples of one app. Example: `Examples(folder, spec).path("a noisy video")`."""

    def __init__(self, folder: Path, spec: ClipSpec):
        side = spec.keyframe_px if spec.resize == "square" else LARGEST_PX
        self._size_px = min(max(side, SMALLEST_PX), LARGEST_PX) // 2 * 2
        self._folder = folder
        self._lock = threading.Lock()

    def path(self, name: str) -> Path:
        """The file of an example, drawn if it is not there yet."""
        draw = self._drawing(name)
        suffix = ".png" if name in (*_IMAGES, _LOCAL) else ".mp4"
        target = self._folder / f"{name.replace(' ', '_').replace(',', '')}{suffix}"
        with self._lock:
            if not target.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                draw(target)
        return target

    def _drawing(self, name: str) -> Callable[[Path], None]:
        if name == _LONG:
            return self._draw_long
        if name == _LOCAL:
            return self._draw_local
        if name in _IMAGES:
            return lambda target: self._draw_image(target, *_IMAGES[name])
        return lambda target: self._draw_video(target, *_CLIPS[name])

    def _draw_video(self, target: Path, content: int, distortion: str, severity: float) -> None:
        frames, quantiser = self._frames(content, distortion, severity)
        encode(frames, target, fps=FPS, qp=quantiser)

    def _draw_image(self, target: Path, content: int, distortion: str, severity: float) -> None:
        frames, _ = self._frames(content, distortion, severity, num_frames=1)
        Image.fromarray(frames[0]).save(target)

    def _draw_long(self, target: Path) -> None:
        frames: list[np.ndarray] = []
        for distortion, severity in _LONG_PARTS:
            frames += self._frames(5, distortion, severity)[0]
        encode(frames, target, fps=FPS, qp=CLEAN_QP)

    def _draw_local(self, target: Path) -> None:
        size = self._size_px
        places = [
            {
                "distortion": name,
                "severity": severity,
                "coordinates": [round(side * size) for side in box],
            }
            for name, severity, box in _PLACES
        ]
        picture_HWC = render({"width": size, "distortions": places}, (SEED, 6))
        Image.fromarray(picture_HWC).save(target)

    def _frames(
        self, content: int, distortion: str, severity: float, num_frames: int = NUM_FRAMES
    ) -> tuple[list[np.ndarray], int]:
        scene = Scene((SEED, content), self._size_px)
        draw = np.random.default_rng((SEED, content))
        return render_clip(scene, distortion, severity, num_frames, draw)
