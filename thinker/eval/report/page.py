"""`thinker report DIR`: one self-contained HTML page of a finished evaluation, and its pictures.

In: `summary.json` and the CSVs that `thinker eval` wrote, and the videos where they are still there
(frames of the worst cases). Out: `report.html` (pictures inlined, nothing is fetched) and
`report/*.png`. This file gathers what the page shows; `page.html.j2` says how it is shown.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from thinker.data.datasets import EVAL_CONFIGS, MOS
from thinker.eval.metrics import fit_logistic
from thinker.eval.report import plots
from thinker.eval.report.answers import answer_section
from thinker.eval.report.pictures import Picture, Pictures
from thinker.eval.report.published import MARK, Published, load_published
from thinker.eval.rows import ResultRow, load_rows
from thinker.eval.summary import load_summary
from thinker.utils.atomic import write_atomic
from thinker.utils.names import text_path

NUM_WORST = 3
"""Number of videos shown in detail for each set."""


@dataclass(frozen=True, kw_only=True)
class ResultLine:
    """One line of the results table: a known set, measured or not, or a set of one's own."""

    name: str
    """The set's name."""
    report: dict[str, Any] | None
    """Its figures as `summary.json` holds them (`ScoreReport`); None where it was not measured."""
    published: tuple[tuple[float, float] | None, ...]
    """(SRCC, PLCC) of each published system on the whole of this set; None where none was
    published, and where it was of a part."""


@dataclass(frozen=True, kw_only=True)
class AnswerLine:
    """One line of the answers table."""

    name: str
    """The set's name."""
    num_examples: int
    """Number of examples of the set."""
    num_ok: int
    """Number of those with an answer."""
    num_invalid: int
    """Number of those whose answer was none."""
    others: dict[str, int]
    """How often each other status occurred."""
    tokens: tuple[float, float, float] | None
    """5 %, 50 % and 95 % quantile of the answers' lengths; None in a mode that writes no text."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One video that was judged badly."""

    row: ResultRow
    """Its line of the CSV."""
    error: float
    """Its prediction after the fitted mapping, minus its label."""
    frames: Picture | None
    """The frames that the policy was shown; None where the video cannot be read any more."""
    problem: str
    """Why there are no frames, else empty."""


@dataclass(frozen=True, kw_only=True)
class SetSection:
    """Plots and worst cases of one set of scores."""

    name: str
    """The set's name."""
    label_name: str
    """What its labels are, such as "MOS"."""
    num_scored: int
    """Number of its videos with a score; nothing is plotted of fewer than two."""
    plots: tuple[Picture, ...]
    """Predictions against labels, and error by label."""
    cases: tuple[Case, ...]
    """The worst first."""
    by_tag: dict[str, Any]
    """SRCC and PLCC by tag name, value and figure; empty where the videos have no tags."""


def write_report(folder: Path) -> Path:
    """Write the page of the evaluation in `folder`; returns its path."""
    summary = load_summary(folder)
    sets = summary["sets"]
    rows = {key: load_rows(folder, key) for key in sets}
    scores = {key: entry for key, entry in sets.items() if entry["task"] == "score"}
    pictures = Pictures(folder / "report")
    published = load_published()
    settings = {"configuration": summary["configuration"], "versions": summary["versions"]}
    page = page_template("page.html.j2").render(
        configuration=summary["configuration"],
        num_examples=sum(len(lines) for lines in rows.values()),
        num_sets=len(sets),
        results=result_lines(scores, published) if scores else [],
        averages=summary["averages"],
        published=published,
        set_names=known_sets(),
        mark=MARK,
        answers=[answer_line(entry, _num_tokens(rows[key])) for key, entry in sets.items()],
        lengths=_lengths(summary, rows, pictures),
        sections=[set_section(key, entry, rows[key], pictures) for key, entry in scores.items()],
        answer_sections=[
            answer_section(key, entry, rows[key], pictures)
            for key, entry in sets.items()
            if key not in scores
        ],
        bench_tables=summary.get("bench", {}).get("tables", []),
        gallery=_gallery(folder, summary.get("bench", {}).get("gallery", [])),
        settings=json.dumps(settings, indent=1),
    )
    path = folder / "report.html"
    write_atomic(path, page)
    return path


def page_template(name: str, *folders: Path) -> jinja2.Template:
    """A page's template, from this folder or from one of `folders`, where other pages may lie that
    take their style from `parts.html.j2`."""
    # Names, file names and what a policy wrote may hold HTML: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


# --- results ---


def result_lines(scores: dict[str, Any], published: Published) -> list[ResultLine]:
    """The ten known sets, then the evaluation's own; published figures stand beside measured.

    scores: the sets of scores, as `summary.json` holds them.
    """
    names = known_sets() | {key: entry["name"] for key, entry in scores.items()}
    return [
        ResultLine(
            name=name,
            report=scores[key]["report"] if key in scores else None,
            published=tuple(system.results.get(key) for system in published.systems),
        )
        for key, name in names.items()
    ]


def known_sets() -> dict[str, str]:
    """key → name of the ten sets: in-domain ones first, and large ones before small ones."""
    raw = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in EVAL_CONFIGS.glob("*.yaml")]
    raw.sort(key=lambda entry: (entry["domain"] != "in", -entry["num_videos"]))
    return {entry["key"]: entry["name"] for entry in raw}


def _gallery(folder: Path, entries: Sequence[dict[str, str]]) -> list[Picture]:
    """The pictures that a benchmark has drawn, as far as they are still there."""
    files = [(folder / entry["file"], entry["caption"]) for entry in entries]
    return [
        Picture(alt=caption, base64=base64.b64encode(path.read_bytes()).decode())
        for path, caption in files
        if path.is_file()
    ]


# --- answers ---


def answer_line(entry: dict[str, Any], num_tokens: Sequence[float]) -> AnswerLine:
    """Statuses of one set, and how long its answers are."""
    statuses = dict(entry["statuses"])
    low, median, high = np.quantile(num_tokens, [0.05, 0.5, 0.95]) if num_tokens else (0, 0, 0)
    return AnswerLine(
        name=entry["name"],
        num_examples=sum(statuses.values()),
        num_ok=statuses.pop("ok", 0),
        num_invalid=statuses.pop("invalid_answer", 0),
        others=statuses,
        tokens=(low, median, high) if num_tokens else None,
    )


def _num_tokens(rows: Sequence[ResultRow]) -> list[float]:
    return [row.num_tokens for row in rows if row.num_tokens is not None]


def _lengths(
    summary: dict[str, Any], rows: dict[str, list[ResultRow]], pictures: Pictures
) -> Picture | None:
    """The histogram of the answers' lengths; None in a mode that writes no text."""
    counts = {entry["name"]: _num_tokens(rows[key]) for key, entry in summary["sets"].items()}
    written: dict[str, Sequence[float]] = {
        name: values for name, values in counts.items() if values
    }
    if not written:
        return None
    return pictures.add("answer_lengths", plots.lengths(written), "answer lengths")


# --- one set ---


def set_section(
    key: str, entry: dict[str, Any], rows: Sequence[ResultRow], pictures: Pictures
) -> SetSection:
    """Plots and worst cases of one set of scores."""
    scored = [row for row in rows if row.pred_score is not None and row.gt_score is not None]
    by_tag = entry["report"].get("by_tag", {})  # an older summary has none
    label_name = entry.get("label_name", MOS)  # nor this
    if len(scored) < 2:
        return SetSection(
            name=entry["name"],
            label_name=label_name,
            num_scored=len(scored),
            plots=(),
            cases=(),
            by_tag=by_tag,
        )
    predicted = [row.pred_score or 0.0 for row in scored]
    labels = [row.gt_score or 0.0 for row in scored]
    root = text_path(entry["media_root"])
    return SetSection(
        name=entry["name"],
        label_name=label_name,
        num_scored=len(scored),
        plots=(
            pictures.add(f"{key}_scatter", plots.scatter(predicted, labels, label_name), "scatter"),
            pictures.add(
                f"{key}_error",
                plots.error_by_label(predicted, labels, label_name),
                f"error by {label_name}",
            ),
        ),
        cases=tuple(
            _case(f"{key}_worst{number}", row, error, root, pictures)
            for number, (row, error) in enumerate(worst_cases(scored))
        ),
        by_tag=by_tag,
    )


def worst_cases(scored: Sequence[ResultRow]) -> list[tuple[ResultRow, float]]:
    """Rows of the largest error after the fitted mapping (a bias common to all is no case)."""
    predicted = np.array([row.pred_score for row in scored], dtype=float)
    labels = np.array([row.gt_score for row in scored], dtype=float)
    mapping = fit_logistic(predicted, labels)
    errors = (predicted if isinstance(mapping, str) else mapping(predicted)) - labels
    order = np.argsort(-np.abs(errors), kind="stable")[:NUM_WORST]
    return [(scored[i], float(errors[i])) for i in order]


def _case(name: str, row: ResultRow, error: float, root: Path, pictures: Pictures) -> Case:
    frames, problem = pictures.add_frames(
        name, root / text_path(row.id), len(row.frame_indices), row.id
    )
    return Case(row=row, error=error, frames=frames, problem=problem)
