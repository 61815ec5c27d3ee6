"""One training step on each of one or two processes, run by test_distributed.py: GRPO of a scripted
batch, or supervised training on records of which only some show a video."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import TrainingArguments

from rewards import build_reward
from tests.helpers.policy_factory import random_clip
from tests.helpers.trainer_runs import GROUP, NUM_VIDEOS, Scripted, answer, make_trainer
from thinker.data.examples import Example
from thinker.data.mixture import Source
from thinker.policies import load_policy
from thinker.prompts import ask
from thinker.train.grpo.rewards import WeightedReward
from thinker.train.sft.trainer import SupervisedTrainer
from thinker.video.medium import medium

BATCH = 2
"""Records of a process and forward."""


class ScriptedByClip(Scripted):
    """Completions that follow from the video, not from its place in a process's batch."""

    def generate(self, requests, num_generations, sampling, seed):
        rank = int(torch.distributed.get_rank()) if torch.distributed.is_initialized() else 0
        offset = rank * len(requests)
        return [
            [self._completion((offset + i) % NUM_VIDEOS, j) for j in range(num_generations)]
            for i in range(len(requests))
        ]


def grpo(folder: Path, num_processes: int):
    policy = load_policy(folder / "start")
    rollout = ScriptedByClip(policy.tokenizer, lambda i, j: answer(1 + 0.9 * i + 0.3 * j), None)
    trainer = make_trainer(
        folder,
        reward_list=[WeightedReward(reward=build_reward(n)) for n in ("regression", "ranking")],
        rollout=rollout,
        per_device_train_batch_size=NUM_VIDEOS * GROUP // num_processes,
        loss_type="grpo",
        optim="sgd",
        max_grad_norm=0.0,
        save_start=False,
    )
    trainer.train()
    return trainer, trainer.core


def sft(folder: Path, num_processes: int):
    """Batches of two sources in turns: the first is about videos, the second shows none, so that
    one of two processes has no video in its forward."""
    policy = load_policy(folder / "start")
    about_videos = _source([f"/m/{i}.mp4" for i in range(BATCH)], "It is blur.")
    about_nothing = _source([None] * BATCH, "It is blur, and then it is blur again.")
    trainer = SupervisedTrainer(
        policy=policy,
        model=policy.model,
        args=TrainingArguments(
            output_dir=str(folder / "run"),
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=2 // num_processes,
            max_steps=1,
            learning_rate=1e-2,
            optim="sgd",
            max_grad_norm=0.0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
        ),
        sources=[about_videos, about_nothing],
        read_clip=lambda wanted: random_clip(policy, int(wanted.path.stem)),
    )
    trainer.train()
    return trainer, policy.model


def _source(paths, said) -> Source:
    return Source(
        examples=tuple(
            Example(
                id=f"{number}-{path}",
                dataset="d",
                task="open",
                media=() if path is None else (medium(path),),
                turns=ask("What is it?"),
                reference=said,
                content=str(number),
            )
            for number, path in enumerate(paths)
        )
    )


def main(kind: str, folder: Path, num_processes: int) -> None:
    trainer, core = {"grpo": grpo, "sft": sft}[kind](folder, num_processes)
    if trainer.accelerator.is_main_process:
        weights = {k: v.detach().contiguous() for k, v in core.named_parameters()}
        save_file(weights, folder / "after.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
