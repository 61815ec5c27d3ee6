"""Two runs in one folder: the second ends with a message that names the first."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.places import REPO
from thinker.utils.lock import check_output_folder, folder_lock, run_lock

HOLDER = """
import os, signal, sys, time
from pathlib import Path
from thinker.utils import lock
from thinker.utils.lock import folder_lock

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
with folder_lock(Path(sys.argv[1])):
    if sys.argv[2] == "late":  # a fork that has not come to closing its copy of the lock yet
        lock._held.clear()
    if sys.argv[2] in ("fork", "late") and os.fork() == 0:
        time.sleep(60 if sys.argv[2] == "fork" else 1)
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(600)  # ended by the tests, some of which first start a slow process
"""


def start_holder(folder: Path, kind: str = "plain") -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), kind],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    return process


@pytest.mark.parametrize("kind", ["plain", "fork"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_lock_is_free_however_its_holder_ends(tmp_path, kind, number):
    """Also where a fork of the holder (a data loader's worker) outlives it."""
    holder = start_holder(tmp_path, kind)
    try:
        refused = pytest.raises(ValueError, match=rf"run \(pid {holder.pid}\).*{tmp_path}")
        with refused, folder_lock(tmp_path):
            pass
        os.kill(holder.pid, number)
        holder.wait(timeout=20)
        with folder_lock(tmp_path):
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL) if kind == "fork" else holder.kill()
        holder.wait()


def test_a_lock_that_outlives_its_holder_for_a_moment_is_waited_for(tmp_path, monkeypatch, caplog):
    """A fork has a copy until it closes it, and its parent may be killed before."""
    holder = start_holder(tmp_path, "late")
    try:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(timeout=20)
        monkeypatch.setattr("thinker.utils.lock.ORPHAN_SECONDS", 0.2)
        refused = pytest.raises(
            ValueError, match=rf"run \(pid {holder.pid}\).* process that it left"
        )
        with refused, folder_lock(tmp_path):
            pass
        monkeypatch.setattr("thinker.utils.lock.ORPHAN_SECONDS", 30)
        with folder_lock(tmp_path):
            assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"
        assert "has ended; waiting for its processes" in caplog.text
    finally:
        os.killpg(holder.pid, signal.SIGKILL) if is_alive(holder.pid) else None


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    for claim in (check_output_folder, lambda folder: folder_lock(folder).__enter__()):
        with pytest.raises(ValueError, match="results cannot be written to"):
            claim(tmp_path / "deep" / "er")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(ValueError, match=f"cannot be written to {folder}"):
            check_output_folder(folder)
        with pytest.raises(ValueError, match=f"cannot be written to {folder}"), folder_lock(folder):
            pass
    check_output_folder(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()


def test_same_process_and_other_names(tmp_path):
    refused = pytest.raises(ValueError, match=f"pid {os.getpid()}")
    with folder_lock(tmp_path, "a"), folder_lock(tmp_path, "b"), refused:  # noqa: SIM117
        with folder_lock(tmp_path, "a"):
            pass
    with folder_lock(tmp_path, "a"):
        assert (tmp_path / "a.lock").read_text() == f"{os.getpid()}\n"


def test_waiting(tmp_path):
    holder = start_holder(tmp_path)
    began = time.monotonic()
    subprocess.Popen(
        [sys.executable, "-c", f"import time, os; time.sleep(1); os.kill({holder.pid}, 9)"]
    )
    with folder_lock(tmp_path, wait=True):
        assert time.monotonic() - began > 0.5
    holder.wait()


def test_only_the_first_process_of_a_run_locks(tmp_path, monkeypatch):
    with run_lock(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with run_lock(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(ValueError, match="another run"), run_lock(tmp_path):
            pass


def test_a_second_training_run_exits_with_a_message(tmp_path):
    config = tmp_path / "run.yaml"
    output = tmp_path / "out"
    stage = {"name": "sft", "kind": "sft", "data": [{"config": "d.yaml"}], "train": {"lora": 1e-4}}
    # JSON is YAML
    config.write_text(json.dumps({"output_dir": str(output), "stages": [stage]}))
    holder = start_holder(output)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "thinker.cli", "train", "--config", str(config)],
            env={**os.environ, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            timeout=250,
        )
    finally:
        holder.kill()
        holder.wait()
    assert ended.returncode == 2
    assert f"error: another run (pid {holder.pid}) is writing to {output}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert os.listdir(output) == ["run.lock"]
