"""What a finished run leaves to read: `summary.json`, and the short table that it ends with."""

import dataclasses
import platform
from importlib.metadata import version
from typing import Any

from thinker.config.run import RunConfig
from thinker.train.held_out import HeldOutFigures
from thinker.train.run_data import RunData

REPORTED_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "vqa-thinker")


def summarise_run(
    config: RunConfig, data: RunData, figures: dict[str, HeldOutFigures], steps: dict[str, int]
) -> dict[str, Any]:
    """What `summary.json` holds; the top figures are those of the first held-out set, before and
    after the last stage.

    figures: by stage what it led to, "start" for the policy that the run began with, in order.
    steps: by stage.
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
        "steps": steps[last],
        "seed": config.seed,
        "versions": {name: version(name) for name in REPORTED_PACKAGES},
        "python": platform.python_version(),
        "config": dataclasses.asdict(config),
    }


COLUMNS = {"srcc": "SRCC", "plcc": "PLCC", "accuracy": "acc.", "valid_share": "valid"}


def summary_table(summary: dict[str, Any]) -> str:
    """The short table a run ends with."""
    lines = [f"{'held-out set':<16}{'':>12}" + "".join(f"{c:>8}" for c in COLUMNS.values())]
    for key in summary["sets"]:
        for name, stage in summary["stages"].items():
            figures = stage["sets"].get(key, {})
            shown = "".join(f"{_cell(figures, column):>8}" for column in COLUMNS)
            lines.append(f"{key:<16}{name:>12}{shown}")
    return "\n".join([*lines, f"{summary['steps']} steps, {summary['seconds']:.0f} s"])


def _cell(figures: dict[str, float | None], column: str) -> str:
    if column not in figures:
        return ""
    value = figures[column]
    return "undef." if value is None else f"{value:.3f}"
