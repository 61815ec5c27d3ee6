"""Supervised training by two processes: real launches, real gloo. GRPO: test_sharding.py."""

import pytest

from tests.helpers.policy_factory import small_policy
from tests.helpers.sharding import largest_difference, run_supervised, weights_of


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "policy"
    small_policy("internvl3", amplify=1.0).save(folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, start):
    return run_supervised(tmp_path_factory.mktemp("one") / "run", start, "ddp", 1)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_one_and_two_processes_give_the_same_supervised_update(tmp_path, start, one, sharding):
    """The loss is a mean over the tokens of both, one of which shows no video. DeepSpeed's ways:
    run_scripts/test_distributed.sh."""
    two = run_supervised(tmp_path / "two", start, sharding)
    moved = largest_difference(one, weights_of(start))
    assert moved > 1e-6
    assert largest_difference(one, two) < 1e-3 * moved
