"""Supervised training by two processes: real launches, real gloo. GRPO: test_sharding.py."""

import shutil

import pytest
from safetensors.torch import load_file

from tests.helpers.launch import ddp_launcher, launch
from tests.helpers.policy_factory import small_policy
from tests.helpers.sharding import largest_difference
from thinker.policies import load_policy


def run(folder, start, num_processes):
    """The weights after a step."""
    folder.mkdir()
    shutil.copytree(start, folder / "start")
    worker = ["tests.helpers.distributed_worker", str(folder), str(num_processes)]
    launch([*ddp_launcher(num_processes), *worker], folder)
    return load_file(folder / "after.safetensors")


@pytest.mark.slow
def test_one_and_two_processes_give_the_same_supervised_update(tmp_path):
    """The loss is a mean over the tokens of both, one of which shows no video."""
    small_policy("internvl3", amplify=1.0).save(tmp_path / "start")
    one = run(tmp_path / "one", tmp_path / "start", 1)
    two = run(tmp_path / "two", tmp_path / "start", 2)
    start = dict(load_policy(tmp_path / "start").model.named_parameters())
    moved = largest_difference(one, {name: start[name] for name in one})
    assert moved > 1e-6
    assert largest_difference(one, two) < 1e-3 * moved
