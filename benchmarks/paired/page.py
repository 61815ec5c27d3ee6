"""What an ablation leaves: `ablation.html` (self-contained), `ablation.json`, `ablation.txt`."""

import base64
import json
from dataclasses import asdict
from pathlib import Path

from thinker.eval.report import plots
from thinker.eval.report.page import page_template
from thinker.eval.report.pictures import Picture
from thinker.utils.atomic import write_atomic

from .figures import Line, compare, over_contents
from .plan import Plan
from .runs import Results

HEADER = ("figure", "condition", "mean [95 %]", "seeds", "difference [95 %]", "pairs", "")


def write_page(plan: Plan, results: Results, folder: Path) -> str:
    """Write the files; returns the text table."""
    lines = compare(plan, results)
    told = {
        "plan": asdict(plan),
        "failed": {
            f"{r.condition}, seed {r.seed}": t for r, t in results.items() if type(t) is str
        },
        "differences": plan.differences(),
        "contents": over_contents(plan, results),
    }
    values = told | {"lines": [asdict(line) for line in lines]}
    write_atomic(folder / "ablation.json", json.dumps(values, indent=1) + "\n")
    rows = [HEADER, *(cells(line) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    failed = [f"{name}: {reason}" for name, reason in told["failed"].items()]
    text = "\n".join([*table, "", f"{len(failed)} of {len(results)} runs failed", *failed])
    write_atomic(folder / "ablation.txt", text + "\n")
    page = page_template("ablation.html.j2", Path(__file__).parent).render(
        **told,
        num_runs=len(results),
        settings=json.dumps(asdict(plan), indent=1),
        figures={figure: [x for x in lines if x.figure == figure] for figure in plan.figures},
        picture=picture,
        cells=cells,
    )
    write_atomic(folder / "ablation.html", page)
    return text


def cells(line: Line) -> tuple[str, ...]:
    """The columns of `HEADER`."""
    there = [value for value in line.values.values() if value is not None]
    return (
        line.figure,
        line.condition,
        "undefined" if line.mean is None else f"{line.mean:.3f} {shown(line.mean_interval)}",
        f"{len(there)}/{len(line.values)}",
        ("" if line.difference is None else f"{line.difference:+.3f} ") + shown(line.interval),
        f"{line.num_pairs}",
        line.verdict,
    )


def shown(interval: tuple[float, float] | str) -> str:
    """Both ends, or why there are none."""
    if isinstance(interval, str):
        return f"({interval})" if interval else ""
    return "[{:+.3f}, {:+.3f}]".format(*interval)


def picture(lines: list[Line]) -> Picture:
    """A point for each run."""
    values = {x.condition: {s: v for s, v in x.values.items() if v is not None} for x in lines}
    png = plots.by_condition(values, lines[0].figure)
    return Picture(alt=f"{lines[0].figure} by seed", base64=base64.b64encode(png).decode())
