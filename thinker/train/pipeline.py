"""A whole training run: configuration in, `OUTPUT_DIR` out.

Flow: labels (run_data.py) → the policy to start from, in `start/` (start.py) → every medium read
once → the stages in turn (sft/run.py, grpo/run.py), each followed by held-out figures (held_out.py)
→ `summary.json` (summary.py), `curves.png`.

A stage starts from the folder that the one before left and leaves one itself: `final/` the last,
`<name>/` the others. What it writes as it goes (`metrics.jsonl`, `rollouts.jsonl`, checkpoints)
lies in the output folder for the last, in `work/<name>/` for the others. Every result appears when
it is complete (run_folder.py), so the same command continues where a killed run stopped.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments, set_seed

from thinker.config.run import GrpoStage, RunConfig, SftStage
from thinker.policies import Policy
from thinker.rollout.hf import hf_rollout
from thinker.train.grpo.rewards import WeightedReward
from thinker.train.grpo.run import check_grpo, checked_rewards, grpo_args, train_grpo
from thinker.train.held_out import HeldOutFigures, held_out
from thinker.train.plots import plot_curves, read_metrics
from thinker.train.processes.heartbeat import watched_processes
from thinker.train.processes.sharded import loaded_whole
from thinker.train.processes.world import check_agreement, check_world
from thinker.train.run_data import Labels, RunData, check_media, held_out_record, read_labels
from thinker.train.run_folder import (
    SPLIT,
    flat_config,
    folder_once,
    is_complete,
    json_once,
    open_run,
)
from thinker.train.run_log import METRICS
from thinker.train.sft.run import sft_args, train_sft
from thinker.train.start import (
    calibrate_motion,
    check_lengths,
    check_quantization,
    check_start,
    load_start,
    on_gpu,
    settle_dtype,
    start_policy,
)
from thinker.train.summary import summarise_run, summary_table
from thinker.utils.atomic import write_atomic
from thinker.utils.lock import run_lock

logger = logging.getLogger(__name__)

START, FINAL, WORK, HELD_OUT = "start", "final", "work", "held_out"
STEPS = "training.json"  # in the folder of a stage: how many steps it took

Rewards = dict[str, list[WeightedReward]]
"""By stage, those of the stages that have some."""


def run_training(config: RunConfig) -> dict[str, Any]:
    """Run it all, or what is left of it; returns what `summary.json` holds. One run at a time in an
    output folder."""
    with run_lock(Path(config.output_dir)):
        return _run_training(config)


def _run_training(config: RunConfig) -> dict[str, Any]:
    began = time.perf_counter()
    config = settle_dtype(config)
    check_quantization(config)
    for number in range(len(config.stages)):  # first: they are checked, torch.distributed starts
        stage_args(config, number)
    check_world(PartialState())
    with watched_processes():
        return _run_stages(config, began)


def _run_stages(config: RunConfig, began: float) -> dict[str, Any]:
    if PartialState().is_main_process:
        device = "a GPU" if on_gpu(config) else "the CPU"
        logger.info("training on %s, weights in %s", device, config.model.dtype)
    output = Path(config.output_dir)
    # Before the folder is claimed: what cannot begin is mended and started again in it.
    labels = read_labels(config)
    check_agreement(flat_config(config), labels.examples())
    rewards = check_stages(config, labels)
    if not is_complete(output / START):
        check_start(config, labels)
    open_run(output, config)
    record_split(config, labels)
    if is_complete(output / "summary.json"):
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        print(f"{summary_table(summary)}\n{output} is complete; delete it to run again")
        return summary
    set_seed(config.seed)
    data = begin_run(config, labels)
    check_batches(config, data)  # of media that can be read there may be too few
    figures: dict[str, HeldOutFigures] = {}
    steps: dict[str, int] = {}
    for number, stage in enumerate(config.stages):
        if isinstance(stage, GrpoStage) and not figures:
            figures[START] = measure(config, output / START, START, data)
        folder = stage_folder(config, number)
        steps[stage.name] = run_stage(config, number, folder, data, rewards)
        figures[stage.name] = measure(config, folder, stage.name, data)
    metrics = read_metrics(output / METRICS) if PartialState().is_main_process else []
    summary = summarise_run(config, data, figures, steps, metrics)
    summary["seconds"] = round(time.perf_counter() - began, 1)
    if PartialState().is_main_process:
        plot_curves(metrics, summary, output / "curves.png")
        write_atomic(output / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(summary_table(summary))
    return summary


def check_stages(config: RunConfig, labels: Labels) -> Rewards:
    """Raises ValueError for what would end a stage when it begins; returns the rewards of those
    that have some."""
    check_batches(config, labels)
    return {
        stage.name: checked_rewards(stage, labels.stages[stage.name])
        for stage in config.stages
        if isinstance(stage, GrpoStage)
    }


def check_batches(config: RunConfig, labels: Labels) -> None:
    """Raises ValueError where the data of a stage does not fill a batch."""
    for number, stage in enumerate(config.stages):
        if isinstance(stage, GrpoStage):
            args = stage_args(config, number)
            check_grpo(stage, args, labels.stages[stage.name], config.seed)


def record_split(config: RunConfig, labels: Labels) -> None:
    """Write down what is held out of the training data. ValueError where a run that is continued
    held out something else: its label files have changed, and what it has trained on may be in the
    test."""
    if not config.data.held_out:
        return
    path = Path(config.output_dir) / SPLIT
    now = held_out_record(labels, config)
    if json_once(path, lambda: now) != now:
        raise ValueError(
            f"{path} holds out other examples than the label files give now; put the files back as "
            "they were, or choose another output_dir"
        )


def stage_folder(config: RunConfig, number: int) -> Path:
    """Where the result of a stage lies; -1 is the policy that the run starts from."""
    names = [START, *(stage.name for stage in config.stages[:-1]), FINAL]
    return Path(config.output_dir) / names[number + 1]


def stage_args(config: RunConfig, number: int) -> TrainingArguments:
    """The configuration of a stage's trainer."""
    stage, folder = config.stages[number], Path(config.output_dir)
    if number < len(config.stages) - 1:
        folder = folder / WORK / stage.name
    if isinstance(stage, SftStage):
        return sft_args(config, stage, folder)
    return grpo_args(config, stage, folder)


def begin_run(config: RunConfig, labels: Labels) -> RunData:
    """All data of the run; the policy that it starts from is saved in `start/`."""
    start = Path(config.output_dir) / START
    if is_complete(start):
        with loaded_whole():
            policy = load_start(start, config, {})
        return check_media(labels, config, policy.inputs.clip_spec)
    with loaded_whole():
        policy = start_policy(config, labels)
        check_lengths(policy, labels)
        data = check_media(labels, config, policy.inputs.clip_spec)
        calibrate_motion(config, policy, data)
        folder_once(start, policy.save)
    return data


def run_stage(config: RunConfig, number: int, folder: Path, data: RunData, rewards: Rewards) -> int:
    """One stage, its result saved in `folder`; the number of its steps."""
    if not is_complete(folder):
        stage, args = config.stages[number], stage_args(config, number)
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        before = stage_folder(config, number - 1)
        policy = load_start(before, config, stage.train, stage.quantization)
        trained, steps = train_stage(config, number, args, policy, data, rewards)

        def save(aside: Path) -> None:
            trained.save(aside)
            (aside / STEPS).write_text(json.dumps({"steps": steps}) + "\n", encoding="utf-8")

        folder_once(folder, save)
    return json.loads((folder / STEPS).read_text(encoding="utf-8"))["steps"]


def train_stage(
    config: RunConfig, number: int, args: Any, policy: Policy, data: RunData, rewards: Rewards
) -> tuple[Policy, int]:
    """By the trainer of its kind: the trained policy and the number of steps."""
    stage = config.stages[number]
    if isinstance(stage, SftStage):
        return train_sft(config, stage, args, policy, data)
    return train_grpo(config, stage, args, policy, data, rewards[stage.name])


def measure(config: RunConfig, folder: Path, name: str, data: RunData) -> HeldOutFigures:
    """Held-out figures of a saved policy, measured once."""

    def compute() -> HeldOutFigures:
        if not data.eval_sets:  # so a policy can be trained where it does not fit whole
            return {}
        with loaded_whole():
            policy = load_start(folder, config, {})
        policy.model.to(PartialState().device).eval()
        return held_out(policy, data, hf_rollout(policy), config)

    return json_once(Path(config.output_dir) / HELD_OUT / f"{name}.json", compute)
