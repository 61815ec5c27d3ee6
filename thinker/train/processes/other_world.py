"""Going on from a checkpoint that another number of processes wrote.

An update keeps its rows, and they their order; how they are divided into processes and
micro-batches may change. What a process saved of its own is made of what all of the others saved:
sums are averaged, rollouts at hand divided anew (`progress_of_other_world` of the trainer), and
random streams follow from seed, step and process.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from thinker.train.checkpoint import CheckpointError, logger
from thinker.train.state_file import load_tree


def process_files(checkpoint: Path) -> list[Path]:
    """What each of the processes that wrote a checkpoint saved of its own."""
    return sorted(checkpoint.glob("process_*.safetensors"))


def rows_of_update(args: TrainingArguments, num_processes: int) -> dict[str, int]:
    """Of what an update consists; the product is the number of its rows."""
    return {
        "rows": args.per_device_train_batch_size,
        "micro_batches": args.gradient_accumulation_steps,
        "processes": num_processes,
    }


def check_processes(checkpoint: Path, trainer: Any) -> None:
    """Raises CheckpointError where the processes of this run cannot go on from a checkpoint."""
    written, now = process_files(checkpoint), trainer.accelerator.num_processes
    if len(written) == now:
        return
    try:
        _check_division(load_tree(written[0]).get("batch"), trainer)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint} was written by {len(written)} processes, this run has {now}, and {error}"
        ) from error
    logger.warning(
        "%s was written by %d processes, %d go on: the same batches, the rollouts at hand divided "
        "anew, new random streams",
        checkpoint,
        len(written),
        now,
    )


def _check_division(before: Mapping[str, int] | None, trainer: Any) -> None:
    if trainer.is_deepspeed_enabled:
        raise ValueError("DeepSpeed divides its optimizer among them; resume with as many")
    if before is None:
        raise ValueError("an older version wrote it; resume with as many")
    now = rows_of_update(trainer.args, trainer.accelerator.num_processes)
    if math.prod(before.values()) != math.prod(now.values()):
        raise ValueError(
            f"an update has {_said(now)} now and had {_said(before)}; choose "
            "per_device_train_batch_size and gradient_accumulation_steps for as many"
        )
    trainer.check_other_world(before)


def _said(batch: Mapping[str, int]) -> str:
    """Example: `4 rows x 2 micro_batches x 2 processes = 16 rows`."""
    product = math.prod(batch.values())
    return " x ".join(f"{number} {name}" for name, number in batch.items()) + f" = {product} rows"


def state_here(checkpoint: Path, trainer: Any) -> dict[str, Any]:
    """What this process would have saved, of what others did."""
    states = [load_tree(path) for path in process_files(checkpoint)]
    mean_loss = torch.stack([state["loss_sum"].cpu() for state in states]).mean(dim=0)
    progress = trainer.progress_of_other_world([state["progress"] for state in states])
    return states[0] | {"loss_sum": mean_loss, "progress": progress}
