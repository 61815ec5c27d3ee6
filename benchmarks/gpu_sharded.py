"""GRPO steps of one process in bfloat16: not sharded, by FSDP2, and by ZeRO-3.

    python benchmarks/gpu_sharded.py --output benchmarks/gpu_sharded.json
    python benchmarks/gpu_sharded.py --device cpu --model tiny-internvl3 --sides plain fsdp2

Three steps of `ThinkerTrainer` with AdamW: videos of noise are encoded, the policy writes tokens by
transformers' `generate`, and training learns from given answers with graded rewards, so that every
side learns the same. FSDP2 and ZeRO-3 are launched by accelerate with the shipped configurations
(run_scripts/configs), with one process: what this shows is that they run on a GPU in bfloat16, what
they cost where nothing is saved by them, and in what type they keep weights (FSDP2 makes float32 of
them, ZeRO-3 keeps a float32 copy, one process neither), not how they scale. ZeRO-3 shards a policy
that was built whole. A row a step and a row a side; last the sides compared with `plain`.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_common import Record, arguments, begin_peak, model_names, peak_bytes, policy_of, wait

ROOT = Path(__file__).parents[1]
SIDES = ("plain", "fsdp2", "zero3")
NUM_VIDEOS, GROUP, STEPS = 2, 4, 3


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="InternVL3-2B", choices=model_names())
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--completion", type=int, default=200, help="tokens learnt from")
    parser.add_argument("--written", type=int, default=32, help="tokens generated beside them")
    parser.add_argument("--worker", choices=SIDES, help="be one side (used by this program itself)")
    args = parser.parse_args(argv)
    if args.worker:
        train(args)
        return
    facts = {"model": args.model, "videos": NUM_VIDEOS, "group": GROUP}
    with tempfile.TemporaryDirectory() as folder:
        path = args.output or Path(folder) / "rows.json"
        Record(path, args.device, **facts, completion=args.completion)
        for side in args.sides:
            run_side(side, args, path)
        compare(Record(path, args.device, go_on=True))


# The sides, each a process of its own


def run_side(side: str, args: argparse.Namespace, path: Path) -> None:
    """Rows of one side, or why there are none."""
    if side == "zero3" and find_spec("deepspeed") is None:
        Record(path, args.device, go_on=True).add(
            sharding=side, skipped="deepspeed is not installed"
        )
        return
    command = [
        *launcher(side), str(Path(__file__)), "--worker", side, "--output", str(path),
        "--device", str(args.device), "--model", args.model,
        "--completion", str(args.completion), "--written", str(args.written),
    ]  # fmt: skip
    python = os.environ.get("PYTHON", sys.executable)  # as gpu_all.sh was given it
    ended = subprocess.run([python, *command], capture_output=True, text=True, cwd=ROOT)
    print(ended.stdout, end="", flush=True)
    if ended.returncode != 0:
        # What a launcher says of its processes hides what they said themselves.
        lines = ended.stderr.splitlines()
        said = [line for line in lines if "Error" in line and "ChildFailed" not in line]
        print("\n".join(lines[-60:]), file=sys.stderr)
        record = Record(path, args.device, go_on=True)
        record.add(sharding=side, failed=(said or lines or [f"status {ended.returncode}"])[-1])


def launcher(side: str) -> list[str]:
    """The start of a command line, behind `python`."""
    if side == "plain":
        return []
    from tests.helpers.launch import free_port

    config = ROOT / "run_scripts" / "configs" / f"{side}.yaml"
    return [
        "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "1",
        "--main_process_port", str(free_port()),
    ]  # fmt: skip


def compare(record: Record) -> None:
    """A last row: seconds and peak bytes of each side over those of `plain`, and how far the norm
    of the gradient is from its at most, as a share. (The loss of fresh answers is 0.)"""
    done = {row["sharding"]: row for row in record.rows if "median_seconds" in row}
    if "plain" not in done:
        return
    plain, compared = done["plain"], {}
    for side, row in done.items():
        pairs = zip(row["grad_norms"], plain["grad_norms"], strict=True)
        peaks = row["peak_bytes"], plain["peak_bytes"]
        compared[side] = {
            "seconds": row["median_seconds"] / plain["median_seconds"],
            "peak": None if None in peaks else peaks[0] / peaks[1],
            "grad_norm_difference": max(abs(one / other - 1) for one, other in pairs),
        }
    record.add(over_plain=compared)


# One side


def train(args: argparse.Namespace) -> None:
    """Steps of the side `args.worker`, in this process."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType
    from transformers import training_args

    from tests.helpers.trainer_runs import ClipsByNumber, rewards, samples
    from thinker.train.grpo.trainer import ThinkerTrainer
    from thinker.train.parts import freeze_others

    on_gpu = args.device.type == "cuda"
    if not on_gpu and args.worker != "plain":
        # transformers knows no bfloat16, and accelerate no FSDP, without a GPU or use_cpu; over
        # gloo they work all the same.
        training_args.is_torch_bf16_gpu_available = lambda: True
        if args.worker == "fsdp2":
            PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    record = Record(args.output, args.device, go_on=True)
    begin_peak(args.device)
    began = time.perf_counter()
    policy = policy_of(args.model, args.device)
    policy.model.to(torch.bfloat16)
    parts = [name for name in policy.model.parts() if name != "slowfast"]
    freeze_others(policy, dict.fromkeys(parts, 0.0))
    steps = Steps(record, args)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ThinkerTrainer(
            policy=policy,
            args=grpo_args(Path(folder), args),
            rewards=rewards("regression"),
            samples=samples(NUM_VIDEOS),
            read_clip=ClipsByNumber(policy),
            rollout=lambda model: given_rollout(replace(policy, model=model), args),
            rates=dict.fromkeys(parts, 1e-6),
            callbacks=[steps.callback()],
        )
        steps.began = time.perf_counter()
        trainer.train()
    way = trainer.accelerator.distributed_type.value
    steps.finish(way, str(next(trainer.core.parameters()).dtype), steps.began - began)
    PartialState().destroy_process_group()


def grpo_args(folder: Path, args: argparse.Namespace):
    """TRL's settings of three steps, one generation batch each."""
    from trl import GRPOConfig

    on_gpu = args.device.type == "cuda"
    return GRPOConfig(
        output_dir=str(folder),
        num_generations=GROUP,
        per_device_train_batch_size=NUM_VIDEOS * GROUP,
        steps_per_generation=1,
        max_completion_length=args.completion,
        max_steps=STEPS,
        learning_rate=1e-6,
        beta=0.0,
        loss_type="grpo",
        optim="adamw_torch",
        bf16=True,
        use_cpu=not on_gpu and args.worker == "plain",
        ddp_backend=None if on_gpu or args.worker == "plain" else "gloo",
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        shuffle_dataset=False,
    )


def given_rollout(policy, args: argparse.Namespace):
    """A back end that generates with the policy, and hands out given answers of graded scores."""
    from tests.helpers.trainer_runs import Scripted, answer
    from thinker.rollout.base import Completion, Sampling
    from thinker.rollout.hf import hf_rollout

    class Given(Scripted):
        def generate(self, requests, num_generations, sampling, seed):
            written = Sampling(max_new_tokens=args.written)
            real.generate(requests, num_generations, written, seed)
            return super().generate(requests, num_generations, sampling, seed)

        def _completion(self, i, j):
            ids = self.tokenizer(f"{'It is blur. ' * args.completion}{self.texts[0](i, j)}")
            return Completion(token_ids=[*ids["input_ids"][1 - args.completion :], end])

    real, end = hf_rollout(policy), policy.tokenizer.eos_token_id
    return Given(policy.tokenizer, lambda i, j: answer(1.0 + 0.9 * i + 0.3 * j), None, NUM_VIDEOS)


class Steps:
    """A row of the record a step, and one of all.

    A step is from the end of the one before to its own: reading, encoding, generation, training.
    """

    def __init__(self, record: Record, args: argparse.Namespace):
        self.record, self.args = record, args
        self.rows: list[dict[str, Any]] = []
        self.began = self.taken = 0.0

    def callback(self):
        """For the trainer."""
        from transformers import TrainerCallback

        ended: Callable[[], None] = self._ended
        logged: Callable[[int, dict[str, Any]], None] = self._logged

        class Callback(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                ended()

            def on_log(self, args, state, control, logs=None, **kwargs):
                if logs and "loss" in logs:
                    logged(state.global_step, logs)

        return Callback()

    def _ended(self) -> None:
        wait(self.args.device)
        now = time.perf_counter()
        self.taken, self.began = now - self.began, now

    def _logged(self, step: int, logs: dict[str, Any]) -> None:
        figures = {name: float(logs[name]) for name in ("loss", "grad_norm")}
        stages = {name: value for name, value in logs.items() if name.startswith("seconds/")}
        finite = all(math.isfinite(value) for value in figures.values())
        row = {"seconds": self.taken, **figures, "finite": finite, **stages}
        self.rows.append(row)
        self.record.add(sharding=self.args.worker, step=step, **row)

    def finish(self, way: str, dtype: str, build_seconds: float) -> None:
        """way: what accelerate calls it."""
        self.record.add(
            sharding=self.args.worker,
            way=way,
            weights=dtype,
            build_seconds=build_seconds,
            median_seconds=statistics.median(row["seconds"] for row in self.rows[1:]),
            grad_norms=[row["grad_norm"] for row in self.rows],
            peak_bytes=peak_bytes(self.args.device),
        )


if __name__ == "__main__":
    main()
