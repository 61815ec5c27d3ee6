"""What an evaluation leaves behind: `<key>.csv` for each set, `summary.json` and `table.txt`.

`load_summary` and `load_rows` read them back for reports and comparisons.
"""

import csv
import io
import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from thinker.data.bad_lines import BadLine
from thinker.data.datasets import EvalSet
from thinker.data.examples import Example
from thinker.eval.metrics import ScoreReport, evaluate_scores, format_table, summarise
from thinker.utils.atomic import write_atomic
from thinker.utils.journal import Row

COLUMNS = (
    "filename", "pred_score", "gt_score", "status", "error", "reasoning",
    "answer_score", "spread", "interval_low", "interval_high", "num_tokens",
    "frame_indices", "content", "mode", "seconds",
)  # fmt: skip
"""The reference's three columns come first, under its names. `pred_score` and `gt_score` are on the
set's own MOS scale; `answer_score`, `spread` and the interval are on the answer scale, 1..5."""

PACKAGES = ("vqa-thinker", "torch", "transformers", "av", "numpy")
"""Their versions are recorded beside results; another version is no other configuration."""

BAD_ANNOTATION = "bad_annotation"

SetRows = tuple[EvalSet, Sequence[Example], Sequence[Row], Sequence[BadLine]]


def write_results(output_dir: Path, sets: Sequence[SetRows], fingerprint: Row) -> str:
    """Write every file; returns the table."""
    reports, entries = [], {}
    for eval_set, samples, rows, bad_lines in sets:
        lines = [csv_row(eval_set, s, row) for s, row in zip(samples, rows, strict=True)]
        lines += [_bad_row(bad) for bad in bad_lines]
        write_csv(output_dir / f"{eval_set.key}.csv", lines)
        report = _report(eval_set, samples, rows, len(lines))
        reports.append((eval_set.name, eval_set.domain or "out", report))
        entries[eval_set.key] = {
            "name": eval_set.name,
            "domain": eval_set.domain or "out",
            "mos_scale": asdict(eval_set.mos_scale),
            "video_root": str(eval_set.video_root),
            "statuses": dict(Counter(line["status"] for line in lines)),
            "report": asdict(report),
        }
    summary = summarise(reports)
    table = f"{format_table(summary)}\n\n{format_statuses(entries)}"
    values = {
        "sets": entries,
        "averages": [asdict(average) for average in summary.averages],
        "configuration": fingerprint,
        "versions": versions(),
    }
    write_atomic(output_dir / "summary.json", json.dumps(values, indent=1))
    write_atomic(output_dir / "table.txt", f"{table}\n")
    return table


def versions() -> dict[str, str]:
    """The version of each of `PACKAGES` and of Python."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _report(
    eval_set: EvalSet, samples: Sequence[Example], rows: Sequence[Row], n_total: int
) -> ScoreReport:
    """Figures over the scored videos, on the set's own scale."""
    scored = [(s, row["score"]) for s, row in zip(samples, rows, strict=True) if _is_scored(row)]
    return evaluate_scores(
        [eval_set.mos_scale.from_answer(score) for _, score in scored],
        [sample.mos for sample, _ in scored if sample.mos is not None],
        [sample.content for sample, _ in scored],
        n_total,
    )


def _is_scored(row: Row) -> bool:
    return row["score"] is not None


def format_statuses(entries: dict[str, Any]) -> str:
    """One line a set. Example: `demo: 300 videos: 298 ok, 2 missing`."""
    return "\n".join(
        f"{entry['name']}: {sum(entry['statuses'].values())} videos: "
        + ", ".join(f"{count} {status}" for status, count in sorted(entry["statuses"].items()))
        for entry in entries.values()
    )


def write_csv(path: Path, lines: Sequence[dict[str, object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(lines)
    write_atomic(path, text.getvalue())


def csv_row(eval_set: EvalSet, sample: Example, row: Row) -> dict[str, object]:
    """The columns of one row; numbers plain, text cells safe to open in a spreadsheet."""
    score, interval = row["score"], row["interval"] or (None, None)
    return {
        "filename": safe_cell(sample.id.partition("/")[2]),
        "pred_score": _plain(None if score is None else eval_set.mos_scale.from_answer(score)),
        "gt_score": repr(sample.mos),
        "status": row["status"],
        "error": safe_cell(row["error"] or ""),
        "reasoning": safe_cell(row["reasoning"] or ""),
        "answer_score": _plain(score),
        "spread": _plain(row["spread"]),
        "interval_low": _plain(interval[0]),
        "interval_high": _plain(interval[1]),
        "num_tokens": "" if row["num_tokens"] is None else f"{row['num_tokens']:g}",
        "frame_indices": " ".join(map(str, row["frame_indices"])),
        "content": safe_cell(sample.content),
        "mode": row["mode"],
        "seconds": f"{row['seconds']:.3f}",
    }


def _bad_row(bad: BadLine) -> dict[str, object]:
    """The row of an annotation that names no usable video: its place stands for the file name."""
    place = f"{bad.file.name}:{bad.line}"
    return {
        "filename": safe_cell(place),
        "status": BAD_ANNOTATION,
        "error": safe_cell(bad.reason),
    }


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def safe_cell(text: str) -> str:
    """Text that a spreadsheet will not take for a formula: a leading = + - @ or control character
    gets an apostrophe before it (OWASP, CSV injection, full-width forms too); NUL, which ends a
    cell in some, goes.

    Example: `safe_cell("=1+1") == "'=1+1"`.
    """
    text = text.replace("\0", "")
    return "'" + text if text[:1] and text[:1] in "=+-@＝＋－＠\t\r\n" else text


# reading back


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of a CSV, numbers as numbers."""

    filename: str
    """Path of the video below the set's video root; the place of a bad annotation."""
    pred_score: float | None
    """Prediction on the set's own MOS scale; None where the video could not be scored."""
    gt_score: float | None
    """MOS; None for a bad annotation."""
    status: str
    """What became of the video: `ok`, or what went wrong."""
    error: str
    """The message that goes with the status, else empty."""
    reasoning: str
    """What the policy wrote before its answer; empty in a mode that writes no text."""
    content: str
    """Source content of the video: versions of one content are not independent."""
    num_tokens: float | None
    """Length of the answer, a mean where several were sampled; None where no text is written."""
    frame_indices: tuple[int, ...]
    """Places in the video of the keyframes that the policy was shown."""


def load_summary(folder: Path) -> dict[str, Any]:
    """`summary.json` of a finished evaluation."""
    path = folder / "summary.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no summary.json; expected the folder of a finished eval")
    return json.loads(path.read_text(encoding="utf-8"))


def load_rows(folder: Path, key: str) -> list[ResultRow]:
    """The rows of one set, in the order of its annotations."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    with open(folder / f"{key}.csv", encoding="utf-8", newline="") as file:
        return [
            ResultRow(
                filename=_unsafe(line["filename"]),
                pred_score=number(line["pred_score"]),
                gt_score=number(line["gt_score"]),
                status=line["status"],
                error=_unsafe(line["error"]),
                reasoning=_unsafe(line["reasoning"]),
                content=_unsafe(line["content"]),
                num_tokens=number(line["num_tokens"]),
                frame_indices=tuple(int(i) for i in line["frame_indices"].split()),
            )
            for line in csv.DictReader(file)
        ]


def _unsafe(cell: str) -> str:
    """Undo `safe_cell`."""
    return cell[1:] if cell[:1] == "'" and safe_cell(cell[1:]) == cell else cell
