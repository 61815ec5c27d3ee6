"""A contact sheet: the middle frame of some clips in every condition, to look at before training.

What a number cannot show: crops of nothing, title cards, a condition that does nothing. Frames that
are held show in the label only.
"""

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from thinker.data.reference_labels.codec import decode
from thinker.data.reference_labels.planes import to_picture
from thinker.data.reference_labels.settings import ReferenceLabelSettings
from thinker.data.reference_labels.window import Entry
from thinker.utils.atomic import write_atomic

NUM_ROWS = 8
CELL_PX = 128  # a larger clip is scaled down to it, a smaller one up by a whole number
TEXT_PX = 28  # two lines of text


def contact_sheet(
    path: Path, clips: Path, entries: Sequence[Entry], settings: ReferenceLabelSettings
) -> None:
    """Write a PNG with a row for each of up to 8 crops, drawn, and a column for each condition
    that it has; under each picture the condition and the label."""
    rows: dict[tuple, list[Entry]] = {}
    for entry in entries:
        rows.setdefault((entry["content"], entry["start_frame"], str(entry["crop"])), []).append(
            entry
        )
    keys = list(rows)
    chosen = sorted(random.Random(settings.seed).sample(range(len(keys)), min(NUM_ROWS, len(keys))))
    width = max(len(rows[keys[place]]) for place in chosen) * CELL_PX
    sheet = Image.new("RGB", (width, len(chosen) * (CELL_PX + TEXT_PX)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, place in enumerate(chosen):
        top = row * (CELL_PX + TEXT_PX)
        for column, entry in enumerate(rows[keys[place]]):
            sheet.paste(_picture(clips / entry["path"]), (column * CELL_PX, top))
            text = f"{entry['condition']}\n{entry['label_name']} {entry['label']:.4g}"
            draw.multiline_text(
                (column * CELL_PX + 1, top + CELL_PX + 1),
                text,
                fill="black",
                spacing=1,
                font_size=11,
            )
    out = io.BytesIO()
    sheet.save(out, "PNG")
    write_atomic(path, out.getvalue())


def _picture(path: Path) -> Image.Image:
    planes_TYX = decode(path.read_bytes())
    picture = Image.fromarray(np.ascontiguousarray(to_picture(planes_TYX[len(planes_TYX) // 2])))
    factor = max(CELL_PX // max(picture.size), 1)
    if factor > 1:
        return picture.resize(
            (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
        )
    picture.thumbnail((CELL_PX, CELL_PX))
    return picture
