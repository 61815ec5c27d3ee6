"""Pictures of a report on ViDA's benchmark: predicted boxes, and the true ones dashed in white."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from thinker.data.builders.facts import Place
from thinker.eval.bench.vida.submit import Reply
from thinker.score.draw import draw_boxes, pixel_box
from thinker.utils.atomic import atomic_file
from thinker.utils.names import path_text

FOLDER = "bench_gallery"
MOST_PICTURES = 24
"""A page of them: six rows of four."""
LONGEST_PX = 1024
"""Longer side of a picture of the gallery; photographs are made smaller."""
DASH_PX = 9
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def write_gallery(
    folder: Path, answered: Sequence[tuple[Reply, Sequence[Place] | None]]
) -> list[dict[str, str]]:
    """Write up to `MOST_PICTURES` of the detection replies, evenly over their file, into `folder`;
    returns file and caption of each. Pictures that cannot be read are left out.

    answered: each reply beside what is true of its picture, None where that is not known.
    """
    shown = [pair for pair in answered if pair[0].is_answered]
    step = max(1, len(shown) / MOST_PICTURES)
    chosen = [shown[int(n * step)] for n in range(min(MOST_PICTURES, len(shown)))]
    gallery = folder / FOLDER
    gallery.mkdir(exist_ok=True)
    for old in gallery.glob("*.png"):
        old.unlink()
    entries = []
    for number, (reply, places) in enumerate(chosen):
        try:
            with Image.open(reply.example.media[0].path) as file:
                picture = ImageOps.exif_transpose(file)
                picture.thumbnail((LONGEST_PX, LONGEST_PX))
        except OSError:
            continue
        drawing = draw_boxes(picture, reply.row.boxes)
        for place in places or ():
            _dash(drawing, pixel_box(place.box, *drawing.size))
        name = f"{number:02d}.png"
        with atomic_file(gallery / name) as target:
            drawing.save(target, format="PNG")
        entries.append({"file": f"{FOLDER}/{name}", "caption": _caption(reply, places)})
    return entries


def _caption(reply: Reply, places: Sequence[Place] | None) -> str:
    name = path_text(reply.raw["image"])
    found = f"{len(reply.row.boxes)} found"
    if places is None:
        return f"{name}: {found}"
    true = ", ".join(place.label for place in places) or "no distortion"
    return f"{name}: {found}; true: {true}"


def _dash(drawing: Image.Image, area: tuple[int, int, int, int]) -> None:
    """A dashed frame, white over black, so that it shows on any picture."""
    pen = ImageDraw.Draw(drawing)
    left, top, right, bottom = area
    for x in range(left, right, 2 * DASH_PX):
        for y in (top, bottom - 1):
            _stroke(pen, (x, y, min(x + DASH_PX, right), y))
    for y in range(top, bottom, 2 * DASH_PX):
        for x in (left, right - 1):
            _stroke(pen, (x, y, x, min(y + DASH_PX, bottom)))


def _stroke(pen: ImageDraw.ImageDraw, line: tuple[int, int, int, int]) -> None:
    pen.line(line, fill=BLACK, width=4)
    pen.line(line, fill=WHITE, width=2)
