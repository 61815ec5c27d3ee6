"""ViDA's benchmark from answers to figures, submission and page; the command, stopped and begun
again."""

import json
import zipfile

import pytest

from tests.helpers.policy_factory import small_policy
from tests.helpers.vida_release import (
    edit,
    load,
    make_release,
    prediction,
    right_answer,
    write_answers,
)
from thinker.cli.main import main
from thinker.eval.bench.vida.finish import finish_vida
from thinker.eval.bench.vida.marks import without_marks
from thinker.eval.bench.vida.published import load_published
from thinker.eval.bench.vida.submit import SubmissionError, check_submission
from thinker.eval.report.page import write_report
from thinker.eval.summary import load_summary, write_results

SIX = (
    "perception accuracy", "region mAP", "distortion mAP", "description mAP",
    "key-distortion accuracy", "image-quality accuracy",
)  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("vida"))


@pytest.fixture(scope="module")
def data(release):
    return load(release)


def figures(folder):
    return load_summary(folder)["bench"]["figures_by_mode"]


def submitted(folder):
    with zipfile.ZipFile(folder / "submission.zip") as archive:
        return {name: json.loads(archive.read(name)) for name in archive.namelist()}


def test_right_answers_are_the_whole_score_with_marks_and_without(tmp_path, data):
    for name, form in (("marked", str), ("bare", without_marks)):
        out = tmp_path / name
        write_answers(out, data, lambda *asked, form=form: form(right_answer(*asked)))
        text = finish_vida(out, data)
        found = figures(out)
        assert found["final"] == 6.0, text
        for figure in SIX:
            assert found[figure]["official"] == found[figure]["robust"]["value"] == 1.0, figure
        assert ("answers without the marks" in text) == (name == "bare")
        assert "no published figures of a release with as many questions and these prompts" in text
        files = submitted(out)
        items = files["grounding.json"]
        assert [len(items), len(files["description.json"])] == [
            len(data.sets["detection"].examples) + len(data.sets["region"].examples), 8
        ]  # fmt: skip
        assert items[0]["distortions"][0]["severity"] in ("Severe", "Moderate", "Slight")
        assert files["perception.json"][0]["pred_ans"].endswith(".")
    page = write_report(out).read_text()
    assert "ViDA (MIPI 2025), %" in page and page.count("<figcaption>") == 8
    assert len(list((out / "bench_gallery").glob("*.png"))) == 8


def test_one_bad_answer_is_all_to_the_published_rule_and_one_to_ours(tmp_path, data):
    """An empty choice makes the official accuracy 0. A region whose box is swapped, and a picture
    that is not there, cost the robust figures what they are worth."""
    num = len(data.sets["choice"].examples)

    def answer(part, example, raw):
        if part == "choice" and raw["id"] == 0:
            return ""
        if part == "detection" and raw["id"] == 0:
            return None
        if part == "region" and raw["id"] == 0:
            return "Noise: (300,400),(10,20)"
        return right_answer(part, example, raw)

    write_answers(tmp_path / "out", data, answer)
    text = finish_vida(tmp_path / "out", data)
    found = figures(tmp_path / "out")
    assert found["perception accuracy"]["official"] == 0.0
    assert found["perception accuracy"]["counted"] == "malformed"
    assert found["perception accuracy"]["robust"]["value"] == pytest.approx((num - 1) / num)
    assert 0 < found["region mAP"]["robust"]["value"] < 1
    assert "1 invalid ones predict nothing" in text and "1 choices are empty" in text
    # Ours leaves the unreadable picture out; the published rule has it as one without an answer.
    assert found["distortion mAP"]["robust"]["value"] == 1.0
    assert "detection: 7/8 questions answered; 1 without an answer" in text


def test_boxes_that_leave_the_picture_stay_out_of_the_submission(tmp_path, data):
    def answer(part, example, raw):
        text = right_answer(part, example, raw)
        if part == "detection" and raw["id"] == 0:
            ref = "<|object_ref_start|>Minor noise<|object_ref_end|>"
            text += f"\nNoise:\n{ref}<|box_start|>(0,0),(1200,900)<|box_end|>"
        return text

    write_answers(tmp_path / "out", data, answer)
    assert "1 boxes that leave the picture" in finish_vida(tmp_path / "out", data)
    boxes = submitted(tmp_path / "out")["grounding.json"][0]["distortions"]
    assert all(max(one["coordinates"]) <= 1000 for one in boxes)
    assert figures(tmp_path / "out")["distortion mAP"]["official"] < 1.0


def test_a_submission_is_checked_before_it_is_written(tmp_path, release, data):
    good = {"id": 1, "concern": "type", "question": "?", "image": "a", "candidates": ["a", "b"]}
    box = {"distortion": "Noise", "severity": "Severe", "coordinates": [0, 0, 10, 1001]}
    described = {
        "id": 1,
        "image": "a",
        "width": 1,
        "height": 1,
        "pred_ans": "",
        "image_quality": "x",
    }
    described |= {"all_distortions": [box], "key_distortions": []}
    files = {
        "grounding.json": [], "description.json": [described],
        "perception.json": [good, good | {"pred_ans": "A"}],
    }  # fmt: skip
    with pytest.raises(SubmissionError) as caught:
        check_submission(files, {"grounding.json": 1, "description.json": 1, "perception.json": 2})
    for fault in (
        "grounding.json has 0 items, expected 1",
        "coordinates [0, 0, 10, 1001] are not 4 whole numbers within 0..1000",
        "perception.json: id 1 is there twice",
        "perception.json[0]: pred_ans is missing",
    ):
        assert fault in str(caught.value)
    # Where a part is not asked there is none, and an old one does not stay.
    out = tmp_path / "out"
    write_answers(out, data)
    finish_vida(out, data)
    del_choice = type(data)(**{**vars(data), "sets": dict(list(data.sets.items())[:3])})
    text = finish_vida(out, del_choice)
    assert "submission.zip is not written: nothing was asked of description, choice" in text
    assert not (out / "submission.zip").exists() and "not asked" in text


def test_without_truth_everything_is_answered_and_nothing_measured(tmp_path):
    release = make_release(tmp_path / "set", num_eval=3)
    for name in ("bench_metadata.json", "reg-p_bench.json", "ref-g.json"):
        (release / name).unlink()
    edit(release / "mcq.json", lambda every: [{**one, "correct_ans": None} for one in every])
    data = load(release)
    write_answers(tmp_path / "out", data, lambda part, example, raw: "B.")
    text = finish_vida(tmp_path / "out", data)
    assert text.count("not measured") >= 8 and figures(tmp_path / "out")["final"] is None
    assert len(submitted(tmp_path / "out")["description.json"]) == 3


def test_published_figures_stand_beside_the_whole_release_only():
    published = load_published()
    whole = {"detection": 476, "region": 926, "description": 476, "choice": 2567, "score": 476}
    assert published.is_of(whole) and not published.is_of(whole | {"region": 925})
    assert published.columns == [("Qwen2-VL-ViDA", "official"), ("Qwen2-VL-ViDA", "may")]
    assert published.cells("final") == ["2.4343", "–"]
    total = sum(
        v for k, v in published.systems["Qwen2-VL-ViDA"]["official"].items() if k != "final"
    )
    assert total / 100 == pytest.approx(2.4343, abs=2e-4)  # each is rounded


def test_confidences_reach_the_map(tmp_path, data):
    """Every box of detection beside a wrong one that is surer: each class is right at 1/2."""
    sets = []
    for part, one in data.sets.items():
        rows = []
        for example in one.examples:
            made = prediction(example, right_answer(part, example, data.raws[part][example.id]))
            row = made.to_row()
            if part == "detection":
                row["boxes"] = [box | {"confidence": 0.4} for box in row["boxes"]] + [
                    box | {"confidence": 0.8, "box": (0.0, 0.0, 9.0, 9.0)} for box in row["boxes"]
                ]
            rows.append({"id": example.id, **row})
        sets.append((one, rows))
    (tmp_path / "out").mkdir()
    write_results(tmp_path / "out", sets, {"mode": "reason", "model": "m", "version": "0"})
    text = finish_vida(tmp_path / "out", data)
    assert figures(tmp_path / "out")["distortion mAP"]["robust"]["value"] == pytest.approx(0.5)
    assert "distortion mAP, robust: 8 answers\n" in text


# the command


def test_the_command_goes_on_where_it_was_stopped(tmp_path, capsys):
    """Rows that are cut off are asked again; everything else is byte for byte the same."""
    release = make_release(tmp_path / "set", num_eval=1)
    small_policy("qwen2_5_vl").save(tmp_path / "model")
    out = tmp_path / "out"
    command = [
        "bench", "vida", "--data", str(release), "--image-root", str(tmp_path / "set/pictures"),
        "--model", str(tmp_path / "model"), "--output-dir", str(out), "--max-new-tokens", "2",
        "--num-workers", "0",
    ]  # fmt: skip
    assert main(command) == 0
    kept = ("bench.txt", "bench.json", "submission.zip")
    whole = {name: (out / name).read_bytes() for name in kept}
    journal = out / "rows" / "vida_choice.0-of-1.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    for name in (*kept, "summary.json"):
        (out / name).unlink()
    assert main(command) == 0
    assert {name: (out / name).read_bytes() for name in kept} == whole
    capsys.readouterr()
    # Options of the other benchmarks are refused in a sentence, before the model is loaded.
    for option in (["--frames", "official"], ["--judge-calls", "3"], ["--split", "dev"]):
        assert main([*command, *option]) == 2
        assert f"{option[0]}: for q-bench and q-bench-video" in capsys.readouterr().err
    command[3:4] = [str(release), str(release)]
    assert main(command) == 2
    assert "--data names 2 paths" in capsys.readouterr().err
    # Mode level asks for the score alone.
    command[3:5] = [str(release)]
    command[command.index(str(out))] = str(tmp_path / "level")
    assert main([*command, "--mode", "level"]) == 0
    assert "nothing was asked of detection" in capsys.readouterr().out
