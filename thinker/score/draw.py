"""Boxes on a picture: what was found, how severe it is and how sure the policy is.

In: a picture as displayed, and `FoundBox`es. Out: a picture with a frame and a label for each box,
in a colour of its class.
"""

import zlib
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont

from rewards.boxes import PICTURE_DISTORTIONS, Box
from thinker.score.prediction import FoundBox

Area = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

SMALLEST_PX = 512
"""The longer side of a drawing: a label of eight pixels does not fit beside a picture of 64."""
FONT_SHARE, SMALLEST_FONT_PX = 1 / 36, 12
"""Height of a letter as a share of the longer side, and the least that can be read."""
LINE_SHARE = 1 / 250
"""Width of a frame as a share of the longer side."""
MOST_LETTERS = 60
"""Of a label; a class is named by a policy, and may be anything."""
NEUTRAL = (210, 210, 210)
"""Of a box without a class."""
PALETTE = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
    (227, 119, 194), (188, 189, 34), (23, 190, 207), (255, 217, 47),
)  # fmt: skip
"""One a class of ViDA-UGC."""


def draw_boxes(picture: Image.Image, boxes: Sequence[FoundBox]) -> Image.Image:
    """A copy of the picture, RGB, with every box and its label; small ones are enlarged by a whole
    factor to about `SMALLEST_PX`. Large boxes are drawn first, so that small ones within stay
    visible.

    picture: upright, as the boxes mean it (`ImageOps.exif_transpose`).
    """
    factor = max(1, round(SMALLEST_PX / max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    drawing = picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(drawing)
    width_px = max(3, round(max(size) * LINE_SHARE))
    font_px = max(SMALLEST_FONT_PX, round(max(size) * FONT_SHARE))
    areas = [(found, pixel_box(found.box, *size)) for found in boxes]
    areas.sort(key=lambda pair: _surface(pair[1]), reverse=True)
    for found, area in areas:
        _frame(pen, area, colour_of(found.name), width_px)
    taken: list[Area] = []
    for found, area in areas:
        taken.append(_write_label(pen, size, found, area, font_px, taken))
    return drawing


def pixel_box(box: Box, width: int, height: int) -> Area:
    """A box in thousandths of the sides as pixels: first column and row, and those behind the last
    ones. It holds a pixel at least, and none outside.

    >>> pixel_box((100, 250, 500, 1000), 64, 48)
    (6, 12, 32, 48)
    >>> pixel_box((998, 0, 1000, 2), 64, 48)
    (63, 0, 64, 1)
    """
    left, right = _span(box[0], box[2], width)
    top, bottom = _span(box[1], box[3], height)
    return left, top, right, bottom


def _span(first: float, last: float, side: int) -> tuple[int, int]:
    start = min(max(round(first * side / 1000), 0), side - 1)
    return start, min(max(round(last * side / 1000), start + 1), side)


def label_of(found: FoundBox) -> str:
    """What stands at a box: severity, class and confidence, as far as they are known.

    >>> label_of(FoundBox(name="noise", severity="severe", box=(0, 0, 9, 9), confidence=0.871))
    'severe noise 0.87'
    """
    words = [found.severity, found.name]
    if found.confidence is not None:
        words.append(f"{found.confidence:.2f}")
    return " ".join(word for word in words if word)


def colour_of(name: str | None) -> tuple[int, int, int]:
    """The colour of a class, RGB: the same in every picture."""
    if name is None:
        return NEUTRAL
    if name in PICTURE_DISTORTIONS:
        return PALETTE[PICTURE_DISTORTIONS.index(name)]
    return PALETTE[zlib.crc32(name.encode("utf-8", "replace")) % len(PALETTE)]


def _surface(area: Area) -> int:
    return (area[2] - area[0]) * (area[3] - area[1])


def _frame(
    pen: ImageDraw.ImageDraw, area: Area, colour: tuple[int, int, int], width_px: int
) -> None:
    """A coloured line between a black and a white one, one of which shows on any ground."""
    left, top, right, bottom = area
    lines = ((0, (0, 0, 0), 1), (1, colour, width_px), (width_px + 1, (255, 255, 255), 1))
    for inset, line, thick in lines:
        corners = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            pen.rectangle(corners, outline=line, width=thick)


def _write_label(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    found: FoundBox,
    area: Area,
    font_px: int,
    taken: list[Area],
) -> Area:
    """Write a label at a box, within the picture; returns where."""
    text, font = _fitting(pen, label_of(found), font_px, size)
    if not text:
        return 0, 0, 0, 0
    pad = _pad(font_px)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    place = _free_place(size, area, (width, height), taken)
    colour = colour_of(found.name)
    pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour, outline="black")
    origin = (place[0] + pad - left, place[1] + pad - top)
    pen.text(origin, text, font=font, fill=_ink(colour))
    return place


def _pad(font_px: int) -> int:
    """Pixels around the text of a label."""
    return max(2, font_px // 5)


def _fitting(
    pen: ImageDraw.ImageDraw, text: str, font_px: int, size: tuple[int, int]
) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """The text and its font, smaller and then cut where it is wider than the picture."""
    text = "".join(letter if letter.isprintable() else " " for letter in text[:MOST_LETTERS])
    room = size[0] - 2 * _pad(font_px)
    for px in range(font_px, SMALLEST_FONT_PX - 1, -1):
        font = ImageFont.load_default(px)
        if pen.textlength(text, font=font) <= room:
            return text, font
    while text and pen.textlength(f"{text}…", font=font) > room:
        text = text[:-1]
    return (f"{text}…" if text else ""), font


def _free_place(
    size: tuple[int, int], area: Area, label: tuple[int, int], taken: Iterable[Area]
) -> Area:
    """Where a label hides least of other labels: above its box, below, or within it at the top or
    the bottom, to the left or to the right."""
    left, top, right, bottom = area
    width, height = label
    best: tuple[int, Area] | None = None
    taken = list(taken)
    for y in (top - height, bottom, top, bottom - height):
        for x in (left, right - width):
            x0 = max(0, min(x, size[0] - width))
            y0 = max(0, min(y, size[1] - height))
            place = (x0, y0, min(x0 + width, size[0]), min(y0 + height, size[1]))
            hidden = sum(_shared(place, other) for other in taken)
            moved = (x0, y0) != (x, y)  # it may hide a part of its box
            cost = 2 * hidden + moved
            if best is None or cost < best[0]:
                best = (cost, place)
    assert best is not None
    return best[1]


def _shared(one: Area, other: Area) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _ink(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever is read better on a colour (ITU-R BT.601 luma)."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
