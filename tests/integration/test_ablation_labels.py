"""What the ablations of the demo are made with: label files and a ranking reward of few videos."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from rewards.ranking import RankingReward
from tests.helpers.places import REPO
from thinker.data.datasets import load_dataset_config, load_train_examples
from thinker.data.demo.generate import generate_demo_set
from thinker.data.demo.plan import SyntheticConfig

LABELS = REPO / "benchmarks" / "demo_labels"


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/, by its name."""
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    return importlib.import_module


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_every_variant_of_the_labels_can_be_read(module, tmp_path, monkeypatch):
    size = SyntheticConfig(num_train_contents=50, num_eval_contents=6, clips_per_content=2)
    demo = generate_demo_set(tmp_path / "demo", size, num_workers=1)
    script, root = module("ablation_labels"), tmp_path / "labels"
    paths = ["--demo", str(tmp_path / "demo"), "--output", str(root)]
    monkeypatch.setattr(sys, "argv", ["ablation_labels.py", *paths])
    assert script.main() == 0

    truths = json.loads(demo.distortions_json.read_text(encoding="utf-8"))
    variants = [place for place in root.iterdir() if place.is_dir()]
    assert len(variants) == 6
    for place in variants:
        names = {"ABLATION_ROOT": str(root), "DEMO_ROOT": str(tmp_path / "demo")}
        for config in ("distortion", "level", "score", "train"):
            known = load_dataset_config(
                LABELS / f"{config}.yaml", variables=names | {"LABELS": place.name}
            )
            assert len(lines(place / f"{config}.jsonl")) == len(load_train_examples(known).examples)
    for name, is_unseen in script.UNSEEN.items():
        clips = {line["image"][0] for line in lines(root / name / "train.jsonl")}
        left_out = {path for path, truth in truths.items() if is_unseen(truth)}
        assert (
            left_out
            and clips
            == {path for path, truth in truths.items() if truth["split"] == "train"} - left_out
        )
    (silent, *_), (said, *_) = lines(root / "silent/score.jsonl"), lines(root / "all/score.jsonl")
    answer = said["conversations"][1]["value"]
    assert silent["conversations"][1]["value"] == answer.partition("</think>")[2] != answer
    for line in lines(root / "assessed/score.jsonl"):
        mos = truths[line["video"][0]]["mos"]
        assert line["conversations"][1]["value"].endswith(f"</think><answer>{mos:.2f}</answer>")


def test_codecs_of_the_film_can_be_left_out(module, tmp_path, monkeypatch):
    film, root = tmp_path / "film_data" / "film", tmp_path / "labels"
    film.mkdir(parents=True)
    clips = {"a_vp9.mp4": "libvpx-vp9", "b_x264.mp4": "libx264", "c_blur.mp4": None}
    write_lines(film / "clips.jsonl", [{"path": p, "encoder": e} for p, e in clips.items()])
    scored = [{"video": path, "conversations": []} for path in clips]
    for name in ("train_words", "train_levels", "train_reasoning"):
        write_lines(film / f"{name}.jsonl", scored)
    write_lines(film / "vmaf_train.jsonl", [{"image": [path]} for path in clips])
    held_out = [{"image_id": path, "score": 50.0, "content": "meadow"} for path in clips]
    (film / "vmaf_eval.json").write_text(json.dumps({"annotations": held_out}), encoding="utf-8")
    paths = ["--film", str(film.parent), "--output", str(root)]
    monkeypatch.setattr(sys, "argv", ["ablation_labels.py", *paths])
    assert module("ablation_labels").main() == 0

    for name in ("train_words", "train_levels", "train_reasoning", "vmaf_train"):
        assert lines(root / f"all/{name}.jsonl") == lines(film / f"{name}.jsonl")
        assert lines(root / f"unseen_codec/{name}.jsonl") == lines(film / f"{name}.jsonl")[1:]
    for side, expected in (("unseen", held_out[:1]), ("seen", held_out[1:])):
        meta = json.loads((root / f"eval_{side}_codec.json").read_text(encoding="utf-8"))
        assert meta["annotations"] == expected
    monkeypatch.setenv("FILM_ROOT", str(film.parent))
    for config in sorted((REPO / "benchmarks" / "film_labels").iterdir()):
        names = {"ABLATION_ROOT": str(root), "LABELS": "unseen_codec"}
        assert load_dataset_config(config, variables=names).train


def test_local_ranking_compares_with_the_videos_beside(module):
    answers = ["1.50", "2.50", "2.00", "3.00", "4.50", "4.00", "1.00", "5.00"]
    said = [f"<answer>{answer}</answer>" for answer in answers]
    videos = ["a", "a", "b", "b", "c", "c", "d", "d"]
    target = [2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 2.5, 2.5]
    local = module("paired.local_ranking").LocalRanking(num_videos=2)(said, videos, target)
    halves = [
        RankingReward()(said[part], videos[part], target[part])
        for part in (slice(4), slice(4, None))
    ]
    assert local == [*halves[0], *halves[1]] != RankingReward()(said, videos, target)
