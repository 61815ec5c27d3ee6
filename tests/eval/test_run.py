"""Evaluation of annotated sets: rows, restarts after kill -9, locks, shards, figures."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

import thinker.eval.run
from tests.helpers.decoder_faults import hang_or_die, leave_a_mark
from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.data.datasets import EvalSet
from thinker.data.scale import MosScale
from thinker.eval.metrics.agreement import evaluate_scores
from thinker.eval.run import Shard, evaluate_sets, parse_shard
from thinker.eval.summary import load_rows, load_summary, safe_cell
from thinker.score.scorer import QualityScorer
from thinker.utils.journal import RowJournal, encode_row, read_rows
from thinker.utils.lock import folder_lock
from thinker.video import read_clip
from thinker.video.read_ahead import Reading, read_ahead

NUM_VIDEOS = 9
SPECIAL = {"gone.mp4": "missing", "words.mp4": "not_a_video"}
DRIVER = """
if __name__ == "__main__":  # decoding processes import this file, too
    import sys, time
    import thinker.eval.run
    from thinker.cli.main import main
    from thinker.score.scorer import QualityScorer
    thinker.eval.run.WINDOW = 2
    level, left = QualityScorer._level, [int(sys.argv[1])]
    def stalling(self, clips):  # in the batch after so many
        left[0] -= 1
        if left[0] < 0:
            time.sleep(3600)
        return level(self, clips)
    QualityScorer._level = stalling
    sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def model(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    policy.save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Nine videos of different content, one that is missing and one that is none."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(NUM_VIDEOS):
        write_video(folder / f"v{i}.mp4", num_frames=10 + 7 * i)
    (folder / "words.mp4").write_text("only words\n" * 50)
    names = [f"v{i}.mp4" for i in range(NUM_VIDEOS)]
    names[4:4] = list(SPECIAL)
    annotations = [
        {"image_id": name, "ann_type": "score", "score": str(10 + 5 * i)}
        for i, name in enumerate(names)
    ]
    (folder / "meta.json").write_text(json.dumps({"annotations": annotations}))
    return folder


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(thinker.eval.run, "WINDOW", 2)


def command(model, data, output, *more):
    return [
        "eval", "--model", str(model), "--meta", str(data / "meta.json"), "--mode", "level",
        "--video-root", str(data), "--mos-scale", "0:100:linear",
        "--output-dir", str(output), *more,
    ]  # fmt: skip


def table(output, key="meta"):
    """The CSV as dicts without the wall clock, the one column that differs between runs."""
    with open(output / f"{key}.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("out") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinker.eval.run, "WINDOW", 2)
        assert main(command(model, data, output, "--num-workers", "0")) == 0
    return output


def eval_set(data, **fields):
    return EvalSet(
        **{
            "name": "Mine",
            "key": "mine",
            "meta": data / "meta.json",
            "video_root": data,
            "mos_scale": MosScale(min=0, max=100, mapping="linear"),
        }
        | fields
    )


# rows


def test_every_annotated_video_has_a_row_in_order_with_a_status(whole):
    rows = table(whole)
    header = (whole / "meta.csv").read_text().splitlines()[0]
    assert header.startswith("filename,pred_score,gt_score,status,error,reasoning")
    assert [row["filename"] for row in rows[3:7]] == ["v3.mp4", *SPECIAL, "v4.mp4"]
    assert [row["gt_score"] for row in rows] == [str(10.0 + 5 * i) for i in range(11)]
    for row in rows:
        expected = SPECIAL.get(row["filename"], "ok")
        assert row["status"] == expected
        assert (row["pred_score"] == "") == (expected != "ok") == (row["error"] != "")
    # answer scale 1..5 to MOS 0..100
    score = float(rows[0]["answer_score"])
    assert float(rows[0]["pred_score"]) == pytest.approx((score - 1) * 25, abs=0.003)
    assert len({row["pred_score"] for row in rows}) == NUM_VIDEOS + 1  # all differ, and "" twice
    statuses = load_summary(whole)["sets"]["meta"]["statuses"]
    assert statuses == {"ok": 9, "missing": 1, "not_a_video": 1}


def test_cells_are_safe_in_a_spreadsheet():
    assert safe_cell("=1+1") == "'=1+1" and safe_cell("@x") == "'@x"
    assert safe_cell("\0＋1") == "'＋1" and safe_cell("\t=1") == "'\t=1"
    assert safe_cell("a=1") == "a=1" and safe_cell("a\0b") == "ab" and safe_cell("") == ""


def test_reasoning_survives_the_csv_and_back(policy, data, tmp_path):
    text = '<think>=HYPERLINK("x"), line\nbreak; "quoted"</think><answer>3</answer>'
    scorer = QualityScorer(policy, ScriptedTexts(policy, [text]))
    evaluate_sets(scorer, [eval_set(data)], tmp_path, Reading(num_workers=0))
    assert table(tmp_path, "mine")[0]["reasoning"].startswith("'=HYPERLINK")
    assert load_rows(tmp_path, "mine")[0].reasoning == '=HYPERLINK("x"), line\nbreak; "quoted"'


class Answers(ScriptedTexts):
    """Answers 1 + i/10 to the i-th video it ever sees."""

    def generate(self, requests, num_generations, sampling, seed):
        start = sum(self.batches)
        self.batches.append(len(requests))
        self.texts = [f"<answer>{1 + (start + i) / 10:.2f}</answer>" for i in range(len(requests))]
        groups = super().generate(requests, len(requests), sampling, seed)[0]
        self.batches.pop()
        return [[completion] for completion in groups]


def test_figures_are_those_of_the_metrics_clustered_by_content(policy, data, tmp_path):
    scorer = QualityScorer(policy, Answers(policy, []))
    # contents: v0..v2, v3..v5, v6..v8 and the two special ones
    pattern = r"(?P<content>[a-z0-9]*)\.mp4"
    one = eval_set(data, content_pattern=pattern, domain="in")
    two = eval_set(data, key="other", name="Other")
    shown = evaluate_sets(scorer, [one, two], tmp_path, Reading(num_workers=0))
    summary = load_summary(tmp_path)
    answers = [1 + i / 10 for i in range(9)]
    mos = [10.0, 15, 20, 25, 40, 45, 50, 55, 60]
    expected = evaluate_scores(
        [(a - 1) * 25 for a in answers], mos, [f"v{i}" for i in range(9)], 11
    )
    report = summary["sets"]["mine"]["report"]
    assert report["srcc"]["value"] == pytest.approx(expected.srcc.value) == pytest.approx(1.0)
    assert report["rmse_mapped"]["value"] == pytest.approx(expected.rmse_mapped.value)
    assert (report["n_scored"], report["n_total"], report["num_contents"]) == (9, 11, 9)
    assert [a["name"] for a in summary["averages"]] == [
        "unweighted", "size-weighted", "in-domain", "out-domain",
    ]  # fmt: skip
    assert "9/11" in shown and "Mine: 11 videos: 1 missing, 1 not_a_video, 9 ok" in shown


def test_contents_come_from_the_pattern_of_the_set(policy, data, tmp_path):
    scorer = QualityScorer(policy, Answers(policy, []))
    pattern = r"(?P<content>[a-z]+)[0-9]*\.mp4"  # all nine videos are versions of content "v"
    evaluate_sets(
        scorer, [eval_set(data, content_pattern=pattern)], tmp_path, Reading(num_workers=0)
    )
    report = load_summary(tmp_path)["sets"]["mine"]["report"]
    assert report["num_contents"] == 1
    assert report["srcc"]["reason"] == "no interval: one source content"


# restarts


def wait_for_rows(path, count, process):
    while len(read_rows(path)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_kill_9_and_restart_give_the_uninterrupted_result(model, data, whole, tmp_path, capsys):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    output = tmp_path / "out"
    journal = output / "rows" / "meta.0-of-1.jsonl"
    # Killed twice. Windows hold rows 0 1, 2 3, 4 5 (the two without a clip: no batch), 6 7, …
    for num_batches, num_rows in ((2, 4), (1, 8)):
        arguments = command(model, data, output, "--num-workers", "1")
        process = subprocess.Popen(
            [sys.executable, driver, str(num_batches), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wait_for_rows(journal, num_rows, process)
        if num_rows == 4:  # a second run in the folder, while the first one is alive
            assert main(arguments) == 2
            assert f"another run (pid {process.pid})" in capsys.readouterr().err
        helpers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        _, alive = psutil.wait_procs(helpers, timeout=60)
        assert helpers and not alive  # no decoder outlives its run
        assert not (output / "meta.csv").exists()
        with open(journal, "ab") as file:  # and the row it was writing is cut
            file.write(encode_row(num_rows, {"id": "meta/x"})[:-9])
    assert main(command(model, data, output, "--num-workers", "0")) == 0
    assert table(output) == table(whole)
    lines = journal.read_bytes().splitlines()
    assert len(lines) == len(read_rows(journal)) == 11  # none lost, none twice


def test_a_journal_cut_anywhere_loses_the_last_row_only(whole, tmp_path):
    content = (whole / "rows" / "meta.0-of-1.jsonl").read_bytes()
    rows = read_rows(whole / "rows" / "meta.0-of-1.jsonl")
    path = tmp_path / "cut.jsonl"
    for length in range(0, len(content), 61):
        path.write_bytes(content[:length])
        kept = RowJournal(path)
        assert len(kept.rows) == content[:length].count(b"\n")
        assert all(rows[index] == row for index, row in kept.rows.items())
        kept.append([(99, {"id": "x"})])
        assert read_rows(path).keys() == {*kept.rows} and 99 in kept.rows


def test_a_damaged_row_is_scored_again(model, data, whole, tmp_path, caplog):
    output = tmp_path / "out"
    arguments = command(model, data, output, "--num-workers", "0")
    assert main(arguments) == 0
    journal = output / "rows" / "meta.0-of-1.jsonl"
    damaged = bytearray(journal.read_bytes())
    place = damaged.index(b'"score": ') + 10
    damaged[place] ^= 1
    journal.write_bytes(damaged)
    assert main(arguments) == 0
    assert "1 damaged row(s) dropped" in caplog.text
    assert table(output) == table(whole)


@pytest.mark.parametrize("change", ["mode", "model", "meta"])
def test_another_model_or_configuration_is_refused(model, data, whole, tmp_path, capsys, change):
    arguments = command(model, data, whole, "--num-workers", "0")
    if change == "mode":
        arguments[arguments.index("level")] = "reason"
    if change == "model":
        small_policy("internvl3", amplify=2.0).save(tmp_path)
        arguments[arguments.index(str(model))] = str(tmp_path)
    if change == "meta":
        text = (data / "meta.json").read_text().replace('"10"', '"11"')
        (tmp_path / "meta.json").write_text(text)
        arguments[arguments.index(str(data / "meta.json"))] = str(tmp_path / "meta.json")
    before = (whole / "meta.csv").read_bytes()
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "another model or configuration" in message
    assert {"mode": "mode was ", "model": "model was ", "meta": "sets was "}[change] in message
    assert (whole / "meta.csv").read_bytes() == before


def test_a_finished_run_is_not_scored_again(model, data, whole, monkeypatch):
    monkeypatch.setattr(QualityScorer, "_level", lambda *_: pytest.fail("scored again"))
    assert main(command(model, data, whole, "--num-workers", "0")) == 0


def test_the_lock_is_free_after_its_holder(tmp_path):
    refused = pytest.raises(ValueError, match=f"pid {os.getpid()}")
    with folder_lock(tmp_path), refused, folder_lock(tmp_path):
        pass
    with folder_lock(tmp_path):
        pass


# shards


def test_shards_together_equal_one_run(model, data, whole, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = command(model, data, output, "--num-workers", "0")
    assert main([*arguments, "--shard", "1/2"]) == 0
    # windows of two: shard 1 has rows 2 3, 6 7, 10 (of 0..10)
    assert "5 of 11 rows" in capsys.readouterr().out
    assert sorted(read_rows(output / "rows" / "meta.1-of-2.jsonl")) == [2, 3, 6, 7, 10]
    assert not (output / "meta.csv").exists()
    assert main([*arguments, "--shard", "0/2"]) == 0
    assert table(output) == table(whole)
    # a row that is there twice is found
    double = output / "rows" / "meta.0-of-2.jsonl"
    double.write_bytes(double.read_bytes() + encode_row(2, {"id": "meta/v2.mp4"}))
    assert main([*arguments, "--shard", "1/2"]) == 2
    assert "twice" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_of_torchrun_share_the_work(model, data, whole, tmp_path):
    driver, output = tmp_path / "driver.py", tmp_path / "out"
    driver.write_text(DRIVER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    never = "1000"
    arguments = command(model, data, output, "--num-workers", "0")
    ended = subprocess.run([*launcher, driver, never, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert sorted(read_rows(output / "rows" / "meta.1-of-2.jsonl")) == [2, 3, 6, 7, 10]
    assert table(output) == table(whole)


def test_shards_by_option_and_by_torchrun(monkeypatch):
    assert parse_shard("1/4") == Shard(index=1, count=4)
    assert parse_shard(None) == Shard()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert parse_shard(None) == Shard(index=2, count=3)
    for text in ("4/4", "a/b", "1", "-1/2"):
        with pytest.raises(ValueError, match="shard"):
            parse_shard(text)


# bad metas


def test_a_missing_field_stops_the_run_or_becomes_a_row(model, data, tmp_path, capsys):
    raw = json.loads((data / "meta.json").read_text())
    del raw["annotations"][1]["score"]
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps(raw))
    arguments = command(model, data, tmp_path / "out", "--num-workers", "0")
    arguments[arguments.index(str(data / "meta.json"))] = str(meta)
    assert main(arguments) == 2
    assert "annotations[1]: missing field 'score'" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad-lines"]) == 0
    rows = table(tmp_path / "out")
    assert len(rows) == 11
    assert (rows[-1]["filename"], rows[-1]["status"]) == ("meta.json:1", "bad_annotation")
    assert load_summary(tmp_path / "out")["sets"]["meta"]["report"]["n_total"] == 11


def test_sets_must_be_given_in_one_way(model, data, tmp_path, capsys):
    base = ["eval", "--model", str(model), "--output-dir", str(tmp_path)]
    assert main(base) == 2
    assert main([*base, "--meta", str(data / "meta.json")]) == 2
    assert "--meta with --video-root" in capsys.readouterr().err


# decoding ahead


def test_a_video_that_hangs_or_kills_its_decoder_costs_only_itself():
    paths = [Path(name) for name in ("a.mp4", "hang.mp4", "die.mp4", "b.mp4", "die.mp4", "c.mp4")]
    began = time.monotonic()
    results = list(read_ahead(paths, hang_or_die, Reading(timeout_seconds=4)))
    assert time.monotonic() - began < 50
    assert [r.path for r in results] == paths
    reasons = [r.reason for r in results]
    assert reasons == [
        "decode_error",
        "timeout",
        "crashed",
        "decode_error",
        "crashed",
        "decode_error",
    ]


def test_so_many_are_read_while_the_consumer_is_busy(tmp_path):
    items = read_ahead(
        [tmp_path / f"{i}.mp4" for i in range(12)], leave_a_mark, Reading(num_workers=1), ahead=6
    )
    next(items)
    marks = []
    while len(marks) < 7:  # the one that was taken, and six that wait
        marks = list(tmp_path.iterdir())
        time.sleep(0.02)
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == 7
    assert len(list(items)) == 11


def test_a_bug_in_the_reader_is_raised_not_hidden():
    with pytest.raises(RuntimeError, match="a bug"):
        list(read_ahead([Path("bug.mp4")], hang_or_die, Reading(num_workers=1)))


def test_workers_give_the_clips_that_reading_here_gives(policy, data):
    read = partial(read_clip, spec=policy.inputs.clip_spec)
    paths = [data / f"v{i}.mp4" for i in range(3)]
    here, there = (read_ahead(paths, read, Reading(num_workers=count)) for count in (0, 2))
    for ours, theirs in zip(here, there, strict=True):
        assert ours.path == theirs.path and ours.keyframe_indices == theirs.keyframe_indices
        assert ours.keyframes_KCHW.equal(theirs.keyframes_KCHW)
        assert ours.motion_MCHW.equal(theirs.motion_MCHW)
