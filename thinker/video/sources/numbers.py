"""Which frames of a video, or of a part of it, a clip shows: the numbers of its keyframes and of
its motion frames.

The sampling rule of the keyframes is VQAThinker's (arXiv 2508.06051, "Frames" of the published
code). Dense motion frames follow VQA² (the motion branch must see neighbouring frames).

In: how many frames there are, their mean rate, a `ClipSpec`. Two kinds of rules: so many frames
spread over the whole (`ClipSpec.sampler` "segments", "steps", "inner_steps"), or a keyframe for
each second and motion frames all the way through ("seconds", "rounded_seconds"), whose number
follows from the length.
"""

from __future__ import annotations

from pathlib import Path

from thinker.video.clip import ClipSpec
from thinker.video.file import VideoError

MOTION_MULTIPLE = 4
"""The motion frames of a video that is read second by second are cut to a multiple of it: SlowFast
takes a slow frame for every fourth. Both published programs do so."""


def frame_numbers(
    path: Path, num_frames: int, fps: float, spec: ClipSpec
) -> tuple[list[int], list[int]]:
    """Numbers of the keyframes and of the motion frames, both from 0 on.

    num_frames, fps: of the part that is read. `path` is named in errors. Raises `VideoError` where
    the rule of the spec gives nothing to read, or more than the spec allows.
    """
    if not spec.by_seconds:
        keyframes = keyframe_indices(num_frames, spec.num_keyframes, spec.sampler)
        return keyframes, motion_indices(num_frames, spec)
    keyframes, motion = each_second(num_frames, fps, spec.sampler, spec.motion_stride)
    if not motion:
        needed = MOTION_MULTIPLE * spec.motion_stride
        raise VideoError(
            path, "too_short", f"{num_frames} frames are read, this policy needs {needed}"
        )
    if not keyframes:
        raise VideoError(
            path,
            "unsupported",
            f"{fps:g} frames a second: a keyframe for each second needs at least 0.5",
        )
    for name, numbers, most in (
        ("keyframes", keyframes, spec.num_keyframes),
        ("motion frames", motion, spec.num_motion_frames),
    ):
        if len(numbers) > most:
            raise VideoError(
                path,
                "too_long",
                f"{len(numbers)} {name}, this policy reads at most {most}; give it a part of the "
                "video",
            )
    return keyframes, motion


def each_second(
    num_frames: int, fps: float, sampler: str, stride: int
) -> tuple[list[int], list[int]]:
    """Numbers of the keyframes and of the motion frames of a video of `num_frames`.

    Motion frames: every `stride`-th of the first 4·stride·⌊N / (4·stride)⌋ frames. Keyframes:

    - "seconds" (VQA², arXiv 2411.03795): 0, r, 2r, … below N, r = round(fps), a half going to the
      even neighbour. None where r is 0.
    - "rounded_seconds" (VITAL, arXiv 2511.17962): round(fps·i) for i below max(⌊N / fps⌋, 1), of
      which those count that are motion frames, too.

    Example: 100 frames at 29.97 a second. "seconds", stride 1: keyframes 0, 30, 60, 90 and motion
    frames 0 to 99. "rounded_seconds", stride 8: of 0, 30 and 60 only 0 is a multiple of 8; motion
    frames 0, 8, …, 88.
    """
    limit = num_frames // (MOTION_MULTIPLE * stride) * MOTION_MULTIPLE * stride
    motion = list(range(0, limit, stride))
    if sampler == "seconds":
        step = round(fps)
        return (list(range(0, num_frames, step)) if step else []), motion
    count = max(int(num_frames // fps), 1) if fps else 1
    seconds = dict.fromkeys(round(fps * i) for i in range(count))
    return [number for number in seconds if number < limit and number % stride == 0], motion


def keyframe_indices(num_frames: int, num_keyframes: int, sampler: str = "segments") -> list[int]:
    """Frame numbers of the K keyframes, by one of `SPREAD_SAMPLERS`:

    - "segments": `int(seg/2 + round(seg·i))`, `seg = (N-1)/K` (VQAThinker). `round` is Python's:
      halves go to the even neighbour, as in the reference. The largest index is below `N-1 - seg/2
      + 1/2`, so never above N-1.
    - "steps": `i·int(N/K)`, i from 0 (Q-Bench-Video's GPT_test.py). The first frame is one of them,
      and of a video of fewer than K frames it is the only one.
    - "inner_steps": `int(i·(N/(K+1)))`, i from 1 (VLMEvalKit's qbench_video.py).

    Short videos repeat frames. Example: `keyframe_indices(100, 6)` → `[8, 24, 41, 58, 74, 90]`, by
    "steps" `[0, 16, 32, 48, 64, 80]`, by "inner_steps" `[14, 28, 42, 57, 71, 85]`.
    """
    if num_frames < 1 or num_keyframes < 1:
        raise ValueError(
            f"need at least 1 frame and 1 keyframe, got {num_frames} and {num_keyframes}"
        )
    if sampler == "steps":
        return [num_frames // num_keyframes * i for i in range(num_keyframes)]
    if sampler == "inner_steps":
        step = num_frames / (num_keyframes + 1)
        return [int(i * step) for i in range(1, num_keyframes + 1)]
    seg = (num_frames - 1) / num_keyframes
    return [int(seg / 2 + round(seg * i)) for i in range(num_keyframes)]


def motion_indices(num_frames: int, spec: ClipSpec) -> list[int]:
    """Frame numbers of the M motion frames: K windows of L = M/K consecutive frames, window i
    around keyframe i.

    The keyframe is element L//2 of its window. Windows are shifted inwards at both ends of the
    video; a video shorter than L gives all its frames, then its last one repeated.
    Example: K = 2, M = 8, 100 frames (keyframes 24, 74) → `[22, 23, 24, 25, 72, 73, 74, 75]`.
    """
    if not spec.num_motion_frames:
        return []
    length = spec.num_motion_frames // spec.num_keyframes
    indices = []
    for centre in keyframe_indices(num_frames, spec.num_keyframes, spec.sampler):
        first = max(0, min(centre - length // 2, num_frames - length))
        indices += [min(first + offset, num_frames - 1) for offset in range(length)]
    return indices
