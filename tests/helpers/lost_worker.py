"""A training of two processes that goes on until one of them is lost, run by
tests/train/test_processes.py. Each process leaves its number in `process_N`."""

import os
import sys
from pathlib import Path

from tests.helpers.trainer_runs import GROUP, NUM_VIDEOS, make_trainer, scripted
from thinker.train.processes.heartbeat import watched_processes

DEADLINE = 6.0


def main(folder: Path) -> None:
    trainer = make_trainer(
        folder,
        rollout=scripted(),
        save_start=False,
        per_device_train_batch_size=NUM_VIDEOS * GROUP // 2,
        max_steps=10_000,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
    )
    with watched_processes(DEADLINE):
        (folder / f"process_{trainer.accelerator.process_index}").write_text(str(os.getpid()))
        trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
