"""Shared-prompt log-probabilities at real size on a GPU: forward and backward, against plain rows.

    python benchmarks/gpu_step.py --output benchmarks/gpu_step.json
    python benchmarks/gpu_step.py --device cpu --models tiny-qwen2_5_vl --prompts 200

Language models in the shapes of InternVL3-8B and Qwen2.5-VL-7B, random bfloat16 weights, text in
the place of video tokens, gradient checkpointing on both sides. A row holds the milliseconds
(median), the peak memory, the largest difference of log-probabilities from the plain way (one row a
completion), and how far the time is above the floor: the FLOPs of `thinker.policies.cost` at the
rate that a large matrix product reaches on the same device. A side that does not fit is recorded as
such. Made for ten minutes on one GPU of 80 GB or more; on a CPU it only shows that it runs.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from thinker.policies import BACKBONES, backbone_name, tiny_policy
from thinker.policies.cost import language_flops, meta_policy
from thinker.policies.shared_prompt import enable_shared_prompt, pack_groups
from thinker.train.counters import LogprobTokens

MODELS = ("InternVL3-8B", "Qwen2.5-VL-7B")
TINY = "tiny-"  # before the name of a backbone: the demo's size
GEMM_SIDE, COPY_BYTES = 8192, 2**31


@dataclass(frozen=True, kw_only=True)
class Group:
    """One prompt (1, P) and its completions (G, C)."""

    prompt: torch.Tensor
    completions: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        prompts = self.prompt.expand(len(self.completions), -1)
        return torch.cat([prompts, self.completions], dim=1)


def build_model(name: str, device: torch.device):
    """Random weights in the shapes of a public policy, or a tiny one."""
    if name.startswith(TINY):
        model = tiny_policy(name.removeprefix(TINY)).model.to(device)
    else:
        config = meta_policy(name, num_keyframes=6).config
        backbone = BACKBONES[backbone_name(config.model_type)]
        torch.set_default_dtype(torch.bfloat16)
        with device:
            model = backbone.model(config)
        torch.set_default_dtype(torch.float32)
    enable_shared_prompt(model)  # plain rows pass through to PyTorch's own attention
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def positions_of(model, length: int, device: torch.device) -> torch.Tensor:
    """Text positions, in three equal rows where the model rotates by three."""
    positions = torch.arange(length, device=device).unsqueeze(0)
    three = "mrope_section" in (model.config.get_text_config().rope_parameters or {})
    return positions.expand(3, 1, -1) if three else positions


def logprobs_plain(model, group: Group) -> torch.Tensor:
    length = group.completions.shape[1]
    labels = group.rows.clone()
    labels[:, :-length] = -100
    mask = torch.ones_like(labels)
    output = model(group.rows, attention_mask=mask, labels=labels, fused_lm_head=True)
    return output.log_probs[:, -length:]


def logprobs_shared(model, group: Group) -> torch.Tensor:
    num_prompt, device = group.prompt.shape[1], group.prompt.device
    packed = pack_groups(
        group.prompt,
        torch.ones_like(group.prompt),
        group.completions,
        torch.ones_like(group.completions),
        positions_of(model, num_prompt, device),
        torch.tensor([num_prompt], device=device),
    )
    output = model(**packed.inputs(), fused_lm_head=True)
    return output.log_probs.view(len(group.completions), -1)


SIDES: dict[str, Callable[[Any, Group], torch.Tensor]] = {
    "shared": logprobs_shared,
    "plain": logprobs_plain,
}


def wait(device: torch.device) -> None:
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


def ceilings(device: torch.device, repeats: int) -> dict[str, float]:
    """What the device reaches: FLOP/s of a matrix product, bytes/s of a copy (read and write)."""
    side = GEMM_SIDE if device.type == "cuda" else GEMM_SIDE // 8
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    block = torch.empty(
        COPY_BYTES if device.type == "cuda" else 2**26, device=device, dtype=torch.uint8
    )
    gemm = statistics.median(seconds_of(lambda: matrix @ matrix, device, repeats))
    copy = statistics.median(seconds_of(block.clone, device, repeats))
    return {"gemm_flops": 2 * side**3 / gemm, "copy_bytes": 2 * block.nbytes / copy}


def measure_side(model, name: str, group: Group, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak bytes of forward and backward."""

    def step() -> None:
        SIDES[name](model, group).mean().backward()
        model.zero_grad(set_to_none=True)

    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(args.device)
    taken = seconds_of(step, args.device, args.repeats)
    measured = {"milliseconds": 1e3 * statistics.median(taken), "slowest": 1e3 * max(taken)}
    if args.device.type == "cuda":
        measured["peak_gb"] = torch.cuda.max_memory_allocated(args.device) / 1e9
    return measured


def measure(model, num_prompt: int, num_group: int, args: argparse.Namespace, rate: float) -> dict:
    draw = torch.Generator().manual_seed(0)
    shape = (num_group, args.completion)
    group = Group(
        prompt=torch.randint(20, 250, (1, num_prompt), generator=draw).to(args.device),
        completions=torch.randint(20, 250, shape, generator=draw).to(args.device),
    )
    masks = torch.ones_like(group.prompt), torch.ones_like(group.completions)
    tokens = LogprobTokens.shared(*masks, num_group)
    # forward, its recomputation under checkpointing, and twice that much backward
    floor = 4 * language_flops(model, tokens.positions, tokens.pairs, tokens.head) / rate
    row: dict[str, Any] = {"prompt": num_prompt, "completion": args.completion, "group": num_group}
    logps = {}
    for name, logprobs in SIDES.items():
        try:
            with torch.no_grad():
                logps[name] = logprobs(model, group).float()
            row[name] = measure_side(model, name, group, args)
        except torch.OutOfMemoryError:
            row[name] = "out of memory"
        model.zero_grad(set_to_none=True)
    if len(logps) == 2:
        row["max_logp_difference"] = float((logps["shared"] - logps["plain"]).abs().max())
    if isinstance(row["shared"], dict):
        row["above_floor"] = row["shared"]["milliseconds"] / 1e3 / floor
    if all(isinstance(row[name], dict) for name in SIDES):
        row["speedup"] = row["plain"]["milliseconds"] / row["shared"]["milliseconds"]
    return row


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(MODELS),
        choices=[*MODELS, *(TINY + name for name in BACKBONES)],
    )
    parser.add_argument("--prompts", nargs="+", type=int, default=[1700, 5000])
    parser.add_argument("--groups", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--completion", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    reached = ceilings(args.device, args.repeats)
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else platform.machine()
    packages = {name: version(name) for name in ("torch", "transformers", "trl")}
    record: dict[str, Any] = {"device": device, "versions": packages, "ceilings": reached}
    record["rows"] = []
    for name in args.models:
        model = build_model(name, args.device)
        for num_prompt in args.prompts:
            for num_group in args.groups:
                row = measure(model, num_prompt, num_group, args, reached["gemm_flops"])
                record["rows"].append({"model": name} | row)
                print(json.dumps(record["rows"][-1]), flush=True)
        del model
    if args.output is not None:
        args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
