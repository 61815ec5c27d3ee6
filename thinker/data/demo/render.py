"""A clip of the demo set from its plan: distorted frames of a scene, and their H.264 file.

The motion distortions act in every window of eight frames, and a single frame does not show them.
"""

import io
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageFilter

from thinker.data.demo.plan import DISTORTIONS
from thinker.data.demo.scenes import Scene, scale_luminance
from thinker.utils.atomic import write_atomic

# Quantiser of every clip but the blocking ones: coding noise stays below the weakest added noise.
CLEAN_QP = 20
STUTTER_CYCLE = 8  # frames; a window of eight dense frames holds a whole cycle


def _dither(mean: float, count: int, rng: np.random.Generator) -> list[int]:
    """`count` integers, floors or ceilings of `mean`, that average to it (error diffusion)."""
    return [int(step) for step in np.diff(np.floor(mean * np.arange(count + 1) + rng.random()))]


def stutter_times(num_frames: int, severity: float, rng: np.random.Generator) -> list[int]:
    """The source frame shown at each instant: freezes, each with a jump that catches up.

    In every cycle of 8 frames the first is repeated 1 (severity 0) to 7 times (severity 1), then
    playback is where it would have been. Three repeats: 0 0 0 0 4 5 6 7 8 8 8 8 12 13 14 15.
    """
    repeats = _dither(1 + 6 * severity, num_frames // STUTTER_CYCLE + 2, rng)
    phase = int(rng.integers(STUTTER_CYCLE))
    times = []
    for i in range(num_frames):
        cycle, place = divmod(i + phase, STUTTER_CYCLE)
        times.append(max(i - place, 0) if place <= repeats[cycle] else i)
    return times


def frame_drop_times(num_frames: int, severity: float, rng: np.random.Generator) -> list[int]:
    """The source frame shown at each instant: time skips, and no frame is ever shown twice.

    With severity 0..1 the skips come more often, every 7 to every 3 frames, and lose more source
    frames, 1 to 7: longer jumps would not look longer, since nothing of the old frame is left.
    Severity .25, every 6 frames 2 or 3 lost: 0 1 2 5 6 7 8 9 10 14 15.
    """
    num_events = num_frames // 3 + 2
    steps = np.ones(num_frames, dtype=int)
    gaps = _dither(7 - 4 * severity, num_events, rng)
    events = np.cumsum(gaps) - int(rng.integers(gaps[0]))
    for event, lost in zip(events, _dither(1 + 6 * severity, num_events, rng), strict=True):
        if event < num_frames:
            steps[event] += lost
    return [int(time) for time in np.cumsum(steps) - 1]


def render_clip(
    scene: Scene, distortion: str, severity: float, num_frames: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], int]:
    """The clip's frames, uint8 RGB (H, W, 3) each, and the quantiser to code them with.

    Strengths at severity 0 are just visible; at 1 little of the content, or of its motion, is left.
    """
    if DISTORTIONS[distortion].kind == "motion":
        return _render_motion(scene, distortion, severity, num_frames, rng), CLEAN_QP
    frames = [scene.steady_frame(time) for time in range(num_frames)]
    if distortion == "blocking":  # nothing is drawn: the codec makes its own artefacts
        return frames, round(29 + 22 * severity)
    return [
        _distort_frame(frame, distortion, severity, scene.unit, rng) for frame in frames
    ], CLEAN_QP


def distort_picture(
    scene: Scene, distortion: str, severity: float, rng: np.random.Generator
) -> np.ndarray:
    """One picture of the scene, uint8 RGB (H, W, 3), with a spatial distortion or none."""
    picture_HWC = scene.steady_frame(0)
    if distortion != "blocking":
        return _distort_frame(picture_HWC, distortion, severity, scene.unit, rng)
    return jpeg_round_trip(picture_HWC, round(30 - 28 * severity))


def jpeg_round_trip(picture_HWC: np.ndarray, quality: int) -> np.ndarray:
    """The picture with blocks of eight by eight pixels, as the codec of the clips has them."""
    file = io.BytesIO()
    Image.fromarray(picture_HWC).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def _distort_frame(
    frame_HWC: np.ndarray, distortion: str, severity: float, unit: float, rng: np.random.Generator
) -> np.ndarray:
    if distortion == "none":
        return frame_HWC
    if distortion == "blur":
        blur = ImageFilter.GaussianBlur((0.45 + 3.05 * severity) * unit)
        return np.asarray(Image.fromarray(frame_HWC).filter(blur))
    if distortion == "noise":  # the same in all channels: 4:2:0 coding would lose chroma noise
        noise_HW1 = rng.standard_normal((*frame_HWC.shape[:2], 1), dtype=np.float32)
        return np.clip(frame_HWC + (5 + 45 * severity) * noise_HW1, 0, 255).astype(np.uint8)
    if distortion == "overexposure":
        return scale_luminance(frame_HWC, 1.05 + 0.9 * severity, 50 * severity)
    if distortion == "underexposure":
        return scale_luminance(frame_HWC, 0.92 - 0.74 * severity)
    assert distortion == "low_contrast", distortion
    kept = 0.9 - 0.74 * severity
    return scale_luminance(frame_HWC, kept, (1 - kept) * 119)  # 119: the mean of a scene


def _render_motion(
    scene: Scene, distortion: str, severity: float, num_frames: int, rng: np.random.Generator
) -> list[np.ndarray]:
    if distortion == "stutter":
        return [scene.steady_frame(time) for time in stutter_times(num_frames, severity, rng)]
    if distortion == "frame_drops":
        return [scene.steady_frame(time) for time in frame_drop_times(num_frames, severity, rng)]
    if distortion == "flicker":  # 4 to 7 Hz at 24 fps: more than one oscillation in eight frames
        period, phase = rng.uniform(3.4, 6.0), rng.uniform(0, 2 * math.pi)
        waves = np.sin(2 * math.pi * np.arange(num_frames) / period + phase)
        gains = 1 + (0.012 + 0.13 * severity) * waves
        return [scale_luminance(scene.steady_frame(t), gain) for t, gain in enumerate(gains)]
    assert distortion == "shake", distortion
    rms_px = (0.3 + 3.7 * severity) * scene.unit
    shifts_px = rng.normal(0.0, rms_px / math.sqrt(2), (num_frames, 2))
    return [scene.frame(time, (dx, dy)) for time, (dx, dy) in enumerate(shifts_px.tolist())]


def encode(
    frames: list[np.ndarray], path: Path, *, fps: int, qp: int, intra_only: bool = False
) -> None:
    """Write uint8 RGB frames as H.264 at one quantiser; intra_only: every frame coded for itself.

    The file appears whole or not at all.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the bits depend on the number of threads
        stream.options = {
            "preset": "superfast",
            "qp": str(qp),
            # A loop filter would hide the block edges. Key frames would pulse.
            "x264-params": "no-deblock=1:bframes=0:scenecut=0:"
            f"keyint={1 if intra_only else len(frames)}",
        }
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    write_atomic(path, file.getvalue(), flush=False)  # thousands, and each can be made again
