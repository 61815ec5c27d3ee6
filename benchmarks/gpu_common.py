"""What the benchmarks for one GPU share: time, memory, the record, and policies of real size.

A record is a JSON object of facts and `rows`, rewritten whole after every row, so that a benchmark
that is killed leaves what it had measured. What cannot be measured has a row that says why.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from thinker.policies import BACKBONES, Policy, TinySize, backbone_name, tiny_policy
from thinker.policies.cost import meta_policy, public_configs
from thinker.utils.atomic import write_atomic

TINY = "tiny-"  # before the name of a backbone: the demo's size
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "bitsandbytes", "av")
GEMM_SIDE, COPY_BYTES = 8192, 2**31


# The record


class Record:
    """Rows in a JSON file.

    path: None only prints them. facts: what stands beside the rows. A file that is there is begun
    anew, unless `go_on`: several processes may add to one in turn.
    """

    def __init__(self, path: Path | None, device: torch.device, go_on: bool = False, **facts: Any):
        self.path = path
        if go_on and path is not None and path.is_file():
            self.content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return
        on_gpu = device.type == "cuda"
        self.content = {
            "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
            "arguments": sys.argv[1:],
            "versions": {name: installed(name) for name in PACKAGES},
            **facts,
            "rows": [],
        }
        self._write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.content["rows"]

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_atomic(self.path, json.dumps(self.content, indent=1) + "\n", flush=False)


def installed(package: str) -> str:
    """The version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what all of the benchmarks take."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--output", type=Path, help="JSON record")
    parser.add_argument("--repeats", type=int, default=3)
    return parser


def model_names() -> list[str]:
    """Names that `policy_of` knows."""
    return [*public_configs(), *(TINY + name for name in BACKBONES)]


# Time and memory


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Of every run but the first."""
    taken = []
    for _ in range(repeats + 1):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - began)
    return taken[1:]


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    return statistics.median(seconds_of(work, device, repeats))


def ceilings(device: torch.device, repeats: int) -> dict[str, float]:
    """What the device reaches: FLOP/s of a matrix product in bfloat16, bytes/s of a copy (read and
    write)."""
    side = GEMM_SIDE if device.type == "cuda" else GEMM_SIDE // 16
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    block = torch.empty(
        COPY_BYTES if device.type == "cuda" else 2**24, device=device, dtype=torch.uint8
    )
    gemm = median_seconds(lambda: matrix @ matrix, device, repeats)
    copy = median_seconds(block.clone, device, repeats)
    return {"gemm_flops": 2 * side**3 / gemm, "copy_bytes": 2 * block.nbytes / copy}


def begin_peak(device: torch.device) -> None:
    """`peak_bytes` counts from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """The most that PyTorch had allocated at once; None on a CPU, where it does not count."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def weight_bytes(model: torch.nn.Module) -> int:
    """Of all parameters, packed ones as they lie in memory."""
    return sum(parameter.nbytes for parameter in model.parameters())


# Policies of real size


def policy_of(
    name: str, device: torch.device, *, num_keyframes: int = 6, num_layers: int | None = None
) -> Policy:
    """A policy with random bfloat16 weights in the shapes of a public one, or a tiny one in
    float32.

    Its tokenizer is a tiny policy's, of some hundred tokens, which are ids of the large vocabulary.
    num_layers: of the language model and of the vision tower, where they are to be fewer.
    """
    if name.startswith(TINY):
        policy = tiny_policy(name.removeprefix(TINY))
        policy.model.to(device)
        return policy
    config = meta_policy(name, num_keyframes).config
    backbone = BACKBONES[backbone_name(config.model_type)]
    side = config.vision_config.patch_size
    size = TinySize(
        frame_px=448, patch_px=side[0] if isinstance(side, list | tuple) else side,
        patches_merged=2, num_keyframes=num_keyframes, num_motion_frames=16 * num_keyframes,
    )  # fmt: skip
    small, processor = backbone.tiny(size, ())
    for real, given in ((config, small), (config.get_text_config(), small.get_text_config())):
        for key, value in given.to_dict().items():
            if key.endswith("_token_id"):
                setattr(real, key, value)
    if num_layers is not None:
        text, vision = config.get_text_config(), config.vision_config
        text.num_hidden_layers, text.layer_types = num_layers, text.layer_types[:num_layers]
        depth = "depth" if hasattr(vision, "depth") else "num_hidden_layers"
        setattr(vision, depth, num_layers)
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = backbone.model(config)
    finally:
        torch.set_default_dtype(kept)
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.forbid_placeholders()
    return Policy(model=model, processor=processor, inputs=backbone.inputs(processor, config))
