"""Two processes, and DeepSpeed: real launches, real gloo."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tests.helpers.places import REPO
from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import write_video
from thinker.policies import load_policy

HELPERS = REPO / "tests" / "helpers"
WORKER = HELPERS / "distributed_worker.py"


def launch(command, folder):
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def run(folder, start, num_processes):
    folder.mkdir()
    shutil.copytree(start, folder / "start")
    launch(
        [
            "torch.distributed.run", "--nnodes=1", f"--nproc_per_node={num_processes}",
            "--master_addr=127.0.0.1", f"--master_port={29600 + num_processes}",
            str(WORKER), str(folder), str(num_processes),
        ],
        folder,
    )  # fmt: skip
    rollouts = (folder / "run" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    return load_file(folder / "after.safetensors"), [json.loads(line) for line in rollouts]


@pytest.mark.slow
def test_one_and_two_processes_give_the_same_rewards_and_the_same_update(tmp_path):
    """Rewards see the global batch: ranking compares the videos of both processes."""
    small_policy("internvl3", amplify=1.0).save(tmp_path / "start")
    one, rollouts_one = run(tmp_path / "one", tmp_path / "start", 1)
    two, rollouts_two = run(tmp_path / "two", tmp_path / "start", 2)

    def key(row):
        return row["prompt_id"], row["completion"]

    rollouts_one.sort(key=key)
    rollouts_two.sort(key=key)
    assert [row["rewards"] for row in rollouts_one] == [row["rewards"] for row in rollouts_two]
    assert all(row["rewards"]["ranking"] is not None for row in rollouts_one)
    start = dict(load_policy(tmp_path / "start").model.named_parameters())
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    difference = max((one[name] - two[name]).abs().max().item() for name in one)
    assert moved > 1e-6
    assert difference < 1e-3 * moved


def test_processes_share_the_check_of_the_videos(tmp_path):
    """Each reads a part; all know all failures, and all refuse where they are too many."""
    (tmp_path / "videos").mkdir()
    for number in range(4):
        write_video(tmp_path / "videos" / f"{number}.mp4", num_frames=4 + number)
    (tmp_path / "videos" / "4.mp4").touch()
    (tmp_path / "videos" / "5.mp4").write_text("no video")
    launch(
        [
            "torch.distributed.run", "--nnodes=1", "--nproc_per_node=2",
            "--master_addr=127.0.0.1", "--master_port=29611",
            str(HELPERS / "check_worker.py"), str(tmp_path),
        ],
        tmp_path,
    )  # fmt: skip
    results = [json.loads((tmp_path / f"result{rank}.json").read_text()) for rank in range(2)]
    for result in results:
        assert result["failures"] == {"4.mp4": "empty", "5.mp4": "not_a_video"}
        assert result["refused"] == 2
    assert sorted(result["read"] for result in results) == [2, 2]


@pytest.mark.slow
def test_deepspeed_zero_2_trains(tmp_path):
    small_policy("internvl3", amplify=1.0).save(tmp_path / "start")
    launch(
        [
            "accelerate.commands.launch", "--use_deepspeed", "--zero_stage", "2",
            "--num_processes", "1", "--main_process_port", "29650",
            str(WORKER), str(tmp_path), "1",
        ],
        tmp_path,
    )  # fmt: skip
    start = dict(load_policy(tmp_path / "start").model.named_parameters())
    after = load_file(tmp_path / "after.safetensors")
    assert any((after[name] != start[name]).any() for name in after)
