"""A supervised step of one or two processes, on records of which only some show a video, run by
tests/train/test_distributed.py."""

import sys
from pathlib import Path

from accelerate import PartialState
from transformers import TrainingArguments

from tests.helpers.policy_factory import random_clip
from tests.helpers.sharding import fsdp_over_gloo
from thinker.data.examples import Example
from thinker.data.mixture import Source
from thinker.policies import load_policy
from thinker.prompts import ask
from thinker.train.processes.world import is_sharding_asked
from thinker.train.sft.trainer import SupervisedTrainer
from thinker.video.medium import medium

BATCH = 2
"""Records of a process and forward."""


def main(folder: Path, num_processes: int) -> None:
    """Batches of two sources in turns: the first is about videos, the second shows none, so that
    one of two processes has no video in its forward."""
    fsdp_over_gloo()
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
            use_cpu=not is_sharding_asked(),
            ddp_backend="gloo" if num_processes > 1 else None,
            report_to=[],
            save_strategy="no",
        ),
        sources=[about_videos, about_nothing],
        read_clip=lambda wanted: random_clip(policy, int(wanted.path.stem)),
    )
    trainer.train()
    trained = trainer.trained_policy(policy)
    if trainer.accelerator.is_main_process:
        trained.save(folder / "final")
    PartialState().destroy_process_group()


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


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
