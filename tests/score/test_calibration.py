"""Intervals of scores that hold, and the warning for media unlike those they were made of."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.data.demo.render import render_clip
from thinker.data.demo.scenes import Scene
from thinker.policies.encode import run_policy
from thinker.score.calibration import (
    MISS,
    UNLIKE,
    Calibration,
    Facts,
    calibration_path,
    cloud,
    find_calibrations,
    likeness_of,
    load_calibration,
    media_features,
    radius,
    save_calibration,
)
from thinker.score.prediction import Prediction
from thinker.score.scorer import QualityScorer
from thinker.video.read import clip_from_frames

NUM_CONTENTS = 40
FACTS = Facts(
    dataset="mine", mode="level", policy="0", num_samples=0, question="[]", num_examples=40,
    num_left_out=0, num_contents=40, miss=MISS, radius=0.5, lowest=1.0, highest=5.0,
    coverage=(0.9,), false_warnings=(0.0,),
)  # fmt: skip


def normal_features(count, seed=0, width=6):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def calibration():
    contents = list(map(str, range(NUM_CONTENTS)))
    return Calibration(facts=FACTS, likeness=likeness_of(normal_features(40), contents))


# intervals


def test_it_holds_for_new_contents_whose_versions_resemble_each_other() -> None:
    """An error is that of its content plus its own. One to eight versions a content, the errors of
    contents with many of them four times as large: an interval that counted clips would hold 96 %
    of new contents' clips, as those with many versions would make it."""
    draw, held, by_clips = np.random.default_rng(0), [], []
    for _ in range(400):
        sizes = draw.choice([1, 8], 40, p=[0.8, 0.2])
        scales = np.where(sizes == 8, 4.0, 1.0)
        of_content = draw.normal(0, scales)
        names = np.repeat(np.arange(40), sizes)
        errors = np.abs(of_content[names] + draw.normal(0, 0.3, len(names)))
        new_size = draw.choice([1, 8], p=[0.8, 0.2])
        new = abs(draw.normal(0, 4.0 if new_size == 8 else 1.0) + draw.normal(0, 0.3))
        held.append(new <= radius(errors, list(map(str, names))))
        by_clips.append(new <= radius(errors, list(map(str, range(len(names))))))
    # A standard error of 400 draws at .9 is .015.
    assert np.mean(held) == pytest.approx(0.905, abs=0.03)
    assert np.mean(by_clips) > 0.94


def test_a_row_gets_an_interval_within_the_scale(calibration) -> None:
    row = Prediction(path=Path("a.mp4"), score=4.8, status="ok", note="read by another reader")
    usual = calibration.applied(row, "[]", embeds_like(calibration, 0.0))
    assert usual.interval == (pytest.approx(4.3), 5.0) and usual.calibrated_on == "mine"
    assert usual.likeness == pytest.approx(1.0) and usual.note == "read by another reader"
    odd = calibration.applied(row, "[]", embeds_like(calibration, 30.0))
    assert odd.likeness == pytest.approx(1 / 41)  # none of 40 contents lies as far out
    assert odd.note.startswith("read by another reader; the media are unlike those of the cal")
    assert odd.interval == usual.interval
    for other in (replace(row, score=None), replace(row, task="level")):
        assert calibration.applied(other, "[]", embeds_like(calibration, 0.0)) is other
    assert calibration.applied(row, '[["user", "?"]]', embeds_like(calibration, 0.0)) is row


def embeds_like(calibration, offset):
    """Two tokens whose mean and deviation lie so many deviations off the centre of the set."""
    known = calibration.likeness.cloud
    wanted = known.centre_F + offset * known.scale_F
    mean, deviation = wanted[:3], wanted[3:]
    return torch.stack([mean - deviation, mean + deviation])


# likeness


def test_the_distance_is_that_of_the_whole_shrunk_covariance() -> None:
    """Against a plain float64 one of F x F, with fewer media than features and with more."""
    for num in (5, 50):
        features = normal_features(num, width=8) * torch.arange(1, 9)
        other = normal_features(3, seed=1, width=8)
        x = features.double().numpy()
        scale = x.std(0)
        x = (x - x.mean(0)) / scale
        s = x.T @ x / num
        mean_variance = np.trace(s) / 8
        off = ((s - mean_variance * np.eye(8)) ** 2).sum() / 8
        noise = sum(((np.outer(row, row) - s) ** 2).sum() for row in x) / num**2 / 8
        shrinkage = min(noise / off, 1.0)
        precision = np.linalg.inv((1 - shrinkage) * s + shrinkage * mean_variance * np.eye(8))
        z = (other.double().numpy() - features.double().numpy().mean(0)) / scale
        expected = [row @ precision @ row for row in z]
        assert cloud(features).distances(other).tolist() == pytest.approx(expected, rel=1e-4)


def test_media_of_the_same_kind_are_rarely_called_unlike() -> None:
    """Of 200 sets that are drawn, one medium each: about one in twenty, as a p-value has it."""
    warned = []
    for seed in range(200):
        features = normal_features(31, seed)
        known = likeness_of(features[:30], list(map(str, range(30))))
        warned.append(known.p_value(features[30]) < UNLIKE)
    assert 0.01 <= np.mean(warned) <= 0.09  # a standard error is .015


def scene_frames(seed, distortion="none"):
    rng = np.random.default_rng(seed)
    frames, _ = render_clip(Scene((7, seed), 48), distortion, rng.uniform(), 12, rng)
    return np.stack(frames)


def other_frames(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "flat":
        return np.full((12, 48, 48, 3), rng.integers(0, 256, 3), dtype=np.uint8)
    if kind == "ramp":
        row = np.linspace(0, 255, 48)[:, None] * rng.uniform(0.3, 1, 3)
        return np.broadcast_to(row, (12, 48, 48, 3)).astype(np.uint8)
    marks = rng.random((8, 16)) < 0.6  # rows of marks on paper, as text is from afar
    page = np.where(np.kron(marks, np.array([[1, 1, 0]] * 4 + [[0, 0, 0]] * 2)), 20, 245)
    return np.broadcast_to(page[None, :, :, None], (12, 48, 48, 3)).astype(np.uint8)


def test_other_scenes_are_like_the_set_and_other_kinds_of_pictures_are_not() -> None:
    policy = small_policy("internvl3")
    policy.model.eval()

    @torch.no_grad()
    def features(frames):
        clips = [clip_from_frames(one, policy.inputs.clip_spec) for one in frames]
        return torch.stack([media_features(embeds) for embeds in run_policy(policy, clips)])

    kinds = ("none", "blur", "noise", "low_contrast")
    own = features(scene_frames(seed, kinds[seed % 4]) for seed in range(80))
    known = likeness_of(own, list(map(str, range(80))))
    new = features(scene_frames(seed, kinds[seed % 4]) for seed in range(1000, 1040))
    assert np.mean([known.p_value(one) < UNLIKE for one in new]) <= 0.1
    for kind in ("flat", "ramp", "marks"):
        odd = features(other_frames(kind, seed) for seed in range(10))
        assert np.mean([known.p_value(one) < UNLIKE for one in odd]) >= 0.9, kind


# the file


def test_a_file_gives_back_what_was_written(calibration, tmp_path) -> None:
    path = save_calibration(tmp_path, calibration)
    assert path == calibration_path(tmp_path, "mine", "level")
    again = load_calibration(tmp_path, "mine", "level")
    assert again.facts == calibration.facts
    for one in normal_features(5, seed=3):
        assert again.likeness.p_value(one) == calibration.likeness.p_value(one)


def test_what_is_no_calibration_is_an_error_that_says_what_to_do(calibration, tmp_path) -> None:
    save_calibration(tmp_path, calibration)
    with pytest.raises(ValueError, match=r"'others'; there are: mine\. Make it"):
        load_calibration(tmp_path, "others", "level")
    path = calibration_path(tmp_path, "mine", "level")
    save_file({"a": torch.zeros(1)}, path, metadata={"facts": json.dumps({"dataset": "mine"})})
    with pytest.raises(ValueError, match="is no calibration"):
        load_calibration(tmp_path, "mine", "level")
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is no calibration"):
        load_calibration(tmp_path, "mine", "level")


def test_one_of_other_weights_is_refused_where_it_is_named(calibration, tmp_path, caplog) -> None:
    """And left out with a warning where it is not; of two, one has to be named."""
    save_calibration(tmp_path, calibration)
    with pytest.raises(ValueError, match="of other weights or settings"):
        find_calibrations(tmp_path, "mine", ["level"], 8)
    assert find_calibrations(tmp_path, None, ["reason", "level"], 8) == {}
    assert "Scores have no interval" in caplog.text
    save_calibration(tmp_path, replace(calibration, facts=replace(FACTS, dataset="two")))
    caplog.clear()
    assert find_calibrations(tmp_path, None, ["level"], 8) == {}
    assert not [record for record in caplog.records if record.levelname != "INFO"]


# the command


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A policy and 40 videos with labels."""
    folder = tmp_path_factory.mktemp("labelled")
    small_policy("internvl3").save(folder / "policy")
    for i in range(NUM_CONTENTS):
        write_video(folder / f"v{i}.mp4", num_frames=4 + i, width=32, height=32)
    annotations = [
        {"image_id": f"v{i}.mp4", "ann_type": "score", "score": str(2 * i)}
        for i in range(NUM_CONTENTS)
    ]
    (folder / "meta.json").write_text(json.dumps({"annotations": annotations}))
    return folder


def command(folder, name, *more):
    return [
        name, "--model", str(folder / "policy"), "--meta", str(folder / "meta.json"),
        "--video-root", str(folder), "--mode", "level", "--num-workers", "0", *more,
    ]  # fmt: skip


def test_calibrate_keeps_what_scores_and_evaluations_then_carry(labelled, tmp_path, capsys) -> None:
    assert main(command(labelled, "calibrate", "--mos-scale", "0:100:linear")) == 0
    said = capsys.readouterr().out
    assert "40 examples of 40 contents; 0 without a score" in said and "holds" in said
    facts = load_calibration(labelled / "policy", "meta", "level").facts
    assert len(facts.coverage) == 20 and 0.8 <= np.mean(facts.coverage) <= 1.0
    scorer = QualityScorer.from_pretrained(labelled / "policy", device="cpu", mode="level")
    rows = scorer.score([labelled / f"v{i}.mp4" for i in range(NUM_CONTENTS)])
    targets = [1 + 4 * 2 * i / 100 for i in range(NUM_CONTENTS)]
    inside = [row.interval[0] <= t <= row.interval[1] for row, t in zip(rows, targets, strict=True)]
    assert sum(inside) >= 0.9 * NUM_CONTENTS  # of the set itself, by its definition
    assert {row.calibrated_on for row in rows} == {"meta"}
    out = tmp_path / "out"
    scale = ("--mos-scale", "0:100:linear")
    assert main(command(labelled, "eval", *scale, "--output-dir", str(out))) == 0
    assert f"; intervals hold {100 * np.mean(inside):.1f} % of the MOS" in capsys.readouterr().out
    header, first = (out / "meta.csv").read_text().splitlines()[:2]
    assert header.endswith("interval_low,interval_high,likeness")
    assert float(first.split(",")[-3]) == pytest.approx(rows[0].interval[0], abs=2e-4)


def test_sets_that_cannot_calibrate_are_refused_before_a_model_is_loaded(
    labelled, capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr("thinker.cli.evaluation.calibrate.load_scorer", lambda _: pytest.fail("no"))
    assert main(command(labelled, "calibrate")) == 2
    assert "the scale of the MOS is not known" in capsys.readouterr().err
    few = tmp_path / "few.txt"
    few.write_text("v1.mp4\nv2.mp4\n")
    scale = ("--mos-scale", "0:100:linear")
    assert main(command(labelled, "calibrate", *scale, "--subset", str(few))) == 2
    assert "has 2 source contents, expected at least 40" in capsys.readouterr().err
    assert main(command(labelled, "eval", *scale, "--output-dir", str(tmp_path / "o"),
                        "--calibration", "konvid_1k")) == 2  # fmt: skip
    assert "by 'konvid_1k'; there are" in capsys.readouterr().err
