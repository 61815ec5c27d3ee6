"""A test release in the form of ViDA's (MIPI challenge, ICCV 2025), of generated pictures.

In: entries of `metadata.json` (local.py). Out: a folder with `benchmark.json`, `reg-p_ques.json`
and `mcq.json` as ViDA releases them, `ref-g.json` (sentences that describe a region, which it does
not release), and the truth: `bench_metadata.json`, `reg-p_bench.json` and the `correct_ans` of the
choices. Questions are those that `thinker records` makes of the same pictures.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewards.boxes import LabelledBox, read_boxes
from rewards.choice import LETTERS
from thinker.data.builders import vida
from thinker.data.builders.draft import Draft, Style
from thinker.data.builders.facts import Facts
from thinker.data.builders.metadata import picture_facts
from thinker.utils.atomic import write_atomic
from thinker.video.geometry import Geometry

STYLE = Style(is_published=True)
Entry = dict[str, Any]


def write_release(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the release of these pictures, file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = [
        Facts(
            path=entry["image"],
            kind="image",
            level=entry["level"],
            places=picture_facts(entry)["places"],
        )
        for entry in entries
    ]
    sizes = {entry["image"]: (entry["width"], entry["height"]) for entry in entries}
    regions = vida.reg_perception(facts, STYLE)
    sentences = vida.ref_grounding(facts, STYLE)
    files: dict[str, Sequence[Entry]] = {
        "benchmark.json": [_sized(n, entry["image"], sizes) for n, entry in enumerate(entries)],
        "bench_metadata.json": entries,
        "reg-p_ques.json": [_question(n, draft, sizes) for n, draft in enumerate(regions)],
        "reg-p_bench.json": [_region(n, draft, sizes) for n, draft in enumerate(regions)],
        "ref-g.json": [_sentence(n, draft, sizes) for n, draft in enumerate(sentences)],
        "mcq.json": [_choice(n, draft) for n, draft in enumerate(vida.mcq(facts, STYLE))],
    }
    for name, content in files.items():
        write_atomic(folder / name, json.dumps(content, indent=1) + "\n")


def _sized(number: int, image: str, sizes: dict[str, tuple[int, int]]) -> Entry:
    width, height = sizes[image]
    return {"id": number, "image": image, "width": width, "height": height}


def _question(number: int, draft: Draft, sizes: dict[str, tuple[int, int]]) -> Entry:
    return _sized(number, draft.paths[0], sizes) | {"question": draft.asked[0].question}


def _region(number: int, draft: Draft, sizes: dict[str, tuple[int, int]]) -> Entry:
    size = sizes[draft.paths[0]]
    boxes = read_boxes(draft.asked[0].answer).boxes or ()
    found = [
        {
            "distortion": str(one.name).capitalize(),
            "severity": str(one.severity).capitalize(),
            "coordinates": _pixels(one, size),
        }
        for one in boxes
    ]
    return _sized(number, draft.paths[0], sizes) | {"distortions": found}


def _sentence(number: int, draft: Draft, sizes: dict[str, tuple[int, int]]) -> Entry:
    (box,) = read_boxes(draft.asked[0].answer).boxes or ()
    corners = _pixels(box, sizes[draft.paths[0]])
    return _question(number, draft, sizes) | {"coordinates": corners}


def _pixels(one: LabelledBox, size: tuple[int, int]) -> list[float]:
    """A box in pixels, to a thousandth of the sides."""
    return [round(side, 3) for side in Geometry.whole(*size).box_from_shares(one.box, 1000)]


def _choice(number: int, draft: Draft) -> Entry:
    asked = draft.asked[0]
    return {
        "id": number,
        "concern": draft.tags["concern"],
        "question": asked.question,
        "image": draft.paths[0],
        "candidates": list(asked.options),
        "correct_ans": asked.options[LETTERS.index(asked.answer)],
    }
