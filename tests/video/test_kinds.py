"""Kinds of files: several streams, animated pictures, pixels that are not square, interlaced and
HDR videos, raw streams, MXF, DV and AVIF. Every file is written here; frames carry their numbers.
"""

import dataclasses
import itertools
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.kinds import (
    bwdif_over_all,
    picture_of,
    raw_frames_of,
    write_animation,
    write_interlaced,
    write_streams,
)
from tests.helpers.video_checks import (
    SPEC,
    assert_equal_clips,
    assert_right_frames,
    frame_ids,
    reason_of,
)
from tests.helpers.video_factory import cut_file, frame_pattern, write_video
from thinker.video import Crop, FrameCache, Medium, VideoError, decode, medium, read_clip
from thinker.video.clip import clip_from_tensors, clip_to_tensors
from thinker.video.decode import VideoFile
from thinker.video.find import VIDEO_SUFFIXES, find_videos
from thinker.video.geometry import displayed_size
from thinker.video.read import resize_frame
from thinker.video.sources.chunks import is_animated, starts_of

SMART = dataclasses.replace(SPEC, resize="smart", factor=4, min_pixels=16, max_pixels=10**6)
ONE = dataclasses.replace(SPEC, num_keyframes=1, num_motion_frames=0)


# --- several streams ---


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_stream_is_read(tmp_path, name, default):
    """As FFmpeg chooses it, whichever is first; the index and the decoder that begins anew, too."""
    path = write_streams(tmp_path / name, [(64, 48), (96, 80)], default=default)
    clip = read_clip(path, SPEC)
    assert (clip.width, clip.height) == [(64, 48), (96, 80)][default]
    assert_right_frames(clip)
    with av.open(str(path)) as container:
        expected = container.streams.best("video").index
    with VideoFile(path) as file:
        assert file._stream.index == expected == default
        numbers = {pts: number for number, pts in enumerate(file.index.pts)}
        again = [frame.width for _, frame in file._decode_from_start(numbers)]
    assert again == [clip.width] * clip.num_frames


@pytest.mark.parametrize("cover_first", [False, True])
def test_a_cover_is_no_video(tmp_path, cover_first):
    sizes = [(96, 80), (64, 48)] if cover_first else [(64, 48), (96, 80)]
    path = write_streams(tmp_path / "v.mkv", sizes, default=0, cover=0 if cover_first else 1)
    clip = read_clip(path, SPEC)
    assert (clip.width, clip.height) == (64, 48)
    assert_right_frames(clip)


def test_a_stream_without_a_decoder_is_passed_over(tmp_path):
    path = write_streams(tmp_path / "v.mp4", [(64, 48), (96, 80)], default=0)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"avc1", b"zzzz", 2 if content.count(b"avc1") > 2 else 1))
    with av.open(str(path)) as container:
        known = [s.index for s in container.streams.video if s.codec_context is not None]
    assert known == [1]
    clip = read_clip(path, SPEC)
    assert (clip.width, clip.height) == (96, 80)
    assert_right_frames(clip)


# --- animated pictures ---

TIMES_MS = [50, 60, 70, 80, 90, 40]


@pytest.mark.parametrize("suffix", [".webp", ".png", ".apng", ".avif"])
def test_animated_pictures_are_videos(tmp_path, suffix):
    """Every frame at its own time, in kind, cache and ranges as any video."""
    path = write_animation(tmp_path / f"a{suffix}", range(12), TIMES_MS * 2)
    wanted = medium(path)
    assert wanted.kind == "video"
    clip = read_clip(path, SPEC)
    assert (clip.kind, clip.num_frames, clip.height, clip.width) == ("video", 12, 64, 96)
    assert_right_frames(clip)
    starts = [0.0, *itertools.accumulate(TIMES_MS * 2)]
    assert clip.motion_seconds.tolist() == [starts[i] / 1000 for i in clip.motion_indices]
    assert clip.fps == pytest.approx(11 / (starts[11] / 1000))
    part = read_clip(medium(path, start=0.05, end=0.18), ONE)  # 0.05, 0.11: frames 1 and 2
    assert frame_ids(part.keyframes_KCHW) == list(part.keyframe_indices) == [1]
    for stills in ("image", "video"):
        spec = dataclasses.replace(SPEC, stills=stills)
        cache = FrameCache(tmp_path / "cache")
        assert_equal_clips(cache.get_or_read(path, spec), clip)
        assert_equal_clips(cache.get_or_read(path, spec), clip)
    assert reason_of(cut_file(path, tmp_path / f"cut{suffix}", 0.7)) == "truncated"


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_pictures_of_an_animation_are_composed_exactly(tmp_path, suffix):
    """Small changes are stored as small boxes that are blended in; the file is lossless."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)]
    for step in range(1, 6):
        pictures.append(pictures[-1].copy())
        pictures[-1][5 * step : 5 * step + 4, 7 * step : 7 * step + 9] = 255 - 20 * step
    first, *rest = map(Image.fromarray, pictures)
    path = tmp_path / f"a{suffix}"
    first.save(path, save_all=True, append_images=rest, duration=40, lossless=True)
    spec = dataclasses.replace(SPEC, num_keyframes=6, num_motion_frames=0, resize="square")
    clip = read_clip(path, spec)
    for number, shown in zip(clip.keyframe_indices, clip.keyframes_KCHW.numpy(), strict=True):
        assert np.array_equal(shown, resize_frame(pictures[number], (64, 64), "torch"))


@pytest.mark.parametrize("suffix", [".webp", ".png", ".apng", ".avif"])
def test_stills_stay_images(tmp_path, suffix):
    """With their EXIF orientation; as a video a still is one frame."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"p{suffix}"
    stored = Image.fromarray(np.rot90(frame_pattern(5, 96, 64)).copy())
    stored.save(path, exif=exif, **({"format": "PNG"} if suffix == ".apng" else {}))
    assert medium(path).kind == "image" and not is_animated(path)
    clip = read_clip(path, dataclasses.replace(SPEC, stills="image"))
    assert (clip.kind, clip.height, clip.width) == ("image", 64, 96)
    assert frame_ids(read_clip(Medium(path=path, kind="video"), SPEC).keyframes_KCHW) == [5] * 4
    assert find_videos([tmp_path]) == [path]


def test_the_picture_for_programs_without_animation_is_not_shown(tmp_path):
    path = tmp_path / "a.png"
    hidden, *shown = (Image.fromarray(frame_pattern(i, 64, 64)) for i in (99, 0, 1, 2))
    hidden.save(path, save_all=True, default_image=True, append_images=shown, duration=100)
    clip = read_clip(path, SPEC)
    assert clip.num_frames == 3
    assert_right_frames(clip)


def test_times_of_an_animation(tmp_path):
    """10 ms and less count as a tenth of a second, as in browsers and as FFmpeg reads a GIF."""
    path = write_animation(tmp_path / "a.webp", range(4), [0, 10, 11, 200])
    clip = read_clip(path, SPEC)
    assert clip.num_frames == 4
    seconds = dict(zip(clip.motion_indices, clip.motion_seconds.tolist(), strict=True))
    assert seconds == {0: 0.0, 1: 0.1, 2: 0.2, 3: 0.211}
    with pytest.raises(VideoError, match="the pictures last 86401 s"):
        starts_of(path, [Fraction(86401)])
    assert starts_of(path, [Fraction(1, 20), Fraction(0), Fraction(1, 5)]) == [0.0, 0.05, 0.15]


def test_what_tells_an_animation(tmp_path):
    """The content, whatever the name; one picture, a cut header, a pipe and nothing at all are
    none. Asking for an animation as an image is an error, as for a GIF."""
    path = write_animation(tmp_path / "a.webp", range(3), [100] * 3)
    renamed = tmp_path / "named.gif"
    renamed.write_bytes(path.read_bytes())
    assert_right_frames(read_clip(renamed, SPEC))
    with pytest.raises(VideoError, match="animated picture is a video") as caught:
        read_clip(Medium(path=path, kind="image"), SPEC)
    assert caught.value.reason == "unsupported"
    (tmp_path / "cut.webp").write_bytes(path.read_bytes()[:30])
    (tmp_path / "short.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("cut.webp", "short.png", "pipe.png", "none.png", "nul\0.png"):
        assert not is_animated(tmp_path / name) and medium(tmp_path / name).kind == "image"


# --- pixels that are not square ---


@pytest.mark.parametrize(
    ("size", "aspect", "shown"),
    [
        ((720, 576), "64/45", (1024, 576)),  # PAL, 16:9
        ((720, 480), "8/9", (720, 540)),  # NTSC, 4:3: the shorter side grows
        ((144, 108), "4/3", (192, 108)),
        ((64, 48), "1/1000", (64, 48)),  # what no camera has is ignored
        ((64, 48), "1000/1", (64, 48)),
    ],
)
def test_displayed_size(tmp_path, size, aspect, shown):
    path = write_streams(tmp_path / "v.mp4", [size], aspect=Fraction(aspect))
    clip = read_clip(path, SMART)
    assert (clip.width, clip.height) == shown
    geometry = SMART.geometry("video", clip.height, clip.width)
    assert clip.keyframes_KCHW.shape[2:] == (geometry.resized_height, geometry.resized_width)
    assert_right_frames(clip)
    assert displayed_size(576, 720, Fraction(64, 45)) == (576, 1024)


@pytest.mark.parametrize("rotation", [0, 90])
def test_the_aspect_turns_with_the_picture(tmp_path, rotation):
    """64 x 48 with pixels twice as wide as high is 128 x 48, or 48 x 128 once it is turned."""
    path = write_streams(tmp_path / "v.mp4", [(64, 48)], aspect=Fraction(2), rotation=rotation)
    clip = read_clip(path, SMART)
    assert (clip.width, clip.height) == ((48, 128) if rotation else (128, 48))
    assert_right_frames(clip)


def test_an_aspect_that_only_the_codec_knows(tmp_path):
    """An MP4 whose header says nothing of it, which is opened without decoding."""
    path = write_streams(tmp_path / "v.mp4", [(64, 48)], aspect=Fraction(2))
    content = path.read_bytes()
    assert content.count(b"pasp") == 1
    path.write_bytes(content.replace(b"pasp", b"free"))
    with VideoFile(path) as file:
        assert file._stream.sample_aspect_ratio is None
    clip = read_clip(path, SMART)
    assert (clip.width, clip.height) == (128, 48)


@pytest.mark.parametrize("resampler", ["torch", "pil"])
def test_squares_do_not_depend_on_the_aspect(tmp_path, resampler):
    """The stored pixels are stretched at once, so they are those of the file without an aspect."""
    spec = dataclasses.replace(SPEC, resampler=resampler)
    paths = [
        write_streams(tmp_path / f"{i}.mp4", [(64, 48)], aspect=aspect)
        for i, aspect in enumerate((None, Fraction(2)))
    ]
    plain, wide = (read_clip(path, spec) for path in paths)
    assert plain.keyframes_KCHW.equal(wide.keyframes_KCHW)
    assert plain.motion_MCHW.equal(wide.motion_MCHW)
    assert (plain.width, wide.width) == (64, 128)


@pytest.mark.parametrize("spec", [SPEC, SMART])
def test_a_crop_is_cut_out_of_the_displayed_picture(tmp_path, spec):
    """And what it shows is where the geometry says: the cell of the pattern at (96..128, 0..12) of
    128 x 48, green, is there and nowhere else."""
    path = write_streams(tmp_path / "v.mp4", [(64, 48)], aspect=Fraction(2))
    crop = Crop(left=64, top=0, right=128, bottom=24)
    clip = read_clip(dataclasses.replace(medium(path), crop=crop), spec)
    assert (clip.width, clip.height, clip.crop) == (128, 48, crop)
    geometry = spec.geometry("video", clip.height, clip.width, crop)
    ((_, box),) = geometry.box_to_tiles((96, 0, 128, 12))
    assert geometry.box_from_tile(0, box) == (96, 0, 128, 12)
    left, top, right, bottom = (round(side) for side in box)
    green = clip.keyframes_KCHW[0].int()
    is_green = (green[1] > 150) & (green[0] < 90) & (green[2] < 90)
    inside = is_green[top + 2 : bottom - 2, left + 2 : right - 2]
    assert inside.all()
    is_green[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False
    assert not is_green.any()
    with VideoFile(path) as file:
        stored = dict(file.frames(sorted(set(clip.keyframe_indices))))
    size = (geometry.resized_height, geometry.resized_width)
    for number, shown in zip(clip.keyframe_indices, clip.keyframes_KCHW.numpy(), strict=True):
        stretched = resize_frame(stored[number], (48, 128), "torch").transpose(1, 2, 0)
        cut = np.ascontiguousarray(stretched[0:24, 64:128])
        assert np.array_equal(shown, resize_frame(cut, size, "torch"))
    beyond = dataclasses.replace(medium(path), crop=dataclasses.replace(crop, right=129))
    with pytest.raises(VideoError, match="128 x 48"):
        read_clip(beyond, spec)


# --- interlaced, HDR ---

BWDIF = dataclasses.replace(SPEC, deinterlace="bwdif")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("v.mp4", [(24, True)]),
        ("v.ts", [(24, True)]),
        ("v.mkv", [(24, True)]),
        ("mixed.h264", [(5, False), (6, True), (4, False), (6, True), (3, False)]),
        ("late.h264", [(12, False), (6, True)]),
    ],
)
def test_deinterlacing_is_that_of_the_whole_file(tmp_path, name, parts):
    """Each frame alone and all of them: bwdif over all frames in order; numbers and times stay."""
    path = write_interlaced(tmp_path / name, parts)
    frames = raw_frames_of(path)
    expected = bwdif_over_all(frames)
    flags = [frame.interlaced_frame for frame in frames]
    assert flags == [flag for count, flag in parts for _ in range(count)]
    with VideoFile(path, deinterlace=True) as file:
        with VideoFile(path) as plain:
            assert file.index == plain.index
        everything = list(file.frames(list(range(len(frames)))))
    assert [number for number, _ in everything] == list(range(len(frames)))
    for number, picture in everything:
        assert np.array_equal(picture, expected[number]), number
        assert np.array_equal(picture, picture_of(frames[number])) != flags[number], number
    for number in range(len(frames)):
        with VideoFile(path, deinterlace=True) as file:
            ((found, picture),) = file.frames([number])
        assert found == number and np.array_equal(picture, expected[number]), number


def test_deinterlacing_is_a_setting_of_the_clip(tmp_path):
    path = write_interlaced(tmp_path / "v.mp4", [(24, True)])
    plain, whole = read_clip(path, SPEC), read_clip(path, BWDIF)
    assert plain.keyframe_indices == whole.keyframe_indices
    assert plain.keyframe_seconds.equal(whole.keyframe_seconds)
    assert not plain.keyframes_KCHW.equal(whole.keyframes_KCHW)
    cache = FrameCache(tmp_path / "cache")
    assert [cache.fetch(path, spec)[1] for spec in (SPEC, BWDIF, BWDIF)] == [True, True, False]
    progressive = write_video(tmp_path / "p.mp4")
    assert_equal_clips(read_clip(progressive, BWDIF), read_clip(progressive, SPEC))
    with pytest.raises(ValueError, match="deinterlace must be one of none, bwdif"):
        dataclasses.replace(SPEC, deinterlace="yadif")


@pytest.mark.parametrize("transfer", [16, 18])  # PQ, HLG
def test_hdr_is_converted_by_its_matrix_alone(tmp_path, transfer):
    """No tone mapping: the pixels are those of the same samples without the label."""
    clips = []
    for label in (1, transfer):
        path = write_streams(
            tmp_path / f"{label}.mp4", [(64, 48)], pix_fmt="yuv420p10le", transfer=label
        )
        with av.open(str(path)) as container:
            assert next(container.decode(video=0)).color_trc == label
        clips.append(read_clip(path, SPEC))
    assert clips[0].keyframes_KCHW.equal(clips[1].keyframes_KCHW)


# --- MXF, DV, raw streams ---


@pytest.mark.parametrize(
    ("name", "encoder", "settings"),
    [
        ("v.mxf", "mpeg2video", {"gop": 12, "max_b_frames": 2}),
        ("v.dv", "dvvideo", {}),
        ("v.h264", "libx264", {"fps": 30}),
        ("v.264", "libx264", {}),
        ("interlaced.264", "libx264", {"x264": "tff=1"}),
        ("v.hevc", "libx265", {}),
        ("v.265", "libx265", {}),
        ("v.m2v", "mpeg2video", {"gop": 12, "max_b_frames": 2}),
        ("v.ivf", "libvpx-vp9", {}),
        ("v.obu", "libsvtav1", {}),
        ("v.y4m", "wrapped_avframe", {}),
    ],
)
def test_containers_of_studios_and_raw_streams(tmp_path, name, encoder, settings):
    """The frames are those that FFmpeg decodes from the start, at the rate of the stream."""
    size = (720, 576) if encoder == "dvvideo" else (96, 80)
    path = write_streams(tmp_path / name, [size], encoder=encoder, **settings)
    assert path.suffix in VIDEO_SUFFIXES
    clip = read_clip(path, SPEC)
    assert clip.num_frames == 24
    assert_right_frames(clip)
    fps = settings.get("fps", 25)
    assert clip.fps == pytest.approx(fps)
    assert clip.motion_seconds.tolist() == pytest.approx([i / fps for i in clip.motion_indices])
    expected = [picture_of(frame) for frame in raw_frames_of(path)]
    with VideoFile(path) as file:
        for wanted in ([11], [0, 5, 23], list(range(24))):
            for number, picture in file.frames(wanted):
                assert np.array_equal(picture, expected[number])


def test_dv_that_ends_within_a_frame_is_cut(tmp_path):
    """FFmpeg fills the frame with what it decoded before, and says nothing of it."""
    path = write_streams(tmp_path / "v.dv", [(720, 576)], encoder="dvvideo")
    data = path.read_bytes()
    assert len(data) == 24 * 144000
    path.write_bytes(data[: 5 * 144000 - 80])
    with pytest.raises(VideoError, match="truncated: the last frame has 143920 of 144000 bytes"):
        read_clip(path, SPEC)
    path.write_bytes(data[: 5 * 144000])
    assert read_clip(path, SPEC).num_frames == 5


def test_a_raw_stream_is_known_by_its_name_only(tmp_path):
    path = write_streams(tmp_path / "v.h264", [(64, 48)])
    other = tmp_path / "v.mp4"
    other.write_bytes(path.read_bytes())
    assert reason_of(other) == "not_a_video"
    for suffix in (".h264", ".hevc", ".m2v", ".obu"):  # a playlist stays one
        (tmp_path / f"list{suffix}").write_text(f"ffconcat version 1.0\nfile {path}\n")
        assert reason_of(tmp_path / f"list{suffix}") == "not_a_video"


def test_heif_pictures_have_the_right_reason(tmp_path):
    still = tmp_path / "p.avif"
    Image.fromarray(frame_pattern(0, 64, 64)).save(still)
    for name in ("p.heic", "p.mp4"):
        (tmp_path / name).write_bytes(still.read_bytes())
        with pytest.raises(VideoError, match="HEIF picture; of these AVIF is read") as caught:
            read_clip(tmp_path / name, SPEC)
        assert caught.value.reason == "unsupported"
    assert reason_of(cut_file(still, tmp_path / "cut.avif", 0.5)) == "truncated"


def test_a_note_travels_with_the_clip(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    clip = dataclasses.replace(read_clip(path, SPEC), note="read by another reader")
    assert_equal_clips(clip_from_tensors(clip_to_tensors(clip), path), clip)
    assert decode._RAW_STREAMS.keys() <= VIDEO_SUFFIXES
