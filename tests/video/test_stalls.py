"""Stalls: intervals and sequences, what a clip carries of them, and those found in files."""

import dataclasses
import json
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.helpers.video_checks import SPEC, assert_equal_clips
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.data.demo.stalled import (
    TEXTS,
    StalledConfig,
    generate_stalled_set,
    stalled_mos,
    stalled_times,
)
from thinker.data.read import read_records
from thinker.video import FrameCache, VideoError, medium, read_clip
from thinker.video.clip import clip_from_tensors, clip_to_tensors
from thinker.video.stalls.detect import detect_stalls
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


# --- found in files


def moving(num_frames, stalls=(), *, cut=None, size=96):
    """Pictures of a texture that moves two pixels a frame and stands still in `stalls`; from `cut`
    on another one, which does not move."""
    draw = np.random.default_rng(0)
    textures = draw.integers(0, 256, (2, size // 8, 3 * size // 8)).astype(np.uint8)
    first, other = (np.kron(texture, np.ones((8, 8), np.uint8)) for texture in textures)
    frames, place = [], 0
    for number in range(num_frames):
        still = any(start <= number < stop for start, stop in stalls)
        place += 0 if still else 2
        picture = (
            other[:, :size] if cut is not None and number >= cut else first[:, place:][:, :size]
        )
        frames.append(np.repeat(picture[..., None], 3, axis=2))
    return frames


def save(path, frames, times=None, *, codec="libx264", **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 20)
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_stalls_are_found_by_content(tmp_path):
    """Of 60 frames at 20 a second: from the first on, in the middle across key frames, and one of
    four frames, which is too short; then a shot that stands still behind a cut."""
    stalls = [(0, 8), (20, 32), (38, 42)]
    file = save(tmp_path / "a.mp4", moving(60, stalls, cut=50), g="9", crf="28")
    found = detect_stalls(file)
    assert found.intervals == ((0.0, 0.4), (1.0, 1.6))
    assert (found.num_frames, found.seconds) == (60, 3.0)
    smooth = detect_stalls(save(tmp_path / "b.mp4", moving(60), crf="28"))
    assert smooth.intervals == ()
    still = detect_stalls(save(tmp_path / "c.mp4", moving(40, [(0, 40)]), crf="28"))
    assert still.intervals == ()  # nothing ever moves


def test_stalls_are_found_by_time(tmp_path):
    """A frame is shown for a second, one for .25 s (five times as long as others, too short)."""
    times = [*range(10), *range(29, 39), *range(43, 53)]
    file = save(tmp_path / "v.mkv", moving(30), times, crf="28")
    (found,) = detect_stalls(file).intervals
    assert found == pytest.approx((0.5, 1.45), abs=0.002)


def test_what_is_no_video_has_no_stalls(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for name, reason in (
        ("a.mp4", "not_a_video"),
        ("gone.mp4", "missing"),
        ("p.png", "unsupported"),
    ):
        with pytest.raises(VideoError) as caught:
            detect_stalls(tmp_path / name)
        assert caught.value.reason == reason


def test_the_command_writes_records(tmp_path, capsys):
    save(tmp_path / "a.mp4", moving(40, [(10, 20)]), crf="28")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    output = tmp_path / "stalls.jsonl"
    arguments = ["stalls", str(tmp_path), "--media-root", str(tmp_path), "--output", str(output)]
    assert main(arguments) == 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["video"] for row in rows] == ["a.mp4", "b.mp4"]
    assert (rows[0]["stalls"], rows[0]["num_frames"]) == ([[0.5, 1.0]], 40)
    assert rows[1]["status"] == "not_a_video" and "1 of 2 videos" in capsys.readouterr().out
    (example,) = read_records([output], tmp_path, skip_bad_lines=True).examples
    assert (example.task, example.turns) == ("score", ())
    assert example.media[0].stalls == Stalls(intervals=((0.5, 1.0),))
    assert main(["stalls", str(tmp_path / "a.mp4"), "--media-root", str(tmp_path / "x")]) == 2


# --- generated for the ablation


def test_generated_clips_stall_as_their_records_say(tmp_path):
    assert stalled_times(((2, 4),), 6) == [0, 1, 1, 1, 2, 3]
    assert stalled_times(((0, 2),), 6) == [0, 0, 0, 1, 2, 3]
    assert stalled_mos((), 72) == 4.8
    assert stalled_mos(((10, 28),), 72) == pytest.approx(4.8 - 2.8 * (0.25 / 0.6) ** 0.7)
    config = StalledConfig(num_train=4, num_eval=2, num_frames=48)
    generate_stalled_set(tmp_path, config)
    read = {
        text: read_records([tmp_path / f"{text}_train.jsonl"], tmp_path / "videos").examples
        for text in TEXTS
    }
    for told in zip(*read.values(), strict=True):
        assert len({(one.media[0].path, one.reference) for one in told}) == 1
    stalls = {text: [one.media[0].stalls for one in examples] for text, examples in read.items()}
    assert stalls["none"] == [None] * 4 and stalls["wrong"] == stalls["sentences"][1:] + [
        stalls["sentences"][0]
    ]
    assert [one.form for one in stalls["digits"]] == ["digits"] * 4
    for example in read["sentences"]:
        clip = read_clip(example.media[0], SPEC)
        assert clip.stalls.num_frames == 48
        assert clip.stalls.runs == runs_of_seconds(example.media[0].stalls.intervals, 48, 24)
