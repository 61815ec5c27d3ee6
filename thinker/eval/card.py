"""Figures of evaluations in the model card of a policy.

In: the folders that `thinker eval` and `thinker bench` wrote. Out: a section of README.md, between
two marks, and the same figures in its front matter as a `model-index`, which model hubs read.
Everything else in the card, which may have been edited by hand, stays as it is: of a `model-index`
what stands there and not in the section.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, RepoCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from thinker.eval.summary import load_summary
from thinker.policies import outline_policy
from thinker.policies.card import model_card
from thinker.policies.digest import content_digest, model_digest
from thinker.policies.hub import CARD
from thinker.utils.atomic import write_atomic
from thinker.utils.names import path_text

BEGIN, END = "<!-- figures of thinker card -->", "<!-- end of figures -->"
BEFORE = "## How to score"
"""The section that figures come before, where a card has it; else they come last."""

TASK_TYPE = "video-text-to-text"
"""Of all our figures in a `model-index`."""
NAMES = {"srcc": "SRCC", "plcc": "PLCC", "krcc": "KRCC", "plcc_mapped": "PLCC (mapped)",
         "rmse_mapped": "RMSE (mapped)"}  # fmt: skip


def write_card(folder: str | Path, evaluations: Sequence[Path]) -> Path:
    """Write the figures of these evaluations into `folder`/README.md in the place of those before;
    returns its path. A policy without a card gets one.

    Raises ValueError for a folder without a policy, for one without a finished evaluation, for an
    evaluation of another policy, and for a card that cannot be read.
    """
    folder = Path(folder)
    summaries = {place: load_summary(place) for place in evaluations}
    rows = [row for place, summary in summaries.items() for row in _rows_of(place, summary)]
    if not rows:
        places = ", ".join(map(path_text, evaluations))
        raise ValueError(f"no figure of any set in {places}: nothing to write into a card")
    outline = outline_policy(folder)
    _check_policy(folder, summaries)
    path, text = folder / CARD, model_card(outline)
    try:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
        card = RepoCard(_with_section(text, figures_section(rows)))
        entries = _others(card.data.get("model-index", []), _written_section(text), rows)
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path_text(path)} is no card that figures fit into: {reason}") from None
    card.data["model-index"] = _with_figures(entries, folder.resolve().name, rows)
    write_atomic(path, str(card))
    return path


def _check_policy(folder: Path, summaries: Mapping[Path, dict[str, Any]]) -> None:
    """Raises ValueError for an evaluation of another policy than that in `folder`, whatever the
    folder was called, and for one that does not say of which it is. Evaluations of earlier versions
    name all files of the policy only, not its content."""
    content = cache(lambda: content_digest(str(folder)))
    files = cache(lambda: model_digest(str(folder), None))
    for place, summary in summaries.items():
        configuration = summary.get("configuration")
        given = configuration if isinstance(configuration, dict) else {}
        if given.get("content") is not None:
            is_own = given["content"] == content()
        elif given.get("model") is not None:
            is_own = given["model"] == files()
        else:
            raise ValueError(
                f"{path_text(place)}: summary.json does not say of which policy it is "
                f"(configuration.model), so it is not written into {path_text(folder)}; evaluate "
                "that folder"
            )
        if not is_own:
            raise ValueError(
                f"{path_text(place)} is an evaluation of another policy than that in "
                f"{path_text(folder)}: their digests differ; evaluate that folder"
            )


def _rows_of(place: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return set_rows(summary)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path_text(place / 'summary.json')} holds no figures as thinker eval writes them: "
            f"{type(error).__name__} {error}"
        ) from None


def set_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a figure of an evaluation: set, task, figure, value, the ends of its interval, and how
    many of the set's examples have a valid answer."""
    rows = []
    for key, entry in summary["sets"].items():
        report = entry["report"]
        figures = report.get("figures") or {
            name: value for name, value in report.items() if name in NAMES
        }
        valid = report["n_scored"] if "n_scored" in report else report["n_valid"]
        for name, result in figures.items():
            if result["value"] is not None:
                row = {"key": key, "set": entry["name"], "task": entry["task"], "figure": name}
                row |= {part: result[part] for part in ("value", "ci_low", "ci_high")}
                rows.append(row | {"valid": valid, "total": report["n_total"]})
    return rows


def figures_section(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line a set and task, each figure with its 95 % interval.

    Example of a cell: `SRCC .812 (.770 to .845)`.
    """
    lines = ["| set | task | valid answers | figures, 95 % intervals |", "|---|---|---|---|"]
    for one in dict.fromkeys((row["set"], row["task"]) for row in rows):
        of_set = [row for row in rows if (row["set"], row["task"]) == one]
        cells = ", ".join(map(_figure, of_set))
        lines.append(
            f"| {one[0]} | {one[1]} | {of_set[0]['valid']} of {of_set[0]['total']} | {cells} |"
        )
    return "\n".join(["## Figures", *lines])


def _name(figure: str) -> str:
    return NAMES.get(figure, figure.replace("_", " "))


def _figure(row: dict[str, Any]) -> str:
    name = _name(row["figure"])
    if row["ci_low"] is None:
        return f"{name} {_number(row['value'])}"
    ends = f"{_number(row['ci_low'])} to {_number(row['ci_high'])}"
    return f"{name} {_number(row['value'])} ({ends})"


def _number(value: float) -> str:
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")


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


def _written_section(text: str) -> str:
    """What stands between the two marks; empty where there are none."""
    return text.partition(BEGIN)[2].partition(END)[0]


def _others(
    index: Sequence[dict[str, Any]], section: str, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The entries of a `model-index` without our figures, which are those that stand in the section
    of before, and those that `rows` give anew. What is empty then is left out."""
    again = {(row["set"], row["task"], row["figure"]) for row in rows}

    def is_ours(result: dict[str, Any], metric: dict[str, Any]) -> bool:
        name, task = result["dataset"].get("name"), result["task"].get("name")
        if result["task"].get("type") != TASK_TYPE:
            return False
        if (name, task, metric["type"]) in again:
            return True
        cells = rf"^\| {re.escape(str(name))} \| {re.escape(str(task))} \| \d+ of \d+ \| (?:.*, )?"
        figure = rf"{re.escape(_name(metric['type']))} -?[\d.]"
        return re.search(cells + figure, section, re.MULTILINE) is not None

    kept = []
    for entry in index:
        results = [
            result | {"metrics": [m for m in result["metrics"] if not is_ours(result, m)]}
            for result in entry["results"]
        ]
        results = [result for result in results if result["metrics"]]
        if results or not entry["results"]:
            kept.append(entry | {"results": results})
    return kept


def _with_figures(
    entries: Sequence[dict[str, Any]], name: str, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The entries with our figures, under the policy's name."""
    [ours] = eval_results_to_model_index(name, list(map(_for_index, rows)))
    same = [one for entry in entries if entry.get("name") == name for one in entry["results"]]
    others = [entry for entry in entries if entry.get("name") != name]
    return [*others, ours | {"results": same + ours["results"]}]


def _for_index(row: dict[str, Any]) -> EvalResult:
    return EvalResult(
        task_type=TASK_TYPE,
        task_name=row["task"],
        dataset_type=row["key"],
        dataset_name=row["set"],
        metric_type=row["figure"],
        metric_name=NAMES.get(row["figure"], row["figure"]),
        metric_value=round(row["value"], 4),
    )
