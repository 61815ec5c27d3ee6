"""What tests of the reader ask of a clip."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.helpers.video_factory import read_frame_id
from thinker.video import Clip, ClipSpec, FrameCache, VideoError, medium, read_clip

SPEC = ClipSpec(
    num_keyframes=4,
    resize="square",
    keyframe_px=64,
    min_pixels=0,
    max_pixels=0,
    factor=0,
    num_motion_frames=12,
    motion_px=32,
)
TILED = dataclasses.replace(SPEC, stills="image")  # tiles of 64 px
NATIVE = dataclasses.replace(
    TILED,
    resize="smart",
    factor=28,
    min_pixels=3136,
    max_pixels=200_704,
    image_min_pixels=8 * 28**2,
    image_max_pixels=60 * 28**2,
)
"""How stills are read: cut into tiles, or as one picture of its own aspect."""


def frame_ids(frames) -> list[int]:
    return [read_frame_id(frame) for frame in frames]


def assert_right_frames(clip: Clip) -> None:
    assert frame_ids(clip.keyframes_KCHW) == list(clip.keyframe_indices)
    assert frame_ids(clip.motion_MCHW) == list(clip.motion_indices)


def assert_equal_clips(a: Clip, b: Clip) -> None:
    for field in dataclasses.fields(Clip):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype and torch.equal(left, right), field.name
        else:
            assert left == right, field.name


def reason_of(path: Path, spec: ClipSpec = SPEC, **part) -> str:
    """part: `start` or `end`, as `medium` takes them."""
    with pytest.raises(VideoError) as caught:
        read_clip(medium(path, **part), spec)
    assert caught.value.path == path and str(path) in str(caught.value)
    return caught.value.reason


def files_of(cache: FrameCache) -> list[Path]:
    return sorted(cache.folder.iterdir())
