"""Bytes that processes send, by the formulas and as a trainer counts them."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from thinker.plan.traffic import SHARDINGS, Traffic, all_reduce_bytes
from thinker.train.counters import Counters
from thinker.train.processes.traffic import TrafficCounter


def of(sharding, processes=4):
    return Traffic(sharding=sharding, processes=processes, weights=800.0, gradients=400.0)


def test_bytes_by_sharding_by_hand():
    """Four processes: to gather 800 bytes of weights each sends 600, to divide 400 of sums 300, to
    hand them to all 600."""
    rows = {
        name: (of(name).gather(), of(name).sum_gradients(2), of(name).update())
        for name in SHARDINGS
    }
    assert rows == {
        "ddp": (0, 600, 0),
        "zero2": (0, 2 * 300, 300),
        "zero3": (600, 2 * 300, 0),
        "fsdp2": (600, 300, 0),
    }
    for name in SHARDINGS:
        alone = of(name, processes=1)
        assert alone.gather() == alone.sum_gradients(3) == alone.update() == 0


def test_a_ring_really_sends_that_much():
    """The ring as it is: in each of n - 1 rounds every process hands one n-th to the next, first to
    sum, then to spread the sums."""
    n, values = 4, [torch.arange(8.0) * (process + 1) for process in range(4)]
    parts, sent = [list(value.chunk(n)) for value in values], 0
    for begin, combine in ((0, torch.add), (1, lambda mine, theirs: theirs)):
        for turn in range(n - 1):
            moves = [((p + begin - turn) % n, p) for p in range(n)]
            given = [parts[p][k].clone() for k, p in moves]
            for (k, p), piece in zip(moves, given, strict=True):
                parts[(p + 1) % n][k] = combine(parts[(p + 1) % n][k], piece)
                sent += piece.nbytes if p == 0 else 0
    assert all(torch.equal(torch.cat(rows), sum(values)) for rows in parts)
    assert sent == all_reduce_bytes(values[0].nbytes, n) == 48


def counted(distributed_type, stage=None, processes=4):
    model = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False), torch.nn.Linear(10, 10, False))
    model[0].weight.requires_grad_(False)
    counters = Counters()
    accelerator = SimpleNamespace(
        distributed_type=distributed_type,
        num_processes=processes,
        state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage)),
    )
    return TrafficCounter(accelerator, model, counters), counters


@pytest.mark.parametrize(
    ("kind", "stage", "gradients", "weights"),
    [
        (DistributedType.MULTI_GPU, None, 600, 0),
        (DistributedType.DEEPSPEED, 2, 600, 300),
        (DistributedType.DEEPSPEED, 3, 600, 1800),
        (DistributedType.FSDP, None, 300, 1800),
    ],
)
def test_a_step_is_counted(kind, stage, gradients, weights):
    """800 bytes of weights, half of them trained: gathered for rollouts, a forward, a backward
    pass; two micro-batches."""
    traffic, counters = counted(kind, stage)
    traffic.gathered()
    traffic.gathered(2)
    traffic.updated(2)
    taken = counters.take()
    assert (taken["bytes/gradients"], taken["bytes/weights"]) == (gradients, weights)


def test_pushes_and_rows_are_counted():
    traffic, counters = counted(DistributedType.MULTI_GPU)
    traffic.pushed(70.0)
    traffic.told_all([{"completions": "x" * 1000}])
    taken = counters.take()
    assert taken["bytes/weights"] == 70
    assert 3 * 1000 < taken["bytes/other"] < 3 * 1100
    alone, counters = counted(DistributedType.NO, processes=1)
    alone.told_all(["x"])
    alone.updated(1)
    assert not any(v for name, v in counters.take().items() if name.startswith("bytes/"))


def test_bad_traffic():
    with pytest.raises(ValueError, match="sharding is 'zero1', expected one of"):
        of("zero1")
    with pytest.raises(ValueError, match="processes is 0, expected at least 1"):
        of("ddp", processes=0)
