"""The Ray Data engine in local mode on a tiny policy: parts, restart, actors that die."""

import json
import os
import shutil

import pyarrow.parquet as pq
import pytest

from tests.helpers.dying_actor import DiesOnce
from tests.helpers.odd_files import odd_matrix, odd_names
from tests.helpers.places import REPO
from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.score import archive as archive_module
from thinker.score.archive import _chunks, done_paths, format_counts, replace_rows, write_part
from thinker.score.prediction import OK
from thinker.utils.names import path_text, text_path

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster():
    paths = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = paths  # Ray's workers import from here, too
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_policy("internvl3").save(folder)
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    (folder / "deep").mkdir()
    first = write_video(folder / "v0.mp4", num_frames=10)
    for name in ("v1.mp4", "v2.mp4", "deep/v3.mp4"):
        shutil.copy(first, folder / name)
    (folder / "v4.mp4").write_text("only words\n" * 50)
    return folder


def command(model, archive, output, mode="level"):
    return [
        "score", "--engine", "ray", "--model", str(model), "--mode", mode, "--num-workers", "0",
        "--input", f"{archive}/**/*.mp4", "--output", str(output),
    ]  # fmt: skip


def test_an_archive_is_scored_resumed_and_kept_from_another_configuration(
    cluster, model, archive, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr(archive_module, "CHUNK", 2)
    archive = shutil.copytree(archive, tmp_path / "archive")  # a file of it is mended below
    output = tmp_path / "out.parquet"
    assert main(command(model, archive, output)) == 1  # one file is no video
    assert "5 videos: 4 ok, 1 not_a_video" in capsys.readouterr().out
    table = pq.read_table(output).to_pydict()  # the folder is one table
    assert len(set(table["path"])) == 5
    scores = dict(zip(table["path"], table["score"], strict=True))
    assert scores[str(archive / "v4.mp4")] is None
    assert scores[str(archive / "v0.mp4")] == pytest.approx(scores[str(archive / "v1.mp4")])
    assert [len(p) for p in table["probabilities"] if p] == [5] * 4

    # lost parts and new files are done, nothing else is touched
    parts = sorted(output.glob("part-*"))
    assert len(parts) == 3
    parts[0].unlink()
    times = {part: part.stat().st_mtime_ns for part in parts[1:]}
    assert main(command(model, archive, output)) == 1
    assert pq.read_table(output).num_rows == 5
    assert {part: part.stat().st_mtime_ns for part in parts[1:]} == times

    # what failed is tried again where that is asked for
    (archive / "v4.mp4").unlink()
    shutil.copy(archive / "v0.mp4", archive / "v4.mp4")
    capsys.readouterr()
    assert main(command(model, archive, output)) == 1
    assert "1 not_a_video; add --retry not_a_video" in caplog.text
    assert main([*command(model, archive, output), "--retry", "not_a_video"]) == 0
    assert "5 videos: 5 ok" in capsys.readouterr().out

    # another configuration is refused
    assert main(command(model, archive, output, mode="reason")) == 2
    assert "another model or configuration" in capsys.readouterr().err


def test_odd_files_cost_one_row_each_and_come_back_by_name(
    cluster, model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(archive_module, "CHUNK", 3)
    folder = tmp_path / os.fsdecode(b"arch\xefve")
    folder.mkdir()
    paths = odd_names(folder)
    odd_matrix(folder / "matrix.mp4")
    output = tmp_path / os.fsdecode(b"out\xff")
    for _ in range(2):  # the second one finds every row of the first
        assert main(command(model, folder, output)) == 1
        assert f"9 videos: {len(paths)} ok, 1 unsupported" in capsys.readouterr().out
    done = done_paths(output)
    ok = [text for text, row in done.items() if row.status == OK]
    assert sorted(map(text_path, ok)) == sorted(paths)


def test_the_chunk_of_a_dead_actor_is_done_by_another(
    cluster, model, archive, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(archive_module, "ScoreActor", DiesOnce)
    output = tmp_path / "out"
    assert main(command(model, archive, output)) == 1
    assert (output / "_died").exists()
    assert "5 videos: 4 ok, 1 not_a_video" in capsys.readouterr().out


def row(path, status="ok"):
    return {
        "path": path, "score": 3.0, "status": status, "mode": "reason", "reasoning": "x",
        "completion": "y", "error": None, "spread": None, "num_tokens": 3.0, "interval": None,
        "seconds": 0.1, "distribution": (), "frame_indices": (1, 2), "model": "m", "version": "v",
    }  # fmt: skip


def test_parts_are_named_by_their_paths_and_hold_each_path_once(tmp_path):
    first = write_part(tmp_path, [row("/a.mp4"), row("/b.mp4", "missing")])
    assert write_part(tmp_path, [row("/a.mp4"), row("/b.mp4", "missing")]) == first  # a retry
    done = done_paths(tmp_path)
    assert {path: one.status for path, one in done.items()} == {"/a.mp4": "ok", "/b.mp4": "missing"}
    (tmp_path / "_half.tmp").write_bytes(b"PAR1")  # what a kill leaves
    assert len(done_paths(tmp_path)) == 2
    write_part(tmp_path, [row("/b.mp4")])
    with pytest.raises(ValueError, match="another part"):
        done_paths(tmp_path)
    assert format_counts({"missing": 1, "ok": 2}) == "3 videos: 2 ok, 1 missing"


def test_rows_that_are_tried_again_replace_theirs_in_their_part(tmp_path):
    raw = os.fsencode("/c\udcff.mp4")
    texts = ["/a.mp4", "/b.mp4", path_text(os.fsdecode(raw))]
    first = write_part(tmp_path, [row("/a.mp4"), row("/b.mp4", "missing")])
    second = write_part(tmp_path, [row(texts[2], "timeout")])
    absolute = dict(zip(texts, ["/a.mp4", "/b.mp4", os.fsdecode(raw)], strict=True))
    absolute["/new.mp4"] = "/new.mp4"
    chunks = _chunks(absolute, done_paths(tmp_path), ["missing", "timeout"])
    assert [(chunk["part"], json.loads(chunk["paths"])) for chunk in chunks] == [
        ("", ["/new.mp4"]), (first.name, ["/b.mp4"]), (second.name, [os.fsdecode(raw)]),
    ]  # fmt: skip
    assert [c["part"] for c in _chunks(absolute, done_paths(tmp_path), [])] == [""]
    replace_rows(first, [row("/b.mp4") | {"score": 4.5}])
    table = pq.read_table(tmp_path).to_pydict()
    rows = dict(zip(table["path"], zip(table["status"], table["score"], strict=True), strict=True))
    assert rows == {"/a.mp4": ("ok", 3.0), "/b.mp4": ("ok", 4.5), texts[2]: ("timeout", 3.0)}
    assert sorted(tmp_path.glob("*.parquet")) == sorted([first, second])
    assert table["frame_indices"] == [[1, 2]] * 3 and table["interval_low"] == [None] * 3


def test_options_of_the_other_engine_are_refused(model, archive, tmp_path, capsys):
    arguments = command(model, archive, tmp_path / "o")
    assert main([*arguments, "--start", "1"]) == 2
    assert "whole files" in capsys.readouterr().err
    assert main(arguments[: arguments.index("--output")]) == 2
    assert "needs it" in capsys.readouterr().err
    assert main([*arguments, "--retry", "missing,mising"]) == 2
    assert "retry 'mising': expected statuses" in capsys.readouterr().err
    local = ["score", "--model", str(model), "--video", "a.mp4", "--retry", "missing"]
    assert main(local) == 2
    assert "--retry is for --engine ray" in capsys.readouterr().err
