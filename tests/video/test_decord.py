"""The reader "decord": its own pictures to the bit, where they are the frames that were asked for;
elsewhere the default reader steps in and the clip says so."""

import dataclasses

import decord
import numpy as np
import pytest

from tests.helpers.video_checks import SPEC, assert_equal_clips, assert_right_frames, reason_of
from tests.helpers.video_factory import flip_bits, write_video
from thinker.video import Clip, FrameCache, read_clip
from thinker.video.clip import clip_from_tensors, clip_to_tensors
from thinker.video.decode import VideoFile
from thinker.video.read import resize_frame

DECORD = dataclasses.replace(SPEC, reader="decord", resampler="pil")
PYAV = dataclasses.replace(SPEC, resampler="pil")
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}


def assert_decords_own(clip: Clip, path) -> None:
    """As the published programs read: one thread, frame by frame."""
    reader = decord.VideoReader(str(path), num_threads=1)
    for pictures, indices in (
        (clip.keyframes_KCHW, clip.keyframe_indices),
        (clip.motion_MCHW, clip.motion_indices),
    ):
        for picture, number in zip(pictures.numpy(), indices, strict=True):
            own = reader[number].asnumpy()
            assert np.array_equal(picture, resize_frame(own, picture.shape[1:], "pil")), number


def assert_read_by_pyav(path, note: str) -> None:
    clip = read_clip(path, DECORD)
    assert clip.note.startswith("read by pyav instead of decord: ") and note in clip.note
    assert_right_frames(clip)
    assert_equal_clips(dataclasses.replace(clip, note=""), read_clip(path, PYAV))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("v.mp4", {}),
        ("odd.mp4", {"pix_fmt": "yuv444p", "width": 98, "height": 54}),
        ("deep.mp4", {"pix_fmt": "yuv420p10le"}),
        ("turned.mp4", {"rotation": 90}),
        ("upside.mp4", {"rotation": 180}),
        ("v.webm", {"codec": "vp9"}),
        ("av1.mp4", {"codec": "av1"}),
        ("bt2020.mp4", {"pix_fmt": "yuv420p", "options": {"colorspace": "bt2020nc"}}),
        ("vfr.mp4", {"times_ms": [40 * i + 300 * (i > 20) for i in range(48)]}),
    ],
)
def test_pictures_are_decords_own(tmp_path, name, settings):
    size = {"width": 128, "height": 96, "num_frames": 48}
    path = write_video(tmp_path / name, **{**size, **settings})
    clip, default = read_clip(path, DECORD), read_clip(path, PYAV)
    assert clip.note == ""
    assert_right_frames(clip)
    assert_decords_own(clip, path)
    same = {"keyframes_KCHW": default.keyframes_KCHW, "motion_MCHW": default.motion_MCHW}
    assert_equal_clips(dataclasses.replace(clip, **same), default)
    # Ten bits are where the readers differ, so this is not the default reader under another name.
    assert clip.keyframes_KCHW.equal(default.keyframes_KCHW) == (name != "deep.mp4")


@pytest.mark.parametrize(
    ("name", "settings", "note"),
    [
        ("hevc.mp4", {"codec": "hevc"}, "is not the one of"),  # open groups of pictures
        ("open.mp4", {"options": OPEN_GOP}, "is not the one of"),
        ("v.avi", {"codec": "mpeg4", "options": {"bf": "2"}}, "decord"),
        ("v.ts", {}, "is not the one of"),
    ],
)
def test_where_decord_gives_other_frames(tmp_path, name, settings, note):
    path = write_video(tmp_path / name, width=128, height=96, num_frames=60, **settings)
    assert_read_by_pyav(path, note)


@pytest.mark.parametrize(
    ("method", "broken", "note"),
    [
        # seg = 47/4: the second keyframe is int(5.875 + round(11.75)) = 17
        ("__getitem__", lambda real: lambda self, i: real(self, i + (i == 17)), "frame 17 is not"),
        ("__len__", lambda real: lambda self: real(self) - 1, "counts 47 frames, the file has 48"),
        (
            "get_frame_timestamp",
            lambda real: lambda self, i: real(self, i) + 0.1 * (np.arange(len(i)) > 9)[:, None],
            "frame 10 is shown at 1.100 s, the file says 1.000 s",
        ),
        ("__getitem__", lambda real: lambda self, i: 1 / 0, "decord fails: division by zero"),
        ("__init__", lambda real: lambda self, *a, **k: 1 / 0, "decord fails: division by zero"),
    ],
)
def test_decord_is_held_to_the_index(tmp_path, monkeypatch, method, broken, note):
    path = write_video(tmp_path / "v.mp4", num_frames=48)
    real = getattr(decord.VideoReader, method)
    monkeypatch.setattr(decord.VideoReader, method, broken(real))
    if method == "__init__":
        monkeypatch.setattr(decord.VideoReader, "__del__", lambda self: None)
    assert_read_by_pyav(path, note)


def test_the_note_is_cached_with_the_clip(tmp_path):
    path = write_video(tmp_path / "v.mp4", codec="hevc", num_frames=60)
    fresh = read_clip(path, DECORD)
    assert fresh.note
    assert_equal_clips(clip_from_tensors(clip_to_tensors(fresh), path), fresh)
    cache = FrameCache(tmp_path / "cache")
    for spec, was_decoded in ((DECORD, True), (DECORD, False), (PYAV, True)):
        clip, decoded = cache.fetch(path, spec)
        assert decoded == was_decoded and bool(clip.note) == (spec is DECORD)


def test_decord_sees_only_what_the_default_reader_has_opened(tmp_path, monkeypatch):
    """It knows no list of formats: a playlist would open other files."""

    def opened(*args, **kwargs):
        raise AssertionError("decord was called")

    target = write_video(tmp_path / "target.mp4")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {target}\n")
    monkeypatch.setattr(decord, "VideoReader", opened)
    assert reason_of(tmp_path / "list.mp4", DECORD) == "not_a_video"


def test_a_damaged_file_is_the_default_readers_error(tmp_path):
    good = write_video(tmp_path / "good.mp4", num_frames=60, width=128, height=128)
    content = good.read_bytes()
    first, last = content.index(b"mdat"), content.rindex(b"moov") - 4
    damaged = ((first + last) / 2 / len(content), last / len(content))
    path = flip_bits(good, tmp_path / "v.mp4", num_flips=100, share=damaged, seed=0)
    assert reason_of(path, DECORD) == reason_of(path, PYAV) == "decode_error"


def test_decord_does_not_deinterlace():
    with pytest.raises(ValueError, match="deinterlace with reader pyav"):
        dataclasses.replace(DECORD, deinterlace="bwdif")
    with pytest.raises(ValueError, match="reader must be one of pyav, decord, got 'opencv'"):
        dataclasses.replace(SPEC, reader="opencv")


def test_files_are_closed(tmp_path):
    path = write_video(tmp_path / "v.mp4", codec="hevc", num_frames=60)
    closed = []
    leave = VideoFile.__exit__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoFile, "__exit__", lambda self, *e: closed.append(leave(self, *e)))
        read_clip(path, DECORD)
    assert len(closed) == 2
