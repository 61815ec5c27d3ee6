"""Steps of GRPO on one or two processes, however the weights are sharded, run by
tests/train/test_sharding.py and run_scripts/test_distributed.py.

Training learns from given rollouts, so that one and two processes learn the same. The back end
generates beside them, greedily, and what it wrote is kept.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from tests.helpers.policy_factory import random_clip
from tests.helpers.sharding import fsdp_over_gloo
from tests.helpers.trainer_runs import (
    GROUP,
    NUM_VIDEOS,
    ScriptedByPlace,
    answer,
    make_trainer,
    rewards,
)
from thinker.config.run import RolloutSettings
from thinker.policies import load_policy
from thinker.policies.encode import encode_prompts
from thinker.policies.inputs import Prompt
from thinker.rollout.base import Sampling
from thinker.rollout.build import build_rollout
from thinker.train.processes.world import is_sharding_asked

GREEDY = Sampling(max_new_tokens=8, temperature=0)
CHECKPOINTING = {"reentrant": True, "not-reentrant": False}


class Beside(ScriptedByPlace):
    """Given completions, by the place of a video in the global batch, with a real back end beside
    them that writes, too."""

    def __init__(self, real, tokenizer, process: int):
        # All answers about the first video are the same, so that its group adds no gradient.
        super().__init__(tokenizer, lambda i, j: answer(1.0 + 0.9 * i + 0.3 * j * (i > 0)), None)
        self.real, self.process = real, process
        self.written: list[tuple[int, list[int]]] = []  # number of the video, tokens

    def sync(self, step):
        return self.real.sync(step)

    def generate(self, requests, num_generations, sampling, seed):
        first = self.process * len(requests)
        answers = self.real.generate(requests, 1, GREEDY, seed)
        self.written += [(first + i, rows[0].token_ids) for i, rows in enumerate(answers)]
        return super().generate(requests, num_generations, sampling, seed)

    def close(self):
        self.real.close()


def train(folder: Path, settings: dict[str, Any]) -> None:
    """settings: see `run_sharded` (tests/helpers/sharding.py)."""
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    fsdp_over_gloo()
    quantization = settings.get("quantization")
    policy = load_policy(folder / "start", quantization=quantization)
    backends: list[Beside] = []

    def rollout(model):
        real = build_rollout(
            RolloutSettings(backend=settings["backend"]),
            replace(policy, model=model),
            max_new_tokens=GREEDY.max_new_tokens,
        )
        backends.append(Beside(real, policy.tokenizer, int(os.environ.get("RANK", "0"))))
        return backends[-1]

    trainer = make_trainer(
        folder,
        reward_list=rewards("regression", "ranking"),
        rollout=rollout,
        lora=settings["lora"],
        quantization=quantization,
        save_start=False,
        per_device_train_batch_size=NUM_VIDEOS * GROUP // num_processes,
        loss_type="grpo",
        optim="adamw_torch" if "steps" in settings else "sgd",
        adam_epsilon=1e-2,  # a small one makes whole steps of rounding errors
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        learning_rate=1e-2,
        max_steps=settings.get("steps", 3),
        save_strategy="steps" if "steps" in settings else "no",
        save_steps=1,
        beta=settings["beta"],
        num_iterations=settings["iterations"],
        gradient_checkpointing=settings["checkpointing"] in CHECKPOINTING,
        gradient_checkpointing_kwargs={
            "use_reentrant": CHECKPOINTING.get(settings["checkpointing"], False)
        },
        eval_strategy="steps" if settings["evaluate"] else "no",
        eval_steps=1,
        use_cpu=not is_sharding_asked(),
        ddp_backend="gloo" if num_processes > 1 else None,
    )
    figures = []
    trainer._evaluate_policy = lambda policy, backend: figures.append(greedy(policy, backend)) or {}
    trainer.train(resume_from_checkpoint=True)
    trained = trainer.trained_policy(policy)
    if trainer.accelerator.is_main_process:
        trained.save(folder / "final")
    written = gather_object(backends[0].written)
    if trainer.accelerator.is_main_process:
        record = {"written": sorted(written), "evaluated": figures}
        record["way"] = trainer.accelerator.distributed_type.value
        record["num_processes"] = trainer.accelerator.num_processes
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    backends[0].close()
    PartialState().destroy_process_group()


def greedy(policy, backend) -> list[list[int]]:
    """What the policy that is trained writes of held-out clips."""
    prompts = [Prompt(turns=(), clips=(random_clip(policy, seed),)) for seed in (90, 91)]
    answers = backend.real.generate(encode_prompts(policy, prompts), 1, GREEDY, 0)
    return [rows[0].token_ids for rows in answers]


if __name__ == "__main__":
    train(Path(sys.argv[1]), json.loads(sys.argv[2]))
