"""Metadata of pictures in ViDA-UGC's form (arXiv 2508.12605): MOS and local distortions.

In: `train_metadata.json`, a list with an object a picture: `image`, `mos`, `width`, `height`, and
`distortions`, each with `distortion`, `coordinates` (left, top, right, bottom in pixels),
`severity`, `position`, `visual manifestation`, `perception impact` and `significance_score`, of
which the first two have to be there. Out: what `sources.py` merges into `Facts`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewards.boxes import BOX_SEVERITIES
from rewards.distortion import NONE, distortion_name
from thinker.data.bad_lines import BadLine
from thinker.data.builders.facts import Place
from thinker.data.examples import is_finite_number
from thinker.data.records import (
    BadValueError,
    load_json,
    mapping,
    member,
    parse_mos,
    prose,
    show,
    text,
)
from thinker.utils.text import plain_utf8
from thinker.video.geometry import Geometry


def label_bytes(file: Path) -> bytes:
    """A file of labels in UTF-8. Raises ValueError where it cannot be read."""
    try:
        return plain_utf8(file.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None


def pictures(file: Path, bad: list[BadLine]) -> Iterator[tuple[int, Any]]:
    """(number from 1, entry) of every picture of ViDA-UGC's metadata."""
    try:
        entries = load_json(label_bytes(file))
        if not isinstance(entries, list):
            raise BadValueError(f"the file holds {show(entries)}, expected a list of pictures")
    except BadValueError as error:
        bad.append(BadLine(file=file, line=1, reason=str(error)))
        return
    for number, entry in enumerate(entries, start=1):
        path = entry.get("image") if isinstance(entry, dict) else None
        yield number, entry if path is None else {**entry, "path": path}


def picture_facts(fields: dict[str, Any]) -> dict[str, Any]:
    """MOS, places, and the most important one as the main distortion."""
    width, height = size_of(fields)
    given = member(fields, "distortions")
    if not isinstance(given, list):
        raise BadValueError(f"distortions is {show(given)}, expected a list")
    places = tuple(picture_place(mapping(one, "a distortion"), width, height) for one in given)
    key = max(places, key=lambda place: place.importance or 0.0, default=None)
    severity = None if key is None else key.severity
    return {
        "mos": parse_mos(member(fields, "mos")),
        "places": places,
        "size": (width, height),
        "distortion": NONE if key is None else key.name,
        "severity": "slight" if severity == "minor" else severity,
    }


def size_of(fields: dict[str, Any]) -> tuple[int, int]:
    """Width and height of a picture, in pixels. Raises BadValueError where they are none."""
    width, height = fields.get("width"), fields.get("height")
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        raise BadValueError(f"width and height are {show([width, height])}, expected pixels")
    return width, height


def picture_place(fields: dict[str, Any], width: int, height: int) -> Place:
    """One entry of `distortions`, its box in thousandths of the sides. Raises BadValueError with
    the reason."""
    corners = member(fields, "coordinates")
    numbers = corners if isinstance(corners, list) else []
    if len(numbers) != 4 or not all(is_finite_number(side) for side in numbers):
        raise BadValueError(f"coordinates are {show(corners)}, expected [left, top, right, bottom]")
    left, top, right, bottom = (float(side) for side in numbers)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise BadValueError(
            f"coordinates are {show(corners)}, expected a box within {width} x {height} pixels"
        )
    severity = fields.get("severity")
    if severity is not None and str(severity).lower() not in BOX_SEVERITIES:
        raise BadValueError(
            f"severity is {show(severity)}, expected one of {', '.join(BOX_SEVERITIES)}"
        )
    importance = fields.get("significance_score")
    if importance is not None and not is_finite_number(importance):
        raise BadValueError(f"significance_score is {show(importance)}, expected a number")
    words = [
        "" if fields.get(key) is None else " ".join(prose(fields[key], key).split()).rstrip(".")
        for key in ("position", "visual manifestation", "perception impact")
    ]
    return Place(
        name=distortion_name(text(member(fields, "distortion"), "distortion")),
        severity=None if severity is None else str(severity).lower(),
        box=Geometry.whole(width, height).box_to_shares((left, top, right, bottom), 1000),
        position=words[0],
        manifestation=words[1],
        impact=words[2],
        importance=importance,
    )
