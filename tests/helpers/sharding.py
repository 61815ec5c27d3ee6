"""Launches of `sharding_worker.py`, as a user shards a run, and what came of them."""

import json
import os
import shutil
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from tests.helpers.launch import ddp_launcher, free_port, launch
from tests.helpers.places import REPO
from thinker.policies import load_policy
from thinker.policies.four_bit import unpack
from thinker.train.processes.world import FSDP

WORKER = "tests.helpers.sharding_worker"
CONFIGS = REPO / "run_scripts" / "configs"

FACTORS: dict[str, tuple[Any, ...]] = {
    "sharding": ("ddp", "zero2", "zero3", "zero3-late", "fsdp2"),
    "lora": (False, True),
    "checkpointing": ("none", "reentrant", "not-reentrant"),
    "beta": (0.0, 0.04),
    "iterations": (1, 2),
    "evaluate": (False, True),
    "backend": ("hf", "vllm"),
    "backbone": ("internvl3", "qwen2_5_vl"),
}
"""What a run may differ in. "zero3-late" is ZeRO-3 without `zero3_init_flag`: weights are loaded
whole and sharded afterwards."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left."""

    weights: dict[str, torch.Tensor]
    """Of the policy that it saved, which is loaded alone."""
    record: dict[str, Any]
    """See `sharding_worker.py`."""
    rewards: list[dict[str, float | None]]
    """Of every rollout, by video and completion."""


def run_sharded(
    folder: Path,
    start: Path,
    settings: dict[str, Any],
    num_processes: int = 2,
) -> Outcome:
    """Three steps from the policy in `start`; settings: a value for each of FACTORS. A run of one
    process is not sharded. With `steps` it makes so many by AdamW, from the newest checkpoint of
    the folder, and leaves one after each."""
    if not folder.is_dir():
        folder.mkdir()
        shutil.copytree(start, folder / "start")
    shutil.rmtree(folder / "final", ignore_errors=True)
    command = [
        *launcher(settings["sharding"], num_processes), WORKER, str(folder), json.dumps(settings)
    ]  # fmt: skip
    launch(command, folder, ACCELERATE_TORCH_DEVICE="cpu")
    lines = (folder / "run" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    rollouts = sorted(map(json.loads, lines), key=lambda row: (row["sample_id"], row["completion"]))
    return Outcome(
        weights=weights_of(folder / "final"),
        record=json.loads((folder / "record.json").read_text()),
        rewards=[row["rewards"] for row in rollouts],
    )


def run_supervised(
    folder: Path, start: Path, sharding: str, num_processes: int = 2
) -> dict[str, torch.Tensor]:
    """A supervised step (`distributed_worker.py`) from the policy in `start`; its weights."""
    folder.mkdir()
    shutil.copytree(start, folder / "start")
    worker = ["tests.helpers.distributed_worker", str(folder), str(num_processes)]
    launch([*launcher(sharding, num_processes), *worker], folder, ACCELERATE_TORCH_DEVICE="cpu")
    return weights_of(folder / "final")


def weights_of(folder: Path, quantization: str | None = None) -> dict[str, torch.Tensor]:
    """Of a saved policy, which is loaded alone; with quantization, what 4 bits make of them."""
    model = load_policy(folder, quantization=quantization).model
    unpack(model)
    return {name: each.detach() for name, each in model.named_parameters()}


def launcher(sharding: str, num_processes: int) -> list[str]:
    """The start of a command line, behind `python -m`."""
    if num_processes == 1 and sharding != "fsdp2-of-one":
        return []
    sharding = sharding.removesuffix("-of-one")
    if sharding == "ddp":
        return ddp_launcher(num_processes)
    config = CONFIGS / f"{sharding.removesuffix('-late')}.yaml"
    # The shipped configurations say bf16, in which results could not be compared.
    init = [] if sharding != "zero3-late" else ["--zero3_init_flag", "false"]
    return [
        "accelerate.commands.launch", "--config_file", str(config), "--mixed_precision", "no",
        *init, "--num_processes", str(num_processes), "--main_process_port", str(free_port()), "-m",
    ]  # fmt: skip


def fsdp_over_gloo() -> None:
    """accelerate knows no FSDP without a GPU; over gloo it works all the same."""
    if os.environ.get(FSDP) == "true":
        PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Over all weights."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def covering_array(factors: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Few settings among which every pair of values of two factors occurs.

    Greedy, and always the same: each run begins with a pair that is still missing and takes, factor
    by factor, the value that adds most of the others.
    """
    names = list(factors)
    missing = {
        pair
        for one, other in combinations(names, 2)
        for pair in product(product([one], factors[one]), product([other], factors[other]))
    }
    runs = []
    while missing:
        chosen = dict(min(missing, key=lambda pair: _place(pair, factors)))
        for name in names:
            if name not in chosen:
                gains = [
                    len(missing & _pairs({**chosen, name: value}, names)) for value in factors[name]
                ]
                chosen[name] = factors[name][gains.index(max(gains))]
        runs.append({name: chosen[name] for name in names})
        missing -= _pairs(chosen, names)
    return runs


def _pairs(chosen: dict[str, Any], names: list[str]) -> set[tuple[tuple[str, Any], ...]]:
    given = [(name, chosen[name]) for name in names if name in chosen]
    return set(combinations(given, 2))


def _place(pair: tuple[tuple[str, Any], ...], factors: dict[str, tuple[Any, ...]]) -> list[int]:
    names = list(factors)
    return [n for name, value in pair for n in (names.index(name), factors[name].index(value))]
