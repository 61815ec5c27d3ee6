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
    config: RunConfig, data: RunData, before: HeldOutFigures, after: HeldOutFigures
) -> dict:
    """What `summary.json` holds; the top figures are those of the first held-out set."""
    main = next(iter(before), None)
    figures = {
        f"{name}_{when}": scores[main][name] if main else None
        for name in ("srcc", "plcc")
        for when, scores in (("before", before), ("after", after))
    }
    return {
        **figures,
        "num_train": len(data.train),
        "num_eval": len(data.eval_sets[0][1]) if data.eval_sets else 0,
        "sets": {key: {"before": before[key], "after": after[key]} for key in before},
        "seed": config.seed,
        "versions": {name: version(name) for name in REPORTED_PACKAGES},
        "python": platform.python_version(),
        "config": dataclasses.asdict(config),
    }


def summary_table(summary: dict[str, Any]) -> str:
    """The short table a run ends with."""
    lines = [f"{'held-out set':<16}{'':>8}{'SRCC':>8}{'PLCC':>8}{'valid':>8}"]
    for key, when in ((k, w) for k in summary["sets"] for w in ("before", "after")):
        scores = summary["sets"][key][when]
        cells = [scores["srcc"], scores["plcc"], scores["valid_share"]]
        shown = "".join(f"{'undef.' if v is None else f'{v:.3f}':>8}" for v in cells)
        lines.append(f"{key:<16}{when:>8}{shown}")
    return "\n".join([*lines, f"{summary['steps']} steps, {summary['seconds']:.0f} s"])
