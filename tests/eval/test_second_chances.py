"""Evaluations that are tried again by status, and those whose files have odd names or contents."""

import csv
import json
import os

import pytest

import thinker.eval.run
from tests.helpers.odd_files import odd_matrix, odd_names
from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.eval.report.page import write_report
from thinker.eval.rows import load_rows
from thinker.score.scorer import QualityScorer
from thinker.utils.journal import read_rows
from thinker.utils.names import text_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_policy("internvl3").save(folder)
    return folder


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(thinker.eval.run, "WINDOW", 2)


@pytest.fixture
def folder(tmp_path):
    """Five videos, of which v1 and v2 are away."""
    root = tmp_path / "videos"
    root.mkdir()
    for i in range(5):
        write_video(root / f"v{i}.mp4", num_frames=6 + i)
    write_meta(root, sorted(path.name for path in root.glob("*.mp4")))
    for name in ("v1.mp4", "v2.mp4"):
        (root / name).rename(root / f"{name}.away")
    (root / "v2.mp4").touch()  # one is missing, one is empty
    return root


def write_meta(root, names):
    annotations = [
        {"image_id": name, "ann_type": "score", "score": 10 + 5 * i} for i, name in enumerate(names)
    ]
    (root / "meta.json").write_text(json.dumps({"annotations": annotations}))


def come_back(root):
    for away in root.glob("*.away"):
        away.rename(away.with_suffix(""))


def command(model, root, output, *more):
    return [
        "eval", "--meta", str(root / "meta.json"), "--video-root", str(root), "--model", str(model),
        "--mos-scale", "0:100:linear", "--mode", "level", "--num-workers", "0",
        "--output-dir", str(output), *more,
    ]  # fmt: skip


def table(output):
    with open(output / "meta.csv", newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def statuses(output):
    return [row["status"] for row in table(output)]


def assert_equal_tables(one, two):
    """Rows are equal; figures but for the batch that a row was scored in."""
    for row, other in zip(one, two, strict=True):
        for name, value in row.items():
            if value.replace(".", "", 1).isdigit():
                assert float(value) == pytest.approx(float(other[name]), abs=1e-3), name
            else:
                assert value == other[name], name


FIRST = ["ok", "missing", "empty", "ok", "ok"]


def test_rows_are_tried_again_by_status(model, folder, tmp_path, capsys, caplog):
    output, whole = tmp_path / "out", tmp_path / "whole"
    arguments = command(model, folder, output)
    assert main(arguments) == 0
    assert statuses(output) == FIRST
    assert "rows without an answer" not in caplog.text
    assert main(arguments) == 0
    said = "rows without an answer are there: 1 empty, 1 missing; "
    assert said + "add --retry empty,missing to try them again" in caplog.text
    come_back(folder)
    assert main([*arguments, "--retry", "empty,nonsense"]) == 2
    message = capsys.readouterr().err
    assert "retry 'nonsense': expected statuses" in message and "out_of_memory" in message
    assert main(arguments) == 0  # nothing without being asked
    assert statuses(output) == FIRST

    journal = output / "rows" / "meta.0-of-1.jsonl"
    before = journal.read_bytes()
    assert main([*arguments, "--retry", "missing"]) == 0
    assert said + "trying 1 again; add --retry empty to try the others again" in caplog.text
    assert statuses(output) == ["ok", "ok", "empty", "ok", "ok"]
    after = journal.read_bytes()
    assert after.startswith(before) and len(after.splitlines()) == 6  # that row, no other

    # A kill in the middle of the new row: the old one is there, and is tried again.
    journal.write_bytes(after[:-20])
    assert read_rows(journal)[1]["status"] == "missing"
    assert main([*arguments, "--retry", "missing,empty"]) == 0
    assert main(command(model, folder, whole)) == 0
    assert_equal_tables(table(output), table(whole))


def test_every_shard_tries_its_own_rows_again(model, folder, tmp_path, capsys):
    output, whole = tmp_path / "out", tmp_path / "whole"
    shards = ["--shard=0/2", "--shard=1/2"]
    for shard in shards:
        assert main(command(model, folder, output, shard)) == 0
    assert statuses(output) == FIRST
    come_back(folder)
    assert main(command(model, folder, output, shards[0], "--retry", "missing,empty")) == 0
    assert statuses(output) == ["ok", "ok", "empty", "ok", "ok"]  # windows 0 1, 4 | 2 3
    assert main(command(model, folder, output, shards[1], "--retry", "missing,empty")) == 0
    assert main(command(model, folder, whole)) == 0
    assert_equal_tables(table(output), table(whole))


def test_a_folder_without_rows_takes_the_mended_command(model, folder, tmp_path, monkeypatch):
    """A fault that is no medium's ends the run, with a folder that holds nothing yet."""
    output = tmp_path / "out"
    come_back(folder)

    def broken(*_):
        raise RuntimeError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr(QualityScorer, "_fitting", broken)
        with pytest.raises(RuntimeError, match="a bug of ours"):
            main(command(model, folder, output, "--mode", "reason", "--max-new-tokens", "2"))
    assert (output / "run.json").exists() and not list((output / "rows").glob("*"))
    assert main(command(model, folder, output)) == 0
    assert main(command(model, folder, output, "--mode", "reason")) == 2


def test_odd_names_and_files_come_back_from_every_output(model, tmp_path, monkeypatch, caplog):
    root = tmp_path / os.fsdecode(b"vid\xe9os")
    root.mkdir()
    paths = odd_names(root)
    odd_matrix(root / "matrix.mp4")
    # As json.dumps writes what os.listdir gives: bytes that are no UTF-8 as \udcXX.
    write_meta(root, ["matrix.mp4", *(path.name for path in paths)])
    meta = (root / "meta.json").rename(root / os.fsdecode(b"me\xf6ta.json"))
    output = tmp_path / os.fsdecode(b"results\xff")
    arguments = command(model, root, output)
    arguments[2] = str(meta)
    assert main(arguments) == 0
    rows = load_rows(output, "me_ta")
    assert [row.status for row in rows] == ["unsupported"] + ["ok"] * len(paths)
    assert [root / text_path(row.id) for row in rows[1:]] == paths
    assert len({row.content for row in rows}) == len(rows)
    journal = read_rows(output / "rows" / "me_ta.0-of-1.jsonl")
    assert [text_path(journal[i]["path"]) for i in range(1, len(rows))] == paths
    (output / "summary.json").read_bytes().decode()
    write_report(output).read_bytes().decode()
    assert len(list((output / "report").glob("me_ta_worst?.png"))) == 3  # the files were found
    with monkeypatch.context() as patch:
        patch.setattr(QualityScorer, "_fitting", lambda *_: pytest.fail("scored again"))
        assert main(arguments) == 0  # every row is found again
    listed = tmp_path / "some.txt"
    listed.write_bytes(b"latin-\xfc.mp4\n" + rows[4].id.encode() + b"\n")  # as it is, as a text
    arguments[arguments.index(str(output))] = str(tmp_path / "some")
    assert main([*arguments, "--subset", str(listed)]) == 0
    chosen = load_rows(tmp_path / "some", "me_ta")
    assert [row.id for row in chosen] == [rows[2].id, rows[4].id]


def test_score_takes_them_too(model, tmp_path, capsysbinary):
    paths = odd_names(tmp_path)
    odd_matrix(tmp_path / "zz.mp4")
    arguments = ["score", "--model", str(model), "--mode", "level", "--num-workers", "0"]
    assert main([*arguments, "--json", "--video", str(tmp_path)]) == 1
    rows = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    named = {text_path(row["path"]): row["status"] for row in rows}
    assert named == dict.fromkeys(paths, "ok") | {tmp_path / "zz.mp4": "unsupported"}
    assert main([*arguments, "--video", str(tmp_path)]) == 1
    lines = capsysbinary.readouterr().out.splitlines()
    shown = [line.decode()[11:] for line in lines if line.startswith(b"video:")]
    assert sorted(map(text_path, shown)) == sorted(named)
