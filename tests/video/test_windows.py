"""Windows of one long video: cut, read in one pass, and what damage costs."""

import math
import pickle
from dataclasses import replace

import av
import pytest
from PIL import Image

import thinker.video.decode
from tests.helpers.video_checks import SPEC, assert_equal_clips
from tests.helpers.video_factory import frame_pattern, write_video
from thinker.video import VideoError, medium, read_clip
from thinker.video.boundary import attempt
from thinker.video.sources.windows import Windows


@pytest.fixture(scope="module")
def long_gop(tmp_path_factory):
    """Six seconds at 10 fps, all of it one group of pictures."""
    path = tmp_path_factory.mktemp("windows") / "a.mp4"
    return write_video(path, num_frames=60, fps=10, gop=600)


@pytest.fixture
def decoded(monkeypatch):
    """How many frames came out of a decoder, and how many indices were made."""
    counts = {"frames": 0, "indices": 0}
    stream, index = thinker.video.decode._decode_stream, thinker.video.decode._index

    def counted_stream(*args, **kwargs):
        for frame in stream(*args, **kwargs):
            counts["frames"] += 1
            yield frame

    def counted_index(*args):
        counts["indices"] += 1
        return index(*args)

    monkeypatch.setattr(thinker.video.decode, "_decode_stream", counted_stream)
    monkeypatch.setattr(thinker.video.decode, "_index", counted_index)
    return counts


def ranges(windows):
    return [(one.start_seconds, one.end_seconds) for one in windows.media]


def test_windows_are_cut_so_that_every_frame_lies_in_one(long_gop):
    assert ranges(Windows(long_gop, SPEC, 2.5)) == [(0, 2.5), (2.5, 5), (5, 6)]
    part = medium(long_gop, start=1.0, end=4.5)
    assert ranges(Windows(part, SPEC, 2)) == [(1, 3), (3, 4.5)]
    # 5.9 s is the last frame's time, 6 s the end of the video: no window begins there.
    assert ranges(Windows(long_gop, SPEC, 3)) == [(0, 3), (3, 6)]
    assert len(Windows(long_gop, SPEC, 100).media) == 1


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_length_that_is_none_is_refused(long_gop, seconds):
    with pytest.raises(ValueError, match="expected a positive number of seconds"):
        Windows(long_gop, SPEC, seconds)


def test_too_many_windows_pictures_and_bad_files_are_refused(long_gop, tmp_path):
    with pytest.raises(ValueError, match="more than 100000"):
        Windows(long_gop, SPEC, 1e-5)
    Image.fromarray(frame_pattern(1, 48, 32)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="windows are of videos"):
        Windows(tmp_path / "a.png", SPEC, 1)
    with pytest.raises(VideoError, match="missing"):
        Windows(tmp_path / "no.mp4", SPEC, 1)
    with pytest.raises(VideoError, match="empty_range"):
        Windows(medium(long_gop, start=7.0), SPEC, 1)


@pytest.mark.parametrize("codec, suffix", [("h264", "mp4"), ("hevc", "mp4"), ("mpeg4", "avi")])
def test_a_window_is_what_reading_it_alone_gives(tmp_path, codec, suffix):
    """Also after an unpickling, and where one is read out of order; with a crop."""
    path = write_video(tmp_path / f"a.{suffix}", codec=codec, num_frames=40, fps=10)
    windows = pickle.loads(pickle.dumps(Windows(path, SPEC, 1)))
    for place in (0, 1, 2, 3, 1, 2):
        wanted = windows.media[place]
        assert_equal_clips(windows(wanted), read_clip(wanted, SPEC))


def test_one_pass_decodes_every_frame_once_and_makes_one_index(long_gop, decoded):
    windows = Windows(long_gop, SPEC, 0.5)
    for wanted in windows.media:
        windows(wanted)
    assert decoded["indices"] == 1
    assert decoded["frames"] <= 60
    decoded.update(frames=0, indices=0)
    for wanted in windows.media:
        read_clip(wanted, SPEC)
    assert decoded["indices"] == 12 and decoded["frames"] > 200  # each from the only seek point


def test_a_window_without_frames_is_an_error_of_its_own(tmp_path):
    times = [*range(0, 1000, 100), *range(4000, 5000, 100)]
    path = write_video(tmp_path / "gap.mp4", times_ms=times)
    windows = Windows(path, SPEC, 1)
    results = [attempt(path, lambda one=one: windows(one)) for one in windows.media]
    assert [r.reason if isinstance(r, VideoError) else "ok" for r in results] == [
        "ok", "empty_range", "empty_range", "empty_range", "ok",
    ]  # fmt: skip


def test_damage_costs_the_windows_that_need_it(tmp_path, decoded):
    """Groups of one second; bytes of the third are overwritten. Each window is what reading it
    alone gives, an error or a clip, and those behind the damage are there."""
    path = write_video(tmp_path / "a.mp4", num_frames=60, fps=10, gop=10, width=128, height=128)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]
    place, size, _ = [packet for packet in packets if packet[2]][2]
    content = bytearray(path.read_bytes())
    content[place + size // 3 : place + size // 3 + 60] = b"\xff" * 60
    path.write_bytes(content)
    windows = Windows(path, SPEC, 1)
    results = [attempt(path, lambda one=one: windows(one)) for one in windows.media]
    assert decoded["indices"] == 1
    for wanted, result in zip(windows.media, results, strict=True):
        alone = attempt(path, lambda wanted=wanted: read_clip(wanted, SPEC))
        if isinstance(result, VideoError) or isinstance(alone, VideoError):
            assert (result.reason, alone.reason) == ("decode_error", "decode_error")
        else:
            assert_equal_clips(result, alone)
    failed = [place for place, result in enumerate(results) if isinstance(result, VideoError)]
    assert 2 in failed and set(failed) <= {1, 2}  # the decoder looks a few packets ahead


def test_an_animated_picture_and_decord_are_read_window_by_window(tmp_path, long_gop):
    pictures = [Image.fromarray(frame_pattern(i, 48, 32)) for i in range(4)]
    path = tmp_path / "a.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=500, lossless=True)
    theirs = replace(SPEC, reader="decord")
    for source, spec in ((path, SPEC), (long_gop, theirs)):
        windows = Windows(source, spec, 1)
        assert_equal_clips(windows(windows.media[1]), read_clip(windows.media[1], spec))
