"""What a finished run leaves to read: `summary.json`, and the short table that it ends with."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from thinker.config.run import RunConfig
from thinker.train.held_out import HeldOutFigures
from thinker.train.run_data import RunData

COLUMNS = {"srcc": "SRCC", "plcc": "PLCC", "accuracy": "acc.", "valid_share": "valid"}
EVAL = "eval_"  # before the names of figures of the first held-out set, in a log
REPORTED_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "vqa-thinker")


def summarise_run(
    config: RunConfig,
    data: RunData,
    figures: dict[str, HeldOutFigures],
    steps: dict[str, int],
    metrics: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What `summary.json` holds; the top figures are those of the first held-out set, before and
    after the last stage.

    figures: by stage what it led to, "start" for the policy that the run began with, in order.
    steps: by stage. metrics: lines of `metrics.jsonl`, of the last stage, whose evaluations on the
    way are told, too.
    """
    last = config.stages[-1].name
    after = figures[last]
    measured = [name for name in figures if name != last]
    before = figures[measured[-1]] if measured else {}
    main = next(iter(after), None)
    top = {
        f"{name}_{when}": sets.get(main, {}).get(name) if main else None
        for name in ("srcc", "plcc")
        for when, sets in (("before", before), ("after", after))
    }
    return {
        **top,
        "num_train": sum(len(source.examples) for source in data.stages[last]),
        "num_eval": len(data.eval_sets[0][1]) if data.eval_sets else 0,
        "sets": {key: {"before": before.get(key), "after": after[key]} for key in after},
        "stages": {
            name: {"steps": steps.get(name, 0), "sets": sets} for name, sets in figures.items()
        },
        "during": [
            {"step": line["step"]} | {name: line.get(f"{EVAL}{name}") for name in COLUMNS}
            for line in metrics
            if f"{EVAL}valid_share" in line
        ],
        "steps": steps[last],
        "seed": config.seed,
        "versions": {name: version(name) for name in REPORTED_PACKAGES},
        "python": platform.python_version(),
        "config": dataclasses.asdict(config),
    }


def summary_table(summary: dict[str, Any]) -> str:
    """The short table a run ends with."""
    lines = [f"{'held-out set':<16}{'':>12}" + "".join(f"{c:>8}" for c in COLUMNS.values())]
    for number, key in enumerate(summary["sets"]):
        rows = [(name, stage["sets"].get(key, {})) for name, stage in summary["stages"].items()]
        if number == 0:
            rows[-1:-1] = [(f"step {line['step']}", _given(line)) for line in summary["during"]]
        for name, figures in rows:
            shown = "".join(f"{_cell(figures, column):>8}" for column in COLUMNS)
            lines.append(f"{key:<16}{name:>12}{shown}")
    if not summary["sets"]:
        lines.append("none; set data.held_out, or name sets in data.eval")
    return "\n".join([*lines, f"{summary['steps']} steps, {summary['seconds']:.0f} s"])


def _given(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if value is not None}


def _cell(figures: dict[str, float | None], column: str) -> str:
    if column not in figures:
        return ""
    value = figures[column]
    return "undef." if value is None else f"{value:.3f}"
