"""Counts the bytes that a training process sends, as `bytes/…` of its counters.

Nothing is intercepted: bytes follow from the sizes of the weights and from which collectives the
trainer has called, by the formulas of `thinker.plan.traffic`. What each call sends beside (names of
objects, headers, barriers, figures of the log) is left out; it is some kilobytes a step.
"""

import pickle
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from thinker.plan.traffic import Traffic
from thinker.train.counters import Counters


class TrafficCounter:
    """Of one process. model: the policy as it is trained, without DDP's or DeepSpeed's wrapper."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, counters: Counters):
        self.counters = counters
        parameters = list(model.parameters())
        self.traffic = Traffic(
            sharding=sharding_of(accelerator),
            processes=accelerator.num_processes,
            weights=sum(map(parameter_bytes, parameters)),
            gradients=sum(parameter_bytes(p) for p in parameters if p.requires_grad),
        )

    def gathered(self, times: int = 1) -> None:
        """The weights were made whole: for rollouts, for a forward, for a backward pass."""
        self.counters.add("bytes/weights", times * self.traffic.gather())

    def updated(self, backward_passes: int) -> None:
        """An optimizer step was made, of the gradients of so many backward passes."""
        self.counters.add("bytes/gradients", self.traffic.sum_gradients(backward_passes))
        self.counters.add("bytes/weights", self.traffic.update())

    def pushed(self, size: float) -> None:
        """This process has sent weights to vLLM servers."""
        self.counters.add("bytes/weights", size)

    def told_all(self, values: Any) -> None:
        """Python objects of this process were gathered by all, as `gather_object` sends them."""
        others = self.traffic.processes - 1
        if others:
            self.counters.add("bytes/other", others * len(pickle.dumps(values)))


def sharding_of(accelerator: Accelerator) -> str:
    """One of SHARDINGS; DDP where there is one process, which sends nothing."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return "fsdp2"
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return "ddp"
    stage = accelerator.state.deepspeed_plugin.zero_stage
    return "zero3" if stage == 3 else "zero2"


def parameter_bytes(parameter: nn.Parameter) -> int:
    """Of the whole of it, also where this process holds a part."""
    return int(getattr(parameter, "ds_numel", parameter.numel())) * parameter.element_size()
