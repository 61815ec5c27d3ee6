"""Evaluation of annotated sets: rows, restarts after kill -9, locks, shards, figures."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
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
from thinker.data.datasets import EvalSet, load_dataset_config
from thinker.data.scale import MosScale
from thinker.eval.fingerprint import subset_fingerprint
from thinker.eval.metrics.agreement import evaluate_scores, srcc
from thinker.eval.rows import load_rows, safe_cell
from thinker.eval.run import Shard, evaluate, parse_shard
from thinker.eval.sets import Subset, load_sets, record_set
from thinker.eval.summary import load_summary
from thinker.policies import load_policy
from thinker.score.scorer import QualityScorer
from thinker.utils.journal import RowJournal, encode_row, read_rows
from thinker.utils.lock import folder_lock
from thinker.video import read_clip
from thinker.video.read_ahead import Reading, read_ahead

HERE = Reading(num_workers=0)
NUM_VIDEOS = 9
SPECIAL = {"gone.mp4": "missing", "words.mp4": "not_a_video"}
DRIVER = """
if __name__ == "__main__":  # decoding processes import this file, too
    import sys, time
    import thinker.eval.run
    from thinker.cli.main import main
    from thinker.score.scorer import QualityScorer
    thinker.eval.run.WINDOW = 2
    fitting, left = QualityScorer._fitting, [int(sys.argv[1])]
    def stalling(self, questions, mode):  # in the batch after so many
        left[0] -= 1
        if left[0] < 0:
            time.sleep(3600)
        return fitting(self, questions, mode)
    QualityScorer._fitting = stalling
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
    records = [choice_record(i, [name]) for i, name in enumerate(names)]
    records[0] = choice_record(0, ["v0.mp4", "v1.mp4"])
    (folder / "probe.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    return folder


def choice_record(number, videos, **fields):
    record = {
        "id": f"q{number}", "task": "choice", "video": videos, "options": ["blur", "noise"],
        "conversations": [{"from": "human", "value": f"Which of the two is it in {number}?"}],
        "answer": "AB"[number % 2], "tags": {"type": ("what", "how")[number % 2]},
    }  # fmt: skip
    return record | fields


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(thinker.eval.run, "WINDOW", 2)


@dataclass(frozen=True)
class Job:
    """An evaluation of one file: of scores by a meta file, or of choices by a record file."""

    model: Path
    data: Path
    key: str
    output: Path = Path()

    @property
    def file(self):
        return self.data / ("meta.json" if self.key == "meta" else "probe.jsonl")

    def command(self, output, *more, num_workers=0):
        if self.key == "meta":
            source = ["--meta", str(self.file), "--video-root", str(self.data)]
            source += ["--mos-scale", "0:100:linear", "--mode", "level"]
        else:
            source = [str(self.file), "--media-root", str(self.data), "--max-new-tokens", "6"]
        return [
            "eval", *source, "--model", str(self.model), "--output-dir", str(output),
            "--num-workers", str(num_workers), *more,
        ]  # fmt: skip

    def journal(self, output, shard="0-of-1"):
        return output / "rows" / f"{self.key}.{shard}.jsonl"

    def table(self, output):
        return table(output, self.key)


def table(output, key="meta"):
    """The CSV as dicts without the wall clock, the one column that differs between runs."""
    with open(output / f"{key}.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


only_scores = pytest.mark.parametrize("whole", ["meta"], indirect=True)
only_choices = pytest.mark.parametrize("whole", ["probe"], indirect=True)


@pytest.fixture(scope="module", params=["meta", "probe"])
def whole(request, model, data, tmp_path_factory):
    """An uninterrupted run of either form."""
    output = tmp_path_factory.mktemp("out") / "whole"
    job = Job(model, data, request.param, output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinker.eval.run, "WINDOW", 2)
        assert main(job.command(output)) == 0
    return job


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


@only_scores
def test_every_annotated_video_has_a_row_in_order_with_a_status(whole):
    rows = whole.table(whole.output)
    header = (whole.output / "meta.csv").read_text().splitlines()[0]
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
    statuses = load_summary(whole.output)["sets"]["meta"]["statuses"]
    assert statuses == {"ok": 9, "missing": 1, "not_a_video": 1}


@only_choices
def test_every_record_has_a_row_with_what_was_asked_and_what_is_right(whole):
    rows = whole.table(whole.output)
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(11)]
    assert [row["reference"] for row in rows] == ["A", "B"] * 5 + ["A"]
    assert [row["status"] for row in rows[4:6]] == list(SPECIAL.values())
    assert "no such file" in rows[4]["error"] and "gone.mp4" in rows[4]["error"]
    assert json.loads(rows[0]["media"]) == ["v0.mp4", "v1.mp4"]
    assert rows[1]["question"].startswith("Which of the two is it in 1?\nA. blur\nB. noise\n")
    assert (rows[1]["tags"], rows[1]["content"]) == ("type=how", "v1.mp4")
    answered = [row for i, row in enumerate(rows) if i not in (4, 5)]
    assert all(row["completion"] and row["correct"] in ("0", "1") for row in answered)
    assert len({row["completion"] for row in answered}) > 1
    entry = load_summary(whole.output)["sets"]["probe"]
    right = sum(row["correct"] == "1" for row in answered)
    assert entry["report"]["figures"]["accuracy"]["value"] == pytest.approx(right / 9)
    assert (entry["report"]["n_answered"], entry["report"]["n_total"]) == (9, 11)
    assert set(entry["report"]["by_tag"]["type"]) == {"what", "how"}


@only_choices
def test_a_card_takes_an_evaluation_of_its_policy_wherever_that_is_saved(whole, tmp_path):
    load_policy(whole.model).save(tmp_path / "again")
    command = ["card", str(tmp_path / "again"), "--evaluation", str(whole.output)]
    assert main(command) == 0
    valid = load_summary(whole.output)["sets"]["probe"]["report"]["n_valid"]
    assert f"| {valid} of 11 | accuracy" in (tmp_path / "again/README.md").read_text()


def test_cells_are_safe_in_a_spreadsheet():
    assert safe_cell("=1+1") == "'=1+1" and safe_cell("@x") == "'@x"
    assert safe_cell("\0＋1") == "'＋1" and safe_cell("\t=1") == "'\t=1"
    assert safe_cell("a=1") == "a=1" and safe_cell("a\0b") == "ab" and safe_cell("") == ""


def test_reasoning_survives_the_csv_and_back(policy, data, tmp_path):
    text = '<think>=HYPERLINK("x"), line\nbreak; "quoted"</think><answer>3</answer>'
    scorer = QualityScorer(policy, ScriptedTexts(policy, [text]))
    evaluate(scorer, load_sets([eval_set(data)]), tmp_path, HERE)
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
    shown = evaluate(scorer, load_sets([one, two]), tmp_path, HERE)
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
    evaluate(scorer, load_sets([eval_set(data, content_pattern=pattern)]), tmp_path, HERE)
    report = load_summary(tmp_path)["sets"]["mine"]["report"]
    assert report["num_contents"] == 1
    assert report["srcc"]["reason"] == "no interval: one source content"


# restarts


def wait_for_rows(path, count, process):
    while len(read_rows(path)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@only_scores  # the journal of the other form is the same
def test_kill_9_and_restart_give_the_uninterrupted_result(whole, tmp_path, capsys):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    output = tmp_path / "out"
    journal = whole.journal(output)
    # Killed twice. Windows hold rows 0 1, 2 3, 4 5 (the two without a clip: no batch), 6 7, …
    for num_batches, num_rows in ((2, 4), (1, 8)):
        arguments = whole.command(output, num_workers=1)
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
        assert not (output / f"{whole.key}.csv").exists()
        with open(journal, "ab") as file:  # and the row it was writing is cut
            file.write(encode_row(num_rows, {"id": "meta/x"})[:-9])
    assert main(whole.command(output)) == 0
    assert whole.table(output) == whole.table(whole.output)
    lines = journal.read_bytes().splitlines()
    assert len(lines) == len(read_rows(journal)) == 11  # none lost, none twice


@only_scores
def test_a_journal_cut_anywhere_loses_the_last_row_only(whole, tmp_path):
    content = whole.journal(whole.output).read_bytes()
    rows = read_rows(whole.journal(whole.output))
    path = tmp_path / "cut.jsonl"
    for length in range(0, len(content), 61):
        path.write_bytes(content[:length])
        kept = RowJournal(path)
        assert len(kept.rows) == content[:length].count(b"\n")
        assert all(rows[index] == row for index, row in kept.rows.items())
        kept.append([(99, {"id": "x"})])
        assert read_rows(path).keys() == {*kept.rows} and 99 in kept.rows


def test_a_damaged_row_is_scored_again(whole, tmp_path, caplog):
    output = tmp_path / "out"
    arguments = whole.command(output)
    assert main(arguments) == 0
    journal = whole.journal(output)
    damaged = bytearray(journal.read_bytes())
    place = damaged.index(b'"score": ') + 10
    damaged[place] ^= 1
    journal.write_bytes(damaged)
    assert main(arguments) == 0
    assert "1 damaged row(s) dropped" in caplog.text
    assert whole.table(output) == whole.table(whole.output)


@pytest.mark.parametrize("change", ["mode", "model", "file", "subset"])
def test_another_model_or_configuration_is_refused(whole, tmp_path, capsys, change):
    arguments = whole.command(whole.output)
    if change == "mode":
        arguments += ["--mode", "sample", "--num-samples", "2"]
    if change == "model":
        small_policy("internvl3", amplify=2.0).save(tmp_path)
        arguments[arguments.index(str(whole.model))] = str(tmp_path)
    if change == "file":  # another label, another word in a question
        there = {"meta": ('"10"', '"11"'), "probe": ("it in 3?", "it in 4?")}[whole.key]
        (tmp_path / whole.file.name).write_text(whole.file.read_text().replace(*there))
        arguments[arguments.index(str(whole.file))] = str(tmp_path / whole.file.name)
    if change == "subset":
        (tmp_path / "some.txt").write_text("v1.mp4\n")
        arguments += ["--subset", str(tmp_path / "some.txt")]
    before = (whole.output / f"{whole.key}.csv").read_bytes()
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "another model or configuration" in message
    place = rf"sets\.{whole.key}\.\w+" if change == "file" else change
    assert re.search(rf"\b{place} was ", message)
    assert (whole.output / f"{whole.key}.csv").read_bytes() == before


def test_a_finished_run_is_not_scored_again(whole, monkeypatch):
    monkeypatch.setattr(QualityScorer, "_fitting", lambda *_: pytest.fail("scored again"))
    assert main(whole.command(whole.output)) == 0


def test_the_lock_is_free_after_its_holder(tmp_path):
    refused = pytest.raises(ValueError, match=f"pid {os.getpid()}")
    with folder_lock(tmp_path), refused, folder_lock(tmp_path):
        pass
    with folder_lock(tmp_path):
        pass


# shards


def test_shards_together_equal_one_run(whole, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = whole.command(output)
    assert main([*arguments, "--shard", "1/2"]) == 0
    # windows of two: shard 1 has rows 2 3, 6 7, 10 (of 0..10)
    assert "5 of 11 rows" in capsys.readouterr().out
    assert sorted(read_rows(whole.journal(output, "1-of-2"))) == [2, 3, 6, 7, 10]
    assert not (output / f"{whole.key}.csv").exists()
    assert main([*arguments, "--shard", "0/2"]) == 0
    assert whole.table(output) == whole.table(whole.output)
    # a row that is there twice is found
    double = whole.journal(output, "0-of-2")
    row = read_rows(whole.journal(output, "1-of-2"))[2]
    double.write_bytes(double.read_bytes() + encode_row(2, row))
    assert main([*arguments, "--shard", "1/2"]) == 2
    assert "twice" in capsys.readouterr().err


@only_scores
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_of_torchrun_share_the_work(whole, tmp_path):
    driver, output = tmp_path / "driver.py", tmp_path / "out"
    driver.write_text(DRIVER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    never = "1000"
    arguments = whole.command(output)
    ended = subprocess.run([*launcher, driver, never, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert sorted(read_rows(whole.journal(output, "1-of-2"))) == [2, 3, 6, 7, 10]
    assert whole.table(output) == whole.table(whole.output)


def test_shards_by_option_and_by_torchrun(monkeypatch):
    assert parse_shard("1/4") == Shard(index=1, count=4)
    assert parse_shard(None) == Shard()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert parse_shard(None) == Shard(index=2, count=3)
    for text in ("4/4", "a/b", "1", "-1/2"):
        with pytest.raises(ValueError, match="shard"):
            parse_shard(text)


# subsets


def test_a_subset_by_ids_and_paths(whole, tmp_path):
    listed = tmp_path / "some.txt"
    # by id in the file, by path below the root, by absolute path; a meta's ids are paths
    by_id = "v8.mp4" if whole.key == "meta" else "q10"
    listed.write_text(f"v2.mp4\n\n{by_id}\n{whole.data / 'gone.mp4'}\n")
    output = tmp_path / "out"
    assert main(whole.command(output, "--subset", str(listed))) == 0
    rows, all_rows = whole.table(output), whole.table(whole.output)
    name = next(iter(rows[0]))
    assert [row[name] for row in rows] == [all_rows[i][name] for i in (2, 4, 10)]
    assert load_summary(output)["sets"][whole.key]["report"]["n_total"] == 3


def test_an_unknown_name_in_a_subset_is_named_before_the_model_is_loaded(
    whole, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("thinker.cli.evaluation.eval.load_scorer", lambda _: pytest.fail("loaded"))
    listed = tmp_path / "some.txt"
    listed.write_text("v2.mp4\nv99.mp4\n")
    assert main(whole.command(tmp_path / "out", "--subset", str(listed))) == 2
    assert "names 'v99.mp4', expected ids or paths" in capsys.readouterr().err
    listed.write_text("\n")
    assert main(whole.command(tmp_path / "out", "--subset", str(listed))) == 2
    assert "names no example" in capsys.readouterr().err


def test_the_order_of_a_subset_is_no_other_configuration(tmp_path):
    names = frozenset({"a", "b"})
    one, two = Subset(path=tmp_path / "x", names=names), Subset(path=tmp_path / "y", names=names)
    assert subset_fingerprint(one) == subset_fingerprint(two) != subset_fingerprint(None)


# several tasks


def test_a_file_of_several_tasks_is_one_set_a_task(policy, data, tmp_path):
    records = [
        choice_record(0, ["v0.mp4"]),
        {"id": "s", "task": "score", "video": "v1.mp4", "question": "Rate it.", "answer": 3.5},
        {"id": "o", "task": "open", "video": "v2.mp4", "question": "Why?", "answer": "Because."},
        choice_record(3, ["v3.mp4"]),
    ]
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(records))
    scale = MosScale(min=0, max=100, mapping="linear")
    records[1]["answer"] = 35
    path.write_text(json.dumps(records))
    source = record_set(path, data, scale)
    texts = ["<think>It is so.</think><answer>2</answer>"]
    scorer = QualityScorer(policy, ScriptedTexts(policy, texts))
    shown = evaluate(scorer, load_sets([source]), tmp_path / "out", HERE)
    sets = load_summary(tmp_path / "out")["sets"]
    assert {key: entry["task"] for key, entry in sets.items()} == {
        "mixed_choice": "choice", "mixed_score": "score", "mixed_open": "open",
    }  # fmt: skip
    (score,) = table(tmp_path / "out", "mixed_score")
    # 2 on 1..5 is a quarter of 0..100
    assert (score["pred_score"], score["gt_score"]) == ("25.0000", "35.0")
    assert [row["id"] for row in table(tmp_path / "out", "mixed_choice")] == ["q0", "q3"]
    assert [row["answer"] for row in table(tmp_path / "out", "mixed_open")] == ["2"]
    assert "mixed open: not measured" in shown and "mixed choice" in shown


def test_levels_by_their_logits_have_figures_of_words_and_of_means(policy, data, tmp_path):
    words = ("bad", "good", "fair", "excellent")
    records = [
        {"id": i, "task": "level", "video": f"v{i}.mp4", "question": "How good is it?", "answer": w}
        for i, w in enumerate(words)
    ]
    path = tmp_path / "levels.json"
    path.write_text(json.dumps(records))
    config = tmp_path / "levels.yaml"
    config.write_text(f"name: Levels\nkey: levels\nrecords: [{path}]\nmedia_root: {data}\n")
    sources = load_dataset_config(config).eval
    evaluate(QualityScorer(policy, mode="level"), load_sets(sources), tmp_path / "out", HERE)
    rows = table(tmp_path / "out", "levels")
    scores = [float(row["answer_score"]) for row in rows]
    figures = load_summary(tmp_path / "out")["sets"]["levels"]["report"]["figures"]
    assert figures["srcc"]["value"] == pytest.approx(srcc(scores, [1.0, 4.0, 3.0, 5.0]).value)
    right = sum(row["answer"] == word for row, word in zip(rows, words, strict=True))
    assert figures["accuracy"]["value"] == right / 4
    assert rows[0]["distribution"].count(",") == 4 and rows[0]["completion"] == ""


def test_ids_of_other_data_sets_keep_their_key(data, tmp_path):
    path = tmp_path / "two.jsonl"
    records = [choice_record(0, ["v0.mp4"]), choice_record(0, ["v1.mp4"], dataset_name="Other")]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in records))
    (one,) = load_sets([record_set(path, data)])
    assert [one.id_of(example) for example in one.examples] == ["q0", "other/q0"]


def test_a_key_that_two_files_share_is_refused(data, tmp_path):
    copied = tmp_path / "probe.jsonl"
    copied.write_bytes((data / "probe.jsonl").read_bytes())
    paths = (data / "probe.jsonl", copied)
    sources = [record_set(path, data) for path in paths]
    with pytest.raises(ValueError, match=r"2 sets have the key 'probe': .* Give each once"):
        load_sets(sources)


def test_mode_level_is_refused_for_choices(policy, data, tmp_path):
    scorer = QualityScorer(policy, mode="level")
    source = record_set(data / "probe.jsonl", data)
    with pytest.raises(ValueError, match="not for 'choice'"):
        evaluate(scorer, load_sets([source]), tmp_path / "out", HERE)
    assert not (tmp_path / "out").exists()


# bad files


@only_scores
def test_a_missing_field_stops_the_run_or_becomes_a_row(whole, tmp_path, capsys):
    raw = json.loads(whole.file.read_text())
    del raw["annotations"][1]["score"]
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps(raw))
    arguments = whole.command(tmp_path / "out")
    arguments[arguments.index(str(whole.file))] = str(meta)
    assert main(arguments) == 2
    assert "annotations[1]: missing field 'score'" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad-lines"]) == 0
    rows = table(tmp_path / "out")
    assert len(rows) == 11
    assert (rows[-1]["filename"], rows[-1]["status"]) == ("meta.json:1", "bad_annotation")
    assert load_summary(tmp_path / "out")["sets"]["meta"]["report"]["n_total"] == 11


@only_choices
def test_bad_records_of_all_files_are_listed_before_the_model_is_loaded(
    whole, tmp_path, capsys, monkeypatch
):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(choice_record(0, ["v0.mp4"], task="riddle")) + "\n")
    broken = tmp_path / "probe.jsonl"
    lines = [choice_record(i, ["v0.mp4"]) for i in range(3)]
    lines[1]["options"] = []
    broken.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    arguments = whole.command(tmp_path / "out")
    arguments[arguments.index(str(whole.file))] = str(broken)
    arguments.insert(1, str(other))
    with monkeypatch.context() as patch:
        patch.setattr("thinker.cli.evaluation.eval.load_scorer", lambda _: pytest.fail("loaded"))
        assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "other.jsonl:1" in message and "probe.jsonl:2" in message and "riddle" in message
    arguments.remove(str(other))
    assert main([*arguments, "--skip-bad-lines"]) == 0
    rows = table(tmp_path / "out", "probe")
    assert [row["id"] for row in rows] == ["q0", "q2", "probe.jsonl:2"]
    assert rows[-1]["status"] == "bad_annotation"


def test_sets_must_be_given_in_one_way(model, data, tmp_path, capsys):
    base = ["eval", "--model", str(model), "--output-dir", str(tmp_path)]
    meta, records = str(data / "meta.json"), str(data / "probe.jsonl")
    for given, message in (
        ([], "or as --meta with --video-root"),
        (["--media-root", str(data)], "or as --meta with --video-root"),
        (["--meta", meta], "--video-root is missing, the folder that the media of --meta lie in"),
        (["--meta", meta, "--media-root", str(data)], "--media-root is for record files"),
    ):
        assert main([*base, *given]) == 2
        assert message in capsys.readouterr().err
    assert main(["eval", records, *base[1:]]) == 2
    assert "--media-root is missing, the folder that the media of record" in capsys.readouterr().err


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


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unknown_error_of_one_medium_is_its_own(num_workers):
    paths = [Path(name) for name in ("a.mp4", "bug.mp4", "b.mp4")]
    results = list(read_ahead(paths, hang_or_die, Reading(num_workers=num_workers)))
    assert [r.reason for r in results] == ["decode_error", "unexpected", "decode_error"]
    assert "RuntimeError: a bug" in str(results[1])


def test_workers_give_the_clips_that_reading_here_gives(policy, data):
    read = partial(read_clip, spec=policy.inputs.clip_spec)
    paths = [data / f"v{i}.mp4" for i in range(3)]
    here, there = (read_ahead(paths, read, Reading(num_workers=count)) for count in (0, 2))
    for ours, theirs in zip(here, there, strict=True):
        assert ours.path == theirs.path and ours.keyframe_indices == theirs.keyframe_indices
        assert ours.keyframes_KCHW.equal(theirs.keyframes_KCHW)
        assert ours.motion_MCHW.equal(theirs.motion_MCHW)
