"""A whole training run: configuration in, `OUTPUT_DIR` out.

Flow: policy (loaded, or tiny; start.py) → labels, and every video read once (run_data.py) → warm
start → held-out scores before (held_out.py) → GRPO (grpo/run.py) → held-out scores after →
`final/`, `summary.json` (summary.py), `curves.png`; `metrics.jsonl` and `rollouts.jsonl` are
written as it goes. Each stage leaves a result that appears
when it is complete (run_folder.py), so the same command continues where a killed run stopped.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import set_seed
from trl import GRPOConfig

from thinker.config.run import RunConfig
from thinker.policies import Policy, load_policy
from thinker.rollout.hf import hf_rollout
from thinker.train.grpo.run import grpo_args, train_grpo
from thinker.train.held_out import held_out
from thinker.train.plots import plot_curves, read_metrics
from thinker.train.run_data import RunData, load_data
from thinker.train.run_folder import folder_once, is_complete, json_once, open_run
from thinker.train.run_log import METRICS
from thinker.train.start import reload, start_policy, warm_start
from thinker.train.summary import summarise_run, summary_table
from thinker.utils.atomic import write_atomic
from thinker.utils.lock import run_lock

STEPS = "training.json"  # in `final/`: how many steps it took


def run_training(config: RunConfig) -> dict[str, Any]:
    """Run it all, or what is left of it; returns what `summary.json` holds. One run at a time in an
    output folder."""
    with run_lock(Path(config.output_dir)):
        return _run_training(config)


def _run_training(config: RunConfig) -> dict[str, Any]:
    began = time.perf_counter()
    args = grpo_args(config)  # first: it starts torch.distributed
    output = Path(config.output_dir)
    open_run(output, config)
    if is_complete(output / "summary.json"):
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        print(f"{summary_table(summary)}\n{output} is complete; delete it to run again")
        return summary
    set_seed(config.seed)
    policy, data = start_stage(config)
    before = json_once(
        output / "before.json", lambda: held_out(policy, data, hf_rollout(policy), config)
    )
    trained, steps = train_stage(config, args, policy, data)
    after = held_out(trained, data, hf_rollout(trained), config)
    summary = summarise_run(config, data, before, after) | {
        "steps": steps,
        "seconds": round(time.perf_counter() - began, 1),
    }
    if PartialState().is_main_process:
        plot_curves(read_metrics(output / METRICS), summary, output / "curves.png")
        write_atomic(output / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(summary_table(summary))
    return summary


def start_stage(config: RunConfig) -> tuple[Policy, RunData]:
    """The policy that GRPO starts from, saved in `start/` and loaded back: TRL builds the reference
    model from that folder. Training data as `load_data` gives them."""
    start = Path(config.output_dir) / "start"
    if not is_complete(start):
        policy = start_policy(config)
        data = load_data(config, policy.inputs.clip_spec)
        if config.warm_start is not None:
            warm_start(config, policy, data)
        folder_once(start, policy.save)
        return reload(start, config), data
    policy = reload(start, config)
    return policy, load_data(config, policy.inputs.clip_spec)


def train_stage(
    config: RunConfig, args: GRPOConfig, policy: Policy, data: RunData
) -> tuple[Policy, int]:
    """GRPO, saved in `final/`; the trained policy and the number of steps."""
    final = Path(config.output_dir) / "final"
    if is_complete(final):
        steps = json.loads((final / STEPS).read_text(encoding="utf-8"))["steps"]
        return load_policy(final, dtype=getattr(torch, config.model.dtype)), steps
    trained, steps = train_grpo(config, args, policy, data)

    def save(folder: Path) -> None:
        trained.save(folder)
        (folder / STEPS).write_text(json.dumps({"steps": steps}) + "\n", encoding="utf-8")

    folder_once(final, save)
    return trained, steps
