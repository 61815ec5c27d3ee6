"""Writes small real videos for tests: codecs, rotation, variable frame rate, 10-bit, damage.

In: what the file shall be (codec, size, times, rotation). Out: a file on disk whose every frame
carries its own number as a pattern of black and white blocks, so that a test can read back *which*
frame a reader returned (`read_frame_id`), even after lossy coding, resizing and, for `orientation`,
rotation.

The pattern: a 4 x 4 grid over the whole frame. The corner cells carry the orientation (red top
left, green top right, blue bottom right, yellow bottom left, as stored); the other 12 cells are one
bit each of the frame number, white = 1, in reading order, most significant first. Hence at most
4096 frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GRID = 4
CORNERS = {  # grid cell -> (name, RGB)
    (0, 0): ("red", (230, 20, 20)),
    (0, 3): ("green", (20, 200, 20)),
    (3, 3): ("blue", (20, 20, 230)),
    (3, 0): ("yellow", (230, 230, 20)),
}
BIT_CELLS = [(r, c) for r in range(GRID) for c in range(GRID) if (r, c) not in CORNERS]
MAX_FRAMES = 2 ** len(BIT_CELLS)
# codec name -> (encoder, options); fast settings, lossy on purpose
CODECS = {
    "h264": ("libx264", {"preset": "ultrafast", "crf": "20", "bf": "2"}),
    "hevc": (
        "libx265",
        {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none:bframes=2"},
    ),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "25", "b": "0"}),
    "mpeg4": ("mpeg4", {"qscale": "3"}),
    "mpeg2": ("mpeg2video", {"qscale": "3"}),
    # preset 8 and no temporal filter: faster settings merge neighbouring frames of so short-lived a
    # content
    "av1": ("libsvtav1", {"preset": "8", "crf": "20", "svtav1-params": "lp=1:enable-tf=0"}),
    "ffv1": ("ffv1", {}),  # lossless
}


def frame_pattern(frame_id: int, width: int, height: int) -> np.ndarray:
    """RGB uint8 (height, width, 3) picture that carries `frame_id`."""
    if not 0 <= frame_id < MAX_FRAMES:
        raise ValueError(f"frame_id must lie in 0..{MAX_FRAMES - 1}, got {frame_id}")
    cells = np.zeros((GRID, GRID, 3), dtype=np.uint8)
    for (row, col), (_, rgb) in CORNERS.items():
        cells[row, col] = rgb
    for place, (row, col) in enumerate(BIT_CELLS):
        bit = frame_id >> (len(BIT_CELLS) - 1 - place) & 1
        cells[row, col] = 235 if bit else 20
    rows = np.arange(height) * GRID // height
    cols = np.arange(width) * GRID // width
    return cells[rows][:, cols]


def _cell_means(frame: np.ndarray) -> np.ndarray:
    """Mean RGB (GRID, GRID, 3) of the middle of each cell of an (H, W, 3) frame."""
    height, width = frame.shape[:2]
    means = np.zeros((GRID, GRID, 3))
    for row in range(GRID):
        for col in range(GRID):
            y0, y1 = int((row + 0.3) * height / GRID), int((row + 0.7) * height / GRID)
            x0, x1 = int((col + 0.3) * width / GRID), int((col + 0.7) * width / GRID)
            means[row, col] = frame[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].mean(axis=(0, 1))
    return means


def read_frame_id(frame_CHW: object) -> int:
    """The number written in an upright frame, given as (3, H, W) or (H, W, 3), array or tensor,
    0..255.

    Raises AssertionError where the picture does not carry a clean pattern (grey or mixed cells,
    wrong corners), so a blend of two frames or a grey filler is never read as a frame.
    """
    frame = _as_hwc(frame_CHW)
    assert orientation(frame) == ("red", "green", "blue", "yellow"), "frame is not upright"
    means = _cell_means(frame)
    frame_id = 0
    for row, col in BIT_CELLS:
        level = means[row, col]
        assert level.max() < 90 or level.min() > 165, (
            f"cell {row, col} is neither black nor white: {level}"
        )
        frame_id = frame_id * 2 + int(level.min() > 165)
    return frame_id


def orientation(frame_CHW: object) -> tuple[str, str, str, str]:
    """Names of the corner colours clockwise from the top left; upright is red, green, blue,
    yellow."""
    means = _cell_means(_as_hwc(frame_CHW))
    names = []
    for cell in ((0, 0), (0, 3), (3, 3), (3, 0)):
        distances = {name: float(np.abs(means[cell] - rgb).max()) for name, rgb in CORNERS.values()}
        best = min(distances, key=distances.__getitem__)
        assert distances[best] < 60, f"corner {cell} carries no marker colour: {means[cell]}"
        names.append(best)
    return tuple(names)  # type: ignore[return-value]


def _as_hwc(frame: object) -> np.ndarray:
    array = np.asarray(frame)
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise ValueError(f"expected one (3, H, W) or (H, W, 3) frame, got shape {array.shape}")
    return array if array.shape[2] == 3 else array.transpose(1, 2, 0)


def write_video(
    path: Path | str,
    *,
    codec: str = "h264",
    width: int = 64,
    height: int = 64,
    num_frames: int = 20,
    fps: float | Fraction = 10,
    times_ms: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    rotation: int = 0,
    mirrored: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes `num_frames` numbered frames and returns the path; the container follows from the
    suffix.

    `times_ms` gives every frame its own presentation time (variable frame rate) and then sets
    `num_frames`.
    `rotation` (0, 90, 180, 270): the pictures are stored turned, with a flag that a player must
    turn them by so many degrees *clockwise* (and then mirror them left to right, if `mirrored`);
    mp4 and mov only. `width`, `height` and the pattern are those of the video as displayed, so a
    right reader returns upright frames. H.264 and HEVC have B frames, HEVC also open GOPs;
    `options` go to the encoder, `container_options` to what writes the file.
    Example: `write_video(tmp_path / "a.mp4", codec="hevc", num_frames=30, fps=25)`.
    """
    path = Path(path)
    encoder, defaults = CODECS[codec]
    rate = Fraction(fps).limit_denominator(1001)
    time_base = Fraction(1, 1000) if times_ms is not None else 1 / rate
    times = list(times_ms) if times_ms is not None else list(range(num_frames))
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(encoder, rate=rate, options={**defaults, **(options or {})})
        swap = rotation in (90, 270)
        stream.width, stream.height = (height, width) if swap else (width, height)
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        if rotation or mirrored:
            stream.set_display_rotation(-rotation, hflip=mirrored)
        for frame_id, pts in enumerate(times):
            picture = frame_pattern(frame_id, width, height)
            if mirrored:
                picture = picture[:, ::-1]
            picture = np.ascontiguousarray(np.rot90(picture, rotation // 90))  # counter-clockwise
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = pts, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path | str) -> Path:
    """Half a second of silence and no video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 22050), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def cut_file(path: Path, target: Path, share: float) -> Path:
    """Copies the first `share` of the bytes: an interrupted download."""
    content = path.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def flip_bits(
    path: Path, target: Path, *, num_flips: int, share: tuple[float, float], seed: int
) -> Path:
    """Copies the file with `num_flips` flipped bits, all between the two shares of its length."""
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for position in rng.integers(
        int(len(content) * share[0]), int(len(content) * share[1]), num_flips
    ):
        content[position] ^= 1 << int(rng.integers(8))
    target.write_bytes(content)
    return target
