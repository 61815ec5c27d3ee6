"""Files and folders are there whole or not at all, at a kill, an error, or two writers at once."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.places import REPO
from thinker.utils import atomic
from thinker.utils.atomic import atomic_folder, write_atomic


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.json"
    for content in ("old, and longer than the new one", "new: Grüße", b"\x00\xff"):
        write_atomic(path, content)
        expected = content.encode() if isinstance(content, str) else content
        assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_name_of_any_length_can_be_written(tmp_path):
    """The name aside is not longer than the file system allows."""
    path = tmp_path / ("x" * 255)
    write_atomic(path, "content")
    assert path.read_text() == "content" and len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_leaves_the_old_content_and_nothing_aside(tmp_path, monkeypatch, step):
    path = tmp_path / "a"
    write_atomic(path, "old")

    def fail(*_):
        raise OSError("INJECTED: no space left")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="INJECTED"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from thinker.utils.atomic import write_atomic

plain, seen, moment = {}, [0], int(sys.argv[2])

def boundary(name):
    def wrapped(*args):
        seen[0] += 1
        if seen[0] == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain[name](*args)
    plain[name] = getattr(os, name)
    setattr(os, name, wrapped)

for name in ("fsync", "replace"):
    boundary(name)
write_atomic(Path(sys.argv[1]), "new" * 1000)
"""


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(1, "old"), (2, "old"), (3, "new" * 1000), (4, "new" * 1000)],
    ids=["before the flush", "before the rename", "after the rename", "never"],
)
def test_a_kill_leaves_the_old_or_the_new_content(tmp_path, moment, expected):
    path = tmp_path / "a"
    write_atomic(path, "old")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(moment)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert ended.returncode == (0 if moment == 4 else -9)
    assert path.read_text() == expected
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == ["a"]


def test_threads_that_write_one_file_never_mix(tmp_path):
    path = tmp_path / "a"
    contents = [letter * 50_000 for letter in "abcd"]
    write_atomic(path, contents[0])

    def write(content):
        for _ in range(10):
            write_atomic(path, content)
            assert path.read_text() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert os.listdir(tmp_path) == ["a"]


def content_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_appears_whole_and_replaces_one_in_the_way(tmp_path):
    target = tmp_path / "deep" / "run"
    for number in (1, 2):
        with atomic_folder(target) as aside:
            (aside / "sub").mkdir()
            (aside / "sub" / f"{number}.txt").write_text(str(number))
            assert content_of(target) == ({} if number == 1 else {"sub/1.txt": "1"})
        assert content_of(target) == {f"sub/{number}.txt": str(number)}
        assert os.listdir(target.parent) == ["run"]


def test_an_exception_in_the_block_leaves_the_target_alone(tmp_path):
    """What was written aside is gone, and the next try begins anew."""
    target = tmp_path / "run"
    with atomic_folder(target) as aside:
        (aside / "a").write_text("old")
    with pytest.raises(RuntimeError, match="stopped"), atomic_folder(target) as aside:
        (aside / "b").write_text("half")
        raise RuntimeError("stopped")
    assert content_of(target) == {"a": "old"}
    assert os.listdir(tmp_path) == ["run"]
    with atomic_folder(target) as aside:
        assert not os.listdir(aside)
        (aside / "c").write_text("new")
    assert content_of(target) == {"c": "new"} and os.listdir(tmp_path) == ["run"]


def test_everything_is_flushed_before_the_rename(tmp_path, monkeypatch):
    """Else a power cut could leave the new name over empty files."""
    events = []
    flush, rename = atomic.fsync, os.rename
    monkeypatch.setattr(atomic, "fsync", lambda p: events.append(Path(p).name) or flush(p))
    monkeypatch.setattr(os, "rename", lambda a, b: events.append("rename") or rename(a, b))
    with atomic_folder(tmp_path / "run") as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "file").write_text("x")
    place = events.index("rename")
    assert set(events[:place]) == {"file", "sub", ".run.tmp"}
    assert events[place + 1 :] == [tmp_path.name]
