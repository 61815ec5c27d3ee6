"""Whether the processes of a run are what was asked for, and agree.

A launch that goes wrong need not fail: without a GPU accelerate lets every process train alone, or
takes DDP for FSDP; a node with an older checkout, or with other labels, learns something else. Each
of these stops here, before a folder is claimed, with one sentence.
"""

import hashlib
import json
import os
import platform
import socket
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object

from thinker.data.examples import Example

NUM_PROCESSES = "THINKER_NUM_PROCESSES"
"""How many processes the launch scripts were asked for (run_scripts/lib/launch.sh)."""
PACKAGES = (
    "vqa-thinker",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "deepspeed",
    "bitsandbytes",
    "safetensors",
    "numpy",
)
"""Those whose version decides what is computed."""
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
_FSDP_NEEDS = {
    "FSDP_VERSION": ("2", "fsdp_version: 2, the only version whose results are compared"),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": (
        "false",
        "fsdp_cpu_ram_efficient_loading: false, because accelerate would take the statistics of "
        "SlowFast for sharded weights",
    ),
    "FSDP_STATE_DICT_TYPE": (
        "FULL_STATE_DICT",
        "fsdp_state_dict_type: FULL_STATE_DICT, which makes a checkpoint a policy",
    ),
}


class WorldError(ValueError):
    """The processes of a run are not what was asked for, or do not agree."""


def is_sharding_asked() -> bool:
    """Whether accelerate was launched with a configuration of FSDP or DeepSpeed."""
    return _is_set(FSDP) or _is_set(DEEPSPEED)


def check_world(state: PartialState) -> None:
    """Raises WorldError where the processes that the launcher started do not work together as it
    said. state: of accelerate, when `torch.distributed` has started."""
    started = _count("WORLD_SIZE", "1")
    asked = _count(NUM_PROCESSES, str(started))
    if asked != started:
        raise WorldError(
            f"{asked} processes were asked for (NUM_PROCESSES), but {started} started; without a "
            "GPU accelerate starts one only: leave ACCELERATE_CONFIG out, and they train by DDP"
        )
    if _is_set(FSDP):
        _check_fsdp(state)
    if state.num_processes != started:
        raise WorldError(
            f"the launcher started {started} processes (WORLD_SIZE), but accelerate sees "
            f"{state.num_processes}: each would train alone; without a GPU, do not set use_cpu to "
            "false in the stages' trainer settings"
        )


def _count(name: str, default: str) -> int:
    given = os.environ.get(name, default)
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise WorldError(f"{name} is {given!r}, expected a number of processes, at least 1")
    return int(given)


def check_sharding(is_fsdp: bool, is_deepspeed: bool) -> None:
    """Raises WorldError where a trainer does not shard as its launch asked for."""
    for name, asked, there in (
        ("FSDP", _is_set(FSDP), is_fsdp),
        ("DeepSpeed", _is_set(DEEPSPEED), is_deepspeed),
    ):
        if asked != there:
            wanted, found = ("", "not ") if asked else ("not ", "")
            raise WorldError(
                f"{name} was {wanted}asked for in accelerate's configuration, but the trainer does "
                f"{found}use it; remove use_cpu and fsdp from the stage's trainer settings"
            )


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"


def _check_fsdp(state: PartialState) -> None:
    if state.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise WorldError(
            "accelerate's configuration asks for FSDP, which it has for GPUs only: here it would "
            f"run {state.distributed_type.value} instead; leave ACCELERATE_CONFIG out"
        )
    for name, (expected, saying) in _FSDP_NEEDS.items():
        given = os.environ.get(name, "")
        if given.lower() != expected.lower():
            raise WorldError(
                f"accelerate's configuration gives {name}={given or 'nothing'}, expected {saying} "
                "(run_scripts/configs/fsdp2.yaml)"
            )


def check_agreement(config: Mapping[str, Any], examples: Iterable[Example]) -> None:
    """Raises WorldError, on every process, where one has other settings, examples or versions than
    the first, and says which."""
    own = {
        "the configuration": {key: json.dumps(value, default=str) for key, value in config.items()},
        "the data": {"examples": _digest(examples)},
        "the packages": {name: _version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
    }
    described = (PartialState().process_index, socket.gethostname(), own)
    everyone = gather_object([described])
    _, _, first = everyone[0]
    for number, host, other in everyone[1:]:
        for what, values in first.items():
            for key in sorted(values.keys() | other[what].keys()):
                mine, theirs = values.get(key, "nothing"), other[what].get(key, "nothing")
                if mine != theirs:
                    raise WorldError(
                        f"process {number} on {host} differs from process 0 in {what}: {key} is "
                        f"{theirs} there and {mine} here; give all processes the same"
                    )


def _digest(examples: Iterable[Example]) -> str:
    """Of what examples say. Where their files lie may differ between machines."""
    digest = hashlib.sha256()
    for e in examples:
        media = [m.path.name for m in e.media]
        said = (e.id, e.task, media, e.turns, e.options, repr(e.reference), e.target, e.content)
        digest.update(repr(said).encode())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
