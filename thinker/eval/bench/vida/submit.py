"""Answers → the three files of a submission to ViDA's challenge, and the zip that holds them.

In: the replies of a finished evaluation. Out: `Items`, with what the published extraction reads of
each answer (`extract.py`), which the published metrics are computed from (`official.py`), and
`submission.zip`, which is checked before it is written, whole or not at all.
"""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thinker.data.examples import Example
from thinker.eval.bench.vida.extract import Extracted, extract_description, extract_grounding
from thinker.eval.bench.vida.load import Raw, VidaData
from thinker.eval.bench.vida.marks import published_form, said
from thinker.eval.rows import ResultRow, load_rows
from thinker.score.prediction import INVALID_ANSWER, OK
from thinker.utils.atomic import write_atomic

DETECTION_TYPE, REGION_TYPE = "distortion-detection", "region-perception"
SUBMITTED = ("detection", "region", "description", "choice")
"""Parts without which there is nothing to submit."""
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of each file in the zip: the same answers give the same bytes."""
Item = dict[str, Any]


class SubmissionError(ValueError):
    """What keeps a submission from being written."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A question and what became of it."""

    raw: Raw
    """The record as the file gives it."""
    example: Example
    """What was asked."""
    row: ResultRow
    """Its line of the CSV."""

    @property
    def is_answered(self) -> bool:
        """Whether it was answered, validly or not; else its picture could not be read."""
        return self.row.status in (OK, INVALID_ANSWER)


@dataclass(frozen=True, kw_only=True)
class Items:
    """What the published programs work on."""

    grounding: list[Item] = field(default_factory=list)
    """Detection, then regions, each in the order of its file."""
    description: list[Item] = field(default_factory=list)
    """In the order of the file of pictures."""
    perception: list[Item] = field(default_factory=list)
    """In the order of the file of choices."""
    num_rendered: int = 0
    """Answers without marks that were put into the published form."""


def replies(folder: Path, data: VidaData) -> dict[str, list[Reply]]:
    """By part: every question of a finished evaluation, in the order of its file."""
    return {
        name: [
            Reply(raw=data.raws[name][example.id], example=example, row=row)
            for example, row in zip(
                one.examples, load_rows(folder, one.key)[: len(one.examples)], strict=True
            )
        ]
        for name, one in data.sets.items()
    }


def make_items(answered: Mapping[str, Sequence[Reply]]) -> Items:
    """The items of all parts that were asked. A question without an answer has the empty one."""
    rendered: list[bool] = []

    def form(reply: Reply) -> str:
        text = said(reply.row.completion)
        made = published_form(text, reply.example.task)
        rendered.append(made != text)
        return made

    grounding = [
        _grounding(one, kind, form(one))
        for part, kind in (("detection", DETECTION_TYPE), ("region", REGION_TYPE))
        for one in answered.get(part, ())
    ]
    return Items(
        grounding=grounding,
        description=[_description(one, form(one)) for one in answered.get("description", ())],
        perception=[_perception(one) for one in answered.get("choice", ())],
        num_rendered=sum(rendered),
    )


def _grounding(reply: Reply, kind: str, text: str) -> Item:
    raw = reply.raw
    return {
        **{key: raw[key] for key in ("id", "image", "width", "height")},
        "question_type": kind,
        "question": raw.get("question") or reply.example.turns[-1].text,
        "pred_ans": text,
        "distortions": _plain(extract_grounding(text)),
    }


def _description(reply: Reply, text: str) -> Item:
    found = extract_description(text)
    return {
        **{key: reply.raw[key] for key in ("id", "image", "width", "height")},
        "pred_ans": text,
        "all_distortions": _plain(found.distortions),
        "key_distortions": _plain(found.key),
        "image_quality": found.level,
    }


def _perception(reply: Reply) -> Item:
    keys = ("id", "concern", "question", "image", "candidates")
    item = {key: reply.raw.get(key) for key in keys}
    return item | {"pred_ans": said(reply.row.completion)}


def _plain(found: Sequence[Extracted]) -> list[Item]:
    return [asdict(one) | {"coordinates": list(one.coordinates)} for one in found]


# the zip


def within(items: Items) -> tuple[Items, int]:
    """The items without boxes that leave the picture, and how many those were: the extraction takes
    numbers of any size."""
    dropped = 0

    def kept(item: Item) -> Item:
        nonlocal dropped
        lists = [key for key in item if key.endswith("distortions")]
        fewer = {key: [one for one in item[key] if _is_box(one["coordinates"])] for key in lists}
        dropped += sum(len(item[key]) - len(fewer[key]) for key in lists)
        return item | fewer

    grounding = [kept(item) for item in items.grounding]
    description = [kept(item) for item in items.description]
    shown = Items(grounding=grounding, description=description, perception=items.perception)
    return shown, dropped


def _is_box(corners: object) -> bool:
    return (
        isinstance(corners, list)
        and len(corners) == 4
        and all(isinstance(one, int) and 0 <= one <= 1000 for one in corners)
    )


FIELDS = {
    "grounding.json": (
        "id", "image", "width", "height", "question_type", "question", "pred_ans", "distortions",
    ),
    "description.json": (
        "id", "image", "width", "height", "pred_ans", "all_distortions", "key_distortions",
        "image_quality",
    ),
    "perception.json": ("id", "concern", "question", "image", "candidates", "pred_ans"),
}  # fmt: skip
"""Of each file, what every item has to say."""


def check_submission(files: Mapping[str, Sequence[Item]], counts: Mapping[str, int]) -> None:
    """Raises SubmissionError, with every fault, unless the files have as many items as there are
    questions, no id twice (of one type of question), all fields, and boxes of four whole numbers
    within 0..1000.

    files, counts: by the names of `FIELDS`.
    """
    faults: list[str] = []
    for name, fields in FIELDS.items():
        items = files[name]
        if len(items) != counts[name]:
            faults.append(f"{name} has {len(items)} items, expected {counts[name]}")
        used = Counter((item.get("question_type"), item.get("id")) for item in items)
        twice = [str(key[1]) for key, count in used.items() if count > 1]
        if twice:
            faults.append(f"{name}: id {', '.join(twice[:5])} is there twice")
        for number, item in enumerate(items):
            faults += [f"{name}[{number}]: {fault}" for fault in _faults(item, fields)]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise SubmissionError("; ".join(faults[:5]) + more)


def _faults(item: Item, fields: Sequence[str]) -> list[str]:
    missing = [key for key in fields if item.get(key) is None]
    if missing:
        return [f"{', '.join(missing)} is missing"]
    return [
        f"{key}: coordinates {one.get('coordinates')} are not 4 whole numbers within 0..1000"
        for key in fields
        if key.endswith("distortions")
        for one in item[key]
        if not _is_box(one.get("coordinates"))
    ]


def write_submission(path: Path, items: Items, data: VidaData) -> None:
    """Check and write the zip, whole or not at all; one that is there from before goes in any case.

    Raises SubmissionError where a part was not asked, or `check_submission` finds faults.
    """
    path.unlink(missing_ok=True)
    absent = [name for name in SUBMITTED if name not in data.sets]
    if absent:
        raise SubmissionError(f"nothing was asked of {', '.join(absent)}")
    if data.num_bad:
        raise SubmissionError(f"{data.num_bad} bad records were skipped; a submission has them all")
    sizes = {name: len(data.sets[name].examples) for name in SUBMITTED}
    files = {
        "grounding.json": items.grounding,
        "description.json": items.description,
        "perception.json": items.perception,
    }
    counts = {
        "grounding.json": sizes["detection"] + sizes["region"],
        "description.json": sizes["description"],
        "perception.json": sizes["choice"],
    }
    check_submission(files, counts)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, json.dumps(content, ensure_ascii=False, indent=1))
    write_atomic(path, packed.getvalue())
