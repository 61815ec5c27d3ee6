"""Where a place of a picture lies once the picture is cut, resized and laid out in tiles, and back.

In: points and boxes of the picture as displayed. Out: the same places of the part that was cut out,
of the resized part, of a tile of it or of its thumbnail; and each of these back again. The tiling
itself (`thinker.video.read`) takes its boxes from here, so the two cannot disagree.

Pixels of the picture as displayed are square: a video that is stored with others (720 x 576 for
16:9) is stretched to them first (`displayed_size`), so crops and boxes mean what a person sees.

Coordinates are continuous: pixel i covers i to i + 1, so the right edge of a picture of 640 columns
is 640.0, and a box ends where its last pixel does. Fractions (of a side, or in thousandths) of a
model's answer are shares of the part: `x = share · part width`. Qwen2.5-VL's own are pixels of the
resized part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from thinker.video.medium import Crop

Point = tuple[float, float]  # x, y
Box = tuple[float, float, float, float]  # left, top, right, bottom


def displayed_size(height: int, width: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """(height, width) in square pixels of an upright picture, by the width of its pixels over
    their height.

    The side that is too short grows, so nothing is thrown away; browsers do the same.
    Example: `displayed_size(576, 720, Fraction(64, 45))` → `(576, 1024)`.
    """
    if pixel_aspect >= 1:
        return height, max(1, round(width * pixel_aspect))
    return max(1, round(height / pixel_aspect)), width


ANYRES_TILINGS = ("anyres", "anyres_tiles")
TILINGS = ("aspect", "area", *ANYRES_TILINGS)
"""How a picture is cut into tiles (`tile_grid`): InternVL's way, VITAL's, and LLaVA-OneVision's,
whose pictures keep their aspect and stand in the middle of a black canvas of tiles; "anyres_tiles"
leaves out the thumbnail, as VQA² does."""

ANYRES_SIDE = 6
"""Most rows, and most columns, of tiles of LLaVA-OneVision."""

AREA_GRIDS = (
    (1, 1), (1, 2), (3, 1), (4, 1), (5, 1), (3, 2), (7, 1), (1, 8), (1, 9), (10, 1), (11, 1),
    (6, 2),
)  # fmt: skip
"""VITAL's grids of 1, 2, … 12 tiles, (rows, columns): its program takes the last one of that number
in the order of a Python set."""


@lru_cache(maxsize=256)
def tile_grid(
    height: int,
    width: int,
    *,
    tile_px: int,
    min_patches: int,
    max_patches: int,
    tiling: str = "aspect",
) -> tuple[int, int]:
    """(rows, columns) of the tiles of a picture, by one of `TILINGS`.

    "anyres": see `anyres_grid`.
    "area" looks for the number of tiles alone: the area of min..max tiles that is nearest to the
    picture's, the larger one of two equally near, in the shape of `AREA_GRIDS`; so 1280 x 720 with
    tiles of 448 px is (5, 1). "aspect": of all grids of min..max tiles the one whose aspect is
    nearest to the picture's.

    Among grids of one aspect the largest one wins whose area is below twice the picture's.
    InternVL's rule, equal to transformers' `got_ocr2.get_optimal_tiled_canvas` (a test compares
    them); written out because that module imports torchvision.
    Example: `tile_grid(400, 800, tile_px=448, min_patches=1, max_patches=12)` → `(1, 2)`; (2, 4)
    has the same aspect, but 8 · 448² / 2 pixels are more than the picture has.
    """
    if tiling == "area":
        if max_patches > len(AREA_GRIDS):
            raise ValueError(
                f"max_patches is {max_patches}, expected at most {len(AREA_GRIDS)}: VITAL's rule "
                "knows no more"
            )
        count = int(height * width / tile_px**2 + 0.5)
        return AREA_GRIDS[min(max(count, min_patches), max_patches) - 1]
    if tiling in ANYRES_TILINGS:
        return anyres_grid(
            height, width, tile_px=tile_px, min_patches=min_patches, max_patches=max_patches
        )
    sides = range(1, max_patches + 1)
    grids = [(c, r) for c in sides for r in sides if min_patches <= c * r <= max_patches]
    best, smallest_gap = (1, 1), float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        gap = abs(width / height - columns / rows)
        is_larger_enough = height * width > 0.5 * tile_px**2 * columns * rows
        if gap < smallest_gap or (gap == smallest_gap and is_larger_enough):
            best, smallest_gap = (rows, columns), gap
    return best


def anyres_grid(
    height: int, width: int, *, tile_px: int, min_patches: int, max_patches: int
) -> tuple[int, int]:
    """(rows, columns) of min..max tiles, at most 6 x 6, that a picture fits into best: the grid in
    which it covers most pixels, but not more than it has; of several the one of least area.

    LLaVA-OneVision's rule, equal to transformers' `select_best_resolution` (a test compares them).
    Example: `anyres_grid(720, 1280, tile_px=384, min_patches=1, max_patches=36)` → `(2, 4)`.
    """
    sides = range(1, ANYRES_SIDE + 1)
    grids = [(r, c) for r in sides for c in sides if min_patches <= r * c <= max_patches]
    best, most, least_wasted = (1, 1), 0, math.inf
    for rows, columns in grids:
        scale = min(columns * tile_px / width, rows * tile_px / height)
        covered = min(int(width * scale) * int(height * scale), height * width)
        wasted = rows * columns * tile_px**2 - covered
        if covered > most or (covered == most and wasted < least_wasted):
            best, most, least_wasted = (rows, columns), covered, wasted
    return best


def anyres_fit(height: int, width: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture that keeps its aspect in a canvas of (height, width), the one
    that is not full rounded up, as in transformers' `get_patch_output_size`.

    Example: 720 x 1280 in a canvas of 768 x 1536 is `(768, 1366)`.
    """
    across, down = canvas[1] / width, canvas[0] / height
    if across < down:
        return min(math.ceil(height * across), canvas[0]), canvas[1]
    return canvas[0], min(math.ceil(width * down), canvas[1])


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What became of a picture: a part of it, resized to a grid of equal tiles.

    A picture that is not tiled is one tile. Several tiles are followed by a thumbnail, the whole
    part stretched to one tile, whose index is `num_tiles`.

    Example: of a picture 1000 wide and 600 high the part from (100, 50) to (900, 450), as 1 row of
    2 tiles of 448 px, which makes it 896 x 448. Its point (600, 250) is (500, 200) of the part,
    (560, 224) of the resized part, (112, 224) of tile 1, and (280, 224) of the thumbnail, tile 2.
    """

    height: int
    """Height of the whole picture as displayed."""
    width: int
    """Width of the whole picture as displayed."""
    crop: Crop | None = None
    """The part that was cut out; None: all of it."""
    rows: int = 1
    """Rows of tiles."""
    columns: int = 1
    """Tiles of a row; they are counted row by row."""
    tile_height: int
    """Height of every tile."""
    tile_width: int
    """Width of every tile."""
    thumbnail: bool | None = None
    """Whether a thumbnail follows the tiles; None: where there are several."""
    fitted: tuple[int, int] | None = None
    """Height and width of the resized part within the tiles, in their middle; None: it is stretched
    to all of them."""

    @classmethod
    def whole(cls, width: int, height: int) -> Geometry:
        """Of a picture that is shown as it is."""
        return cls(height=height, width=width, tile_height=height, tile_width=width)

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.rows, self.columns) < 1:
            raise ValueError(f"sides and counts must be at least 1, got {self}")
        if min(self.tile_height, self.tile_width) < 1:
            raise ValueError(f"sides of a tile must be at least 1, got {self}")
        if self.part.right > self.width or self.part.bottom > self.height:
            raise ValueError(
                f"the picture is {self.width} x {self.height} pixels, the crop left "
                f"{self.part.left}, top {self.part.top}, right {self.part.right}, bottom "
                f"{self.part.bottom}"
            )

    @property
    def part(self) -> Crop:
        """The part that was cut out, the whole picture where nothing was."""
        return self.crop or Crop(left=0, top=0, right=self.width, bottom=self.height)

    @property
    def resized_height(self) -> int:
        """Height of all rows of tiles together, which the resized part fills or stands in."""
        return self.rows * self.tile_height

    @property
    def resized_width(self) -> int:
        """Width of all columns of tiles together, as `resized_height`."""
        return self.columns * self.tile_width

    @property
    def num_tiles(self) -> int:
        """Tiles of the grid, without the thumbnail."""
        return self.rows * self.columns

    @property
    def has_thumbnail(self) -> bool:
        """Whether a thumbnail follows the tiles."""
        return self.num_tiles > 1 if self.thumbnail is None else self.thumbnail

    @property
    def fitted_box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the resized part within all tiles."""
        height, width = self.fitted or (self.resized_height, self.resized_width)
        left, top = (self.resized_width - width) // 2, (self.resized_height - height) // 2
        return left, top, left + width, top + height

    def tile_box(self, index: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a tile within the resized part."""
        if not 0 <= index < self.num_tiles:
            raise ValueError(f"tile is {index}, expected 0..{self.num_tiles - 1}")
        row, column = divmod(index, self.columns)
        left, top = column * self.tile_width, row * self.tile_height
        return left, top, left + self.tile_width, top + self.tile_height

    # points

    def point_to_crop(self, point: Point) -> Point:
        """A point of the picture within the part that was cut out; outside of it, beyond its
        sides."""
        return point[0] - self.part.left, point[1] - self.part.top

    def point_from_crop(self, point: Point) -> Point:
        """The reverse of `point_to_crop`."""
        return point[0] + self.part.left, point[1] + self.part.top

    def point_to_resized(self, point: Point) -> Point:
        """A point of the picture within all tiles."""
        x, y = self.point_to_crop(point)
        left, top, right, bottom = self.fitted_box
        x, y = x * (right - left) / self.part.width, y * (bottom - top) / self.part.height
        return left + x, top + y

    def point_from_resized(self, point: Point) -> Point:
        """The reverse of `point_to_resized`."""
        left, top, right, bottom = self.fitted_box
        x, y = point[0] - left, point[1] - top
        return self.point_from_crop(
            (x * self.part.width / (right - left), y * self.part.height / (bottom - top))
        )

    def point_to_shares(self, point: Point, whole: float = 1.0) -> Point:
        """A point of the picture in shares of the part's sides, which count `whole` each: 1 for
        fractions, 1000 for thousandths. Those that a model writes are of what it was shown."""
        x, y = self.point_to_crop(point)
        return whole * x / self.part.width, whole * y / self.part.height

    def point_from_shares(self, point: Point, whole: float = 1.0) -> Point:
        """The reverse of `point_to_shares`."""
        x, y = point
        return self.point_from_crop((x * self.part.width / whole, y * self.part.height / whole))

    def point_to_thumbnail(self, point: Point) -> Point:
        """A point of the picture within the thumbnail."""
        x, y = self.point_to_shares(point)
        return x * self.tile_width, y * self.tile_height

    def point_to_tile(self, point: Point) -> tuple[int, Point]:
        """The index of the tile that shows a point of the picture, and the point within that tile.

        A point on the edge of two tiles is of the right or lower one. Raises ValueError for a point
        outside of the part that was cut out.
        """
        x, y = self.point_to_resized(point)
        if not (0 <= x <= self.resized_width and 0 <= y <= self.resized_height):
            raise ValueError(f"point {point} lies outside of {self.part}")
        column = min(int(x // self.tile_width), self.columns - 1)
        row = min(int(y // self.tile_height), self.rows - 1)
        place = (x - column * self.tile_width, y - row * self.tile_height)
        return row * self.columns + column, place

    def point_from_tile(self, index: int, point: Point) -> Point:
        """A point of a tile, or of the thumbnail, as a point of the picture: the reverse of
        `point_to_tile` and of `point_to_thumbnail`."""
        x, y = point
        if self.has_thumbnail and index == self.num_tiles:
            return self.point_from_shares((x / self.tile_width, y / self.tile_height))
        left, top, _, _ = self.tile_box(index)
        return self.point_from_resized((left + x, top + y))

    # boxes: two points

    def box_to_crop(self, box: Box) -> Box:
        """As `point_to_crop`, both corners."""
        return self.point_to_crop(box[:2]) + self.point_to_crop(box[2:])

    def box_from_crop(self, box: Box) -> Box:
        """The reverse of `box_to_crop`."""
        return self.point_from_crop(box[:2]) + self.point_from_crop(box[2:])

    def box_to_resized(self, box: Box) -> Box:
        """As `point_to_resized`, both corners."""
        return self.point_to_resized(box[:2]) + self.point_to_resized(box[2:])

    def box_from_resized(self, box: Box) -> Box:
        """The reverse of `box_to_resized`."""
        return self.point_from_resized(box[:2]) + self.point_from_resized(box[2:])

    def box_to_shares(self, box: Box, whole: float = 1.0) -> Box:
        """As `point_to_shares`, both corners.

        Example, with the one of the class: the box (400, 100, 600, 250) is (375, 125, 625, 500) in
        thousandths of the part.
        """
        return self.point_to_shares(box[:2], whole) + self.point_to_shares(box[2:], whole)

    def box_from_shares(self, box: Box, whole: float = 1.0) -> Box:
        """The reverse of `box_to_shares`."""
        return self.point_from_shares(box[:2], whole) + self.point_from_shares(box[2:], whole)

    def box_to_thumbnail(self, box: Box) -> Box:
        """As `point_to_thumbnail`, both corners."""
        return self.point_to_thumbnail(box[:2]) + self.point_to_thumbnail(box[2:])

    def box_to_tiles(self, box: Box) -> Iterator[tuple[int, Box]]:
        """(index, what of the box that tile shows) of every tile that shows some of it.

        Example, with the one of the class: the box (400, 100, 600, 250) of the picture ends at
        (560, 224) of the resized part and begins at (336, 56), so that tile 0 shows (336, 56, 448,
        224) and tile 1 (0, 56, 112, 224).
        """
        left, top, right, bottom = self.box_to_resized(box)
        for index in range(self.num_tiles):
            tile_left, tile_top, tile_right, tile_bottom = self.tile_box(index)
            shown_left, shown_right = max(left, tile_left), min(right, tile_right)
            shown_top, shown_bottom = max(top, tile_top), min(bottom, tile_bottom)
            if shown_left < shown_right and shown_top < shown_bottom:
                yield (
                    index,
                    (
                        shown_left - tile_left,
                        shown_top - tile_top,
                        shown_right - tile_left,
                        shown_bottom - tile_top,
                    ),
                )

    def box_from_tile(self, index: int, box: Box) -> Box:
        """A box of a tile, or of the thumbnail, as a box of the picture."""
        return self.point_from_tile(index, box[:2]) + self.point_from_tile(index, box[2:])
