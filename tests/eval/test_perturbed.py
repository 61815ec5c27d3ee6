"""Held-out videos against copies in another order: what is shown, the figure, what is refused."""

import csv
import json

import pytest

from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.data.datasets import EvalSet
from thinker.eval.perturbed import format_time, time_report, with_perturbed
from thinker.eval.run import evaluate
from thinker.eval.sets import load_sets, record_set
from thinker.eval.summary import load_summary
from thinker.score.question import Question
from thinker.score.scorer import QualityScorer
from thinker.video import medium, read_clip
from thinker.video.perturb import perturb_clip, perturbation_seed
from thinker.video.read_ahead import Reading

NAMES = ("a.mp4", "b.mp4", "c.mp4")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i, name in enumerate(NAMES):
        write_video(folder / name, num_frames=12 + 4 * i)
    annotations = [
        {"image_id": name, "ann_type": "score", "score": str(i)}
        for i, name in enumerate((*NAMES, "gone.mp4"))
    ]
    (folder / "meta.json").write_text(json.dumps({"annotations": annotations}))
    source = EvalSet(name="Mine", key="mine", meta=folder / "meta.json", video_root=folder)
    return load_sets([source])


def test_copies_are_asked_about_and_stay_out_of_other_figures(loaded, tmp_path):
    scorer = QualityScorer(small_policy("internvl3"), mode="level")
    both = with_perturbed(loaded, "shuffle")
    shown = evaluate(scorer, both, tmp_path, Reading(num_workers=0))
    summary = load_summary(tmp_path)
    assert list(summary["sets"]) == ["mine"] and "Mine, shuffle" not in shown

    true, copies = (
        {row["filename"]: row["answer_score"] for row in csv.DictReader(path.open())}
        for path in (tmp_path / "mine.csv", tmp_path / "mine_shuffle.csv")
    )
    assert true["gone.mp4"] == copies["gone.mp4"] == ""
    drops = []
    for name in NAMES:
        path = loaded[0].media_root / name
        seed = perturbation_seed(0, 0, "/".join(path.parts[-2:]))
        clip = perturb_clip(read_clip(medium(path), scorer.clip_spec), "shuffle", seed)
        ((_, answer),) = scorer.answer_as_done([Question(clips=(clip,))])
        assert float(copies[name]) == pytest.approx(answer.score, abs=1e-4)
        drops.append(float(true[name]) - float(copies[name]))
    assert all(drops), "a policy with a motion branch tells the order"
    entry = summary["perturbed"]["mine"]
    assert entry["kind"] == "shuffle" and entry["above"]["n"] == 3
    assert entry["above"]["value"] == sum(drop > 0 for drop in drops) / 3
    assert entry["score_drop"] == pytest.approx(sum(drops) / 3, abs=1e-3)
    assert "Mine: above its shuffle copy in " in shown


def test_a_tie_is_half_a_pair(loaded):
    true, copies = with_perturbed(loaded, "reverse")
    assert (copies.key, copies.perturbed) == ("mine_reverse", "reverse")
    true_rows = [{"score": score} for score in (3.0, 2.5, 4.0, 1.0)]
    rows = [{"score": score} for score in (2.0, 2.5, 4.5, None)]
    report = time_report(copies, rows, true, true_rows)
    assert (report.above.value, report.above.n) == (0.5, 3)
    assert report.score_drop == pytest.approx(0.5 / 3)
    assert report.above.ci_low < 0.5 < report.above.ci_high
    assert format_time("Mine", report).startswith("Mine: above its reverse copy in 0.500 [")
    nothing = time_report(copies, rows, true, [{"score": None}] * 4)
    assert nothing.above.value is None and "no video has a score" in format_time("Mine", nothing)


def test_what_has_no_copies_is_refused(loaded, tmp_path, capsys):
    with pytest.raises(ValueError, match="'identity': expected one of shuffle, local_shuffle"):
        with_perturbed(loaded, "identity")
    with pytest.raises(ValueError, match="no set of the second key"):
        with_perturbed(with_perturbed(loaded, "shuffle"), "shuffle")
    record = {"id": 1, "task": "choice", "video": "a.mp4", "question": "Which?"}
    record |= {"options": ["blur", "noise"], "answer": "blur"}
    path = tmp_path / "choices.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="choices: expected a set of scores of videos"):
        with_perturbed(load_sets([record_set(path, loaded[0].media_root)]), "shuffle")
    given = [str(path), "--media-root", str(loaded[0].media_root), "--output-dir", "x"]
    assert main(["eval", *given, "--model", "x", "--perturbed", "backwards"]) != 0
    assert "'backwards'" in capsys.readouterr().err
