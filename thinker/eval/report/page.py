"""`thinker report DIR`: one self-contained HTML page of a finished evaluation, and its pictures.

In: `summary.json` and the CSVs that `thinker eval` wrote, and the videos where they are still there
(frames of the worst cases). Out: `report.html` (pictures inlined, nothing is fetched) and
`report/*.png`.
"""

import base64
import json
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from thinker.data.datasets import EVAL_CONFIGS
from thinker.eval.metrics import fit_logistic
from thinker.eval.report import plots
from thinker.eval.report.published import MARK, Published, load_published
from thinker.eval.summary import ResultRow, load_rows, load_summary
from thinker.utils.atomic import write_atomic
from thinker.video import ClipSpec, VideoError, read_clip

NUM_WORST = 3
MAX_FRAMES = 6
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 1440px; margin: 2em auto;
  padding: 0 1.5em; }
h1 { font-size: 1.6em; } h2 { margin-top: 2em; border-bottom: 1px solid #d5dbe1; }
table { border-collapse: collapse; font-size: 13px; margin: .6em 0; }
.wide { overflow-x: auto; }
th, td { padding: .3em .6em; border-bottom: 1px solid #e4e8ec; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.text { text-align: left; white-space: normal; }
th.published { text-align: left; } td.published { font-size: 12px; }
.published { color: #6b7681; background: #f6f7f9; }
.plots { display: flex; flex-wrap: wrap; gap: 1em; } .plots img { max-width: 420px; }
.case { border-left: 3px solid #d9822b; padding-left: 1em; margin: 1.2em 0; }
.case img { max-width: 100%; } small { color: #6b7681; }
pre { background: #f6f7f9; padding: 1em; font-size: 12px; white-space: pre-wrap; }
"""


class Pictures:
    """Collects PNGs: written as files, and inlined into the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def tag(self, name: str, png: bytes, alt: str) -> str:
        write_atomic(self.folder / f"{name}.png", png)
        data = base64.b64encode(png).decode()
        return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def write_report(folder: Path) -> Path:
    """Write the page of the evaluation in `folder`; returns its path."""
    summary = load_summary(folder)
    rows = {key: load_rows(folder, key) for key in summary["sets"]}
    pictures = Pictures(folder / "report")
    configuration = summary["configuration"]
    body = [
        f"<h1>Video quality evaluation: {_total(rows)} videos, {len(rows)} sets</h1>",
        f"<p>Mode {escape(configuration['mode'])}, model {escape(configuration['model'])}, "
        f"version {escape(configuration['version'])}.</p>",
        "<h2>Results</h2>",
        results_table(summary, load_published()),
        "<h2>Answers</h2>",
        answers_section(summary, rows, pictures),
    ]
    for key, entry in summary["sets"].items():
        body += set_section(key, entry, rows[key], pictures)
    settings = {"configuration": configuration, "versions": summary["versions"]}
    body += ["<h2>Configuration and versions</h2>", f"<pre>{escape(_json(settings))}</pre>"]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Video quality evaluation</title><style>{STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )
    path = folder / "report.html"
    write_atomic(path, page)
    return path


def _total(rows: dict[str, list[ResultRow]]) -> int:
    return sum(len(lines) for lines in rows.values())


def _json(value: Any) -> str:
    return json.dumps(value, indent=1)


# results


def results_table(summary: dict[str, Any], published: Published) -> str:
    """All known sets, measured figures with intervals, and beside them the published ones."""
    names = known_sets() | {key: entry["name"] for key, entry in summary["sets"].items()}
    head = ["set", "scored", "SRCC [95 %]", "PLCC [95 %]", "PLCC mapped", "KRCC", "RMSE mapped"]
    top = (
        f'<tr><th colspan="{len(head)}">measured</th>'
        f'<th class="published" colspan="{len(published.systems)}">SRCC / PLCC, {MARK}</th></tr>'
    )
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    cells += "".join(f'<th class="published">{escape(s.name)}</th>' for s in published.systems)
    lines = [
        _result_row(name, summary["sets"].get(key), [s.results.get(key) for s in published.systems])
        for key, name in names.items()
    ]
    lines += [_average_row(average, len(published.systems)) for average in summary["averages"]]
    sources = "".join(
        f"<li>{escape(source)} ({escape(', '.join(who))})</li>"
        for source, who in _by_source(published).items()
    )
    return (
        f'<div class="wide"><table>{top}<tr>{cells}</tr>{"".join(lines)}</table></div>'
        f"<small>{escape(published.note)}<ul>{sources}</ul></small>"
    )


def known_sets() -> dict[str, str]:
    """key → name of the ten sets."""
    import yaml

    raw = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in EVAL_CONFIGS.glob("*.yaml")]
    raw.sort(key=lambda entry: (entry["domain"] != "in", -entry["num_videos"]))
    return {entry["key"]: entry["name"] for entry in raw}


def _by_source(published: Published) -> dict[str, list[str]]:
    sources: dict[str, list[str]] = {}
    for system in published.systems:
        sources.setdefault(system.source, []).append(system.name)
    return sources


def _result_row(
    name: str, entry: dict[str, Any] | None, pairs: Sequence[tuple[float, float] | None]
) -> str:
    measured = ["–"] * 6
    if entry is not None:
        report = entry["report"]
        measured = [
            f"{report['n_scored']}/{report['n_total']}",
            *(_figure(report[figure]) for figure in ("srcc", "plcc")),
            *(_value(report[figure]["value"]) for figure in ("plcc_mapped", "krcc", "rmse_mapped")),
        ]
    cells = "".join(f"<td>{cell}</td>" for cell in [escape(name), *measured])
    for pair in pairs:
        shown = "–" if pair is None else f"{pair[0]:.3f} / {pair[1]:.3f}"
        cells += f'<td class="published">{shown}</td>'
    return f"<tr>{cells}</tr>"


def _average_row(average: dict[str, Any], num_systems: int) -> str:
    values = [_value(average[figure]) for figure in ("srcc", "plcc", "plcc_mapped", "krcc")]
    name = f"mean, {average['name']} ({average['num_sets']} sets)"
    coverage = f"{average['n_scored']}/{average['n_total']}"
    cells = "".join(f"<td><b>{escape(cell)}</b></td>" for cell in [name, coverage, *values, ""])
    return f'<tr>{cells}<td class="published" colspan="{num_systems}"></td></tr>'


def _figure(result: dict[str, Any]) -> str:
    shown = _value(result["value"])
    if result["ci_low"] is None:
        return f"{shown}<br><small>{escape(result['reason'] or '')}</small>"
    return f"{shown} [{result['ci_low']:.3f}, {result['ci_high']:.3f}]"


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


# answers


def answers_section(
    summary: dict[str, Any], rows: dict[str, list[ResultRow]], pictures: Pictures
) -> str:
    """Statuses of every set, the share of invalid answers, and how long answers are."""
    head = ["set", "videos", "ok", "invalid answers", "other", "tokens: 5 %", "median", "95 %"]
    lines = ["".join(f"<th>{name}</th>" for name in head)]
    lengths: dict[str, Sequence[float]] = {}
    for key, entry in summary["sets"].items():
        statuses = dict(entry["statuses"])
        total, ok = sum(statuses.values()), statuses.pop("ok", 0)
        invalid = statuses.pop("invalid_answer", 0)
        answered = ok + invalid
        share = f"{invalid} ({invalid / answered:.1%} of answers)" if answered else "–"
        other = ", ".join(f"{count} {escape(name)}" for name, count in statuses.items()) or "0"
        tokens = [row.num_tokens for row in rows[key] if row.num_tokens is not None]
        if tokens:
            lengths[entry["name"]] = tokens
        cells = [escape(entry["name"]), total, ok, share, other, *_quantiles(tokens)]
        lines.append("".join(f"<td>{cell}</td>" for cell in cells))
    table = "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
    if not lengths:
        return table + "<p>This mode writes no text.</p>"
    return table + pictures.tag("answer_lengths", plots.lengths(lengths), "answer lengths")


def _quantiles(values: Sequence[float]) -> list[str]:
    if not values:
        return ["–"] * 3
    low, high = np.quantile(values, [0.05, 0.95])
    return [f"{low:.0f}", f"{statistics.median(values):.0f}", f"{high:.0f}"]


# one set


def set_section(
    key: str, entry: dict[str, Any], rows: Sequence[ResultRow], pictures: Pictures
) -> list[str]:
    """Plots and worst cases of one set."""
    scored = [row for row in rows if row.pred_score is not None and row.gt_score is not None]
    parts = [f"<h2>{escape(entry['name'])}</h2>"]
    if len(scored) < 2:
        return [*parts, f"<p>{len(scored)} scored videos: nothing to plot.</p>"]
    predicted = [row.pred_score or 0.0 for row in scored]
    mos = [row.gt_score or 0.0 for row in scored]
    drawn = [
        pictures.tag(f"{key}_scatter", plots.scatter(predicted, mos, "prediction"), "scatter"),
        pictures.tag(f"{key}_error", plots.error_by_mos(predicted, mos, "error"), "error by MOS"),
    ]
    parts.append(f'<div class="plots">{"".join(drawn)}</div><h3>Worst cases</h3>')
    for number, (row, error) in enumerate(worst_cases(scored)):
        parts.append(_case(f"{key}_worst{number}", row, error, Path(entry["video_root"]), pictures))
    return parts


def worst_cases(scored: Sequence[ResultRow]) -> list[tuple[ResultRow, float]]:
    """Rows of the largest error after the fitted mapping (a bias common to all is no case)."""
    predicted = np.array([row.pred_score for row in scored], dtype=float)
    mos = np.array([row.gt_score for row in scored], dtype=float)
    mapping = fit_logistic(predicted, mos)
    errors = (predicted if isinstance(mapping, str) else mapping(predicted)) - mos
    order = np.argsort(-np.abs(errors), kind="stable")[:NUM_WORST]
    return [(scored[i], float(errors[i])) for i in order]


def _case(name: str, row: ResultRow, error: float, root: Path, pictures: Pictures) -> str:
    try:
        frames = _thumbnails(root / row.filename, len(row.frame_indices))
        shown = pictures.tag(name, plots.strip(frames), row.filename)
    except VideoError as problem:
        shown = f"<small>no frames: {escape(problem.reason)}</small>"
    reasoning = escape(row.reasoning) or "<small>no reasoning</small>"
    figures = f"predicted {row.pred_score:.2f}, MOS {row.gt_score:.2f}, after mapping {error:+.2f}"
    title = f"<b>{escape(row.filename)}</b>: {figures}"
    return f'<div class="case">{title}<br>{shown}<p>{reasoning}</p></div>'


def _thumbnails(path: Path, num_keyframes: int) -> np.ndarray:
    """The keyframes that the policy was shown, small: uint8 (K, 3, H, W)."""
    spec = ClipSpec(
        num_keyframes=num_keyframes or MAX_FRAMES,
        resize="smart",
        keyframe_px=0,
        min_pixels=1,
        max_pixels=180 * 120,
        factor=2,
        num_motion_frames=0,
        motion_px=1,
    )
    return read_clip(path, spec).keyframes_KCHW.numpy()[:MAX_FRAMES]
