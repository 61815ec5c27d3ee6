"""Two processes learn what one does, however the weights are sharded: real launches, over gloo.

DDP is in test_distributed.py (supervised) and test_resume.py. The long matrix of what may differ,
DDP among it, is run_scripts/test_distributed.sh.
"""

from itertools import combinations, product

import pytest

from tests.helpers.policy_factory import small_policy
from tests.helpers.sharding import FACTORS, covering_array, largest_difference, run_sharded
from thinker.policies import load_policy

SETTINGS = {
    "lora": False,
    "checkpointing": "not-reentrant",
    "iterations": 1,
    "evaluate": True,
    "backend": "hf",
    "backbone": "internvl3",
}
WAYS = {
    "zero2": ("DEEPSPEED", 0.0),
    "zero3": ("DEEPSPEED", 0.04),
    "fsdp2": ("FSDP", 0.04),
}
"""What accelerate calls it, and the weight of the KL term. Without it the group of the first video
adds no gradient, and one process leaves it out of its backward pass."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The policy at the start, and what one process makes of it, by the weight of the KL term."""
    folder = tmp_path_factory.mktemp("alone")
    small_policy("internvl3", amplify=1.0).save(folder / "start")
    ends = {}

    def end(beta):
        if beta not in ends:
            given = SETTINGS | {"beta": beta, "sharding": "ddp"}
            ends[beta] = run_sharded(folder / str(beta), folder / "start", given, num_processes=1)
        return ends[beta]

    return folder / "start", end


@pytest.mark.slow
@pytest.mark.parametrize("sharding", WAYS)
def test_two_processes_make_the_steps_of_one(tmp_path, alone, sharding):
    start, end = alone
    way, beta = WAYS[sharding]
    one = end(beta)
    two = run_sharded(tmp_path / "two", start, SETTINGS | {"sharding": sharding, "beta": beta})
    before = dict(load_policy(start).model.named_parameters())
    moved = largest_difference(one.weights, before)
    assert moved > 1e-3
    assert largest_difference(one.weights, two.weights) < 1e-4 * moved
    assert (two.record["way"], two.record["num_processes"]) == (way, 2)
    # Rewards see the batch of both: ranking compares the videos of one with those of the other.
    assert two.rewards == one.rewards
    assert all(reward["ranking"] is not None for reward in one.rewards)
    # What is generated before each step, and of held-out clips after it.
    assert two.record["written"] == one.record["written"]
    assert two.record["evaluated"] == one.record["evaluated"]
    assert len(one.record["evaluated"]) == 3


def test_every_pair_of_settings_is_in_the_matrix():
    runs = covering_array(FACTORS)
    assert len(runs) <= 30
    for (one, values), (other, others) in combinations(FACTORS.items(), 2):
        shown = {(run[one], run[other]) for run in runs}
        assert shown == set(product(values, others))
