"""The embedded demo set: its MOS rule, its files, and each distortion in the decoded frames."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import spearmanr

from tests.helpers.label_files import read_train
from thinker import prompts
from thinker.data.demo.generate import DemoSet, generate_demo_set
from thinker.data.demo.plan import (
    DISTORTIONS,
    SyntheticConfig,
    impairment,
    plan_demo_set,
    rate,
    severity_of,
    true_mos,
)
from thinker.data.demo.render import encode, frame_drop_times, render_clip, stutter_times
from thinker.data.demo.scenes import Scene, scale_luminance
from thinker.data.read import read_meta_json
from thinker.data.scale import MosScale

SMALL = SyntheticConfig(num_train_contents=4, num_eval_contents=3, clips_per_content=3)
# 7 held-out clips are the fewest of which one has a motion distortion
SMALLEST = SyntheticConfig(num_train_contents=1, num_eval_contents=1, clips_per_content=7)
CONTENT_PATTERN = r"(?P<content>[^/]+)/\d+\.mp4"  # as in data_configs/demo.yaml
SEVERITIES = (0.1, 0.4, 0.7, 1.0)


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> DemoSet:
    return generate_demo_set(tmp_path_factory.mktemp("demo"), SMALL, num_workers=1)


# --- the MOS rule ---


def test_mos_rule_by_hand() -> None:
    # s^1.5 = .353553, .7^1.5 = .585662; .353553 * 1.585662 / .939215 = .596898
    assert impairment(0.5) == pytest.approx(0.596898, abs=1e-6)
    assert (impairment(0.0), impairment(1.0)) == (0.0, 1.0)
    # 4.8 - 3.6 * .596898 = 2.651166; frame_drops weighs .96: 4.8 - 3.456 * .596898 = 2.737119
    assert true_mos("blur", 0.5) == pytest.approx(2.651166, abs=1e-6)
    assert true_mos("frame_drops", 0.5) == pytest.approx(2.737119, abs=1e-6)
    assert true_mos("none", 0.0) == 4.8
    with pytest.raises(ValueError, match=r"severity is 1\.2"):
        impairment(1.2)


def test_severity_inverts_impairment() -> None:
    for value in (0.0, 0.06, 0.3, 0.597, 1.0):
        assert impairment(severity_of(value)) == pytest.approx(value, abs=1e-12)


def test_raters() -> None:
    ratings = np.array([rate(3.0, np.random.default_rng(seed)) for seed in range(2000)])
    # 15 raters of sd .5: mean 3, sd .5 / sqrt(15) = .1291; four standard errors of each over 2000
    assert ratings.mean() == pytest.approx(3.0, abs=4 * 0.1291 / 2000**0.5)
    assert ratings.std() == pytest.approx(0.1291, abs=4 * 0.1291 / 4000**0.5)
    # Clipping 4.8 at 5 costs .5 * (phi(.4) - .4 * (1 - Phi(.4))) = .5 * (.3683 - .4 * .3446) = .115
    high = [rate(4.8, np.random.default_rng(seed)) for seed in range(2000)]
    assert np.mean(high) == pytest.approx(4.685, abs=0.01)


# --- the plan ---


def test_config_keys_are_frozen() -> None:
    names = [field.name for field in dataclasses.fields(SyntheticConfig)]
    assert names == [
        "num_train_contents",
        "num_eval_contents",
        "clips_per_content",
        "none_share",
        "size_px",
        "num_frames",
        "fps",
        "seed",
    ]


@pytest.mark.parametrize(
    "values",
    [{"size_px": 81}, {"size_px": 46}, {"num_frames": 8}, {"none_share": 1.0}, {"seed": -1}],
)
def test_config_rejects(values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=name):
        SyntheticConfig(**values)  # type: ignore[arg-type]


def test_a_set_without_held_out_motion_is_refused_before_it_is_rendered(tmp_path: Path) -> None:
    """Its `eval_motion.json` would be empty, which data_configs/demo_motion.yaml refuses."""
    demo = generate_demo_set(tmp_path, SMALLEST, num_workers=1)
    assert len(json.loads(demo.eval_motion_json.read_text())["annotations"]) == 1
    with pytest.raises(ValueError, match=r"6 held-out clips in all: .* expected at least 7 that"):
        dataclasses.replace(SMALLEST, clips_per_content=6)


def test_plan_is_balanced_and_split_by_content() -> None:
    plans = plan_demo_set(SyntheticConfig())
    train = [plan for plan in plans if plan.split == "train"]
    held_out = [plan for plan in plans if plan.split == "eval"]
    assert (len(train), len(held_out)) == (5000, 300)
    assert not {plan.content for plan in train} & {plan.content for plan in held_out}
    assert not {plan.scene_seed for plan in train} & {plan.scene_seed for plan in held_out}
    assert len({plan.clip_seed for plan in plans}) == len({plan.path for plan in plans}) == 5300
    counts = {name: sum(plan.distortion == name for plan in train) for name in DISTORTIONS}
    # 5 % of 5000 pristine, 4750 over ten types
    assert counts.pop("none") == 250
    assert set(counts.values()) == {475}


def test_type_does_not_give_the_mos_away_and_labels_are_learnable() -> None:
    plans = plan_demo_set(SyntheticConfig())
    train = [plan for plan in plans if plan.split == "train"]
    held_out = [plan for plan in plans if plan.split == "eval"]
    mos = [plan.mos for plan in held_out]
    type_mos = {
        name: np.mean([plan.mos for plan in train if plan.distortion == name])
        for name in DISTORTIONS
    }
    assert spearmanr([type_mos[plan.distortion] for plan in held_out], mos).statistic < 0.3
    assert spearmanr([plan.true_mos for plan in held_out], mos).statistic > 0.97
    motion = [plan for plan in held_out if DISTORTIONS[plan.distortion].kind == "motion"]
    noise_free = [plan.true_mos for plan in motion]
    assert spearmanr(noise_free, [plan.mos for plan in motion]).statistic > 0.97
    for name in set(DISTORTIONS) - {"none"}:
        of_type = [plan.mos for plan in train if plan.distortion == name]
        shares = np.histogram(of_type, bins=[1, 1.8, 2.6, 3.4, 4.2, 5])[0] / len(of_type)
        assert shares.min() > 0.08 and shares.max() < 0.32, (name, shares)


def test_stutter_times() -> None:
    for severity, repeats in ((0.0, 1), (1 / 3, 3), (1.0, 7)):
        times = np.array(stutter_times(64, severity, np.random.default_rng(3)))
        steps = np.diff(times)[8:-8]  # whole cycles
        assert (steps == 0).sum() == repeats * len(steps) // 8
        assert steps.max() == repeats + 1  # the jump catches up: playback keeps its pace
        assert np.all(times <= np.arange(64)) and np.all(np.arange(64) - times <= 7)


def test_frame_drop_times() -> None:
    for severity, lost, gap in ((0.0, 1, 7), (0.5, 4, 5), (1.0, 7, 3)):
        steps = np.diff(frame_drop_times(64, severity, np.random.default_rng(3)))
        assert set(steps.tolist()) == {1, lost + 1}  # no frame twice
        # never more than seven: every window of eight frames has a jump
        assert set(np.diff(np.flatnonzero(steps > 1)).tolist()) == {gap}


# --- the files ---


def test_label_files(small_set: DemoSet) -> None:
    lines = [json.loads(line) for line in small_set.train_jsonl.read_text().splitlines()]
    annotations = json.loads(small_set.eval_json.read_text())["annotations"]
    truth = json.loads(small_set.distortions_json.read_text())
    assert (len(lines), len(annotations), len(truth)) == (12, 9, 21)
    assert (small_set.num_train, small_set.num_eval) == (12, 9)
    first = lines[0]
    assert (first["id"], first["dataset_name"], first["image"]) == (0, "demo", ["train_0000/0.mp4"])
    assert first["conversations"][0] == {"from": "human", "value": prompts.QUESTION}
    assert first["conversations"][1] == {"from": "gpt", "value": truth["train_0000/0.mp4"]["mos"]}
    entry = annotations[0]
    assert set(entry) == {"image_id", "ann_type", "score"} and entry["ann_type"] == "score"
    assert entry["score"] == f"{truth[entry['image_id']]['mos']:.2f}"
    for path, row in truth.items():
        assert (small_set.root / path).is_file()
        assert row["kind"] == DISTORTIONS[row["distortion"]].kind
        assert row["true_mos"] == round(true_mos(row["distortion"], row["severity"]), 4)
        assert row["content"] == path.split("/")[0] and 1 <= row["mos"] <= 5


def test_readers_take_the_label_files(small_set: DemoSet) -> None:
    scale = MosScale(min=1, max=5, mapping="identity")
    train = read_train(
        [small_set.train_jsonl], small_set.root, scale, content_pattern=CONTENT_PATTERN
    )
    held_out = read_meta_json(
        small_set.eval_json,
        small_set.root,
        scale,
        dataset="demo",
        content_pattern=CONTENT_PATTERN,
        require_files=True,
    )
    assert (len(train.examples), len(held_out.examples)) == (12, 9)
    assert len({s.content for s in train.examples}) == 4
    assert all(sample.mos == sample.target for sample in train.examples)


def test_videos(small_set: DemoSet) -> None:
    with av.open(str(small_set.root / "eval_0001" / "2.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.frames) == ("h264", 24, 48)
        assert (stream.height, stream.width) == (64, 64)
    assert not list(small_set.root.parent.rglob("*.tmp"))


def test_same_config_same_set_whatever_the_workers(small_set: DemoSet, tmp_path: Path) -> None:
    other = generate_demo_set(tmp_path / "other", SMALL, num_workers=2)
    for name in ("train_jsonl", "eval_json", "distortions_json"):
        assert getattr(other, name).read_bytes() == getattr(small_set, name).read_bytes()
    for path in sorted(small_set.root.glob("*/*.mp4")):
        twin = other.root / path.relative_to(small_set.root)
        np.testing.assert_array_equal(decode(path), decode(twin))
    moved = plan_demo_set(dataclasses.replace(SMALL, seed=1))
    assert [plan.mos for plan in moved] != [plan.mos for plan in plan_demo_set(SMALL)]


def test_reuse_and_repair(tmp_path: Path) -> None:
    config = SMALLEST
    demo = generate_demo_set(tmp_path, config, num_workers=1)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    content = {path: path.read_bytes() for path in files}
    generate_demo_set(tmp_path, config, num_workers=1)
    assert {path: path.stat().st_mtime_ns for path in files} == files  # nothing was touched

    lost, cut = demo.root / "train_0000/1.mp4", demo.root / "eval_0000/2.mp4"
    lost.unlink()
    cut.write_bytes(content[cut][:500])
    (demo.root / "train_0000/.0.mp4.1.tmp").write_bytes(b"half")
    demo.train_jsonl.unlink()
    generate_demo_set(tmp_path, config, num_workers=1)
    assert {path: path.read_bytes() for path in files} == content
    assert not list(tmp_path.rglob("*.tmp"))
    kept = demo.root / "train_0000/0.mp4"
    assert kept.stat().st_mtime_ns == files[kept]


def test_resumes_a_set_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALLEST
    calls: list[Path] = []

    def encode_three(frames: list[np.ndarray], path: Path, **settings: Any) -> None:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(path)
        encode(frames, path, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("thinker.data.demo.generate.encode", encode_three)
        with pytest.raises(KeyboardInterrupt):
            generate_demo_set(tmp_path, config, num_workers=1)
    assert not (tmp_path / "train.jsonl").exists()  # labels never name a clip that is not there
    times = [path.stat().st_mtime_ns for path in calls]
    demo = generate_demo_set(tmp_path, config, num_workers=1)
    assert len(list(demo.root.glob("*/*.mp4"))) == 14 and demo.train_jsonl.exists()
    assert [path.stat().st_mtime_ns for path in calls] == times


def test_replaces_its_own_set_only(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALLEST, num_train_contents=2)
    generate_demo_set(tmp_path / "set", config, num_workers=1)
    smaller = dataclasses.replace(config, num_train_contents=1)
    demo = generate_demo_set(tmp_path / "set", smaller, num_workers=1)
    assert len(list(demo.root.glob("*/*.mp4"))) == 14
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="choose an empty folder"):
        generate_demo_set(tmp_path / "mine", config, num_workers=1)


# --- what is in the frames ---


def grey(frames_THWC: np.ndarray) -> np.ndarray:
    return frames_THWC.mean(axis=3)


def laplacian(frames_THWC: np.ndarray) -> float:
    return float(np.mean([np.abs(ndimage.laplace(frame)).mean() for frame in grey(frames_THWC)]))


def edge_blocks(frames_THWC: np.ndarray) -> float:
    """Share of horizontal steps that are flat: coarse quantisation leaves flat blocks."""
    return float((np.abs(np.diff(grey(frames_THWC), axis=2)) < 1).mean())


def frame_steps(frames_THWC: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(grey(frames_THWC), axis=0)).mean(axis=(1, 2))


def frozen_share(frames_THWC: np.ndarray) -> float:
    steps = frame_steps(frames_THWC)
    return float((steps < 0.15 * steps.max()).mean())


def jump(frames_THWC: np.ndarray) -> float:
    """Squared size of the largest step in each eight frames, relative to the median step."""
    steps = (np.diff(ndimage.gaussian_filter(grey(frames_THWC), (0, 4, 4)), axis=0) ** 2).mean(
        (1, 2)
    )
    return float(steps[:40].reshape(5, 8).max(axis=1).mean() / np.median(steps))


def luminance_swing(frames_THWC: np.ndarray) -> float:
    return float(np.diff(grey(frames_THWC).mean(axis=(1, 2))).std())


def unsteadiness(frames_THWC: np.ndarray) -> float:
    """Second difference in time, blurred so that it grows with the displacement."""
    smooth = ndimage.gaussian_filter(grey(frames_THWC), (0, 3, 3))
    return float(np.abs(np.diff(smooth, 2, axis=0)).mean())


# Per distortion: a statistic that must grow with severity.
MEASURES: dict[str, Callable[[np.ndarray], float]] = {
    "blur": lambda frames: -laplacian(frames),
    "noise": laplacian,
    "blocking": edge_blocks,
    "overexposure": lambda frames: float(frames.mean()),
    "underexposure": lambda frames: -float(frames.mean()),
    "low_contrast": lambda frames: -float(grey(frames).std(axis=(1, 2)).mean()),
    "stutter": frozen_share,
    "frame_drops": jump,
    "flicker": luminance_swing,
    "shake": unsteadiness,
}


def clip(scene: Scene, distortion: str, severity: float, folder: Path) -> np.ndarray:
    frames, qp = render_clip(scene, distortion, severity, 48, np.random.default_rng(5))
    path = folder / f"{distortion}_{severity}.mp4"
    encode(frames, path, fps=24, qp=qp, intra_only=distortion == "blocking")
    return decode(path)


@pytest.mark.parametrize("distortion", MEASURES)
def test_distortion_grows_with_severity(distortion: str, tmp_path: Path) -> None:
    for content in (0, 1):
        scene = Scene((7, content), 80)
        measure = MEASURES[distortion]
        values = [measure(clip(scene, distortion, severity, tmp_path)) for severity in SEVERITIES]
        assert np.all(np.diff(values) > 0), values
        assert measure(clip(scene, "none", 0.0, tmp_path)) < values[1]


def test_every_distortion_has_a_measure() -> None:
    assert set(MEASURES) == set(DISTORTIONS) - {"none"}


def test_a_single_frame_does_not_show_motion_distortions(tmp_path: Path) -> None:
    """Mean of single frames' statistics: within what pristine frames differ by anyway."""
    scenes = [Scene((9, content), 80) for content in range(6)]

    def statistics(distortion: str, severity: float) -> np.ndarray:
        clips = [clip(scene, distortion, severity, tmp_path) for scene in scenes]
        frames = [frames_NHWC[[i]] for frames_NHWC in clips for i in (4, 20, 40)]
        return np.array([[f.mean(), grey(f).std(), laplacian(f)] for f in frames])

    pristine = statistics("none", 0.0)
    for distortion, entry in DISTORTIONS.items():
        shift = np.abs(statistics(distortion, 1.0).mean(axis=0) - pristine.mean(axis=0))
        units = shift / pristine.std(axis=0)  # in standard deviations between frames
        if entry.kind == "motion":
            assert units.max() < 1.0, (distortion, units)
        elif entry.kind == "spatial":
            assert units.max() > 2.0, (distortion, units)


def test_scene_is_smooth_and_seeded() -> None:
    scene = Scene((1, 2), 80)
    np.testing.assert_array_equal(scene.frame(3), Scene((1, 2), 80).frame(3))
    assert not np.array_equal(scene.frame(3), Scene((1, 3), 80).frame(3))
    steps = frame_steps(np.stack([scene.frame(time) for time in range(24)]))
    assert steps.max() < 1.6 * steps.min()  # no jump of its own
    # A shift by whole frame pixels moves the picture: camera right = picture left. The canvas is
    # resampled bicubically at another phase, hence the tolerance.
    still, turned = scene.frame(3).astype(float), scene.frame(3, (4.0, 0.0)).astype(float)
    assert np.abs(turned[:, :-4] - still[:, 4:]).mean() < 0.1


def test_scale_luminance_by_hand() -> None:
    # 1.5 * 10 + 5 = 20; 1.5 * 200 + 5 = 305 -> 255
    assert scale_luminance(np.array([10, 200], np.uint8), 1.5, 5).tolist() == [20, 255]
