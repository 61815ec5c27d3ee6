"""Bytes that one process sends in a step, by the way in which weights are sharded.

The formulas are those of ring algorithms, which send as little as can be sent (NCCL's performance
notes; ZeRO, arXiv 1910.02054, section 7): n processes that sum B bytes send 2 (n - 1) / n B each,
half of it to bring every part together in one process and half to hand the sums on.
"""

from dataclasses import dataclass

SHARDINGS = ("ddp", "zero2", "zero3", "fsdp2")
"""How weights, gradients and optimizer state are divided; run_scripts/configs/ has a file for each
but the first."""


def all_gather_bytes(size: float, processes: int) -> float:
    """Sent by one of `processes` so that each holds all of a tensor of `size` bytes that they hold
    a part of each. Summing it so that each holds a part of the sum (reduce-scatter) costs the same.

    >>> all_gather_bytes(16e9, 8)
    14000000000.0
    """
    return size * (processes - 1) / processes


def all_reduce_bytes(size: float, processes: int) -> float:
    """Sent by one of `processes` so that each holds the sum of their tensors of `size` bytes.

    >>> all_reduce_bytes(16e9, 8)
    28000000000.0
    >>> all_reduce_bytes(16e9, 1)
    0.0
    """
    return 2 * all_gather_bytes(size, processes)


def push_bytes(weights: float, num_servers: int) -> float:
    """Sent by process 0 so that every vLLM server holds the language model, `weights` bytes.

    >>> push_bytes(15.2e9, 4)
    60800000000.0
    """
    return weights * num_servers


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one of the processes of a training run sends.

    Example: an 8B policy in bfloat16, all of it trained, on 8 processes. `Traffic(sharding="fsdp2",
    processes=8, weights=16e9, gradients=16e9)` sends 14 GB to gather the weights for rollouts, 14 a
    forward, 14 a backward pass, and 14 to sum the gradients; DDP sends 28 GB a step in all.
    """

    sharding: str
    """One of SHARDINGS."""
    processes: int
    """How many train together."""
    weights: float
    """Bytes of all weights."""
    gradients: float
    """Bytes of the gradients of those that are trained."""

    def __post_init__(self):
        if self.sharding not in SHARDINGS:
            raise ValueError(f"sharding is {self.sharding!r}, expected one of {SHARDINGS}")
        if self.processes < 1:
            raise ValueError(f"processes is {self.processes}, expected at least 1")

    @property
    def divides_weights(self) -> bool:
        """Whether a process holds a part of each weight only."""
        return self.sharding in ("zero3", "fsdp2")

    def gather(self) -> float:
        """To make the weights whole: once for rollouts, once a forward, once a backward pass (what
        a layer gathers for its forward is given back behind it)."""
        return all_gather_bytes(self.weights, self.processes) if self.divides_weights else 0.0

    def sum_gradients(self, backward_passes: int = 1) -> float:
        """To sum the gradients of an update of so many micro-batches. DDP and FSDP2 sum once an
        update, DeepSpeed after each backward pass."""
        if self.sharding == "ddp":
            return all_reduce_bytes(self.gradients, self.processes)
        times = 1 if self.sharding == "fsdp2" else backward_passes
        return times * all_gather_bytes(self.gradients, self.processes)

    def update(self) -> float:
        """To hand on what the optimizer made of its part of the weights: ZeRO-2, whose weights are
        whole between steps. As many bytes as the gradients have, being of the same type."""
        if self.sharding != "zero2":
            return 0.0
        return all_gather_bytes(self.gradients, self.processes)
