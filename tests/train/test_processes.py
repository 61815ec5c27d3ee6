"""Whether the processes of a run are what was asked for, agree, and answer."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType
from torch.distributed import TCPStore

from tests.helpers.launch import ddp_launcher, environment, launch
from tests.helpers.policy_factory import small_policy
from thinker.train.checkpoint import newest_valid
from thinker.train.processes.heartbeat import EXIT_CODE, Watch
from thinker.train.processes.world import WorldError, check_sharding, check_world


def state(num_processes, kind=DistributedType.MULTI_GPU):
    return SimpleNamespace(num_processes=num_processes, distributed_type=kind)


@pytest.fixture
def launched(monkeypatch):
    """Sets what a launcher would."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_", "THINKER_NUM")) or name == "WORLD_SIZE":
            monkeypatch.delenv(name)
    return lambda **given: [monkeypatch.setenv(name, value) for name, value in given.items()]


GOOD_FSDP = {
    "WORLD_SIZE": "2",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def test_a_world_as_it_was_asked_for(launched):
    check_world(state(1, DistributedType.NO))
    launched(WORLD_SIZE="2", THINKER_NUM_PROCESSES="2")
    check_world(state(2, DistributedType.MULTI_CPU))
    launched(**GOOD_FSDP)
    check_world(state(2))
    check_sharding(is_fsdp=True, is_deepspeed=False)


@pytest.mark.parametrize(
    ("given", "found", "said"),
    [
        ({"THINKER_NUM_PROCESSES": "2"}, state(1), "2 processes were asked for .* but 1 started"),
        ({"THINKER_NUM_PROCESSES": "two"}, state(1), "THINKER_NUM_PROCESSES is 'two', expected a"),
        ({"THINKER_NUM_PROCESSES": "0"}, state(1), "THINKER_NUM_PROCESSES is '0', expected a num"),
        ({"WORLD_SIZE": "2"}, state(1), "accelerate sees 1: each would train alone"),
        (GOOD_FSDP, state(2, DistributedType.MULTI_CPU), "here it would run MULTI_CPU instead"),
        (GOOD_FSDP, state(1, DistributedType.NO), "asks for FSDP, which it has for GPUs only"),
        (GOOD_FSDP | {"FSDP_VERSION": "1"}, state(2), "FSDP_VERSION=1, expected fsdp_version: 2"),
        (
            GOOD_FSDP | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            state(2),
            "take the statistics of SlowFast",
        ),
        (
            GOOD_FSDP | {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"},
            state(2),
            "expected fsdp_state_dict_type: FULL_STATE_DICT",
        ),
    ],
)
def test_another_world_is_refused(launched, given, found, said):
    launched(**given)
    with pytest.raises(WorldError, match=said):
        check_world(found)


def test_another_sharding_is_refused(launched):
    with pytest.raises(WorldError, match=r"FSDP was not asked for .* but the trainer does use it"):
        check_sharding(is_fsdp=True, is_deepspeed=False)
    launched(ACCELERATE_USE_DEEPSPEED="true")
    with pytest.raises(WorldError, match=r"DeepSpeed was asked for .* the trainer does not use it"):
        check_sharding(is_fsdp=False, is_deepspeed=False)


@pytest.mark.slow
def test_processes_that_differ_are_told(tmp_path):
    launch([*ddp_launcher(2), "tests.helpers.world_worker"], tmp_path)
    files = sorted(tmp_path.glob("told_*.jsonl"))
    told = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted((what, process) for what, process, _ in told) == [
        (what, process) for what in ("configuration", "data", "packages") for process in (0, 1)
    ]
    sentences = {what: sentence for what, _, sentence in told}
    assert (
        "differs from process 0 in the configuration: seed is 1 there and 0 here"
        in (sentences["configuration"])
    )
    assert "in the data: examples is" in sentences["data"]
    assert "in the packages: trl is 0.0 there and 1 here" in sentences["packages"]


def test_a_thread_that_stops_is_named_and_one_that_leaves_is_not():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told: list[str] = []

    def watch(process):
        client = TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=5))
        return Watch(client, process, 3, deadline=0.5, lost=told.append)

    watches = [watch(process) for process in range(3)]
    for one in watches:
        one.start()
    watches[2].stop()  # its work is done
    time.sleep(1.5)
    assert told == []
    watches[1]._stopped.set()  # without leaving: it is lost
    time.sleep(2)
    watches[0].stop()
    assert len(told) == 1
    assert told[0].startswith("process 1 (")
    assert "gave no sign" in told[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_others(tmp_path, how):
    """Within a deadline, named, and the last checkpoint is whole."""
    small_policy("internvl3", amplify=1.0).save(tmp_path / "start")
    command = [sys.executable, "-m", *ddp_launcher(2), "tests.helpers.lost_worker", str(tmp_path)]
    with open(tmp_path / "log", "wb") as log:
        run = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=log, stderr=subprocess.STDOUT
        )
    _wait(lambda: _steps(tmp_path / "run") >= 2, run, 120)
    os.kill(int((tmp_path / "process_1").read_text()), how)
    began = time.monotonic()
    assert run.wait(timeout=90) != 0
    log = (tmp_path / "log").read_text(encoding="utf-8", errors="replace")
    if how == signal.SIGSTOP:
        assert "process 1 (" in log
        assert "it gave no sign for" in log
        assert f"exitcode: {EXIT_CODE}" in log or f"exitcode  : {EXIT_CODE}" in log
    else:
        assert "Signal 9 (SIGKILL)" in log  # torchrun's own words, with the rank
        assert time.monotonic() - began < 60
    found, _ = newest_valid(tmp_path / "run", pickles=False)
    assert found is not None
    assert _steps(found.parent) >= 2


def _steps(folder):
    """The newest checkpoint's."""
    return max((int(c.name.split("-")[1]) for c in folder.glob("checkpoint-*")), default=0)


def _wait(done, run, seconds):
    end = time.monotonic() + seconds
    while not done():
        assert run.poll() is None, "the run has ended"
        assert time.monotonic() < end
        time.sleep(0.2)
