"""One training step of a scripted batch; run by test_distributed.py under one or two processes."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.helpers.trainer_runs import GROUP, NUM_VIDEOS, Scripted, answer, make_trainer
from thinker.policies import load_policy


class ScriptedByClip(Scripted):
    """Completions that follow from the video, not from its place in a process's batch."""

    def generate(self, requests, num_generations, sampling, seed):
        rank = int(torch.distributed.get_rank()) if torch.distributed.is_initialized() else 0
        offset = rank * len(requests)
        return [
            [self._completion((offset + i) % NUM_VIDEOS, j) for j in range(num_generations)]
            for i in range(len(requests))
        ]


def main(folder: Path, num_processes: int) -> None:
    policy = load_policy(folder / "start")
    rollout = ScriptedByClip(policy.tokenizer, lambda i, j: answer(1 + 0.9 * i + 0.3 * j), None)
    from rewards import build_reward
    from thinker.train.grpo.rewards import WeightedReward

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
    if trainer.accelerator.is_main_process:
        weights = {k: v.detach().contiguous() for k, v in trainer.core.named_parameters()}
        save_file(weights, folder / "after.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
