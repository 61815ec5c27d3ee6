"""Small pieces of tensor code that several rooms need."""

import os
from typing import Any

import torch


def gpu_of_process() -> str | None:
    """`cuda:N` of a process that torchrun started, which has a GPU of its own; None of another one,
    and where there is no GPU."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


def to_device(inputs: dict, device) -> dict:
    """Move the tensors of a `media_inputs` dict, which may stand in lists."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(item) for item in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return {name: moved(value) for name, value in inputs.items()}


def left_pad(rows: list[torch.Tensor], value: int | float = 0) -> torch.Tensor:
    """Stack (…, L_i) tensors along a new row axis before the last, padded on the left."""
    length = max(row.shape[-1] for row in rows)
    padded = [
        torch.nn.functional.pad(row, (length - row.shape[-1], 0), value=value) for row in rows
    ]
    return torch.stack(padded, dim=-2)


def largest_of_all_processes(value: int, device: torch.device) -> int:
    """The largest value that any process of a distributed run gave; all must call it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shared = torch.tensor([value], device=device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        value = int(shared.item())
    return value


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch's CPU allocator has no error type of its own for that."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error)
