"""Checkpoints are whole or absent: killed at every file operation, tampered with, out of disk."""

import json
import os
import pickle
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from thinker.train.checkpoint import (
    MANIFEST,
    CheckpointError,
    check_checkpoint,
    checkpoints,
    cut_back,
    newest_valid,
    rotate,
    write_manifest,
)

SETTINGS = {"max_steps": 3, "save_total_limit": 2}


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """An uninterrupted run of 3 steps with checkpoints 2 and 3; `start/` is in it too."""
    folder = tmp_path_factory.mktemp("whole")
    assert zygote.run("save_start", folder=folder).codes == [0]
    outcome = zygote.run("train", folder=folder, **SETTINGS)
    assert outcome.codes == [0], outcome.log[-3000:]
    return folder


@pytest.fixture
def output(whole, tmp_path):
    """A copy of its output folder."""
    shutil.copytree(whole / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_a_kill_at_every_file_operation_of_a_save_leaves_a_valid_checkpoint(
    zygote, whole, tmp_path
):
    shutil.copytree(whole / "start", tmp_path / "start")
    outcome = zygote.run("kill_every_save", folder=tmp_path)
    assert outcome.codes == [0], outcome.log[-3000:]
    *kills, unharmed = json.loads((tmp_path / "kills.json").read_text())
    operations = Counter(json.loads((tmp_path / "operations.json").read_text()))
    assert unharmed["code"] == 0 and unharmed["newest"] == "checkpoint-2"
    assert len(kills) > 40 and {"open", "os.rename", "fsync", "os.mkdir"} <= set(operations)
    newest = [kill["newest"] for kill in kills]
    assert all(kill["code"] == -9 for kill in kills)
    # the old one up to the rename, the new one from there: never none, never a broken one
    assert newest == sorted(newest) and set(newest) == {"checkpoint-1", "checkpoint-2"}
    assert not any(kill["passed_over"] for kill in kills)
    assert all(kill["again"] == 0 and kill["after"] == ["checkpoint-2"] for kill in kills)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
def test_a_harmed_checkpoint_is_named_and_skipped(output, harm):
    """Each file of the newest checkpoint in turn, its manifest included."""
    newest, reasons = newest_valid(output)
    assert newest == output / "checkpoint-3" and not reasons
    names = [str(p.relative_to(newest)) for p in sorted(newest.rglob("*")) if p.is_file()]
    assert {"model.safetensors", "optimizer.safetensors", "process_00000.safetensors"} <= set(names)
    for name in names:
        kept = (newest / name).read_bytes()
        harm(newest / name)
        found, reasons = newest_valid(output)
        assert found == output / "checkpoint-2"
        assert len(reasons) == 1 and "checkpoint-3" in reasons[0]
        assert name in reasons[0] or name == MANIFEST  # which may lie about another file
        (newest / name).write_bytes(kept)
    assert newest_valid(output) == (newest, [])


def test_foreign_files_links_and_pickles_are_refused(output, tmp_path):
    newest = output / "checkpoint-3"
    (newest / "extra.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"not in the manifest \['extra\.json'\]"):
        check_checkpoint(newest)
    (newest / "extra.json").unlink()
    (newest / "config.json").rename(tmp_path / "config.json")
    (newest / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json is a link"):
        check_checkpoint(newest)
    (tmp_path / "config.json").rename(newest / "config.json")

    class Mark:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marked'}",)

    # one who can write the folder can write its manifest too, but nothing in it is unpickled
    (newest / "optimizer.pt").write_bytes(pickle.dumps(Mark()))
    write_manifest(newest, 3, 1)
    with pytest.raises(CheckpointError, match=r"optimizer\.pt is a pickle"):
        check_checkpoint(newest)
    assert newest_valid(output)[0] == output / "checkpoint-2"
    assert not (tmp_path / "marked").exists()


@pytest.mark.slow
def test_a_run_resumes_past_a_harmed_checkpoint(zygote, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "harmed")
    (tmp_path / "harmed" / "weights.safetensors").unlink()
    truncate(tmp_path / "harmed" / "run" / "checkpoint-3" / "optimizer.safetensors")
    outcome = zygote.run("train", folder=tmp_path / "harmed", **SETTINGS)
    assert outcome.codes == [0], outcome.log[-3000:]
    assert "checkpoint-3/optimizer.safetensors" in outcome.log and "passed over" in outcome.log
    for name in ("weights.safetensors", "run/rollouts.jsonl"):
        assert (tmp_path / "harmed" / name).read_bytes() == (whole / name).read_bytes()
    assert newest_valid(tmp_path / "harmed" / "run")[1] == []  # replaced by a whole one


@pytest.fixture
def tmpfs(tmp_path):
    """A folder on its own small file system, and a function that sets the size in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1024k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    resize = lambda kib: subprocess.run(  # noqa: E731
        ["mount", "-o", f"remount,size={kib}k", str(folder)], check=True
    )
    yield folder, resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_with_a_message_and_the_previous_checkpoint(zygote, whole, tmpfs):
    folder, resize = tmpfs
    size = sum(p.stat().st_size for p in (whole / "run" / "checkpoint-3").rglob("*")) // 1024
    resize(100 * 1024)
    shutil.copytree(whole / "start", folder / "start")
    start = sum(p.stat().st_size for p in (folder / "start").rglob("*")) // 1024
    resize(start + size * 3 // 2 + 256)
    outcome = zygote.run("train", folder=folder, **SETTINGS)
    assert outcome.codes == [1]
    assert "checkpoint-2 could not be written" in outcome.log, outcome.log[-3000:]
    assert "No space left on device" in outcome.log
    assert "checkpoint-1 is intact. Free space" in outcome.log
    assert newest_valid(folder / "run") == (folder / "run" / "checkpoint-1", [])
    assert not (folder / "run" / ".saving").exists()
    resize(100 * 1024)
    assert zygote.run("train", folder=folder, **SETTINGS).codes == [0]
    for name in ("weights.safetensors", "run/rollouts.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_rotation_keeps_the_newest_up_to_the_step_just_written(tmp_path):
    for step in (2, 4, 6, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / ".saving").mkdir()
    rotate(tmp_path, step=6, limit=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [4, 6, 12]  # 12: passed over, not ours
    rotate(tmp_path, step=6, limit=None)
    assert [step for step, _ in checkpoints(tmp_path)] == [4, 6, 12]


def test_journals_are_cut_back_but_never_made_up(tmp_path):
    journal = tmp_path / "metrics.jsonl"
    journal.write_bytes(b"one\ntwo\nthr")
    cut_back(journal, 8)
    assert journal.read_bytes() == b"one\ntwo\n"
    with pytest.raises(CheckpointError, match="holds 8 bytes, but held 12"):
        cut_back(journal, 12)
    cut_back(tmp_path / "absent.jsonl", 0)
