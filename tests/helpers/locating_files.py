"""What commands, scorer and app look at when they locate distortions."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.video_factory import write_video

WIDTH, HEIGHT = 64, 48


def pixels() -> np.ndarray:
    """Noise, (HEIGHT, WIDTH, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def write_files(folder: Path) -> Path:
    """`a.png`, `cut.png` (its first 2,000 bytes), `a.mp4` (20 frames, 10 a second); the folder."""
    Image.fromarray(pixels()).save(folder / "a.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    write_video(folder / "a.mp4", num_frames=20, fps=10)
    return folder
