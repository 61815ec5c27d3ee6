"""A part of a video or picture: a range of time, a cut-out, and what tells parts apart."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.video_checks import SPEC, assert_equal_clips, assert_right_frames
from tests.helpers.video_factory import write_video
from thinker.video import Crop, FrameCache, Medium, VideoError, check_videos, medium, read_clip
from thinker.video.clip import clip_from_tensors, clip_to_tensors
from thinker.video.decode import VideoFile
from thinker.video.read import resize_frame
from thinker.video.read_ahead import Reading, read_ahead

CROP = Crop(left=10, top=6, right=75, bottom=57)  # odd sides: 65 x 51


def part(path: Path | str, **fields) -> Medium:
    return dataclasses.replace(medium(path), **fields)


def test_kind_follows_the_suffix():
    assert medium("a/b.PNG") == Medium(path=Path("a/b.PNG"), kind="image")
    assert medium(Path("v.mp4")) == Medium(path=Path("v.mp4"), kind="video")
    assert medium("v.gif").kind == "video"
    assert medium("v.mp4", start=1.0, end=2.5) == part("v.mp4", start_seconds=1.0, end_seconds=2.5)
    given = part("v.mp4", crop=CROP)
    assert medium(given) is given


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "sound"},
        {"kind": "image", "start_seconds": 1.0},
        {"kind": "image", "end_seconds": 1.0},
        {"start_seconds": -1.0},
        {"end_seconds": 0.0},
        {"start_seconds": 2.0, "end_seconds": 2.0},
        {"start_seconds": float("nan")},
        {"end_seconds": float("inf")},
        {"end_seconds": "3"},
    ],
)
def test_what_is_no_part_of_a_medium(fields):
    with pytest.raises(ValueError, match=r"kind|range|start|end") as caught:
        part("v.mp4", **fields)
    assert not isinstance(caught.value, VideoError)


@pytest.mark.parametrize("sides", [(-1, 0, 2, 2), (2, 0, 2, 2), (0, 3, 2, 2), (0, 0, 2.5, 2)])
def test_what_is_no_crop(sides):
    with pytest.raises(ValueError, match=r"crop"):
        Crop(**dict(zip(("left", "top", "right", "bottom"), sides, strict=True)))


@pytest.mark.parametrize("rotation", [0, 90])
def test_every_picture_of_a_video_is_cut_as_displayed(tmp_path, rotation):
    path = write_video(tmp_path / "v.mp4", num_frames=20, width=96, height=64, rotation=rotation)
    clip = read_clip(part(path, crop=CROP), SPEC)
    with VideoFile(path) as file:
        frames = {number: frame_HWC[6:57, 10:75] for number, frame_HWC in file.frames([*range(20)])}
    for pictures, indices, px in (
        (clip.keyframes_KCHW, clip.keyframe_indices, 64),
        (clip.motion_MCHW, clip.motion_indices, 32),
    ):
        for picture, index in zip(pictures.numpy(), indices, strict=True):
            whole = np.ascontiguousarray(frames[index])
            assert np.array_equal(picture, resize_frame(whole, (px, px), "torch"))
    assert (clip.height, clip.width, clip.crop) == (64, 96, CROP)
    smart = dataclasses.replace(SPEC, resize="smart", factor=4, min_pixels=16, max_pixels=10**6)
    # 51 x 65 to the nearest multiples of 4: 51/4 = 12.75, 65/4 = 16.25
    assert read_clip(part(path, crop=CROP), smart).keyframes_KCHW.shape[2:] == (52, 64)


def test_a_turned_picture_is_cut_as_displayed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(upright[6:57, 10:75]).save(tmp_path / "cut.png")
    clip = read_clip(part(tmp_path / "turned.png", crop=CROP), SPEC)
    assert clip.keyframes_KCHW.equal(read_clip(tmp_path / "cut.png", SPEC).keyframes_KCHW)
    assert (clip.height, clip.width, clip.crop) == (80, 120, CROP)


@pytest.mark.parametrize("crop", [{"right": 97}, {"bottom": 65}])
def test_a_crop_beyond_the_picture_is_an_error(tmp_path, crop):
    path = write_video(tmp_path / "v.mp4", width=96, height=64)
    with pytest.raises(VideoError) as caught:
        read_clip(part(path, crop=dataclasses.replace(CROP, **crop)), SPEC)
    assert caught.value.reason == "outside_picture"
    assert "96 x 64" in caught.value.detail and "left 10, top 6" in caught.value.detail


def test_parts_are_told_apart(tmp_path):
    """By the key of a clip, by the cache, and by whoever reads many."""
    path = write_video(tmp_path / "v.mp4", num_frames=30, width=96, height=64)
    parts = [
        medium(path),
        part(path, start_seconds=1.0),
        part(path, end_seconds=1.0),
        part(path, crop=CROP),
        part(path, crop=dataclasses.replace(CROP, left=11)),
        part(path, crop=CROP, start_seconds=1.0),
    ]
    cache = FrameCache(tmp_path / "cache")
    clips = [read_clip(one, SPEC) for one in parts]
    assert len({clip.key for clip in clips}) == len(parts)
    assert [cache.fetch(one, SPEC)[1] for one in parts] == [True] * len(parts)
    assert [cache.fetch(one, SPEC)[1] for one in parts] == [False] * len(parts)
    for one, clip in zip(parts, clips, strict=True):
        assert_equal_clips(cache.get_or_read(one, SPEC), clip)
        assert_equal_clips(clip_from_tensors(clip_to_tensors(clip), path), clip)
    beyond = [part(path, crop=dataclasses.replace(CROP, right=97)), medium(path, start=3.0)]
    failures = check_videos(
        [*parts, *beyond, parts[1]], SPEC, cache, max_failed_share=0.25, num_workers=1
    )
    reasons = {one: error.reason for one, error in failures.items()}
    assert reasons == dict(zip(beyond, ("outside_picture", "empty_range"), strict=True))


@pytest.mark.parametrize("crop", ['{"left": 1}', "[10, 6, 75, 57]", '"all"', "7"])
def test_tensors_with_another_crop_are_no_clip(tmp_path, crop):
    path = write_video(tmp_path / "v.mp4", width=96, height=64)
    tensors = clip_to_tensors(read_clip(part(path, crop=CROP), SPEC))
    given = json.dumps(dataclasses.asdict(CROP))
    facts = bytes(tensors["facts"].tolist()).decode()
    assert given in facts
    bad = facts.replace(given, crop).encode()
    tensors["facts"] = torch.frombuffer(bytearray(bad), dtype=torch.uint8)
    with pytest.raises(ValueError, match="the crop of a clip has"):
        clip_from_tensors(tensors, path)


def test_parts_are_read_ahead(tmp_path):
    path = write_video(tmp_path / "v.mp4", num_frames=30, width=96, height=64)
    parts = [part(path, start_seconds=1.0), medium(path, start=9.0), part(path, crop=CROP)]
    for num_workers in (0, 1):
        first, failed, last = read_ahead(
            parts, partial(read_clip, spec=SPEC), Reading(num_workers=num_workers)
        )
        assert_right_frames(first)
        assert first.keyframe_indices[0] >= 10 and last.crop == CROP
        assert failed.reason == "empty_range" and failed.path == path
