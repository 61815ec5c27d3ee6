"""Frames that are already in memory (a tensor or array) as a `Clip`, sampled as a file would be."""

from pathlib import Path

import numpy as np
import torch

from thinker.video.clip import Clip, ClipSpec, keyframe_indices, keyframe_size, motion_indices
from thinker.video.read import frames_in_range, resize_frame

FRAMES_PATH = Path("<frames>")
DEFAULT_FPS = 25.0


def clip_from_frames(
    frames: torch.Tensor | np.ndarray,
    spec: ClipSpec,
    *,
    fps: float = DEFAULT_FPS,
    start: float | None = None,
    end: float | None = None,
) -> Clip:
    """The clip that reading a video of these frames would give.

    frames: uint8 RGB, a tensor (T, 3, H, W) or an array (T, H, W, 3). start, end: seconds at `fps`.
    Raises ValueError for anything else, `VideoError` as `read_clip` does.
    """
    frames_THWC = _as_thwc(frames)
    num_frames, height, width = frames_THWC.shape[:3]
    seconds = [i / fps for i in range(num_frames)]
    first, num_in_range = frames_in_range(FRAMES_PATH, seconds, start, end)
    keyframes = [first + i for i in keyframe_indices(num_in_range, spec.num_keyframes)]
    motion = [first + i for i in motion_indices(num_in_range, spec)]

    def pick(indices: list[int], size: tuple[int, int]) -> torch.Tensor:
        if not indices:
            return torch.empty((0, 3, *size), dtype=torch.uint8)
        frames = [resize_frame(frames_THWC[i], size, spec.resampler) for i in indices]
        return torch.from_numpy(np.stack(frames))

    return Clip(
        path=FRAMES_PATH,
        keyframes_KCHW=pick(keyframes, keyframe_size(FRAMES_PATH, spec, height, width)),
        motion_MCHW=pick(motion, (spec.motion_px, spec.motion_px)),
        keyframe_seconds=torch.tensor([seconds[i] for i in keyframes], dtype=torch.float64),
        motion_seconds=torch.tensor([seconds[i] for i in motion], dtype=torch.float64),
        keyframe_indices=tuple(keyframes),
        motion_indices=tuple(motion),
        num_frames=num_frames,
        fps=fps,
        height=height,
        width=width,
    )


def _as_thwc(frames: torch.Tensor | np.ndarray) -> np.ndarray:
    array = (
        frames.cpu().movedim(1, -1).numpy()
        if isinstance(frames, torch.Tensor) and frames.ndim == 4
        else np.asarray(frames)
    )
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or not len(array):
        raise ValueError(
            "frames must be uint8 RGB, a tensor (T, 3, H, W) or an array (T, H, W, 3), got "
            f"{type(frames).__name__} of {frames.dtype} and shape {tuple(frames.shape)}"
        )
    return np.ascontiguousarray(array)
