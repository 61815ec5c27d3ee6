"""Stated rates: what a GPU, a host and the links between them can do, each with its source.

In: `rates.yaml`, and a file of the user's over it. Out: `Rates`, whose numbers are floats, and
`source(place)` for each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from thinker.config.yaml_file import read_settings

FILE = Path(__file__).parent / "rates.yaml"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU in its usual machine."""

    peak_flops: float
    """Dense bfloat16 FLOPs a second."""
    hbm_bytes_per_second: float
    """Read from its own memory."""
    memory_bytes: float
    """Of its own memory."""
    link_bytes_per_second: float
    """To the other GPUs of its node, one way."""
    network_bytes_per_second: float
    """Its share of the node's adapters, one way."""
    dollars_per_hour: float
    """Of one GPU with its share of the node."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Shares of a peak, above 0 and at most 1."""

    encode: float
    """Of the FLOPs, in the vision tower and SlowFast."""
    prefill: float
    """Of the FLOPs, where the language model reads prompts."""
    train: float
    """Of the FLOPs, in log-probabilities with and without gradient."""
    hbm: float
    """Of the memory's rate, where tokens are decoded and the optimizer steps."""
    network: float
    """Of the slowest link, in collectives and pushes."""
    memory: float
    """Of the memory, that can be filled."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What a node's CPUs and the storage do."""

    cores_per_gpu: float
    """CPU cores that decode for one GPU."""
    decode_seconds_per_clip: float
    """CPU seconds."""
    rewards_seconds_of_2048: float
    """Seconds of all rewards over 2,048 rollouts."""
    token_step_seconds: float
    """What one token of a batch costs beside reading weights and cache."""
    step_seconds: float
    """What a training step costs beside its work."""
    storage_bytes_per_second: float
    """Of one node."""
    file_bytes: float
    """Mean size of a video."""
    row_bytes: float
    """Mean size of a row of an archive's output."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """All of them."""

    gpus: Mapping[str, Gpu]
    """By kind."""
    reached: Reached
    """By stage."""
    host: Host
    """The same for all kinds of GPU."""
    sources: Mapping[str, str]
    """Where each number is from, by its dotted place, as "reached.train"."""

    def gpu(self, kind: str) -> Gpu:
        """Raises ValueError for a kind without rates."""
        if kind not in self.gpus:
            raise ValueError(
                f"no rates of a GPU {kind!r}; known: {', '.join(self.gpus)}; add others by --rates"
            )
        return self.gpus[kind]


LEAST_MEMORY = 1e9
"""Fewer bytes of a GPU are a number in another unit."""


@lru_cache(maxsize=8)
def load_rates(over: Path | None = None) -> Rates:
    """The shipped rates, with those of a file over them. Raises ValueError, naming the file and the
    place, for what is unknown, missing, no number, or no share."""
    shipped = _leaves(read_settings(FILE), str(FILE), None)
    mine = {} if over is None else _leaves(read_settings(over), str(over), f"given in {over}")
    where = str(over or FILE)
    known = {name for name in shipped if not name.startswith("gpus.")}
    gpu_fields = {field.name for field in fields(Gpu)}
    for name in mine:
        section, *kind = name.split(".")
        is_of_gpu = section == "gpus" and len(kind) > 1 and kind[-1] in gpu_fields
        if name not in known and not is_of_gpu:
            raise ValueError(
                f"{where}: {name} is not known; expected gpus.KIND.({'|'.join(sorted(gpu_fields))})"
                f", {', '.join(sorted(known))}"
            )
    leaves = shipped | mine
    for name, (value, _) in leaves.items():
        if name.startswith("reached.") and value > 1:
            raise ValueError(f"{where}: {name} is {value:g}, expected a share of at most 1")
    return _rates(leaves, where)


def _rates(leaves: Mapping[str, tuple[float, str]], where: str) -> Rates:
    tree: dict[str, dict[str, float]] = {}
    for name, (value, _) in leaves.items():
        section, _, last = name.rpartition(".")
        tree.setdefault(section, {})[last] = value
    gpus = {}
    for section, numbers in tree.items():
        if section.startswith("gpus."):
            missing = {field.name for field in fields(Gpu)} - numbers.keys()
            if missing:
                raise ValueError(f"{where}: {section} lacks {', '.join(sorted(missing))}")
            gpus[section.removeprefix("gpus.")] = Gpu(**numbers)
    return Rates(
        gpus=gpus,
        reached=Reached(**tree["reached"]),
        host=Host(**tree["host"]),
        sources={name: source for name, (_, source) in leaves.items()},
    )


def _leaves(tree: Mapping[str, Any], where: str, source: str | None) -> dict[str, Any]:
    """Number and source of each leaf by its dotted place. source: of numbers that stand alone."""
    found = {}

    def walk(node: Any, place: tuple[str, ...]) -> None:
        is_leaf = isinstance(node, Mapping) and set(node) <= {"value", "source"} and "value" in node
        if isinstance(node, Mapping) and not is_leaf:
            for key, child in node.items():
                walk(child, (*place, key))
            return
        value = node["value"] if is_leaf else node
        said = (node.get("source") if is_leaf else None) or source
        name = ".".join(place)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
            hint = " (YAML takes 1e15 for a text: write 1.0e+15)" if isinstance(value, str) else ""
            raise ValueError(f"{where}: {name} is {value!r}, expected a number above 0{hint}")
        if name.endswith(".memory_bytes") and value < LEAST_MEMORY:
            raise ValueError(f"{where}: {name} is {value:g}, expected bytes, such as 80.0e+9")
        if said is None:
            raise ValueError(f"{where}: {name} has no source")
        found[name] = (float(value), said)

    walk(tree, ())
    return found
