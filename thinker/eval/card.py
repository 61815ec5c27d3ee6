"""Figures of evaluations in the model card of a policy.

In: the folders that `thinker eval` and `thinker bench` wrote. Out: a section of README.md, between
two marks, and the same figures in its front matter as a `model-index`, which model hubs read.
Everything else in the card, which may have been edited by hand, stays as it is.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from thinker.eval.summary import load_summary
from thinker.policies import outline_policy
from thinker.policies.card import model_card
from thinker.policies.hub import CARD
from thinker.utils.atomic import write_atomic
from thinker.utils.names import path_text

BEGIN, END = "<!-- figures of thinker card -->", "<!-- end of figures -->"
BEFORE = "## How to score"
"""The section that figures come before, where a card has it; else they come last."""

NAMES = {"srcc": "SRCC", "plcc": "PLCC", "krcc": "KRCC", "plcc_mapped": "PLCC (mapped)",
         "rmse_mapped": "RMSE (mapped)"}  # fmt: skip


def write_card(folder: str | Path, evaluations: Sequence[Path]) -> Path:
    """Write the figures of these evaluations into `folder`/README.md in the place of those before;
    returns its path. A policy without a card gets one.

    Raises ValueError for a folder without a policy, and for one without a finished evaluation.
    """
    folder = Path(folder)
    rows = [row for place in evaluations for row in set_rows(load_summary(place))]
    if not rows:
        places = ", ".join(map(path_text, evaluations))
        raise ValueError(f"no figure of any set in {places}: nothing to write into a card")
    outline = outline_policy(folder)
    path = folder / CARD
    text = path.read_text(encoding="utf-8") if path.is_file() else model_card(outline)
    card = ModelCard(_with_section(text, figures_section(rows)))
    about = card.data
    assert isinstance(about, ModelCardData)
    about.model_name = folder.resolve().name
    about.eval_results = list(map(_for_index, rows))
    write_atomic(path, str(card))
    return path


def set_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a figure of an evaluation: set, task, figure, value, the ends of its interval, and how
    many of the set's examples have an answer."""
    rows = []
    for key, entry in summary["sets"].items():
        report = entry["report"]
        figures = report.get("figures") or {
            name: value for name, value in report.items() if name in NAMES
        }
        answered = report.get("n_scored", report.get("n_answered"))
        for name, result in figures.items():
            if result["value"] is not None:
                row = {"key": key, "set": entry["name"], "task": entry["task"], "figure": name}
                row |= {part: result[part] for part in ("value", "ci_low", "ci_high")}
                rows.append(row | {"answered": answered, "total": report["n_total"]})
    return rows


def figures_section(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line a set and task, each figure with its 95 % interval.

    Example of a cell: `SRCC .812 (.770 to .845)`.
    """
    lines = ["| set | task | answered | figures, 95 % intervals |", "|---|---|---|---|"]
    for one in dict.fromkeys((row["set"], row["task"]) for row in rows):
        of_set = [row for row in rows if (row["set"], row["task"]) == one]
        cells = ", ".join(map(_figure, of_set))
        lines.append(f"| {one[0]} | {one[1]} | {_answered(of_set[0])} | {cells} |")
    return "\n".join(["## Figures", *lines])


def _figure(row: dict[str, Any]) -> str:
    name = NAMES.get(row["figure"], row["figure"].replace("_", " "))
    if row["ci_low"] is None:
        return f"{name} {_number(row['value'])}"
    ends = f"{_number(row['ci_low'])} to {_number(row['ci_high'])}"
    return f"{name} {_number(row['value'])} ({ends})"


def _number(value: float) -> str:
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")


def _answered(row: dict[str, Any]) -> str:
    return f"{row['answered']} of {row['total']}"


def _with_section(text: str, section: str) -> str:
    """The card's text with the section in it, in the place of one before."""
    marked = f"{BEGIN}\n{section}\n{END}"
    before, found, rest = text.partition(BEGIN)
    if found:
        _, closed, rest = rest.partition(END)
        if not closed:
            raise ValueError(f"the card has {BEGIN!r} without {END!r}; put it behind the figures")
        return before + marked + rest
    if f"\n{BEFORE}" in text:
        return text.replace(f"\n{BEFORE}", f"\n{marked}\n\n{BEFORE}", 1)
    return f"{text.rstrip()}\n\n{marked}\n"


def _for_index(row: dict[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="video-text-to-text",
        task_name=row["task"],
        dataset_type=row["key"],
        dataset_name=row["set"],
        metric_type=row["figure"],
        metric_name=NAMES.get(row["figure"], row["figure"]),
        metric_value=round(row["value"], 4),
    )
