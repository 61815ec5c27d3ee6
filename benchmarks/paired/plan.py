"""What an ablation compares: its YAML, checked against the run configuration before anything runs.

Everything in it is written as `thinker train` and `thinker eval` take it; relative paths are
relative to the current folder.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker.config.build import build
from thinker.config.run import load_run_config
from thinker.config.yaml_file import read_settings
from thinker.train.run_data import data_set_of
from thinker.train.run_folder import IGNORED, flat_config

OWN_KEYS = ("seed", "output_dir")
"""Keys of the run configuration that the harness sets itself, for each run its own."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Conditions, each trained once with every seed."""

    config: str
    """The run configuration (YAML) that all conditions start from."""
    overrides: tuple[str, ...] = ()
    """Overrides of every run, as `thinker train` takes them: `stages.grpo.trainer.beta=0.02`. In
    these and in those of a condition `{seed}` stands for the seed of the run, so that each can
    begin with a policy of its own: `model.path=runs/warm/runs/plain/seed_{seed}/final`."""
    conditions: dict[str, tuple[str, ...]]
    """By name, the overrides that make a condition. The others, if any, are compared with the
    first one, whose list may be empty. Another data set is an override too:
    `data.variables.DEMO_ROOT=/data/other`."""
    seeds: tuple[int, ...]
    """Seeds of the runs. Runs of one seed are a pair."""
    figures: tuple[str, ...]
    """What is compared: dotted paths into a run's summary.json, such as `srcc_after`, or, after
    `eval.`, into that of its evaluation; `srcc_after - srcc_before` is a figure, too."""
    evaluate: tuple[str, ...] = ()
    """Arguments of the `thinker eval` that follows each training; `--model` and `--output-dir` are
    added to them. None: nothing follows."""

    def __post_init__(self):
        if not self.conditions:
            raise ValueError("there is no condition, expected one or more")
        for name in self.conditions:
            if not re.fullmatch(r"\w[\w.+-]*", name):
                raise ValueError(
                    f"condition {name!r} names a folder, expected letters, digits and _.+- only"
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}, expected one or more, each once")
        if not self.figures:
            raise ValueError("there is no figure to compare, expected one or more")
        for override in (*self.overrides, *(o for row in self.conditions.values() for o in row)):
            if override.partition("=")[0] in OWN_KEYS:
                raise ValueError(
                    f"override {override!r}: the harness sets {' and '.join(OWN_KEYS)}"
                )

    def settings(self, *overrides: str) -> dict[str, Any]:
        """The run configuration under `overrides` as dotted keys, without what differs by run."""
        config = load_run_config(self.config, [*self.overrides, *overrides])
        flat = flat_config(config)
        return {key: value for key, value in flat.items() if key not in (*OWN_KEYS, *IGNORED)}

    def check_data(self) -> None:
        """Raises ValueError for a condition whose data sets are described wrongly, or need a
        variable that is not set: before the first run, not hours later at its own."""
        for name, given in self.conditions.items():
            config = load_run_config(self.config, [*self.overrides, *given])
            trained_on = (source for stage in config.stages for source in stage.data)
            for place in (*trained_on, *config.data.eval):
                try:
                    data_set_of(place, config)
                except ValueError as error:
                    raise ValueError(f"condition {name}: {error}") from None

    def identity(self) -> dict[str, Any]:
        """What decides the results of the runs. Other figures may be read from finished ones."""
        return (
            {f"config.{key}": value for key, value in self.settings().items()}
            | {f"conditions.{name}": list(given) for name, given in self.conditions.items()}
            | {"seeds": list(self.seeds), "evaluate": list(self.evaluate)}
        )

    def differences(self) -> dict[str, dict[str, Any]]:
        """Each setting in which conditions differ, with its value by condition."""
        settings = {name: self.settings(*given) for name, given in self.conditions.items()}
        keys = dict.fromkeys(key for of_one in settings.values() for key in of_one)
        rows = {key: {name: settings[name].get(key) for name in settings} for key in keys}
        first = next(iter(settings))
        return {k: row for k, row in rows.items() if any(v != row[first] for v in row.values())}


def load_plan(path: Path) -> Plan:
    """Raises ValueError for a plan, or for a run of it, that is not valid."""
    plan = build(Plan, read_settings(path), str(path))
    for name, given in plan.conditions.items():
        try:
            plan.settings(*given)
        except ValueError as error:
            raise ValueError(f"{path}: condition {name}: {error}") from None
    return plan
