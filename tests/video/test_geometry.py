"""Places of a picture once it is cut, resized and tiled, and back."""

import itertools

import numpy as np
import pytest

from rewards.boxes import parse_boxes
from thinker.policies import BACKBONES
from thinker.video import ClipSpec
from thinker.video.geometry import Geometry, anyres_fit, anyres_grid, tile_grid
from thinker.video.medium import Crop

CROP = Crop(left=100, top=50, right=900, bottom=450)
EXAMPLE = Geometry(
    height=600, width=1000, crop=CROP, rows=1, columns=2, tile_height=448, tile_width=448
)


def test_the_example_of_the_docstring():
    # 800 x 400 become 896 x 448: both sides times 1.12. 500 · 1.12 = 560 = 448 + 112
    assert (EXAMPLE.resized_width, EXAMPLE.resized_height) == (896, 448)
    point = (600.0, 250.0)
    assert EXAMPLE.point_to_crop(point) == (500, 200)
    assert EXAMPLE.point_to_resized(point) == pytest.approx((560, 224))
    assert EXAMPLE.point_to_thumbnail(point) == pytest.approx((280, 224))
    index, place = EXAMPLE.point_to_tile(point)
    assert index == 1 and place == pytest.approx((112, 224))
    assert EXAMPLE.num_tiles == 2 and EXAMPLE.has_thumbnail
    for back in (
        EXAMPLE.point_from_crop((500, 200)),
        EXAMPLE.point_from_resized((560, 224)),
        EXAMPLE.point_from_tile(1, (112, 224)),
        EXAMPLE.point_from_tile(2, (280, 224)),
    ):
        assert back == pytest.approx(point)


def test_a_box_over_two_tiles():
    # (400 - 100) · 1.12 = 336, (100 - 50) · 1.12 = 56; the tiles meet at 448
    box = (400.0, 100.0, 600.0, 250.0)
    assert EXAMPLE.box_to_crop(box) == (300, 50, 500, 200)
    assert EXAMPLE.box_to_resized(box) == pytest.approx((336, 56, 560, 224))
    assert EXAMPLE.box_to_thumbnail(box) == pytest.approx((168, 56, 280, 224))
    # 300, 50, 500, 200 of 800 x 400
    assert EXAMPLE.box_to_shares(box, 1000) == pytest.approx((375, 125, 625, 500))
    assert EXAMPLE.box_from_shares((0.375, 0.125, 0.625, 0.5)) == pytest.approx(box)
    parts = dict(EXAMPLE.box_to_tiles(box))
    assert parts[0] == pytest.approx((336, 56, 448, 224))
    assert parts[1] == pytest.approx((0, 56, 112, 224))
    # 448 / 1.12 = 400: the tiles meet at 500 of the picture
    assert EXAMPLE.box_from_tile(0, parts[0]) == pytest.approx((400, 100, 500, 250))
    assert EXAMPLE.box_from_tile(1, parts[1]) == pytest.approx((500, 100, 600, 250))
    assert dict(EXAMPLE.box_to_tiles((910.0, 100.0, 950.0, 250.0))) == {}


def random_geometries(count: int):
    """Odd sizes, with and without a crop, tiled by the rule or resized as one picture."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = (int(side) for side in rng.integers(1, 3000, 2))
        crop = None
        if number % 2:
            left, top = int(rng.integers(0, width)), int(rng.integers(0, height))
            right = int(rng.integers(left + 1, width + 1))
            crop = Crop(
                left=left, top=top, right=right, bottom=int(rng.integers(top + 1, height + 1))
            )
        tile = (int(rng.integers(1, 900)), int(rng.integers(1, 900)))
        rows = columns = 1
        if number % 3:
            part_height, part_width = (crop.height, crop.width) if crop else (height, width)
            rows, columns = tile_grid(
                part_height, part_width, tile_px=tile[0], min_patches=1, max_patches=12
            )
            tile = (tile[0], tile[0])
        yield Geometry(
            height=height,
            width=width,
            crop=crop,
            rows=rows,
            columns=columns,
            tile_height=tile[0],
            tile_width=tile[1],
        )


def test_every_way_there_is_a_way_back():
    rng = np.random.default_rng(1)
    for geometry in random_geometries(300):
        part = geometry.part
        xs = sorted(float(x) for x in rng.uniform(part.left, part.right, 2))
        ys = sorted(float(y) for y in rng.uniform(part.top, part.bottom, 2))
        box = (xs[0], ys[0], xs[1], ys[1])
        near = pytest.approx(box, abs=1e-9, rel=1e-12)
        assert geometry.box_from_crop(geometry.box_to_crop(box)) == near
        assert geometry.box_from_resized(geometry.box_to_resized(box)) == near
        for whole in (1.0, 1000.0):
            shares = geometry.box_to_shares(box, whole)
            assert min(shares) >= 0 and max(shares) <= whole
            assert geometry.box_from_shares(shares, whole) == near
        if geometry.has_thumbnail:
            small = geometry.box_to_thumbnail(box)
            assert geometry.box_from_tile(geometry.num_tiles, small) == near
        for x, y in itertools.product(box[::2], box[1::2]):
            index, place = geometry.point_to_tile((x, y))
            assert 0 <= place[0] <= geometry.tile_width and 0 <= place[1] <= geometry.tile_height
            assert geometry.point_from_tile(index, place) == pytest.approx((x, y), abs=1e-6)
        pieces = [
            geometry.box_from_tile(index, shown) for index, shown in geometry.box_to_tiles(box)
        ]
        area = sum((right - left) * (bottom - top) for left, top, right, bottom in pieces)
        assert area == pytest.approx((box[2] - box[0]) * (box[3] - box[1]), rel=1e-6)


def as_read(number: int) -> tuple[Geometry, ClipSpec]:
    """A still as InternVL (tiles) or Qwen2.5-VL (kept aspect) sees it, cut out or whole."""
    rng = np.random.default_rng(number)
    height, width = (int(side) for side in rng.integers(60, 3000, 2))
    crop = None
    if number % 3 == 0:
        crop = Crop(left=width // 7, top=height // 5, right=width - 3, bottom=height - 9)
    name = ("internvl3", "qwen2_5_vl")[number % 2]
    clip, factor = BACKBONES[name].default_clip, 28
    spec = ClipSpec(
        num_keyframes=1, resize=BACKBONES[name].inputs.resize, keyframe_px=clip.keyframe_px,
        min_pixels=clip.min_pixels, max_pixels=clip.max_pixels, factor=factor,
        num_motion_frames=0, motion_px=1, stills="image",
        max_patches=clip.max_patches, image_max_pixels=clip.image_max_pixels,
    )  # fmt: skip
    return spec.geometry("image", height, width, crop), spec


def test_a_box_that_is_written_in_thousandths_or_resized_pixels_is_found_again():
    """Picture → text of a policy → picture: within half a unit of what the text counts in."""
    rng = np.random.default_rng(3)
    for number in range(60):
        geometry, spec = as_read(number)
        assert geometry.has_thumbnail <= (spec.resize == "square")
        part = geometry.part
        left, top = rng.uniform(0, 0.6, 2)
        right, bottom = left + 0.3, top + 0.2
        box = geometry.box_from_shares((left, top, right, bottom))
        resized = (geometry.resized_width, geometry.resized_height)
        for size, written in (
            ((1000, 1000), geometry.box_to_shares(box, 1000)),
            (resized, geometry.box_to_resized(box)),
        ):
            x1, y1, x2, y2 = (round(side) for side in written)
            said = f"Noise: Severe noise({x1},{y1}),({x2},{y2})"
            (found,) = parse_boxes(said, size=size).value.boxes
            if size == resized:
                back = geometry.box_from_resized(found.box)
            else:
                back = geometry.box_from_shares(found.box, 1000)
            half = [part.width / size[0] / 2 + 1e-9, part.height / size[1] / 2 + 1e-9] * 2
            assert all(abs(b - a) <= h for a, b, h in zip(box, back, half, strict=True))
        for index, shown in geometry.box_to_tiles(box):  # tiles count in the same thousandths
            tile = geometry.box_to_shares(geometry.box_from_tile(index, shown), 1000)
            assert 1000 * left - 1e-6 <= tile[0] < tile[2] <= 1000 * right + 1e-6


def test_the_corners_of_a_picture_are_in_its_corner_tiles():
    assert EXAMPLE.point_to_tile((100, 50)) == (0, (0, 0))
    assert EXAMPLE.point_to_tile((900, 450))[0] == 1
    assert EXAMPLE.point_to_tile((500, 50))[0] == 1  # an edge belongs to the right tile
    with pytest.raises(ValueError, match="lies outside"):
        EXAMPLE.point_to_tile((99.0, 60.0))
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        EXAMPLE.point_from_tile(3, (0, 0))


def test_a_crop_beyond_the_picture():
    with pytest.raises(ValueError, match="the picture is 899 x 600 pixels, the crop left 100"):
        Geometry(height=600, width=899, crop=CROP, tile_height=1, tile_width=1)
    with pytest.raises(ValueError, match="at least 1"):
        Geometry(height=600, width=0, tile_height=1, tile_width=1)


def test_tiles_by_area_are_those_of_vitals_program():
    """Printed by its `dynamic_preprocess`, (columns, rows) there: 1280 x 720 is 4.59 tiles of 448
    px, two tiles at 1.5 of them; a single tile is doubled."""
    printed = {
        (1280, 720): (1, 5), (2000, 2000): (2, 6), (100, 100): (1, 1), (448, 672): (2, 1),
        (896, 1344): (2, 3), (448, 3584): (8, 1), (1000, 1000): (1, 5), (900, 700): (1, 3),
    }  # fmt: skip
    area = {"tile_px": 448, "min_patches": 1, "tiling": "area"}
    for (width, height), (columns, rows) in printed.items():
        assert tile_grid(height, width, max_patches=12, **area) == (rows, columns)
    assert tile_grid(720, 1280, max_patches=4, **area) == (4, 1)
    with pytest.raises(ValueError, match="expected at most 12: VITAL's rule knows no more"):
        tile_grid(720, 1280, max_patches=13, **area)
    one = Geometry(height=9, width=9, tile_height=4, tile_width=4, thumbnail=True)
    assert one.has_thumbnail
    assert one.point_from_tile(1, one.point_to_thumbnail((3, 6))) == pytest.approx((3, 6))


def test_pictures_on_a_canvas_are_laid_out_as_transformers_does():
    """LLaVA-OneVision's grid, and the size within it; there and back, beside the black margins."""
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
    from transformers.image_utils import ChannelDimension

    px, grids = 24, [[24 * r, 24 * c] for r in range(1, 7) for c in range(1, 7)]
    rng = np.random.default_rng(4)
    for size in [(1, 999), (24, 24), (70, 150), *rng.integers(1, 400, (200, 2)).tolist()]:
        height, width = size
        canvas = select_best_resolution((height, width), grids)
        rows, columns = anyres_grid(height, width, tile_px=px, min_patches=1, max_patches=36)
        assert (rows * px, columns * px) == canvas, size
        picture = np.zeros((3, height, width), dtype=np.uint8)
        fitted = get_patch_output_size(picture, canvas, ChannelDimension.FIRST)
        assert anyres_fit(height, width, canvas) == fitted, size
        geometry = Geometry(
            height=height, width=width, rows=rows, columns=columns, tile_height=px, tile_width=px,
            fitted=fitted, thumbnail=True,
        )  # fmt: skip
        corner = geometry.point_to_resized((width, height))
        assert corner == pytest.approx(geometry.fitted_box[2:])
        point = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        index, place = geometry.point_to_tile(point)
        assert geometry.point_from_tile(index, place) == pytest.approx(point, abs=1e-6)
        small = geometry.point_to_thumbnail(point)
        assert geometry.point_from_tile(rows * columns, small) == pytest.approx(point, abs=1e-9)
    assert anyres_grid(720, 1280, tile_px=384, min_patches=1, max_patches=36) == (2, 4)
    assert anyres_fit(720, 1280, (768, 1536)) == (768, 1366)


def test_the_tiling_is_transformers_own():
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    assert tile_grid(400, 800, tile_px=448, min_patches=1, max_patches=12) == (1, 2)
    rng = np.random.default_rng(2)
    for height, width in [(448, 448), (1080, 1920), (1, 999), *rng.integers(1, 4000, (400, 2))]:
        size = (int(height), int(width))
        for px, fewest, most in ((448, 1, 12), (448, 3, 6), (64, 1, 4), (448, 1, 1), (448, 5, 5)):
            columns, rows = get_optimal_tiled_canvas(size, (px, px), fewest, most)
            ours = tile_grid(*size, tile_px=px, min_patches=fewest, max_patches=most)
            assert ours == (rows, columns), size
