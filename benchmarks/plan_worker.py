"""GRPO steps that `plan.py` measures, in one process or several. Not to be called by hand.

In: a JSON file with settings, started alone or by torchrun. Every setting trains a small InternVL3
policy from random weights for some steps: real files are decoded, clips encoded, completions drawn
by transformers to given lengths, rewards gathered, a packed forward and backward pass made, AdamW
stepped. Out: for each setting the seconds of each step, and its counters, of process 0.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import TrainerCallback
from trl import GRPOConfig

from thinker.data.demo.render import encode
from thinker.data.examples import Example
from thinker.policies import Policy, TinySize, tiny_policy
from thinker.rollout.hf import HfRollout
from thinker.train.grpo.rewards import WeightedReward
from thinker.train.grpo.trainer import ThinkerTrainer
from thinker.video.cache import ClipReader
from thinker.video.medium import medium

FRAMES = 4
FILES = 8
"""At least as many as all processes show in a step, so that no clip of a batch is another's."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run. lengths: (steps, processes) tokens of all completions of a process in a step."""

    videos: int
    group: int
    lengths: list[list[int]]


def benchmark_policy() -> Policy:
    """Some 5 M parameters: wide enough that a step is work, not Python."""
    size = TinySize(
        width=256, layers=4, heads=4, vision_width=128, vision_layers=4, frame_px=112, patch_px=14,
        patches_merged=2, num_keyframes=FRAMES, num_motion_frames=4 * FRAMES, motion_px=48,
    )  # fmt: skip
    torch.manual_seed(0)
    return tiny_policy("internvl3", size=size)


class GivenLengths(HfRollout):
    """Draws completions of the length that is given for a step: its end token cannot be drawn."""

    def __init__(self, policy: Policy, lengths: list[int]):
        never = policy.model.config.image_token_id
        super().__init__(policy.model, policy.tokenizer.pad_token_id, [never])
        self.lengths = iter(lengths)

    def generate(self, requests, num_generations, sampling, seed):
        given = replace(sampling, max_new_tokens=next(self.lengths))
        return super().generate(requests, num_generations, given, seed)


class AnyReward:
    """A number from 0 to 1 that follows from the text, so that every group has a gradient."""

    name, needs_perturbed, tasks = "any", False, ("score",)

    def __call__(self, completions, sample_id, target, **columns):
        digests = (hashlib.blake2b(text.encode(), digest_size=4) for text in completions)
        return [int.from_bytes(digest.digest(), "big") / 2**32 for digest in digests]


class Clock(TrainerCallback):
    """Seconds from the end of a step to the end of the next."""

    def __init__(self):
        self.ends = [time.perf_counter()]

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def write_videos(folder: Path) -> list[Example]:
    """H.264 files of 40 frames of 160 x 120, in turns for so many examples that no epoch ends: the
    loader reads one batch ahead, and none at the end of an epoch."""
    paths = []
    for i in range(FILES):
        draw = np.random.default_rng(i)
        scene = draw.integers(0, 256, (120, 200, 3), dtype=np.uint8)
        frames = [np.ascontiguousarray(scene[:, t : t + 160]) for t in range(40)]
        paths.append(folder / f"{i}.mp4")
        encode(frames, paths[-1], fps=30, qp=20)
    return [
        Example(
            id=str(i),
            dataset="b",
            media=(medium(paths[i % FILES]),),
            mos=3.0,
            target=3.0,
            content=str(i),
        )
        for i in range(100 * FILES)
    ]


def run(setting: Setting, examples: list[Example], folder: Path) -> dict[str, Any]:
    """One training run."""
    state = PartialState()
    policy, clock = benchmark_policy(), Clock()
    policy.save(folder / "start")
    policy.model.config._name_or_path = str(folder / "start")
    given = [row[state.process_index] for row in setting.lengths]
    args = GRPOConfig(
        output_dir=str(folder / "run"),
        num_generations=setting.group,
        per_device_train_batch_size=setting.videos * setting.group,
        max_completion_length=max(map(max, setting.lengths)),
        max_steps=len(setting.lengths),
        learning_rate=1e-5,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        disable_tqdm=True,
        shuffle_dataset=False,
        ddp_backend="gloo" if state.num_processes > 1 else None,
    )
    trainer = ThinkerTrainer(
        policy=policy,
        args=args,
        rewards=[WeightedReward(reward=AnyReward())],
        samples=examples,
        read_clip=ClipReader(policy.inputs.clip_spec),
        rollout=lambda model: GivenLengths(replace(policy, model=model), given),
        callbacks=[clock],
    )
    trainer.train()
    wrapped = trainer.model_wrapped
    is_ddp = isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
    return {
        "seconds": np.diff(clock.ends).tolist(),
        "counters": [row for row in trainer.state.log_history if "seconds/train" in row],
        "ddp_bytes": wrapped._get_ddp_logging_data()["total_parameter_size_bytes"] if is_ddp else 0,
    }


def all_reduce_seconds(size: int) -> float:
    """Median of ten sums of so many bytes over all processes."""
    values, taken = torch.zeros(size // 4), []
    for _ in range(12):
        torch.distributed.barrier()
        began = time.perf_counter()
        torch.distributed.all_reduce(values)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def wait_for_others(folder: Path, name: str, number: int) -> None:
    """Of independent processes: go on when `number` of them are here."""
    (folder / name).touch()
    while len(list(folder.glob("ready-*"))) < number:
        time.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="JSON: settings, result, and for a pair its folder")
    job = json.loads(parser.parse_args().job.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    found: dict[str, Any] = {"runs": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        examples = write_videos(folder)
        if "meet" in job:
            wait_for_others(Path(job["meet"]), f"ready-{job['number']}", job["of"])
        for setting, values in job["settings"].items():
            place = folder / setting
            place.mkdir()
            found["runs"][setting] = run(Setting(**values), examples, place)
    if state.num_processes > 1:
        size = max(one["ddp_bytes"] for one in found["runs"].values())
        found["all_reduce_seconds"] = all_reduce_seconds(size)
    if state.is_main_process:
        Path(job["result"]).write_text(json.dumps(found), encoding="utf-8")
    state.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
