"""What the forked children of the fault tests do; see zygote.py."""

import os
import signal
from functools import partial
from pathlib import Path

import test_trainer
import torch
from policy_factory import small_policy
from safetensors.torch import save_file

from thinker import pipeline
from thinker.pipeline import MetricsFile
from thinker.synthetic import SyntheticConfig, generate_demo_set
from thinker.trainer import ThinkerTrainer, WeightedReward

GROUP = 2


class Lengths:
    """A reward that varies between any two completions, so that a random policy has a gradient."""

    name = "lengths"
    needs_perturbed = False

    def __call__(self, completions, sample_id, mos, **columns):
        return [sum(text.encode()) % 97 / 97 for text in completions]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt:
    """Counts moments of a run and kills the process at one of them, without a word."""

    def __init__(self, moment: int | None, rank: int = 0):
        mine = int(os.environ.get("RANK", "0")) == rank
        self.moment = moment if mine else None
        self.seen = 0

    def __call__(self) -> None:
        self.seen += 1
        if self.seen == self.moment:
            die()

    def around(self, trainer: ThinkerTrainer, *methods: str) -> None:
        """A moment before and one after each call of the methods."""
        for name in methods:
            setattr(trainer, name, partial(self._around, getattr(trainer, name)))

    def _around(self, method, *args, **kwargs):
        self()
        result = method(*args, **kwargs)
        self()
        return result


def build(folder: str, *, rewards=None, rollout=None, **grpo):
    """A trainer of 4 videos, its journals in `folder/run`; `folder/start` must hold a policy."""
    values = {
        "per_device_train_batch_size": GROUP,  # one group: G rollouts are more than one micro-batch
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
        "num_iterations": 2,
        "max_steps": 7,
        "shuffle_dataset": True,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "learning_rate": 3e-3,
        **grpo,
    }
    reward_list = rewards or [WeightedReward(reward=Lengths()), *test_trainer.rewards("ranking")]
    trainer = test_trainer.make_trainer(
        Path(folder), reward_list=reward_list, rollout=rollout, save_start=False, **values
    )
    trainer.add_callback(MetricsFile(Path(trainer.args.output_dir) / "metrics.jsonl"))
    return trainer


def save_start(folder: str, backbone: str = "internvl3") -> None:
    small_policy(backbone, amplify=1.0).save(Path(folder) / "start")


def save_weights(trainer: ThinkerTrainer, path: Path) -> None:
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        tensors = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, path)


def train(folder: str, kill_at: int | None = None, rank: int = 0, **grpo) -> None:
    """Train, resuming if there is a checkpoint; `weights.safetensors` at the end."""
    trainer = build(folder, **grpo)
    kill = KillAt(kill_at, rank)
    kill.around(
        trainer, "_generate_single_turn", "_write_rollouts", "_compute_loss", "_get_grad_norm",
        "_save_checkpoint",
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=True)
    save_weights(trainer, Path(folder) / "weights.safetensors")
    if int(os.environ.get("RANK", "0")) == 0:
        (Path(folder) / "moments").write_text(str(kill.seen))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


STAGES = ("start_policy", "warm_start", "folder_once", "json_once", "train_grpo", "held_out")


def demo_set(folder: str) -> None:
    """A few generated videos."""
    config = SyntheticConfig(num_train_contents=4, num_eval_contents=2, clips_per_content=2)
    generate_demo_set(Path(folder), config, num_workers=1)


def pipeline_run(demo: str, output: str, kill_at: int | None = None, overrides=()) -> int:
    """`run_training` of the smoke configuration; kills itself before or after a stage's work.

    Appends the names of the stages it went into to `stages.txt`.
    """
    from test_pipeline import run_config

    kill = KillAt(kill_at)

    def watched(name, method, *args, **kwargs):
        with open(Path(output).parent / "stages.txt", "a") as file:
            file.write(name + "\n")
        kill()
        result = method(*args, **kwargs)
        kill()
        return result

    for name in STAGES:
        setattr(pipeline, name, partial(watched, name, getattr(pipeline, name)))
    values = (
        "grpo.max_steps=3", "grpo.save_strategy=steps", "grpo.save_steps=1",
        "grpo.entropy_coef=0.1", "grpo.report_to=[]", "warm_start.trainer.max_steps=2",
    )  # fmt: skip
    try:
        pipeline.run_training(run_config(Path(demo), output, *values, *overrides))
        return 0
    except ValueError as error:
        print("error:", error)
        return 2
