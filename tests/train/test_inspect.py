"""The page of a run's rollouts: which groups it shows, and what of them."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.video_factory import frame_pattern, write_video
from thinker.cli.main import main
from thinker.train.inspect.groups import in_steps, ranked, read_groups

EVIL = "<script>alert(1)</script>"


def line(step, sample, weighted_sum, logprob, **fields):
    row = {
        "step": step, "sample_id": sample, "task": "score", "target": 3.0,
        "completion": "<think>It is blur.</think><answer>3.00</answer>", "answer": 3.0,
        "score": 3.0, "invalid": None, "rewards": {"regression": weighted_sum, "format": None},
        "weighted_sum": weighted_sum, "advantage": 0.0, "media": [], "question": None,
        "num_tokens": 9, "is_ended": True, "mean_logprob": logprob, "perturbation": None,
        "perturbed_completion": None, "seed": 7,
    }  # fmt: skip
    return row | fields


def write_run(folder, lines, metrics=()):
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(one) + "\n" for one in lines)
    (folder / "rollouts.jsonl").write_text(text)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in metrics))
    return folder


def test_groups_are_ranked_by_reward_and_by_surprise(tmp_path):
    """Rewards .5, .9, none and .2; in "c" what was least likely earned .4 more, in "a" .2 less."""
    lines = [
        line(1, "a", 0.6, -0.1), line(1, "a", 0.4, -2.0),
        line(1, "b", 0.9, -0.5), line(1, "b", 0.9, -0.7),
        line(2, "n", None, -0.5), line(2, "n", None, -0.7),
        line(2, "c", 0.0, -0.2), line(2, "c", 0.4, -3.0), line(2, "c", 0.2, -0.3),
    ]  # fmt: skip
    groups = read_groups(write_run(tmp_path, lines) / "rollouts.jsonl")
    assert [group.sample_id for group in groups] == ["a", "b", "n", "c"]
    assert groups[0].surprise == pytest.approx(-0.2) and groups[3].surprise == pytest.approx(0.4)
    found = {kind: [g.sample_id for g in some] for kind, some in ranked(groups, 2).items()}
    assert found == {"best": ["b", "a"], "worst": ["c", "a"], "surprising": ["c"]}
    assert [group.sample_id for group in in_steps(groups, None)] == ["n", "c"]  # the last fifth
    assert [group.sample_id for group in in_steps(groups, (1, 1))] == ["a", "b"]
    with pytest.raises(ValueError, match="at the steps 3 to 9, expected some of 1 to 2"):
        in_steps(groups, (3, 9))


def test_a_killed_runs_half_line_is_left_and_an_older_versions_file_refused(tmp_path):
    folder = write_run(tmp_path / "run", [line(1, "a", 0.5, -1.0)])
    with open(folder / "rollouts.jsonl", "a") as file:
        file.write('{"step": 2, "samp')
    assert len(read_groups(folder / "rollouts.jsonl")) == 1
    write_run(folder, [{"step": 0, "sample_id": "a", "completion": "x"}])
    with pytest.raises(ValueError, match="line 1 has no weighted_sum or media; an older version"):
        read_groups(folder / "rollouts.jsonl")


def test_the_page_shows_frames_texts_and_curves(tmp_path, capsys):
    write_video(tmp_path / "a.mp4", num_frames=20, fps=10)
    Image.fromarray(frame_pattern(5, 64, 48)).save(tmp_path / "b.png")
    video = {"path": str(tmp_path / "a.mp4"), "kind": "video", "seconds": [0.4, 1.4], "crop": None}
    still = {"path": str(tmp_path / "b.png"), "kind": "image", "seconds": [], "crop": [0, 0, 8, 8]}
    gone = {"path": str(tmp_path / "no.mp4"), "kind": "video", "seconds": [0.0], "crop": None}
    lines = [
        line(3, "demo/1", 0.9, -0.5, media=[video, still], question="Which?", completion=EVIL,
             perturbation="reverse", perturbed_completion="backwards", is_ended=False),
        line(3, "demo/1", 1.0, -1.5, media=[video, still], question="Which?",
             perturbation="reverse", perturbed_completion="backwards"),
        line(3, "demo/2", 0.1, -0.5, media=[gone], answer=None, invalid="no_answer"),
    ]  # fmt: skip
    names = ("answers/distinct", "answers/commonest_8_share", "completions/p50_length")
    metrics = [{"step": step, **dict.fromkeys(names, 0.5)} for step in (1, 2, 3)]
    run = write_run(tmp_path / "run", lines, metrics)
    assert main(["inspect", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "inspect.html")
    page = (run / "inspect.html").read_text()
    assert EVIL not in page and "&lt;script&gt;" in page
    for text in ("demo/1", "Which?", "of the copy (reverse)", "backwards", "9, cut off", "0.95",
                 "surprise 0.10", "no.mp4: no frames (missing)", "no_answer"):  # fmt: skip
        assert text in page, text
    assert "http://" not in page and "https://" not in page  # nothing is fetched
    shown = Image.open(run / "inspect" / "best_0_0.png")
    frames = np.asarray(shown.convert("RGB")).astype(int)
    assert shown.size == (128, 64)  # two frames of 64 x 64
    expected = np.concatenate([frame_pattern(n, 64, 64) for n in (4, 14)], axis=1)
    assert np.abs(frames - expected).mean() < 8  # of H.264
    assert Image.open(run / "inspect" / "best_0_1.png").size[0] >= 8
    assert Image.open(run / "inspect" / "curves.png").size[0] > 1000


def test_what_cannot_be_inspected_is_one_error(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "holds no rollouts.jsonl; expected the output folder of a run" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path), "--steps", "5:2"]) == 2
    assert "expected the first step before the last one" in capsys.readouterr().err
    write_run(tmp_path / "empty", [])
    assert main(["inspect", str(tmp_path / "empty")]) == 2
    assert "has no rollouts yet" in capsys.readouterr().err
