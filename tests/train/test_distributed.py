"""Two processes, and DeepSpeed: real launches, real gloo."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from tests.helpers.launch import launch
from tests.helpers.places import REPO
from tests.helpers.policy_factory import small_policy
from thinker.policies import load_policy

WORKER = REPO / "tests" / "helpers" / "distributed_worker.py"


def run(kind, folder, start, num_processes):
    """The weights after a step of `kind`; the folder holds what the run wrote."""
    folder.mkdir()
    shutil.copytree(start, folder / "start")
    launch(
        [
            "torch.distributed.run", "--nnodes=1", f"--nproc_per_node={num_processes}",
            "--master_addr=127.0.0.1", f"--master_port={29600 + num_processes}",
            str(WORKER), kind, str(folder), str(num_processes),
        ],
        folder,
    )  # fmt: skip
    return load_file(folder / "after.safetensors")


def rollouts(folder):
    lines = (folder / "run" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return sorted(rows, key=lambda row: (row["sample_id"], row["completion"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_one_and_two_processes_give_the_same_update(tmp_path, kind):
    """Rewards see the global batch: ranking compares the videos of both processes. A supervised
    loss is a mean over the tokens of both, one of which shows no video."""
    small_policy("internvl3", amplify=1.0).save(tmp_path / "start")
    one = run(kind, tmp_path / "one", tmp_path / "start", 1)
    two = run(kind, tmp_path / "two", tmp_path / "start", 2)
    start = dict(load_policy(tmp_path / "start").model.named_parameters())
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    difference = max((one[name] - two[name]).abs().max().item() for name in one)
    assert moved > 1e-6
    assert difference < 1e-3 * moved
    if kind == "grpo":
        rewards = [[row["rewards"] for row in rollouts(tmp_path / f)] for f in ("one", "two")]
        assert rewards[0] == rewards[1]
        assert all(reward["ranking"] is not None for reward in rewards[0])
