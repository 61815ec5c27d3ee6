"""Rollout throughput: transformers against colocated vLLM, side by side in one run.

    python benchmarks/rollout.py --sizes tiny 50m --groups 4 8 16 --output benchmarks/rollout.json

Both back ends have the same policy, the same encoded prompts and the same number of tokens (no end
token stops them). Their runs alternate, and medians are taken. An equality gate comes first: the
greedy answers of both must be the same. The record holds the machine, the versions, the commit and
the load average, because a shared machine makes noise.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from thinker.config.run import RolloutSettings
from thinker.policies import Policy, TinySize, tiny_policy
from thinker.policies.encode import EncodedPrompt
from thinker.rollout.base import Rollout, Sampling
from thinker.rollout.hf import HfRollout
from thinker.rollout.vllm.colocate import ColocatedEngine
from thinker.rollout.vllm.engine import check_installed
from thinker.rollout.vllm.rollout import VllmRollout

SIZES = {
    "tiny": TinySize(),
    # 12 layers of width 512: about 50 M parameters in the language model
    "50m": TinySize(width=512, layers=12, heads=8, vision_width=128, frame_px=160),
}
Timings = dict[str, list[tuple[float, float]]]
PACKAGES = ("torch", "transformers", "vllm")


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--groups", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    check_installed()
    record = machine() | {"arguments": vars(args) | {"output": str(args.output)}, "rows": []}
    for size in args.sizes:
        record["rows"] += measure_size(size, args)
        record["load_average_after"] = os.getloadavg()
        args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print_table(record["rows"])


def measure_size(size: str, args: argparse.Namespace) -> list[dict]:
    """All group sizes of one policy size."""
    policy = tiny_policy("internvl3", size=SIZES[size])
    policy.model.eval()
    requests = synthetic_prompts(policy, args.videos)
    hf = HfRollout(policy.model, policy.tokenizer.pad_token_id, [])
    vllm, start = start_vllm(policy, args.tokens)
    check_equal(hf, vllm, requests)
    rows = []
    for group in args.groups:
        seconds = alternate({"hf": hf, "vllm": vllm}, requests, group, args)
        rows.append(summary(size, group, seconds, args) | start)
        print(json.dumps(rows[-1]), flush=True)
    vllm.close()
    return rows


def synthetic_prompts(policy: Policy, count: int) -> list[EncodedPrompt]:
    """Prompts of full size with random embeddings: encoding is not what is measured."""
    ids = policy.inputs.longest_prompt_ids()
    num_media = ids.count(policy.model.config.image_token_id)
    width = policy.model.config.get_text_config().hidden_size
    draw = torch.Generator().manual_seed(0)
    return [
        EncodedPrompt(
            token_ids=ids,
            embeds=torch.randn(num_media, width, generator=draw),
            positions=torch.arange(len(ids)),
            next_position=len(ids),
        )
        for _ in range(count)
    ]


def start_vllm(policy: Policy, tokens: int) -> tuple[VllmRollout, dict]:
    """The engine with the policy's weights, and what that cost."""
    memory = resident_mib()
    began = time.perf_counter()
    length = policy.inputs.max_prompt_tokens() + tokens
    engine = ColocatedEngine(policy, RolloutSettings(backend="vllm"), max_model_len=length)
    seconds = time.perf_counter() - began
    rollout = VllmRollout(policy, engine, eos=[])
    first = rollout.sync(step=0)
    syncs = [rollout.sync(step=step)["sync_seconds"] for step in (1, 2, 3)]
    return rollout, {
        "engine_start_seconds": round(seconds, 2),
        "sync_seconds": round(statistics.median(syncs), 4),
        "probe_logp_difference": first["probe_logp_difference"],
        "engine_memory_mib": round(resident_mib() - memory),
    }


def check_equal(hf: Rollout, vllm: Rollout, requests: list[EncodedPrompt]) -> None:
    """The gate: the first greedy tokens of every prompt are the same."""
    greedy = Sampling(max_new_tokens=8, temperature=0.0)
    answers = [r.generate(requests, 1, greedy, seed=0) for r in (hf, vllm)]
    ids = [[group[0].token_ids for group in answer] for answer in answers]
    if ids[0] != ids[1]:
        sys.exit(f"greedy answers differ: {ids[0]} and {ids[1]}")


def alternate(rollouts: dict[str, Rollout], requests, group: int, args) -> Timings:
    """Seconds of every run, by the clock and of CPU; back ends alternate, the first run of each
    warms up."""
    sampling = Sampling(max_new_tokens=args.tokens)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in rollouts}
    for repeat in range(args.repeats + 1):
        for name, rollout in rollouts.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            groups = rollout.generate(requests, group, sampling, seed=repeat)
            took = time.perf_counter() - began, time.process_time() - cpu_began
            assert all(len(c.token_ids) == args.tokens for row in groups for c in row)
            if repeat:
                seconds[name].append(took)
    return seconds


def summary(size: str, group: int, seconds: Timings, args) -> dict:
    """One row of the record."""
    completions = args.videos * group
    row: dict = {"size": size, "group": group}
    for name, runs in seconds.items():
        clock, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        row[name] = {
            "seconds": [round(run, 3) for run, _ in runs],
            "cpu_seconds": [round(run, 3) for _, run in runs],
            "completions_per_second": round(completions / clock, 2),
            "tokens_per_second": round(completions * args.tokens / clock, 1),
            "tokens_per_cpu_second": round(completions * args.tokens / cpu, 1),
        }
    for key in ("tokens_per_second", "tokens_per_cpu_second"):
        row[f"vllm_over_hf_{key}"] = round(row["vllm"][key] / row["hf"][key], 3)
    return row


def machine() -> dict:
    """Where and with what it ran."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "commit": commit,
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "load_average_before": os.getloadavg(),
        "nice": os.nice(0),
    }


def resident_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_table(rows: list[dict]) -> None:
    """The table of benchmarks/README.md."""
    heads = ["size", "G"]
    heads += [f"{name} tokens/{unit}" for unit in ("s", "CPU s") for name in ("hf", "vLLM")]
    heads += ["vLLM / hf, clock", "vLLM / hf, CPU", "start s", "sync s", "memory MiB"]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    units = ("tokens_per_second", "tokens_per_cpu_second")
    for row in rows:
        cells = [row["size"], row["group"]]
        cells += [row[name][unit] for unit in units for name in ("hf", "vllm")]
        cells += [row[f"vllm_over_hf_{unit}"] for unit in units]
        cells += [row["engine_start_seconds"], row["sync_seconds"], row["engine_memory_mib"]]
        print("| " + " | ".join(str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    main()
