"""Stalls that are given: intervals, sequences, and what a clip carries of them."""

import dataclasses

import pytest

from tests.helpers.video_checks import SPEC, assert_equal_clips
from tests.helpers.video_factory import write_video
from thinker.video import FrameCache, VideoError, medium, read_clip
from thinker.video.clip import clip_from_tensors, clip_to_tensors
from thinker.video.stalls.intervals import (
    FrameStalls,
    Stalls,
    flags_of,
    frame_stalls,
    runs_of,
    runs_of_seconds,
    seconds_of_runs,
    stalls_of_sequence,
)


def test_sequences_and_intervals_are_the_same_both_ways():
    flags = "1100011101"
    runs = runs_of(map(int, flags))
    assert runs == ((0, 2), (5, 8), (9, 10))
    assert flags_of(runs, 10) == flags
    for fps in (4, 24, 29.97, 30000 / 1001, 60):
        assert runs_of_seconds(seconds_of_runs(runs, fps), 10, fps) == runs
    assert seconds_of_runs(((2, 4),), 4) == ((0.5, 1.0),)
    assert runs_of_seconds([(0.5, 1.02)], 10, 4) == ((2, 4),)
    given = stalls_of_sequence([0, 0, 1, 1, 0], "digits")
    assert given == Stalls(intervals=((2, 4),), num_frames=5, form="digits")
    assert stalls_of_sequence("00110", "digits") == given


def test_short_and_close_stalls():
    assert runs_of_seconds([(0.51, 0.52)], 10, 4) == ((2, 3),)  # at least a frame
    assert runs_of_seconds([(0.5, 1.0), (1.1, 1.5)], 10, 4) == ((2, 6),)  # 4 and 4.4 are one
    assert runs_of_seconds([(2.0, 2.6)], 10, 4) == ((8, 10),)  # up to a frame beyond the end


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"intervals": ((1, 1),)}, "start < end"),
        ({"intervals": ((-1, 1),)}, "0 <= start"),
        ({"intervals": ((0, float("nan")),)}, "expected"),
        ({"intervals": (("0", 1),)}, "expected"),
        ({"intervals": ((0, 10**400),)}, "expected"),
        ({"intervals": ((2, 3), (1, 1.5))}, "in order"),
        ({"intervals": ((1, 3), (2, 4))}, "apart"),
        ({"intervals": ((1, 2), (2, 3))}, "apart"),
        ({"intervals": ((1, 9),), "num_frames": 8}, "frame 9 of 8"),
        ({"form": "poem"}, "sentences, digits"),
    ],
)
def test_what_are_no_stalls(fields, reason):
    with pytest.raises(ValueError, match=reason):
        Stalls(**fields)


@pytest.mark.parametrize("flags", ["", "012", "ab", [2], [True], []])
def test_what_is_no_sequence(flags):
    with pytest.raises(ValueError, match="0 and 1"):
        stalls_of_sequence(flags)


def test_images_do_not_stall():
    with pytest.raises(ValueError, match="stalls are for videos"):
        medium("a.png", stalls=Stalls())


def test_a_part_counts_its_own_frames():
    seconds = [number / 4 for number in range(20)]
    stalls = Stalls(intervals=((0.5, 1.5), (4.0, 4.5)))
    assert frame_stalls(stalls, seconds).runs == ((2, 6), (16, 18))
    part = frame_stalls(stalls, seconds, 1.0, 4.25)
    assert part == FrameStalls(runs=((0, 2), (12, 13)), num_frames=13)
    assert frame_stalls(stalls, seconds, 2.0, 3.0) == FrameStalls(runs=(), num_frames=4)


def test_a_pause_counts_as_the_frames_that_are_not_repeated():
    """Ten pictures in 5 s, the fourth of them shown for 3.2 s: 10/5 frames a second count."""
    seconds = [0.0, 0.2, 0.4, 0.6, 3.8, 4.0, 4.2, 4.4, 4.5, 4.5]
    given = Stalls(intervals=((0.6, 3.8),))
    assert frame_stalls(given, seconds).runs == ((1, 8),)  # 2 a second: 1.2 and 7.6


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("stalls") / "v.mp4", num_frames=20, fps=10)


def test_a_clip_carries_the_stalls_of_its_medium(video):
    given = Stalls(intervals=((0.5, 1.0),), form="digits")
    clip = read_clip(medium(video, stalls=given), SPEC)
    assert clip.stalls == FrameStalls(runs=((5, 10),), num_frames=20, form="digits")
    assert read_clip(medium(video), SPEC).stalls is None
    part = read_clip(medium(video, start=0.8, end=1.5, stalls=given), SPEC)
    assert part.stalls == FrameStalls(runs=((0, 2),), num_frames=7, form="digits")
    assert_equal_clips(clip_from_tensors(clip_to_tensors(clip), clip.path), clip)
    assert clip_from_tensors(clip_to_tensors(clip), clip.path).stalls == clip.stalls


def test_stalls_that_do_not_fit_the_file(video):
    for stalls, said in (
        (Stalls(intervals=((1.0, 9.0),)), "lasts 2.000 s"),
        (stalls_of_sequence("0110"), "4 digits, the video 20 frames"),
    ):
        with pytest.raises(VideoError, match=said) as caught:
            read_clip(medium(video, stalls=stalls), SPEC)
        assert caught.value.reason == "stalls"
    assert read_clip(medium(video, stalls=stalls_of_sequence("0" * 19 + "1")), SPEC).stalls


def test_the_cache_tells_stalls_apart_and_old_entries_stay(video, tmp_path):
    cache = FrameCache(tmp_path / "cache")
    assert cache.fetch(medium(video), SPEC)[1]
    told = Stalls(intervals=((0.5, 1.0),))
    other = Stalls(intervals=((0.5, 1.5),))
    assert cache.fetch(medium(video, stalls=told), SPEC)[0].stalls.runs == ((5, 10),)
    assert cache.fetch(medium(video, stalls=other), SPEC)[0].stalls.runs == ((5, 15),)
    digits = dataclasses.replace(told, form="digits")
    clip, decoded = cache.fetch(medium(video, stalls=digits), SPEC)
    assert clip.stalls == FrameStalls(runs=((5, 10),), num_frames=20, form="digits")
    assert not decoded  # the same pictures, told otherwise
    assert cache.fetch(medium(video), SPEC)[0].stalls is None
    assert len(list((tmp_path / "cache").iterdir())) == 3
