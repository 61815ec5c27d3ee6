"""Exact frames from real files: each carries its number, so that a neighbour's picture never
passes."""

import ast
import dataclasses
import gc
import importlib.util
import itertools
import math
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.places import REPO
from tests.helpers.video_checks import (
    SPEC,
    assert_equal_clips,
    assert_right_frames,
    files_of,
    frame_ids,
    reason_of,
)
from tests.helpers.video_factory import (
    cut_file,
    flip_bits,
    frame_pattern,
    read_frame_id,
    write_audio,
    write_video,
)
from thinker.video import (
    REASONS,
    FrameCache,
    TooManyBadVideosError,
    VideoError,
    check_videos,
    decode,
    keyframe_indices,
    medium,
    motion_indices,
    read_clip,
    smart_resize,
)
from thinker.video import cache as frame_cache
from thinker.video import file as video_file
from thinker.video.clip import RESAMPLERS
from thinker.video.decode import VideoFile

SMART = dataclasses.replace(SPEC, resize="smart", factor=28, min_pixels=56 * 56, max_pixels=200_704)


# --- which frames ---


@pytest.mark.parametrize(
    ("num_frames", "num_keyframes", "expected"),
    [
        # seg = 99/6 = 16.5, seg/2 = 8.25; round(0, 16.5, 33, 49.5, 66, 82.5) = 0, 16, 33, 50, 66,
        # 82 (halves to even)
        (100, 6, [8, 24, 41, 58, 74, 90]),
        (
            13,
            8,
            [0, 2, 3, 4, 6, 8, 9, 10],
        ),  # seg = 1.5: round(1.5, 4.5, 7.5, 10.5) = 2, 4, 8, 10, plus .75
        (300, 1, [149]),  # seg = 299, int(149.5 + 0)
        (2, 6, [0, 0, 0, 0, 1, 1]),  # seg = 1/6; round(3/6) = 0
        (1, 3, [0, 0, 0]),
    ],
)
def test_keyframe_indices_golden(num_frames, num_keyframes, expected):
    assert keyframe_indices(num_frames, num_keyframes) == expected


def test_keyframe_indices_stay_in_the_video():
    for num_frames, num_keyframes in itertools.product(range(1, 80), range(1, 20)):
        indices = keyframe_indices(num_frames, num_keyframes)
        assert len(indices) == num_keyframes
        assert indices == sorted(indices)
        assert indices[0] >= 0 and indices[-1] <= num_frames - 1
    with pytest.raises(ValueError, match="at least 1 frame"):
        keyframe_indices(0, 4)


@pytest.mark.parametrize(
    ("num_frames", "num_keyframes", "num_motion", "expected"),
    [
        (
            100,
            2,
            8,
            [22, 23, 24, 25, 72, 73, 74, 75],
        ),  # keyframes 24, 74; the keyframe is element 2 of 4
        (100, 2, 6, [23, 24, 25, 73, 74, 75]),
        (10, 1, 8, [0, 1, 2, 3, 4, 5, 6, 7]),  # keyframe 4 at element 4
        (9, 4, 12, [0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8]),  # keyframes 1, 3, 5, 7
        (
            5,
            4,
            16,
            [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 1, 2, 3, 4],
        ),  # keyframes 0, 1, 2, 3, shifted inwards
        (2, 1, 4, [0, 1, 1, 1]),
        (7, 3, 0, []),
    ],
)
def test_motion_indices_golden(num_frames, num_keyframes, num_motion, expected):
    spec = dataclasses.replace(SPEC, num_keyframes=num_keyframes, num_motion_frames=num_motion)
    assert motion_indices(num_frames, spec) == expected


def test_motion_windows_contain_their_keyframe():
    for num_frames, num_keyframes, length in itertools.product(
        range(1, 40), (1, 3, 8), (1, 2, 4, 5)
    ):
        spec = dataclasses.replace(
            SPEC, num_keyframes=num_keyframes, num_motion_frames=num_keyframes * length
        )
        windows = np.reshape(motion_indices(num_frames, spec), (num_keyframes, length))
        for keyframe, window in zip(
            keyframe_indices(num_frames, num_keyframes), windows, strict=True
        ):
            assert keyframe in window and window.min() >= 0 and window.max() < num_frames
            if num_frames >= length:
                assert np.array_equal(window, np.arange(window[0], window[0] + length))


def transformers_smart_resize():
    """The function alone: importing its module takes ten seconds for torchvision and the rest."""
    folder = Path(importlib.util.find_spec("transformers").origin).parent
    source = (folder / "models/qwen2_vl/image_processing_qwen2_vl.py").read_text()
    (function,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "smart_resize"
    )
    namespace = {"math": math}
    exec(compile(ast.Module([function], []), "smart_resize", "exec"), namespace)
    return namespace["smart_resize"]


def test_smart_resize_equals_transformers():
    reference = transformers_smart_resize()
    sides = [1, 14, 27, 28, 29, 70, 97, 240, 540, 719, 1080, 1920, 2160, 3840]
    limits = [(28, 3136, 200_704), (28, 56 * 56, 14 * 14 * 4 * 1280), (32, 100_000, 150_000)]
    for height, width, (factor, low, high) in itertools.product(sides, sides, limits):
        if max(height, width) <= 200 * min(height, width):
            ours = smart_resize(height, width, factor=factor, min_pixels=low, max_pixels=high)
            assert ours == reference(height, width, factor, low, high)
    assert smart_resize(1080, 1920, factor=28, min_pixels=3136, max_pixels=200_704) == (336, 588)
    with pytest.raises(ValueError, match="200 times"):
        smart_resize(10, 2001, factor=28, min_pixels=3136, max_pixels=200_704)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": "crop"}, "'square' or 'smart', got 'crop'"),
        ({"num_keyframes": 0}, "num_keyframes must be at least 1"),
        ({"num_motion_frames": 10}, r"multiple of num_keyframes \(4\), got 10"),
        ({"num_motion_frames": -4}, "num_motion_frames must be at least 1"),
        ({"motion_px": 0}, "motion_px must be at least 1"),
        ({"keyframe_px": 0}, "keyframe_px must be at least 1"),
        ({"resize": "smart"}, "min_pixels must be at least 1"),
        (
            {"resize": "smart", "min_pixels": 2, "max_pixels": 1, "factor": 1},
            "min_pixels 2 exceeds",
        ),
    ],
)
def test_spec_is_validated(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SPEC, **change)


def test_clip_is_validated(tmp_path):
    clip = read_clip(write_video(tmp_path / "v.mp4"), SPEC)
    with pytest.raises(ValueError, match="keyframes: expected uint8"):
        dataclasses.replace(clip, keyframes_KCHW=clip.keyframes_KCHW.float())
    with pytest.raises(ValueError, match="motion: expected 12 float64 times"):
        dataclasses.replace(clip, motion_seconds=clip.motion_seconds.float())
    with pytest.raises(ValueError, match="4 frames, but 3 indices"):
        dataclasses.replace(clip, keyframe_indices=(0, 1, 2))


# --- the right frames of good files ---

OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}
CLOSED_GOP = {"x265-params": "log-level=none:open-gop=0:bframes=2"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("h264.mp4", {}),
        ("h264.mov", {}),
        ("h264.mkv", {"options": OPEN_GOP}),
        ("h264-open.mp4", {"options": OPEN_GOP}),
        ("h264-refresh.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=12"}}),
        ("h264.ts", {}),  # the first pts is not 0
        ("h264.flv", {}),
        ("h264.avi", {}),  # no presentation times in the container
        ("hevc.mp4", {"codec": "hevc"}),  # open GOPs: x265's default
        ("hevc-closed.mp4", {"codec": "hevc", "options": CLOSED_GOP}),
        ("vp9.webm", {"codec": "vp9"}),
        ("mpeg4.mp4", {"codec": "mpeg4", "options": {"bf": "2"}}),
        ("mpeg4.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
        ("av1.mp4", {"codec": "av1"}),
        ("ffv1.mkv", {"codec": "ffv1"}),
        ("h264-10bit.mp4", {"pix_fmt": "yuv420p10le"}),
        ("hevc-10bit.mp4", {"codec": "hevc", "pix_fmt": "yuv420p10le"}),
        ("av1-10bit.webm", {"codec": "av1", "pix_fmt": "yuv420p10le"}),
        ("odd.mp4", {"codec": "h264", "pix_fmt": "yuv444p", "width": 97, "height": 53}),
        ("odd-padded.webm", {"codec": "vp9", "width": 97, "height": 53}),
        ("wide.mp4", {"width": 96, "height": 64}),
    ],
)
def test_exact_frames(tmp_path, name, settings):
    settings = {"width": 128, "height": 96, **settings}
    path = write_video(tmp_path / name, num_frames=60, fps=10, **settings)
    clip = read_clip(path, SPEC)
    # seg = 59/4 = 14.75; round(0, 14.75, 29.5, 44.25) = 0, 15, 30, 44, plus 7.375
    assert clip.keyframe_indices == (7, 22, 37, 51)
    assert clip.motion_indices == (6, 7, 8, 21, 22, 23, 36, 37, 38, 50, 51, 52)
    assert_right_frames(clip)
    assert clip.num_frames == 60 and clip.fps == pytest.approx(10)
    assert (clip.height, clip.width) == (settings["height"], settings["width"])
    assert clip.keyframe_seconds.tolist() == pytest.approx(
        [0.7, 2.2, 3.7, 5.1], abs=1e-3
    )  # webm, flv count in ms
    assert clip.motion_seconds.tolist() == pytest.approx(
        [i / 10 for i in clip.motion_indices], abs=1e-3
    )
    assert clip.keyframes_KCHW.shape == (4, 3, 64, 64) and clip.motion_MCHW.shape == (12, 3, 32, 32)


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "mpeg4", "av1", "ffv1"])
def test_only_the_needed_part_is_decoded(tmp_path, monkeypatch, codec):
    suffix = "mkv" if codec in ("vp9", "ffv1") else "mp4"
    path = write_video(tmp_path / f"v.{suffix}", codec=codec, num_frames=96)
    decode_stream, num_decoded = decode._decode_stream, 0

    def counted(*args):
        nonlocal num_decoded
        for frame in decode_stream(*args):
            num_decoded += 1
            yield frame

    monkeypatch.setattr(decode, "_decode_stream", counted)
    one = dataclasses.replace(SPEC, num_keyframes=1, num_motion_frames=0)
    clip = read_clip(medium(path, start=6.95, end=7.05), one)
    assert_right_frames(clip)
    assert num_decoded <= 24  # groups of 12 pictures; one more for leading pictures


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_every_single_frame_is_reachable(tmp_path, codec):
    path = write_video(tmp_path / "v.mp4", codec=codec, num_frames=50)
    one = dataclasses.replace(SPEC, num_keyframes=1, num_motion_frames=0)
    for number in range(50):
        start = number / 10 - 0.04 if number else 0
        clip = read_clip(medium(path, start=start, end=number / 10 + 0.04), one)
        assert frame_ids(clip.keyframes_KCHW) == [number]


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize(
    ("name", "settings", "is_header_enough"),
    [
        ("v.mp4", {}, True),
        ("v.mov", {"options": OPEN_GOP}, True),
        ("v-vfr.mp4", {"times_ms": [40 * i + 300 * (i > 20) for i in range(48)]}, True),
        ("v-turned.mp4", {"rotation": 90}, True),
        ("v-fragments.mp4", {"container_options": FRAGMENTED}, False),
        ("v-hevc.mp4", {"codec": "hevc"}, False),
        ("v.mkv", {}, False),
        ("v.ts", {}, False),
    ],
)
def test_opening_decodes_nothing_where_the_header_says_all(
    tmp_path, name, settings, is_header_enough
):
    """What is known of a file does not depend on how it was opened; the pixel format is known only
    once a frame was decoded."""
    path = write_video(tmp_path / name, num_frames=48, **settings)
    thorough, stream = decode._open(path)
    with VideoFile(path) as video, thorough:
        assert (video._stream.codec_context.pix_fmt is None) == is_header_enough
        assert video.index == decode._index(path, thorough, stream)
        assert [read_frame_id(picture) for _, picture in video.frames([3, 22, 47])] == [3, 22, 47]


def test_h264_that_does_not_say_how_many_frames_it_holds_back(tmp_path):
    path = write_video(tmp_path / "v.mp4", num_frames=60, options=OPEN_GOP)
    path.write_bytes(without_reordering_figures(path.read_bytes()))
    with VideoFile(path) as video:
        wanted = [3, 4, 5, 6, 22, 37, 38, 59]
        assert [read_frame_id(picture) for _, picture in video.frames(wanted)] == wanted


def without_reordering_figures(content: bytes) -> bytes:
    """An MP4 of x264 whose SPS ends before `bitstream_restriction_flag` (H.264, E.1.1): that flag
    is 0 and the figures behind it are gone; the bits up to the end of the SPS are padding."""
    place = content.index(b"avcC") + 4 + 6  # behind the counts of the record: the length of the SPS
    size = int.from_bytes(content[place : place + 2], "big")
    sps = content[place + 2 : place + 2 + size]
    bits = "".join(f"{byte:08b}" for byte in sps)
    code = "(?:1|01.|001..|0001...)"  # ue(v)
    # The flag, motion vectors may leave the picture, two limits not given, lengths of vectors,
    # frames held back (2 of a pyramid), size of the buffer, stop bit.
    tail = re.search(f"1111{code}{code}011{code}10*$", bits)
    assert tail, bits
    kept = bits[: tail.start()] + "01"
    new = int(kept.ljust(len(bits), "0"), 2).to_bytes(size, "big")
    return content[: place + 2] + new + content[place + 2 + size :]


def test_no_picture_outlives_its_use(tmp_path):
    """Without Python's collector of cycles: the pictures of a 4K clip are gigabytes."""
    path = write_video(tmp_path / "v.mp4", rotation=90)
    gc.collect()
    gc.disable()
    try:
        read_clip(path, SPEC)
        left = [held for held in gc.get_objects() if type(held) is av.VideoFrame]
    finally:
        gc.enable()
    assert left == []


def test_variable_frame_rate(tmp_path):
    # 20 frames 40 ms apart, a pause, 20 frames 100 ms apart: by time the middle would lie in the
    # pause
    times = [40 * i for i in range(20)] + [3000 + 100 * i for i in range(20)]
    clip = read_clip(write_video(tmp_path / "v.mp4", times_ms=times), SPEC)
    assert clip.num_frames == 40
    assert_right_frames(clip)
    assert clip.keyframe_seconds.tolist() == pytest.approx(
        [times[i] / 1000 for i in clip.keyframe_indices]
    )
    assert clip.motion_seconds.tolist() == pytest.approx(
        [times[i] / 1000 for i in clip.motion_indices]
    )


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotated_files_come_upright(tmp_path, rotation, mirrored):
    path = write_video(
        tmp_path / "v.mp4", width=96, height=64, rotation=rotation, mirrored=mirrored
    )
    with av.open(str(path)) as container:
        stored = container.streams.video[0]
        assert (stored.width, stored.height) == ((64, 96) if rotation in (90, 270) else (96, 64))
    clip = read_clip(path, SMART)
    assert_right_frames(clip)  # read_frame_id fails on any orientation but upright
    assert (clip.width, clip.height) == (96, 64)
    assert clip.keyframes_KCHW.shape == (4, 3, 56, 84)
    assert clip.keyframe_seconds.tolist() == pytest.approx([i / 10 for i in clip.keyframe_indices])


def test_slanted_display_matrix_is_refused(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.set_display_rotation(30)
        frame = av.VideoFrame.from_ndarray(frame_pattern(0, 64, 64), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert reason_of(path) == "unsupported"


def test_frames_cut_away_by_an_edit_list_do_not_count(tmp_path):
    """Moving the times 5 frames back makes the mp4 writer hide what then lies before time 0."""
    path = write_video(tmp_path / "v.mp4", num_frames=60)
    target = tmp_path / "cut.mp4"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(path)) as source, av.open(str(target), "w", options=options) as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(0.5 / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                sink.mux(packet)
    clip = read_clip(target, SPEC)
    assert clip.num_frames == 55
    assert frame_ids(clip.keyframes_KCHW) == [number + 5 for number in clip.keyframe_indices]
    assert clip.keyframe_seconds.tolist() == pytest.approx([i / 10 for i in clip.keyframe_indices])


def test_single_and_few_frames(tmp_path):
    clip = read_clip(write_video(tmp_path / "one.mp4", num_frames=1), SPEC)
    assert (clip.num_frames, clip.keyframe_indices, clip.motion_indices) == (1, (0,) * 4, (0,) * 12)
    assert_right_frames(clip)
    clip = read_clip(write_video(tmp_path / "two.mp4", num_frames=2), SPEC)
    assert clip.motion_indices[:3] == (0, 1, 1)
    assert_right_frames(clip)


def test_no_motion_clip(tmp_path):
    clip = read_clip(
        write_video(tmp_path / "v.mp4"), dataclasses.replace(SPEC, num_motion_frames=0)
    )
    assert clip.motion_MCHW.shape == (0, 3, 32, 32) and clip.motion_seconds.shape == (0,)
    assert_right_frames(clip)


def test_range(tmp_path):
    path = write_video(tmp_path / "v.mp4", num_frames=60)
    clip = read_clip(medium(path, start=2.0, end=4.0), SPEC)  # frames 20..39, the end excluded
    # seg = 19/4 = 4.75; round(0, 4.75, 9.5, 14.25) = 0, 5, 10, 14, plus 2.375
    assert clip.keyframe_indices == (22, 27, 32, 36)
    assert_right_frames(clip)
    assert clip.num_frames == 60 and clip.keyframe_seconds[0].item() == pytest.approx(2.2)
    assert min(read_clip(medium(path, start=5.8), SPEC).motion_indices) == 58
    assert max(read_clip(medium(path, end=0.2), SPEC).motion_indices) == 1
    assert reason_of(path, start=6.0) == "empty_range"


def test_pil_resampler_is_the_references_bicubic(tmp_path):
    path = write_video(tmp_path / "v.mkv", codec="ffv1", pix_fmt="bgr0", width=200, height=120)
    clip = read_clip(path, dataclasses.replace(SPEC, resampler="pil"))
    for number, frame in zip(clip.keyframe_indices, clip.keyframes_KCHW, strict=True):
        image = Image.fromarray(frame_pattern(number, 200, 120)).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        assert np.array_equal(frame.permute(1, 2, 0), image)


def test_resamplers_differ_by_one_level_at_most(tmp_path):
    """Both ways of a frame, and of a picture file."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (135, 240, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    video = write_video(tmp_path / "v.mkv", codec="ffv1", pix_fmt="bgr0", width=200, height=120)
    for path in (video, tmp_path / "noise.png"):
        spec = SPEC if path == video else dataclasses.replace(SPEC, num_motion_frames=0)
        clips = [read_clip(path, dataclasses.replace(spec, resampler=r)) for r in RESAMPLERS]
        for name in ("keyframes_KCHW", "motion_MCHW"):
            one, other = (getattr(clip, name).int() for clip in clips)
            assert one.shape == other.shape
            assert (one - other).abs().sum() <= 0.01 * one.numel()
            assert not one.numel() or (one - other).abs().max() <= 1


def test_smart_resize_keeps_the_aspect(tmp_path):
    clip = read_clip(write_video(tmp_path / "v.mp4", width=320, height=180), SMART)
    assert clip.keyframes_KCHW.shape == (4, 3, 168, 308)
    assert clip.motion_MCHW.shape == (12, 3, 32, 32)
    assert_right_frames(clip)
    assert (
        reason_of(write_video(tmp_path / "slim.mp4", width=810, height=4), SMART) == "aspect_ratio"
    )


@pytest.mark.parametrize("colorspace", ["bt709", "smpte170m"])
def test_colours_follow_the_files_matrix(tmp_path, colorspace):
    codes = {"bt709": (1, "ITU709"), "smpte170m": (6, "ITU601")}
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width = stream.height = 64
        stream.codec_context.colorspace = codes[colorspace][0]
        frame = av.VideoFrame.from_ndarray(
            np.full((64, 64, 3), (200, 30, 60), np.uint8), format="rgb24"
        )
        container.mux(
            stream.encode(frame.reformat(format="yuv420p", dst_colorspace=codes[colorspace][1]))
        )
        container.mux(stream.encode(None))
    colour = read_clip(path, SPEC).keyframes_KCHW[0, :, 32, 32].tolist()
    assert colour == pytest.approx(
        [200, 30, 60], abs=4
    )  # 8-bit YUV; the other matrix is off by more than 10


# --- pictures ---


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".BMP", ".tiff"])
def test_picture_is_a_repeated_frame(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    Image.fromarray(frame_pattern(77, 120, 80)).save(path)
    clip = read_clip(path, SPEC)
    assert frame_ids(clip.keyframes_KCHW) == [77] * 4 and frame_ids(clip.motion_MCHW) == [77] * 12
    assert (clip.num_frames, clip.fps, clip.height, clip.width) == (1, 0.0, 80, 120)
    assert clip.motion_seconds.tolist() == [0.0] * 12


def test_picture_orientation_and_alpha(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(frame_pattern(5, 120, 80)).copy()).save(tmp_path / "p.jpg", exif=exif)
    clip = read_clip(tmp_path / "p.jpg", SPEC)
    assert frame_ids(clip.keyframes_KCHW) == [5] * 4 and (clip.height, clip.width) == (80, 120)
    Image.fromarray(frame_pattern(6, 64, 64)).convert("RGBA").save(tmp_path / "p.png")
    assert frame_ids(read_clip(tmp_path / "p.png", SPEC).keyframes_KCHW) == [6] * 4


def test_bad_pictures(tmp_path, monkeypatch):
    good = tmp_path / "p.jpg"
    Image.fromarray(frame_pattern(5, 120, 80)).save(good)
    assert reason_of(cut_file(good, tmp_path / "cut.jpg", 0.5)) == "truncated"
    (tmp_path / "text.jpg").write_text("no picture at all")
    assert reason_of(tmp_path / "text.jpg") == "not_a_video"
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    assert reason_of(tmp_path / "deep.png") == "unsupported"
    monkeypatch.setattr(video_file, "MAX_PICTURE_BYTES", 120 * 80 * 9 - 1)
    assert reason_of(good) == "too_large"


# --- bad files ---


def test_missing_empty_and_foreign_files(tmp_path):
    assert reason_of(tmp_path / "none.mp4") == "missing"
    assert reason_of(tmp_path / "none.jpg") == "missing"
    (tmp_path / "empty.mp4").touch()
    assert reason_of(tmp_path / "empty.mp4") == "empty"
    (tmp_path / "folder.mp4").mkdir()
    assert reason_of(tmp_path / "folder.mp4") == "unreadable"
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    assert reason_of(tmp_path / "noise.mp4") == "not_a_video"
    assert reason_of(write_audio(tmp_path / "sound.mp4")) == "no_frames"


def test_what_ffmpeg_would_show_as_video_is_refused(tmp_path):
    """Text is rendered by its tty demuxer, a picture is a one-frame video, a playlist opens other
    files."""
    (tmp_path / "text.mp4").write_text("hello world\n" * 200)
    Image.fromarray(frame_pattern(0, 64, 64)).save(tmp_path / "p.jpg")
    (tmp_path / "picture.mp4").write_bytes((tmp_path / "p.jpg").read_bytes())
    target = write_video(tmp_path / "target.mp4")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {target}\n")
    for name in ("text.mp4", "picture.mp4", "list.mp4"):
        assert reason_of(tmp_path / name) == "not_a_video"


def test_unknown_codec(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert reason_of(path) == "unsupported"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["v.mp4", "fast.mp4", "v.mkv", "v.webm"])
def test_truncated_files(tmp_path, name, share):
    codec = "vp9" if name.endswith("webm") else "h264"
    path = write_video(tmp_path / name, codec=codec, num_frames=60)
    if name == "fast.mp4":
        path = move_index_to_front(path, tmp_path / "front.mp4")
    assert_right_frames(read_clip(path, SPEC))
    assert reason_of(cut_file(path, tmp_path / f"cut-{name}", share)) == "truncated"


def move_index_to_front(path: Path, target: Path) -> Path:
    with (
        av.open(str(path)) as source,
        av.open(str(target), "w", options={"movflags": "faststart"}) as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                sink.mux(packet)
    content = target.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    return target


def test_rubbish_after_the_last_box_is_harmless(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    with open(path, "ab") as file:
        file.write(b"\0" * 100)
    assert_right_frames(read_clip(path, SPEC))


def test_cut_stream_without_a_declared_size(tmp_path):
    """A transport stream does not say how long it is: the shorter video is right, or the last frame
    is an error."""
    path = cut_file(write_video(tmp_path / "v.ts", num_frames=60), tmp_path / "cut.ts", 0.5)
    clip = read_clip(path, SPEC)
    assert 20 < clip.num_frames < 50
    assert_right_frames(clip)


def test_zeroed_tail_is_an_error(tmp_path):
    """A download with preallocated space: all sizes are right, the data are not there."""
    path = move_index_to_front(
        write_video(tmp_path / "v.mp4", num_frames=60), tmp_path / "front.mp4"
    )
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    assert reason_of(path) == "decode_error"


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "av1"])
def test_damaged_frames_are_errors(tmp_path, codec):
    """Where the decoder notices damage, the frame is an error; the frames before it still come, and
    are right."""
    good = write_video(tmp_path / "good.mp4", codec=codec, num_frames=60, width=128, height=128)
    content = good.read_bytes()
    first, last = content.index(b"mdat"), content.rindex(b"moov") - 4
    damaged = ((first + last) / 2 / len(content), last / len(content))
    path = flip_bits(good, tmp_path / "v.mp4", num_flips=100, share=damaged, seed=0)
    assert reason_of(path) == "decode_error"
    assert_right_frames(read_clip(medium(path, end=1.0), SPEC))


def test_damage_that_ffmpeg_would_conceal_is_an_error(tmp_path):
    """One unreadable reference picture: FFmpeg's default fills in the frames that follow it."""
    path = write_video(tmp_path / "v.mp4", num_frames=60, width=128, height=128, gop=60)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    reference = next(packet for packet in packets[20:] if not packet.is_disposable)
    content = bytearray(path.read_bytes())
    for position in range(reference.pos + 8, reference.pos + reference.size):
        content[position] = 0xFF
    path.write_bytes(content)
    assert reason_of(path, start=3.0, end=3.5) == "decode_error"
    assert_right_frames(read_clip(medium(path, end=1.5), SPEC))


def test_missing_frame_is_an_error(tmp_path, monkeypatch):
    """A frame that the index lists and the decoder does not deliver is never replaced by
    another."""
    path = write_video(tmp_path / "v.mp4", num_frames=60)
    decode_stream = decode._decode_stream

    def lossy(*args):
        for frame in decode_stream(*args):
            if round(frame.time * 10) != 22:
                yield frame

    monkeypatch.setattr(decode, "_decode_stream", lossy)
    with pytest.raises(VideoError, match=r"frames \[22") as caught:
        read_clip(path, dataclasses.replace(SPEC, num_motion_frames=0))
    assert caught.value.reason == "decode_error"


def test_late_seek_is_repaired_from_the_start(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", num_frames=60)
    open_video, seeks = decode._open, []

    class LateSeek:
        """The container, whose seek goes to the end of the file wherever it is sent."""

        def __init__(self, container):
            self.container = container

        def __enter__(self):
            return self.container.__enter__()

        def __exit__(self, *error):
            return self.container.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self.container, name)

        def seek(self, pts, stream):
            seeks.append(pts)
            self.container.seek(10**6, stream=stream)

    def open_late(path, **probing):
        container, stream = open_video(path, **probing)
        return LateSeek(container), stream

    monkeypatch.setattr(decode, "_open", open_late)
    assert_right_frames(read_clip(path, SPEC))
    assert len(seeks) == 1


def test_too_large_video(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4")
    monkeypatch.setattr(decode, "MAX_FRAME_PIXELS", 64 * 64 - 1)
    assert reason_of(path) == "too_large"


def test_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "truncated", "box mdat")))
    assert (error.path, error.reason, error.detail) == (Path("a.mp4"), "truncated", "box mdat")
    assert str(error) == "a.mp4: truncated: box mdat" and isinstance(error, ValueError)
    assert str(VideoError("a.mp4", "missing")) == f"a.mp4: missing: {REASONS['missing']}"


def test_import_is_light():
    command = (
        "import sys, thinker.video;"
        "print([m for m in ('av', 'transformers', 'torchvision') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    assert run.stdout.strip() == "[]", run.stderr


class Reads(torch.utils.data.Dataset):
    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return read_clip(self.path, SPEC).keyframes_KCHW


def test_reads_in_forked_loader_workers(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    expected = read_clip(path, SPEC).keyframes_KCHW  # the decoder is already loaded in the parent
    loader = torch.utils.data.DataLoader(
        Reads(path), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    for frames in loader:
        assert torch.equal(frames, expected)


# --- cache ---


@pytest.fixture
def cached(tmp_path):
    path = write_video(tmp_path / "v.mp4", num_frames=30, width=96, height=64)
    cache = FrameCache(tmp_path / "cache")
    cache.get_or_read(path, SPEC)
    return path, cache


@pytest.fixture
def forbid_reading(monkeypatch):
    """A function to call once the video must not be decoded again."""

    def forbid():
        def fail(*args, **kwargs):
            raise AssertionError("decoded again")

        monkeypatch.setattr(frame_cache, "read_clip", fail)

    return forbid


def is_decoded(cache, path, spec):
    """Whether `fetch` has to decode the video; afterwards the clip is cached."""
    return cache.fetch(path, spec)[1]


@pytest.mark.parametrize("spec", [SPEC, SMART, dataclasses.replace(SPEC, num_motion_frames=0)])
def test_cached_clip_is_the_clip(tmp_path, forbid_reading, spec):
    path = write_video(tmp_path / "v.mp4", num_frames=30, fps=29.97, width=96, height=64)
    fresh = read_clip(path, spec)
    clip, was_decoded = FrameCache(tmp_path / "cache").fetch(path, spec)
    assert was_decoded
    assert_equal_clips(clip, fresh)
    forbid_reading()
    assert_equal_clips(FrameCache(tmp_path / "cache").get_or_read(path, spec), fresh)


def test_every_part_of_the_key_counts(cached, monkeypatch):
    path, cache = cached
    other = [
        dataclasses.replace(SPEC, motion_px=16),
        SMART,
        dataclasses.replace(SPEC, num_motion_frames=8),
    ]
    assert all(is_decoded(cache, path, spec) for spec in other)
    assert not is_decoded(cache, path, SPEC)
    monkeypatch.setattr(frame_cache, "READER_VERSION", frame_cache.READER_VERSION + 1)
    assert is_decoded(cache, path, SPEC)


def test_content_decides_not_the_name(cached, forbid_reading, tmp_path):
    path, cache = cached
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    clip, was_decoded = cache.fetch(copy, SPEC)
    assert clip.path == copy and not was_decoded
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert is_decoded(cache, path, SPEC)


def test_content_is_hashed_once(cached, monkeypatch):
    path, cache = cached
    monkeypatch.setattr(frame_cache.hashlib, "file_digest", None)
    assert not is_decoded(cache, path, SPEC)
    with pytest.raises(VideoError, match="unexpected: TypeError"):
        FrameCache(cache.folder).fetch(path, SPEC)


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "pixel", "facts"])
def test_damaged_cache_file_is_read_again(cached, damage):
    path, cache = cached
    (file,) = files_of(cache)
    good = file.read_bytes()
    middle = len(good) // 2
    file.write_bytes(
        {
            "cut": good[:-1],
            "empty": b"",
            "header": good[:4] + b"\xff" + good[5:],
            "pixel": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "facts": good.replace(b"num_frames", b"num_framez"),
        }[damage]
    )
    assert file.read_bytes() != good
    clip, was_decoded = cache.fetch(path, SPEC)
    assert was_decoded
    assert_right_frames(clip)
    assert file.read_bytes() == good and not is_decoded(cache, path, SPEC)


def test_killed_writer_leaves_no_clip(cached):
    path, cache = cached
    (file,) = files_of(cache)
    aside = file.with_name(f".{file.stem}.dead.tmp")
    file.rename(aside)  # as if the writer died between writing and renaming
    assert is_decoded(cache, path, SPEC)
    assert file.read_bytes() == aside.read_bytes()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_nothing(tmp_path, monkeypatch, caplog, step):
    """A file gets its name last: whatever fails before leaves neither it nor a fragment. The clip
    was read all the same."""
    path = write_video(tmp_path / "v.mp4")
    cache = FrameCache(tmp_path / "cache")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    assert_equal_clips(cache.get_or_read(path, SPEC), read_clip(path, SPEC))
    assert "v.mp4 cannot be cached: [Errno 28] No space" in caplog.text
    assert files_of(cache) == []


def test_racing_writers_leave_one_whole_file(tmp_path):
    path = write_video(tmp_path / "v.mp4", num_frames=30)
    caches = [FrameCache(tmp_path / "cache") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        clips = list(pool.map(lambda cache: cache.get_or_read(path, SPEC), caches))
    assert len(files_of(caches[0])) == 1
    for clip in clips:
        assert_equal_clips(clip, clips[0])


def test_cache_of_a_missing_file(tmp_path):
    cache = FrameCache(tmp_path / "cache")
    with pytest.raises(VideoError) as caught:
        cache.get_or_read(tmp_path / "none.mp4", SPEC)
    assert caught.value.reason == "missing"


# --- a whole data set ---


def test_check_videos(tmp_path, forbid_reading):
    good = [write_video(tmp_path / f"{i}.mp4", num_frames=10 + i) for i in range(3)]
    (tmp_path / "empty.mp4").touch()
    paths = [*good, tmp_path / "empty.mp4", good[0]]
    cache = FrameCache(tmp_path / "cache")
    failures = check_videos(paths, SPEC, cache, max_failed_share=0.25, num_workers=2)
    assert {failed: error.reason for failed, error in failures.items()} == {
        medium(tmp_path / "empty.mp4"): "empty"
    }
    forbid_reading()
    assert [cache.get_or_read(path, SPEC).num_frames for path in good] == [10, 11, 12]
    with pytest.raises(
        TooManyBadVideosError, match=r"1 of 4 videos.*0\.24(.|\n)*empty\.mp4: empty"
    ) as caught:
        check_videos(paths, SPEC, cache, max_failed_share=0.24, num_workers=1)
    assert list(caught.value.failures) == [medium(tmp_path / "empty.mp4")]
    with pytest.raises(ValueError, match="max_failed_share"):
        check_videos(paths, SPEC, cache, max_failed_share=5, num_workers=1)
    with pytest.raises(ValueError, match="num_workers"):
        check_videos(paths, SPEC, cache, max_failed_share=0, num_workers=0)
    assert check_videos([], SPEC, cache, max_failed_share=0, num_workers=1) == {}
