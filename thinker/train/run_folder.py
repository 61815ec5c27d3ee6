"""A run's folder: whose it is, and which of its stages are complete.

`run.json` holds the configuration that the folder belongs to. A stage's result (a folder or a JSON
file) appears by one rename when it is complete, so its presence says that the stage need not be
repeated. Only the main process writes; the others wait.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState

from thinker.config.run import RENAMED, RunConfig
from thinker.train.checkpoint import checkpoints
from thinker.train.run_log import ROLLOUTS
from thinker.utils.atomic import atomic_folder, write_atomic
from thinker.utils.journal import flat, require_same

IDENTITY, SPLIT = "run.json", "held_out_examples.json"
BARE = frozenset((IDENTITY, SPLIT, "run.lock", "cache", "data"))
"""What lies in the folder of a run that ended before it had made anything: the cache of clips and
the demo's data are not of one configuration. Such a folder is open to any other."""
ROWS, PARTS = "per_device_train_batch_size", "gradient_accumulation_steps"
"""Keys of a trainer; transformers' defaults are 8 and 1."""
IGNORED = ("output_dir", "data.cache", "data.num_workers", "rollout.server_url")
"""Keys that say where and how fast, not what: a run may be continued with others."""


def open_run(folder: Path, config: RunConfig) -> None:
    """Claim a folder for a configuration; ValueError where another run's results lie in it."""
    state = PartialState()
    identity = flat_config(config) | {"num_processes": state.num_processes}
    identity = {key: value for key, value in identity.items() if key not in IGNORED}
    path = folder / IDENTITY
    is_bare = not folder.is_dir() or {entry.name for entry in folder.iterdir()} <= BARE
    if is_complete(path) and not is_bare:
        before = json.loads(path.read_text(encoding="utf-8"))
        old = sorted(
            {key for key in RENAMED for name in before if f"{name}.".startswith(f"{key}.")}
        )
        if old:
            raise ValueError(
                f"{folder} belongs to a run of an older version, whose {IDENTITY} has "
                f"{', '.join(old)}; finish it with that version, or choose another output_dir"
            )
        before = {key: value for key, value in before.items() if key not in IGNORED}
        require_same(folder, _with_batches(before), _with_batches(identity))
    elif checkpoints(folder) or (folder / ROLLOUTS).exists():
        raise ValueError(
            f"{folder} holds results of a run, but no {IDENTITY} that says of which; "
            "choose another output_dir, or delete it"
        )
    elif state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPLIT).unlink(missing_ok=True)
        write_atomic(path, json.dumps(identity, indent=1) + "\n")
    state.wait_for_everyone()


def _with_batches(identity: dict[str, Any]) -> dict[str, Any]:
    """The identity of a run with the rows of an update in the place of how they are divided: into
    processes, micro-batches and, for rollouts, rows of a process. `Checkpoints` says where another
    division cannot go on."""
    rest = dict(identity)
    processes = rest.pop("num_processes", 1)
    stages = {key.split(".")[1] for key in rest if key.startswith("stages.")}
    for stage in stages:
        place = f"stages.{stage}.trainer"
        rows_key, parts_key = f"{place}.{ROWS}", f"{place}.{PARTS}"
        rows, parts = rest.get(rows_key, 8), rest.pop(parts_key, 1)
        if rest.get(f"stages.{stage}.kind") == "grpo":
            rest.pop(rows_key, None)
        rest[f"{place}.rows_of_an_update"] = rows * parts * processes
    return rest


def flat_config(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted place, as an override names it."""
    values = dataclasses.asdict(config)
    stages = {stage["name"]: stage for stage in values["stages"]}
    return flat(values | {"stages": stages, "order": list(stages)})


def is_complete(path: Path) -> bool:
    """Whether a stage's result is there; every process gets the same answer."""
    there = path.exists()
    PartialState().wait_for_everyone()  # before anyone goes on to write it
    return there


def folder_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that is not there yet."""
    state = PartialState()
    if state.is_main_process:
        with atomic_folder(folder) as aside:
            write(aside)
    state.wait_for_everyone()


def json_once(path: Path, compute: Callable[[], Any]) -> Any:
    """The JSON at `path`; computed by every process and written by the main one if absent."""
    state = PartialState()
    if is_complete(path):
        return json.loads(path.read_text(encoding="utf-8"))
    value = compute()
    if state.is_main_process:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(value, indent=1) + "\n")
    state.wait_for_everyone()
    return value
