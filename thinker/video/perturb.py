"""Seeded temporal perturbations: index maps over the frames of a clip.

In: a kind, a number of frames and a seed. Out: for each place in time the frame to show there,
`None` = no frame (shown as one constant grey picture). Used by the temporal-consistency reward
(VQAThinker, arXiv 2508.06051): a policy that looks at time must rate the true video at least as
high as its perturbed copy. Places and their times never change, so a perturbed clip has the same
prompt length. Maps, not pixels, are the primary thing: where per-frame features exist (InternVL)
they are permuted by the same map.

Every kind but "identity" changes something wherever that is possible, i.e. from 2 frames on; with 0
or 1 frames the map is the identity. (The official code may draw an unchanged copy, whose comparison
says nothing.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from thinker.utils.names import path_text
from thinker.video import Clip, ClipSpec, Medium, read_clip

LOCAL_WINDOW = 4  # places per window of "local_shuffle" (VQAThinker)
MAX_CHANGED = 3  # "duplicate" and "drop" touch 1 to 3 places (VQAThinker)
# Mid-grey in all channels: close to zero after normalisation, and no content.
DROPPED_FRAME_VALUE = 128

FrameMap = list[int | None]


def _identity(num_frames: int, rng: np.random.Generator) -> FrameMap:
    return [*range(num_frames)]


def _shuffle(num_frames: int, rng: np.random.Generator) -> FrameMap:
    return [int(frame) for frame in rng.permutation(num_frames)]


def _local_shuffle(num_frames: int, rng: np.random.Generator) -> FrameMap:
    frames = np.arange(num_frames)
    for first in range(0, num_frames, LOCAL_WINDOW):
        rng.shuffle(frames[first : first + LOCAL_WINDOW])
    return [int(frame) for frame in frames]


def _reverse(num_frames: int, rng: np.random.Generator) -> FrameMap:
    return [*reversed(range(num_frames))]


def _jitter(num_frames: int, rng: np.random.Generator) -> FrameMap:
    moved = np.arange(num_frames) + rng.integers(-1, 2, num_frames)
    return [int(frame) for frame in moved.clip(0, num_frames - 1)]


def _duplicate(num_frames: int, rng: np.random.Generator) -> FrameMap:
    frames: FrameMap = list(range(num_frames))
    for place in _some_places(1, num_frames, rng):
        frames[place] = frames[place - 1]
    return frames


def _drop(num_frames: int, rng: np.random.Generator) -> FrameMap:
    frames: FrameMap = list(range(num_frames))
    for place in _some_places(0, num_frames, rng):
        frames[place] = None
    return frames


def _some_places(first: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """1 to 3 different places of first..num_frames-1, ascending; at most num_frames - 1, so one
    frame stays true."""
    count = int(rng.integers(1, min(MAX_CHANGED, num_frames - 1) + 1))
    return sorted(rng.choice(np.arange(first, num_frames), count, replace=False).tolist())


_MAKERS: dict[str, Callable[[int, np.random.Generator], FrameMap]] = {
    "identity": _identity,
    "shuffle": _shuffle,
    "local_shuffle": _local_shuffle,
    "reverse": _reverse,
    "jitter": _jitter,
    "duplicate": _duplicate,
    "drop": _drop,
}
PERTURBATIONS: tuple[str, ...] = tuple(_MAKERS)


def _check_kind(kind: str) -> None:
    if kind not in _MAKERS:
        raise ValueError(
            f"unknown perturbation {kind!r}, expected one of {', '.join(PERTURBATIONS)}"
        )


def perturb_indices(kind: str, num_frames: int, rng: np.random.Generator) -> FrameMap:
    """The frame shown in each of `num_frames` places; `None` = dropped. Always `num_frames` long.

    Each kind with an example for 6 frames:

    - identity: `[0, 1, 2, 3, 4, 5]`
    - shuffle: a permutation of all frames, `[4, 0, 3, 5, 2, 1]`
    - local_shuffle: a permutation within each run of 4 places (the last run may be shorter),
      `[2, 0, 1, 3, 5, 4]`
    - reverse: `[5, 4, 3, 2, 1, 0]`
    - jitter: each place shows the frame before it, its own, or the one after it, drawn evenly and
      kept within the clip; frames may repeat or go missing, `[1, 1, 1, 4, 4, 5]`
    - duplicate: 1 to 3 places, never place 0, show what the place before them shows (a frozen
      picture; the clip is not delayed afterwards), `[0, 1, 1, 1, 4, 5]`
    - drop: 1 to 3 places show nothing, at least one frame stays, `[0, None, 2, 3, None, 5]`

    Raises ValueError for an unknown kind or a negative number.
    """
    _check_kind(kind)
    if num_frames < 0:
        raise ValueError(f"num_frames must be 0 or more, got {num_frames}")
    unchanged: FrameMap = list(range(num_frames))
    if num_frames < 2 or kind == "identity":
        return unchanged
    frames = unchanged
    while frames == unchanged:  # each draw changes something with probability 1/2 or more
        frames = _MAKERS[kind](num_frames, rng)
    return frames


def perturbation_maps(
    kind: str, seed: int, num_keyframes: int, num_motion_frames: int
) -> tuple[FrameMap, FrameMap]:
    """(map of the keyframes, map of the motion frames) of one seed, drawn independently.

    The keyframe map does not depend on `num_motion_frames`.
    Example: `perturbation_maps("reverse", 0, 2, 4)` → `([1, 0], [3, 2, 1, 0])`.
    """
    return (
        perturb_indices(kind, num_keyframes, np.random.default_rng([seed, 0])),
        perturb_indices(kind, num_motion_frames, np.random.default_rng([seed, 1])),
    )


def perturb_clip(clip: Clip, kind: str, seed: int) -> Clip:
    """The clip with rearranged pictures; times and indices stay those of the places.

    An image is given back as it is: its keyframes are parts of one picture, not moments.
    """
    if clip.kind == "image":
        return clip
    keyframe_map, motion_map = perturbation_maps(
        kind, seed, len(clip.keyframes_KCHW), len(clip.motion_MCHW)
    )
    return replace(
        clip,
        keyframes_KCHW=_apply(clip.keyframes_KCHW, keyframe_map),
        motion_MCHW=_apply(clip.motion_MCHW, motion_map),
        variant=f"{clip.variant}{kind}:{seed}",
    )


def read_perturbed_clip(source: Medium, *, spec: ClipSpec, kind: str) -> Clip:
    """`read_clip`, then `perturb_clip`. The order depends on the last two parts of the path, so
    that it is the same wherever a set lies."""
    name = path_text(Path(*source.path.parts[-2:]))
    return perturb_clip(read_clip(source, spec), kind, perturbation_seed(0, 0, name))


def _apply(frames_TCHW: torch.Tensor, frame_map: FrameMap) -> torch.Tensor:
    shown = torch.full_like(frames_TCHW, DROPPED_FRAME_VALUE)
    for place, frame in enumerate(frame_map):
        if frame is not None:
            shown[place] = frames_TCHW[frame]
    return shown


def perturbation_seed(seed: int, step: int, sample_id: str) -> int:
    """A 63-bit seed for one sample in one step; the same on every machine, process and Python run.

    BLAKE2b of "seed/step/sample_id", since Python's `hash` of a string differs between runs.
    Example: `perturbation_seed(0, 0, "lsvq/1")` → 2360507329497243269.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def choose_perturbation(kinds: Sequence[str], seed: int) -> str:
    """One of `kinds`, evenly. Raises ValueError for an empty list or an unknown kind."""
    if not kinds:
        raise ValueError(
            f"expected at least one perturbation of {', '.join(PERTURBATIONS)}, got none"
        )
    for kind in kinds:
        _check_kind(kind)
    # A stream of its own, so that the choice says nothing about the maps drawn from the same seed.
    return kinds[int(np.random.default_rng([seed, 2]).integers(len(kinds)))]
