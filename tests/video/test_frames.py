"""Chosen frames of a video as stills."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.video_checks import NATIVE, SPEC, TILED
from tests.helpers.video_factory import cut_file, frame_pattern, read_frame_id, write_video
from thinker.video import Crop, Medium, VideoError, read_clip
from thinker.video.sources.frames import Still, read_frames, read_still


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """30 frames at 10 a second, 3.0 s."""
    path = tmp_path_factory.mktemp("frames") / "a.mp4"
    write_video(path, num_frames=30, fps=10, width=192, height=128)
    return path


def ids(moments):
    return [
        read_frame_id(what.picture_HWC) if isinstance(what, Still) else what.reason
        for _, what in moments
    ]


@pytest.mark.parametrize("spec", [TILED, NATIVE, SPEC], ids=["tiles", "native", "as a video"])
def test_the_clip_of_a_frame_is_that_of_a_picture_of_the_same_pixels(video, tmp_path, spec):
    ((seconds, still),) = read_frames(video, spec, [1.25])
    assert isinstance(still, Still)
    assert (seconds, still.seconds, still.number) == (1.25, 1.2, 12)
    path = tmp_path / "frame.png"
    Image.fromarray(still.picture_HWC).save(path)
    file = read_clip(path, spec)
    for name in ("keyframes_KCHW", "motion_MCHW"):
        assert getattr(still.clip, name).equal(getattr(file, name))
    for name in ("kind", "height", "width", "num_frames", "fps", "crop"):
        assert getattr(still.clip, name) == getattr(file, name)
    assert set(still.clip.keyframe_indices) == {12} and len(still.clip.keyframes_KCHW) >= 1
    alone = read_still(path, spec)
    assert np.array_equal(alone.picture_HWC, still.picture_HWC) and alone.seconds is None
    assert alone.clip.keyframes_KCHW.equal(file.keyframes_KCHW)


def test_frames_come_in_the_order_asked_for_also_twice(video):
    assert ids(read_frames(video, TILED, [2.0, 0, 0.05, 2.0])) == [20, 0, 0, 20]


def test_evenly_spaced_frames(video):
    """seg = 29/4: int(3.625 + 0, 7, 14, 22); more than there are gives each once."""
    moments = list(read_frames(video, TILED, 4))
    assert ids(moments) == [3, 10, 17, 25]
    assert [seconds for seconds, _ in moments] == pytest.approx([0.3, 1.0, 1.7, 2.5])
    part = Medium(path=video, kind="video", start_seconds=1.0, end_seconds=1.3)
    assert ids(read_frames(part, TILED, 9)) == [10, 11, 12]


def test_the_last_frame_is_shown_until_the_end(video):
    assert ids(read_frames(video, TILED, [2.99, 3.0, 99])) == [29, "empty_range", "empty_range"]
    part = Medium(path=video, kind="video", start_seconds=1.0, end_seconds=2.0)
    assert ids(read_frames(part, TILED, [0.5, 1.5, 2.5])) == ["empty_range", 15, "empty_range"]
    (_, error), *_ = read_frames(video, TILED, [99])
    assert "asked for 99 s, the frames are shown from 0.000 to 3.000 s" in str(error)


def test_a_part_of_the_picture(video):
    crop = Crop(left=64, top=0, right=192, bottom=64)
    ((_, still),) = read_frames(Medium(path=video, kind="video", crop=crop), TILED, [0])
    assert still.picture_HWC.shape == (64, 128, 3) and still.clip.crop == crop
    ((_, whole),) = read_frames(video, TILED, [0])
    assert np.array_equal(still.picture_HWC, whole.picture_HWC[:64, 64:])


def test_files_that_cannot_be_read(video, tmp_path):
    assert ids(read_frames(tmp_path / "no.mp4", TILED, [0, 1])) == ["missing", "missing"]
    assert ids(read_frames(tmp_path / "no.mp4", TILED, 4)) == ["missing"]
    cut = cut_file(video, tmp_path / "cut.mp4", 0.5)
    assert set(ids(read_frames(cut, TILED, [0.0]))) <= {"truncated", "not_a_video"}
    with pytest.raises(VideoError, match="no such file"):
        read_still(tmp_path / "no.png", TILED)


def test_animated_pictures_are_videos(tmp_path):
    path = tmp_path / "a.webp"
    first, *rest = [Image.fromarray(frame_pattern(n, 64, 48)) for n in range(4)]
    first.save(path, save_all=True, append_images=rest, duration=100, lossless=True)
    assert ids(read_frames(path, TILED, [0.25, 0.0])) == [2, 0]
    with pytest.raises(VideoError, match="animated"):
        read_still(path, TILED)


@pytest.mark.parametrize("at", [[], [-1.0], [float("nan")], [float("inf")], 0])
def test_times_that_are_none(video, at):
    with pytest.raises(ValueError, match="expected"):
        read_frames(video, TILED, at)
