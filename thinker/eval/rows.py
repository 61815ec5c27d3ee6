"""The CSV of a set: a line for every example, written by an evaluation and read back by reports.

Sets of scores have the published code's three columns first, under its names. Sets of other tasks
have columns of their own: what was asked, the answer, the reference, whether the two agree.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker.data.bad_lines import BadLine
from thinker.data.examples import Example
from thinker.data.scale import MosScale
from thinker.eval.judge import is_correct, right_answer
from thinker.eval.sets import LoadedSet
from thinker.score.prediction import INVALID_ANSWER, OK, FoundBox
from thinker.utils.atomic import write_atomic
from thinker.utils.journal import Row
from thinker.utils.names import path_text, printable
from thinker.utils.text import safe_cell

COLUMNS = (
    "filename", "pred_score", "gt_score", "status", "error", "reasoning",
    "answer_score", "spread", "answer_low", "answer_high", "num_tokens",
    "frame_indices", "content", "mode", "seconds", "note",
    "interval_low", "interval_high", "likeness",
)  # fmt: skip
"""Of scores. `pred_score` and `gt_score` are on the set's own MOS scale (`pred_score` on the answer
scale where that is not known); `answer_score`, `spread`, the range of the answers and the
calibrated interval are on the answer scale, 1..5."""

ANSWER_COLUMNS = (
    "id", "answer", "reference", "correct", "status", "error", "tags", "question", "media",
    "reasoning", "completion", "boxes", "distribution", "answer_score", "num_tokens",
    "frame_indices", "content", "mode", "seconds", "note",
)  # fmt: skip
"""Of other tasks. `correct` is 1 or 0, empty where there is no reference and where nothing could be
asked; `media` is a JSON list of paths below the media root, `boxes` one of what the answer says of
places (`FoundBox`)."""

BAD_ANNOTATION = "bad_annotation"


def write_rows(path: Path, one: LoadedSet, rows: Sequence[Row]) -> list[str]:
    """Write the CSV of a set; returns the status of each of its lines."""
    columns = COLUMNS if one.task == "score" else ANSWER_COLUMNS
    make = _score_row if one.task == "score" else _answer_row
    lines = [make(one, e, row) for e, row in zip(one.examples, rows, strict=True)]
    lines += [_bad_row(columns[0], bad) for bad in one.bad_lines]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(lines)
    write_atomic(path, text.getvalue())
    return [str(line["status"]) for line in lines]


def _score_row(one: LoadedSet, example: Example, row: Row) -> dict[str, object]:
    """The columns of one score; numbers plain, text cells safe to open in a spreadsheet."""
    score, span = row["score"], row["answer_range"] or (None, None)
    interval = row["interval"] or (None, None)
    return {
        "filename": safe_cell(one.id_of(example)),
        "pred_score": _plain(_on_scale(one.mos_scale, score)),
        "gt_score": "" if example.mos is None else repr(example.mos),
        "spread": _plain(row["spread"]),
        "answer_low": _plain(span[0]),
        "answer_high": _plain(span[1]),
        "interval_low": _plain(interval[0]),
        "interval_high": _plain(interval[1]),
        "likeness": _plain(row["likeness"]),
        **_common_cells(example, row),
    }


def _on_scale(scale: MosScale | None, score: float | None) -> float | None:
    return score if scale is None or score is None else scale.from_answer(score)


def _answer_row(one: LoadedSet, example: Example, row: Row) -> dict[str, object]:
    """The columns of one answer of another task."""
    asked = [turn.text for turn in example.turns if turn.role == "user"]
    right, answered = right_answer(example), row["status"] in (OK, INVALID_ANSWER)
    correct = is_correct(example, row["answer"]) if answered else None
    reference = right if isinstance(right, str) else example.reference
    return {
        "id": safe_cell(one.id_of(example)),
        "answer": safe_cell("" if row["answer"] is None else str(row["answer"])),
        "reference": safe_cell("" if reference is None else str(reference)),
        "correct": "" if correct is None else int(correct),
        "tags": safe_cell("; ".join(f"{name}={value}" for name, value in example.tags)),
        "question": safe_cell(asked[-1] if asked else ""),
        "media": safe_cell(json.dumps(_relative_media(one, example))),
        "completion": safe_cell(row["completion"] or ""),
        "boxes": json.dumps(row["boxes"]) if row.get("boxes") else "",
        "distribution": ", ".join(f"{value} {share:.3f}" for value, share in row["distribution"]),
        **_common_cells(example, row),
    }


def _common_cells(example: Example, row: Row) -> dict[str, object]:
    return {
        "status": row["status"],
        "error": safe_cell(row["error"] or ""),
        "reasoning": safe_cell(row["reasoning"] or ""),
        "answer_score": _plain(row["score"]),
        "num_tokens": "" if row["num_tokens"] is None else f"{row['num_tokens']:g}",
        "frame_indices": " ".join(map(str, row["frame_indices"])),
        "content": safe_cell(example.content),
        "mode": row["mode"],
        "seconds": f"{row['seconds']:.3f}",
        "note": safe_cell(row.get("note") or ""),
    }


def _relative_media(one: LoadedSet, example: Example) -> list[str]:
    root = one.media_root.resolve()
    paths = [medium.path for medium in example.media]
    return [path_text(p.relative_to(root) if p.is_relative_to(root) else p) for p in paths]


def _bad_row(name_column: str, bad: BadLine) -> dict[str, object]:
    """The row of an annotation that names no usable video: its place stands for its name."""
    place = f"{path_text(bad.file.name)}:{bad.line}"
    return {
        name_column: safe_cell(place),
        "status": BAD_ANNOTATION,
        "error": safe_cell(printable(bad.reason)),
    }


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


# reading back


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of a CSV, numbers as numbers."""

    id: str
    """Of scores the path of the video below the set's video root (`thinker.utils.names`), else the
    example's id; the place of a bad annotation."""
    pred_score: float | None = None
    """Prediction on the set's own MOS scale; None where there is no score, and for other tasks."""
    gt_score: float | None = None
    """MOS; None for a bad annotation, and for other tasks."""
    status: str
    """What became of the example: `ok`, or what went wrong."""
    error: str
    """The message that goes with the status, else empty."""
    reasoning: str
    """What the policy wrote before its answer; empty in a mode that writes no text."""
    content: str
    """Source content: versions of one content are not independent."""
    num_tokens: float | None
    """Length of the answer, a mean where several were sampled; None where no text is written."""
    frame_indices: tuple[int, ...]
    """Places in the first medium of the keyframes that the policy was shown."""
    answer: str = ""
    """The answer, of tasks other than scores; empty where there is none."""
    reference: str = ""
    """What it is compared with."""
    correct: bool | None = None
    """Whether the two agree; None where nothing was compared."""
    question: str = ""
    """What was asked last."""
    media: tuple[str, ...] = ()
    """Paths below the media root, of tasks other than scores."""
    tags: str = ""
    """Its tags, `name=value`, as one text."""
    completion: str = ""
    """The whole text, of tasks other than scores."""
    boxes: tuple[FoundBox, ...] = ()
    """What the answer says of places."""


def load_rows(folder: Path, key: str) -> list[ResultRow]:
    """The rows of one set, in the order of its annotations."""
    with open(folder / f"{key}.csv", encoding="utf-8", newline="") as file:
        return [_result_row(line) for line in csv.DictReader(file)]


def _result_row(line: Mapping[str, Any]) -> ResultRow:
    def number(text: str) -> float | None:
        return float(text) if text else None

    common: dict[str, Any] = {
        "status": line["status"],
        "error": _unsafe(line["error"]),
        "reasoning": _unsafe(line["reasoning"]),
        "content": _unsafe(line["content"]),
        "num_tokens": number(line["num_tokens"]),
        "frame_indices": tuple(int(i) for i in line["frame_indices"].split()),
    }
    if "filename" in line:
        return ResultRow(
            id=_unsafe(line["filename"]),
            pred_score=number(line["pred_score"]),
            gt_score=number(line["gt_score"]),
            **common,
        )
    texts = ("id", "answer", "reference", "question", "tags", "completion")
    common |= {name: _unsafe(line[name]) for name in texts}
    return ResultRow(
        correct=None if line["correct"] == "" else line["correct"] == "1",
        media=tuple(json.loads(_unsafe(line["media"]) or "[]")),
        boxes=tuple(
            FoundBox(**entry | {"box": tuple(entry["box"])})
            for entry in json.loads(line.get("boxes") or "[]")
        ),
        **common,
    )


def _unsafe(cell: str) -> str:
    """Undo `safe_cell`."""
    return cell[1:] if cell[:1] == "'" and safe_cell(cell[1:]) == cell else cell
