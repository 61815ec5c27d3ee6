"""Real processes that die, hang and eat memory: each costs its own item and nothing else."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.places import REPO
from tests.helpers.video_factory import write_video
from tests.helpers.worker_tasks import fail_once, limit_of_data, misbehave
from thinker.utils.worker_pool import Failure, Limits, WorkerError, WorkerStartError, map_in_workers

TIGHT = Limits(seconds=3.0, memory_bytes=2**28)


def run(items, num_workers=2, limits=TIGHT, task=misbehave):
    return list(map_in_workers(task, items, num_workers=num_workers, limits=limits))


def test_results_come_in_order():
    items = [f"item{i}" for i in range(40)]
    assert run(items) == [item.upper().encode() for item in items]
    assert run([]) == []


def test_each_fault_costs_its_own_item_only():
    items = ["a", "exit", "b", "segv", "c", "hang", "d", "eat", "e", "spin", "f"]
    began = time.monotonic()
    results = dict(zip(items, run(items), strict=True))
    assert time.monotonic() - began < 120
    failures = {k: v for k, v in results.items() if isinstance(v, Failure)}
    assert {k: v.reason for k, v in failures.items()} == {
        "exit": "crashed",
        "segv": "crashed",
        "hang": "timeout",
        "eat": "memory",
        "spin": "timeout",
    }
    assert failures["segv"].detail == "the process was ended by SIGSEGV"
    assert failures["exit"].detail == "the process ended with exit status 3"
    assert failures["hang"].detail == "more than 3 s"
    assert failures["eat"].detail == "more than 256 MiB"
    assert [results[name] for name in "abcdef"] == [name.upper().encode() for name in "abcdef"]


def test_one_retry_in_a_fresh_process(tmp_path):
    task = partial(fail_once, tmp_path)
    assert run(["x", "y"], task=task) == [b"ok", b"ok"]
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]


def test_a_bug_in_the_task_is_raised_with_the_workers_traceback():
    with pytest.raises(WorkerError, match=r"(?s)worker_tasks\.py.*RuntimeError: a bug"):
        run(["a", "bug", "b"])


def test_the_memory_limit_is_the_kernels():
    (limit,) = run(["x"], task=limit_of_data, num_workers=1)
    assert 2**28 < int(limit) < 2**28 + 2**31


def test_a_consumer_that_stops_leaves_no_process():
    results = map_in_workers(misbehave, ["a", "hang-1", "hang-2"], num_workers=3, limits=Limits())
    assert next(results) == b"A"
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 100  # far below the deadline of 300 s
    import multiprocessing

    assert not multiprocessing.active_children()


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"memory_bytes": 0}, {"seconds": float("nan")}])
def test_limits_are_checked(limits):
    with pytest.raises(ValueError, match="above 0"):
        Limits(**limits)
    with pytest.raises(ValueError, match="at least 1"):
        run(["a"], num_workers=0)


SCRIPT = """
import sys
from pathlib import Path
from thinker.video import ClipSpec, check_videos
{guard}
spec = ClipSpec(num_keyframes=1, resize="square", keyframe_px=8, min_pixels=0, max_pixels=0,
                factor=0, num_motion_frames=0, motion_px=0)
failures = check_videos([sys.argv[1]], spec, None, max_failed_share=1, num_workers=1)
print("failures:", [e.reason for e in failures.values()])
"""


@pytest.mark.parametrize("guard", ["if True:\n    pass", 'if __name__ != "__main__":\n    exit(0)'])
def test_a_script_without_a_main_guard_is_told_so(tmp_path, guard):
    """It used to start processes for ever."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard))
    path = write_video(tmp_path / "v.mp4", num_frames=2)
    ended = subprocess.run(
        [sys.executable, str(script), str(path)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 1
    assert WorkerStartError.__name__ in ended.stderr
    assert 'under `if __name__ == "__main__":`' in ended.stderr


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
from tests.helpers.worker_tasks import misbehave
from thinker.utils.worker_pool import Limits, map_in_workers

if __name__ == "__main__":
    results = map_in_workers(misbehave, ["a", "hang"], num_workers=1, limits=Limits(seconds=1e3))
    next(results)
"""


def test_no_worker_outlives_a_killed_run(tmp_path):
    script = tmp_path / "script.py"
    # Two workers' worth of items, the second of which waits in its worker's pipe.
    script.write_text(
        KILLED.format(paths=[str(REPO)]).replace(
            "next(results)",
            "next(results); print(os.getpid(), flush=True); next(results)",
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        children = processes_of(killed.pid)
        assert children
        os.kill(killed.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in children if is_running(pid)]


def processes_of(parent: int) -> list[int]:
    """All descendants."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found += [int(folder.name), *processes_of(int(folder.name))]
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
