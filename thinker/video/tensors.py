"""A `Clip` as named tensors and back: for the frame cache, and for the pipe of a decoding process.

Tensors only (safetensors), never pickle: what comes back is checked like any other input.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from thinker.video.clip import Clip

_FACTS = {"num_frames": int, "fps": float, "height": int, "width": int}  # the scalars of a clip


def clip_to_tensors(clip: Clip) -> dict[str, torch.Tensor]:
    """Everything but the path."""
    facts = json.dumps({name: kind(getattr(clip, name)) for name, kind in _FACTS.items()})
    return {
        "keyframes": clip.keyframes_KCHW,
        "motion": clip.motion_MCHW,
        "keyframe_seconds": clip.keyframe_seconds,
        "motion_seconds": clip.motion_seconds,
        "keyframe_indices": torch.tensor(clip.keyframe_indices, dtype=torch.int64),
        "motion_indices": torch.tensor(clip.motion_indices, dtype=torch.int64),
        # A tensor, as safetensors writes metadata entries in random order.
        "facts": torch.frombuffer(bytearray(facts.encode()), dtype=torch.uint8),
    }


def clip_from_tensors(tensors: dict[str, torch.Tensor], path: Path) -> Clip:
    """Raises ValueError where these are not exactly the tensors of a clip."""
    expected = {"keyframes", "motion", "keyframe_seconds", "motion_seconds"}
    expected |= {"keyframe_indices", "motion_indices", "facts"}
    if set(tensors) != expected:
        raise ValueError(f"tensors of a clip are {sorted(expected)}, got {sorted(tensors)}")
    facts = json.loads(bytes(tensors["facts"].tolist()))
    if not isinstance(facts, dict) or {k: type(v) for k, v in facts.items()} != _FACTS:
        raise ValueError(f"facts of a clip are {list(_FACTS)}, got {facts!r:.80}")
    indices = [tensors["keyframe_indices"], tensors["motion_indices"]]
    if any(tensor.dtype != torch.int64 or tensor.ndim != 1 for tensor in indices):
        raise ValueError("indices of a clip are one-dimensional int64 tensors")
    return Clip(
        path=path,
        keyframes_KCHW=tensors["keyframes"],
        motion_MCHW=tensors["motion"],
        keyframe_seconds=tensors["keyframe_seconds"],
        motion_seconds=tensors["motion_seconds"],
        keyframe_indices=tuple(indices[0].tolist()),
        motion_indices=tuple(indices[1].tolist()),
        **facts,
    )
