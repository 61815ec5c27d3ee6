"""Images at their own resolution: the pixels of transformers' own processors, and their memory."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.video_checks import NATIVE, SPEC, TILED, assert_equal_clips, reason_of
from thinker.video import Crop, FrameCache, Medium, VideoError, medium, read_clip
from thinker.video import file as video_file
from thinker.video.clip import clip_from_tensors, clip_to_tensors
from thinker.video.perturb import perturb_clip

SIZES = [(1, 1), (63, 65), (64, 64), (37, 211), (211, 37), (333, 257), (301, 999)]
CROP = Crop(left=10, top=6, right=75, bottom=57)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def picture(folder, height: int, width: int, **saving):
    path = folder / f"{height}x{width}.png"
    Image.fromarray(noise(height, width)).save(path, **saving)
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("fewest", "most"), [(1, 12), (2, 4), (1, 1)])
def test_tiles_are_those_of_transformers(tmp_path, size, fewest, most):
    """All pixels, the order of the tiles, and the thumbnail where there is one."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    spec = dataclasses.replace(TILED, min_patches=fewest, max_patches=most)
    clip = read_clip(picture(tmp_path, *size), spec)
    expected = GotOcr2ImageProcessor(
        size={"height": 64, "width": 64},
        crop_to_patches=True,
        min_patches=fewest,
        max_patches=most,
        do_rescale=False,
        do_normalize=False,
    )(torch.from_numpy(noise(*size)).permute(2, 0, 1), return_tensors="pt")
    assert clip.keyframes_KCHW.equal(expected["pixel_values"].to(torch.uint8))
    assert len(clip.keyframes_KCHW) == expected["num_patches"][0]
    geometry = spec.geometry(clip.kind, clip.height, clip.width)
    assert len(clip.keyframes_KCHW) == geometry.num_tiles + geometry.has_thumbnail


@pytest.mark.parametrize("size", SIZES[:-1])
def test_native_resolution_is_that_of_transformers(tmp_path, size):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    clip = read_clip(picture(tmp_path, *size), NATIVE)
    limits = {"shortest_edge": NATIVE.image_min_pixels, "longest_edge": NATIVE.image_max_pixels}
    output = Qwen2VLImageProcessor(
        size=limits, do_rescale=False, do_normalize=False, temporal_patch_size=1
    )(torch.from_numpy(noise(*size)).permute(2, 0, 1), return_tensors="pt")
    _, rows, columns = output["image_grid_thw"][0].tolist()
    # (blocks of rows, blocks of columns, 2, 2 in a block, channels, 14, 14) → the picture
    patches = output["pixel_values"].view(rows // 2, columns // 2, 2, 2, 3, 14, 14)
    expected = patches.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, rows * 14, columns * 14)
    assert clip.keyframes_KCHW.equal(expected.to(torch.uint8))
    geometry = NATIVE.geometry(clip.kind, clip.height, clip.width)
    assert (geometry.resized_height, geometry.resized_width) == (rows * 14, columns * 14)
    assert NATIVE.image_min_pixels <= rows * columns * 14**2 <= NATIVE.image_max_pixels


def test_the_clip_of_an_image(tmp_path):
    path = picture(tmp_path, 150, 100)
    clip = read_clip(path, dataclasses.replace(TILED, max_patches=6))
    # 100/150 = 2/3: 3 rows of 2 tiles, and the thumbnail
    assert clip.keyframes_KCHW.shape == (7, 3, 64, 64)
    assert clip.motion_MCHW.shape == (0, 3, 32, 32) and clip.motion_indices == ()
    assert clip.keyframe_seconds.tolist() == [0.0] * 7 and clip.keyframe_indices == (0,) * 7
    assert (clip.kind, clip.num_frames, clip.fps, clip.height, clip.width) == (
        "image", 1, 0.0, 150, 100,
    )  # fmt: skip
    assert perturb_clip(clip, "reverse", 0) is clip


def test_how_a_picture_is_read_is_told_apart(tmp_path):
    path = picture(tmp_path, 64, 64)
    as_video = Medium(path=path, kind="video")
    still, repeated = read_clip(path, TILED), read_clip(path, SPEC)
    assert (still.kind, repeated.kind, read_clip(as_video, TILED).kind) == (
        "image", "video", "video",
    )  # fmt: skip
    assert_equal_clips(read_clip(as_video, TILED), repeated)
    assert still.key != repeated.key
    cache = FrameCache(tmp_path / "cache")
    for wanted in (medium(path), as_video):
        for was_decoded in (True, False):
            clip, decoded = cache.fetch(wanted, TILED)
            assert decoded == was_decoded
            assert_equal_clips(clip, read_clip(wanted, TILED))
    assert_equal_clips(clip_from_tensors(clip_to_tensors(still), path), still)


@pytest.mark.parametrize("spec", [TILED, NATIVE, dataclasses.replace(TILED, resampler="pil")])
def test_the_crop_of_an_image_follows_its_orientation(tmp_path, spec):
    """Of every EXIF orientation; the pixels are those of the cut-out alone."""
    upright = noise(80, 120)
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }  # fmt: skip
    Image.fromarray(upright[6:57, 10:75]).save(tmp_path / "cut.png")
    expected = read_clip(tmp_path / "cut.png", spec)
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(stored.copy()).save(path, exif=exif)
        clip = read_clip(dataclasses.replace(medium(path), crop=CROP), spec)
        assert clip.keyframes_KCHW.equal(expected.keyframes_KCHW), orientation
        assert (clip.height, clip.width, clip.crop) == (80, 120, CROP)
    geometry = spec.geometry("image", clip.height, clip.width, clip.crop)
    assert geometry.point_from_tile(0, (0, 0)) == (10, 6)


def test_a_marked_place_is_where_the_geometry_says(tmp_path):
    """A white block of a black picture, found in every tile that the geometry names."""
    pixels = np.zeros((333, 515, 3), np.uint8)
    left, top, right, bottom = box = (230, 140, 300, 200)
    pixels[top:bottom, left:right] = 255
    Image.fromarray(pixels).save(tmp_path / "p.png")
    crop = Crop(left=40, top=21, right=515, bottom=333)
    spec = dataclasses.replace(TILED, max_patches=6)
    clip = read_clip(dataclasses.replace(medium(tmp_path / "p.png"), crop=crop), spec)
    geometry = spec.geometry(clip.kind, clip.height, clip.width, clip.crop)
    assert geometry.num_tiles == 6
    shown = dict(geometry.box_to_tiles(box)) | {6: geometry.box_to_thumbnail(box)}
    for index, tile in enumerate(clip.keyframes_KCHW):
        bright = tile[0] > 127
        if index not in shown:
            assert not bright.any()
            continue
        ys, xs = (torch.nonzero(bright.any(dim)).flatten() for dim in (1, 0))
        found = (xs[0].item(), ys[0].item(), xs[-1].item() + 1, ys[-1].item() + 1)
        assert found == pytest.approx(shown[index], abs=1)
    assert len(shown) >= 3


def test_a_jpeg_that_holds_several_is_its_first(tmp_path):
    first, second = Image.fromarray(noise(80, 120)), Image.fromarray(noise(64, 64))
    first.save(tmp_path / "one.jpg", quality=90)
    first.save(tmp_path / "p.jpg", format="MPO", save_all=True, append_images=[second], quality=90)
    with Image.open(tmp_path / "p.jpg") as image:
        assert image.format == "MPO"
    one, several = (read_clip(tmp_path / name, TILED) for name in ("one.jpg", "p.jpg"))
    assert several.keyframes_KCHW.equal(one.keyframes_KCHW)


def test_images_that_cannot_be_read(tmp_path):
    path = picture(tmp_path, 64, 64)
    with pytest.raises(VideoError, match="64 x 64") as caught:
        read_clip(dataclasses.replace(medium(path), crop=CROP), TILED)
    assert caught.value.reason == "outside_picture"
    assert reason_of(picture(tmp_path, 2, 402), NATIVE) == "aspect_ratio"
    Image.fromarray(noise(8, 8)).save(tmp_path / "moving.gif")
    for spec in (SPEC, TILED):
        assert read_clip(tmp_path / "moving.gif", spec).kind == "video"
        with pytest.raises(VideoError, match="cannot identify"):
            read_clip(Medium(path=tmp_path / "moving.gif", kind="image"), spec)


@pytest.mark.parametrize(
    ("resize", "bad"),
    [
        ("square", {"min_patches": 0}),
        ("square", {"min_patches": 5, "max_patches": 4}),
        ("smart", {"image_min_pixels": 0}),
        ("smart", {"image_max_pixels": 10}),
        ("square", {"stills": "tiles"}),
    ],
)
def test_bad_settings_of_images(resize, bad):
    spec = {"square": TILED, "smart": NATIVE}[resize]
    with pytest.raises(ValueError, match=next(iter(bad))):
        dataclasses.replace(spec, **bad)


# --- memory ---

MEASURE = """
import re, sys
from pathlib import Path
import torch
from thinker.video import ClipSpec, read_clip
def peak():  # getrusage would count what the process was forked from
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
spec = ClipSpec(num_keyframes=1, resize="square", keyframe_px=448, min_pixels=0, max_pixels=0,
                factor=0, num_motion_frames=0, motion_px=0, stills="image")
before = peak()
clip = read_clip(sys.argv[1], spec)
print(clip.height * clip.width, peak() - before)
"""


def test_a_picture_of_100_megapixels_is_read_within_a_gigabyte(tmp_path):
    """A turned JPEG, which PIL copies once more."""
    path = tmp_path / "p.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (11648, 8736)).save(path, exif=exif)  # of a medium format camera
    command = [sys.executable, "-c", MEASURE, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stderr == ""
    num_pixels, num_bytes = map(int, answer.stdout.split())
    assert num_pixels == 11648 * 8736 > 100e6
    assert 7 * num_pixels < num_bytes < video_file.MAX_PICTURE_BYTES


@pytest.mark.parametrize(
    ("name", "side", "saving"),
    [("p.jpg", 11000, {}), ("scans.jpg", 10000, {"progressive": True}), ("p.tif", 8800, {}),
     ("p.webp", 8000, {})],
)  # fmt: skip
def test_larger_pictures_are_refused_by_their_header(tmp_path, monkeypatch, name, side, saving):
    """At a hundredth of every size and limit."""
    monkeypatch.setattr(video_file, "MAX_PICTURE_BYTES", 10**5)
    for factor, is_read in ((100, False), (110, True)):
        path = tmp_path / name
        Image.new("RGB", (side // factor, side // factor)).save(path, **saving)
        if is_read:
            assert read_clip(path, TILED).height == side // factor
        else:
            assert reason_of(path, TILED) == "too_large"
