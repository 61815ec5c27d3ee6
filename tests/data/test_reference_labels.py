"""Labels without raters: shots, crops, conditions, measures, and runs that are interrupted."""

import dataclasses
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.places import REPO
from tests.helpers.video_factory import frame_pattern, read_frame_id
from thinker.cli.main import main
from thinker.config.build import build
from thinker.config.shipped import DATA_CONFIGS
from thinker.config.yaml_file import read_settings
from thinker.data.datasets import load_dataset_config, load_eval_examples, load_train_examples
from thinker.data.reference_labels.codec import decode, encode, encoder_version
from thinker.data.reference_labels.conditions import CODECS, Condition, held_frames
from thinker.data.reference_labels.degrade import degrade
from thinker.data.reference_labels.make import make_labels
from thinker.data.reference_labels.measure import ssim, xpsnr
from thinker.data.reference_labels.plan import name_sources, plan_windows
from thinker.data.reference_labels.planes import split_planes, to_picture, to_planes
from thinker.data.reference_labels.scan import Scan, scan_sources
from thinker.data.reference_labels.settings import ReferenceLabelSettings, Scene, SplitSettings
from thinker.data.reference_labels.shots import find_shots
from thinker.data.reference_labels.vmaf import MODEL, Vmaf, find_vmaf
from thinker.data.reference_labels.write import flattened, write_files

FPS = 12
LADDER = (
    Condition(name="pristine"),
    Condition(name="x264_45", word="compression", encoder="libx264", crf=45),
    Condition(name="noise_30", word="noise", severity="severe", noise=30),
    Condition(name="drops_4", word="frame drops", drop_every=4, drop_frames=3),
)


def settings(**fields):
    values = {
        "name": "Films", "label": "ssim", "window_seconds": 0.5, "windows_per_shot": 1,
        "crop_px": 64, "clip_px": 32, "conditions": LADDER,
        "split": SplitSettings(held_out=0.5),
    }  # fmt: skip
    return ReferenceLabelSettings(**(values | fields))


def shot(seed, num_frames=FPS, width=128, height=96):
    """Pictures of one place: coloured texture that moves by two pixels a frame."""
    rng = np.random.default_rng(seed)
    tint = rng.integers(40, 216, 3)
    coarse = rng.integers(-40, 41, (height // 4, (width + 2 * num_frames) // 4 + 1))
    texture = np.kron(coarse, np.ones((4, 4), dtype=int))[..., None] + tint
    return [
        np.clip(texture[:height, 2 * i : 2 * i + width], 0, 255).astype(np.uint8)
        for i in range(num_frames)
    ]


def write_film(path, pictures):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast", "qp": "6"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A film of three shots and one of one."""
    folder = tmp_path_factory.mktemp("sources")
    write_film(folder / "film.mp4", [*shot(1), *shot(2), *shot(3)])
    (folder / "more").mkdir()
    write_film(folder / "more" / "one shot.mp4", shot(4))
    Image.new("RGB", (64, 64)).save(folder / "poster.png")  # no source
    return folder


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory):
    """A finished run."""
    output = tmp_path_factory.mktemp("made") / "out"
    return output, make_labels(sources, output, settings(), num_workers=1)


def numbered(num_frames=24, px=64):
    """planes_TYX whose frames carry their numbers."""
    return to_planes((frame_pattern(i, px, px) for i in range(num_frames)), None, None)


def numbers(planes_TYX):
    return [read_frame_id(to_picture(planes_YX)) for planes_YX in planes_TYX]


# --- settings and conditions ---


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "a-b"}, "expected ASCII letters, digits and _"),
        ({"encoder": "libx266", "crf": 30}, "expected one of libx264"),
        ({"encoder": "libx264"}, "give encoder and crf together"),
        ({"encoder": "libx264", "crf": 52}, "expected 0 to 51"),
        ({"drop_every": 3, "drop_frames": 3}, "expected 1 to 2, less than drop_every"),
        ({"drop_frames": 3}, "belong together"),
        ({"num_stalls": 1}, "belong together"),
        ({"blur_px": -1.0}, "expected no negative number"),
        ({"severity": "awful"}, "severity is 'awful', expected one of slight, moderate"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        Condition(**({"name": "one"} | fields))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"label": "mos"}, "expected one of vmaf, ssim, xpsnr"),
        ({"conditions": (*LADDER, LADDER[0])}, "each name once"),
        ({"clip_px": 33}, "expected an even number from 32 on"),
        ({"crop_px": None, "crops_per_window": 2}, "need crop_px"),
        ({"conditions_per_crop": 5}, "expected 1 to 4"),
        ({"split": {"by": "film"}}, "expected one of shot, scene, source"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        settings(**{k: SplitSettings(**v) if k == "split" else v for k, v in fields.items()})


def test_the_ladder_that_comes_with_the_package_can_be_read():
    path = DATA_CONFIGS / "reference_labels.yaml"
    ladder = build(ReferenceLabelSettings, read_settings(path), str(path)).conditions
    assert {condition.encoder for condition in ladder} == {None, *CODECS}
    assert ladder[0].is_pristine and not any(condition.is_pristine for condition in ladder[1:])


def test_dropped_frames_leave_the_one_before_in_their_place():
    condition = Condition(name="drops", drop_every=4, drop_frames=2)
    by_phase = {tuple(held_frames(condition, 8, FPS, seed)) for seed in range(40)}
    # The cycle 0 1 1 1 begins anywhere; where it begins in its middle, no frame lies before.
    assert by_phase == {
        (0, 1, 1, 1, 4, 5, 5, 5), (0, 0, 0, 3, 4, 4, 4, 7), (0, 0, 2, 3, 3, 3, 6, 7),
        (0, 1, 2, 2, 2, 5, 6, 6),
    }  # fmt: skip


def test_stalls_hold_a_frame_and_go_on_where_the_video_would_be():
    condition = Condition(name="stalls", num_stalls=2, stall_seconds=0.5)  # 6 frames each
    for seed in range(30):
        shown = held_frames(condition, 24, FPS, seed)
        assert len(shown) == 24 and all(0 <= s <= i for i, s in enumerate(shown))
        lengths = [count for count in Counter(shown).values() if count > 1]
        assert lengths == [7, 7] and shown[0] == 0  # the frame that stays, and six repeats of it
        assert all(s == i for i, s in enumerate(shown) if Counter(shown)[s] == 1)
    with pytest.raises(ValueError, match=r"2 stalls of 0\.5 s do not fit into 1\.00 s"):
        held_frames(condition, 12, FPS, 0)


# --- shots, windows, crops, sides ---


def test_cuts_are_found_and_nothing_else(tmp_path):
    fade = [(picture * (i / 11)).astype(np.uint8) for i, picture in enumerate(shot(3))]
    flash = [p if i != 5 else np.full_like(p, 255) for i, p in enumerate(shot(5))]
    write_film(tmp_path / "a.mp4", [*shot(1), *shot(2), *fade[::-1], *flash])
    kept = tmp_path / "scans" / "a.npz"
    (scan,) = scan_sources([tmp_path / "a.mp4"], [kept], num_workers=1)
    assert (scan.width, scan.height, scan.fps, scan.num_frames) == (128, 96, FPS, 48)
    cuts = [first for first, _ in find_shots(scan.changes_T, 0.35)]
    assert cuts[:4] == [0, 12, 24, 36]
    assert scan.motion_TRC[1:12].mean() > 4 > scan.motion_TRC[0].mean() == 0
    (again,) = scan_sources([tmp_path / "gone.mp4"], [kept], num_workers=1)
    assert np.array_equal(again.motion_TRC, scan.motion_TRC)  # kept, and not looked at again


def test_a_video_that_changes_all_the_time_is_one_shot():
    rng = np.random.default_rng(0)
    assert find_shots(rng.uniform(0.4, 0.6, 100), 0.35) == [(0, 100)]


def still_scan(motion_RC, num_frames=100, width=1280, height=720):
    """A scan of one shot with the same motion throughout; a cell is 64 pixels of the source."""
    shape = (num_frames, *np.shape(motion_RC))
    return Scan(
        width=width, height=height, fps=10.0, changes_T=np.zeros(num_frames, dtype=np.float32),
        motion_TRC=np.broadcast_to(np.array(motion_RC, dtype=np.float16), shape),
        detail_TRC=np.ones(shape, dtype=np.float16),
    )  # fmt: skip


def test_crops_lie_where_it_moves_and_do_not_overlap(tmp_path):
    motion = np.zeros((11, 20))
    motion[4:8, 2:8] = 8
    (source,) = name_sources([tmp_path / "a.mp4"], tmp_path, ["0" * 64])
    wanted = settings(
        crop_px=128, crops_per_window=2, min_motion=5.0, window_seconds=2.0, windows_per_shot=3,
        split=SplitSettings(held_out=0.0),
    )  # fmt: skip
    windows = plan_windows([source], [still_scan(motion)], wanted)
    assert [window.start for window in windows] == [8, 40, 72]
    for window in windows:
        for cut in window.cuts:
            left, top, right, bottom = cut.box
            assert left >= 96 and right <= 544 and top >= 224 and bottom <= 544
            assert (right - left, bottom - top) == (128, 128)
        boxes = [cut.box for cut in window.cuts]
        if len(boxes) == 2:
            (a, b, c, d), (e, f, g, h) = boxes
            assert c <= e or g <= a or d <= f or h <= b
    assert plan_windows([source], [still_scan(motion)], wanted) == windows
    with pytest.raises(ValueError, match="give no window of 2 s"):
        plan_windows([source], [still_scan(motion)], dataclasses.replace(wanted, min_motion=9.0))


def test_a_crop_that_does_not_fit_is_refused(tmp_path):
    (source,) = name_sources([tmp_path / "a.mp4"], tmp_path, ["0" * 64])
    with pytest.raises(
        ValueError, match=r"a\.mp4 is 1280 x 720, expected at least crop_px \(722\)"
    ):
        plan_windows([source], [still_scan([[1.0]])], settings(crop_px=722))


@pytest.mark.parametrize("by", ["shot", "scene", "source"])
def test_nothing_is_on_both_sides(by, tmp_path):
    changes = np.zeros(400, dtype=np.float32)
    changes[np.arange(20, 400, 20)] = 1.0
    scan = dataclasses.replace(still_scan([[1.0]], num_frames=400), changes_T=changes)
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c" / "a.mp4"]
    sources = name_sources(paths, tmp_path, ["0" * 64] * 3)
    scenes = tuple(
        Scene(source="a.mp4", name=name, start=start)
        for name, start in (("", 0.0), ("hill", 4.0), ("lake", 20.0), ("hill", 30.0))
    )
    split = SplitSettings(by=by, held_out=0.4)
    windows = plan_windows(
        sources, [scan] * 3, settings(split=split, scenes=scenes, windows_per_shot=2)
    )
    key = {"shot": "content", "scene": "scene", "source": "source"}[by]
    sides = {
        side: {getattr(w, key) for w in windows if w.split == side} for side in ("train", "eval")
    }
    assert sides["train"] and sides["eval"] and not sides["train"] & sides["eval"]
    assert not {w.content for w in windows if w.split == "train"} & {
        w.content for w in windows if w.split == "eval"
    }
    hill = {w.start for w in windows if w.scene == "hill"}
    assert min(hill) >= 40 and not any(200 <= start < 300 for start in hill) and max(hill) >= 300
    assert not [w for w in windows if w.source.name == "a.mp4" and w.start < 40]  # left out
    assert len({source.slug for source in sources}) == 3


def test_held_out_scenes_are_those_that_are_named(tmp_path):
    (source,) = name_sources([tmp_path / "a.mp4"], tmp_path, ["0" * 64])
    scan = still_scan([[1.0]], num_frames=200)
    scenes = (Scene(source="a.mp4", name="hill", start=0.0),)
    split = SplitSettings(by="scene", held_out_scenes=("lake",))
    with pytest.raises(ValueError, match="held_out_scenes lake: no window lies in them"):
        plan_windows([source], [scan], settings(split=split, scenes=scenes))
    split = SplitSettings(by="scene", held_out_scenes=("hill",))
    with pytest.raises(ValueError, match="expected some to train on"):
        plan_windows([source], [scan], settings(split=split, scenes=scenes))


# --- pictures and files ---


@pytest.mark.parametrize("encoder", [None, *CODECS])
def test_every_codec_keeps_the_frames_and_gives_the_same_bytes_again(encoder, monkeypatch):
    monkeypatch.setenv("SVT_LOG", "1")
    planes_TYX = numbered(px=96)
    crf = None if encoder is None else 30
    content = encode(planes_TYX, 24000 / 1001, encoder, crf)
    assert numbers(decode(content)) == list(range(24))
    assert encode(planes_TYX, 24000 / 1001, encoder, crf) == content
    said = encoder_version(content)
    own = {None: "x264 - core", "libx264": "x264 - core", "libx265": "x265 (build"}.get(encoder, "")
    assert said.startswith(own) and "libavcodec" in said


def test_drops_and_stalls_repeat_frames_of_the_degraded_video():
    planes_TYX = numbered(px=96)
    condition = Condition(
        name="one", encoder="libx264", crf=36, drop_every=3, drop_frames=2,
    )  # fmt: skip
    _, plain_TYX = degrade(
        planes_TYX, Condition(name="p", encoder="libx264", crf=36), fps=FPS, seed=3
    )
    content, shown_TYX = degrade(planes_TYX, condition, fps=FPS, seed=3)
    shown = numbers(shown_TYX)
    held = list(Counter(shown).values())  # of each frame that is shown; the ends may be cut
    assert len(held) >= 8 and set(held[1:-1]) == {3}
    assert np.array_equal(decode(content), shown_TYX)  # what is labelled is what the file shows
    for place, number in enumerate(shown):
        to_degraded, to_pristine = (
            np.abs(shown_TYX[place].astype(int) - other[number]).mean()
            for other in (plain_TYX, planes_TYX)
        )
        assert to_degraded < 0.5 * to_pristine, place


def test_noise_blur_and_half_resolution_do_what_they_say():
    rng = np.random.default_rng(0)
    smooth = [np.full((64, 64, 3), 128, dtype=np.uint8)] * 6
    planes_TYX = to_planes(smooth, None, None)
    _, noisy_TYX = degrade(planes_TYX, Condition(name="n", noise=12), fps=FPS, seed=1)
    luma, *chroma = split_planes(noisy_TYX.astype(float))
    assert luma.std() == pytest.approx(12, abs=0.7)  # 2304 draws a frame; the carrier takes little
    assert max(plane.std() for plane in chroma) < 1
    assert np.corrcoef(luma[0].ravel(), luma[1].ravel())[0, 1] < 0.1  # drawn anew

    fine = [np.kron(rng.integers(60, 196, (64, 64)), np.ones((1, 1)))[..., None].repeat(3, 2)] * 4
    fine_TYX = to_planes([picture.astype(np.uint8) for picture in fine], None, None)
    before = split_planes(fine_TYX)[0].std()
    for condition in (Condition(name="b", blur_px=2), Condition(name="h", half=True)):
        _, seen_TYX = degrade(fine_TYX, condition, fps=FPS, seed=1)
        assert split_planes(seen_TYX)[0].std() < 0.6 * before
    assert np.array_equal(fine_TYX, to_planes([p.astype(np.uint8) for p in fine], None, None))


# --- labels ---


def test_ssim_and_xpsnr_of_known_pictures():
    planes_TYX = numbered(4)
    assert ssim(planes_TYX, [planes_TYX], FPS) == [1.0]
    assert xpsnr(planes_TYX, [planes_TYX], FPS) == [60.0]
    rng = np.random.default_rng(0)
    worse = [
        np.clip(planes_TYX + rng.normal(0, sigma, planes_TYX.shape), 0, 255).astype(np.uint8)
        for sigma in (4, 16)
    ]
    for measure, low, high in ((ssim, 0, 1), (xpsnr, 0, 60)):
        little, much = measure(planes_TYX, worse, FPS)
        assert low < much < little < high
    # Half of the frames without any difference: the mean error halves, which is 3.01 dB more.
    half = worse[1].copy()
    half[::2] = planes_TYX[::2]
    ((all_of_it, part_of_it),) = [xpsnr(planes_TYX, [worse[1], half], FPS)]
    assert part_of_it - all_of_it == pytest.approx(3.01, abs=0.5)


FAKE = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
if "filter=libvmaf" in arguments:
    print("Filter libvmaf\\n  Calculate the VMAF between two video streams.")
elif "-version" in arguments:
    print("ffmpeg version fake-1 Copyright (c)")
else:
    inputs = [arguments[i + 1] for i, name in enumerate(arguments) if name == "-i"]
    assert inputs[0] == "reference.y4m", inputs
    assert arguments[arguments.index("-filter_complex") + 1].count("{model}") == len(inputs) - 1
    frames = [open(name, "rb").read().count(b"FRAME\\n") for name in inputs]
    assert open(inputs[1], "rb").readline() == b"YUV4MPEG2 W64 H64 F12:1 Ip A1:1 C420jpeg\\n"
    for place, number in enumerate(frames[1:]):
        pooled = {{"vmaf": {{"mean": 50 + place}}}}
        values = {{"frames": [{{}}] * (number - {lost}), "pooled_metrics": pooled}}
        json.dump(values, open(f"{{place}}.json", "w"))
"""


def fake_ffmpeg(folder, *, lost=0):
    """A program that takes the place of ffmpeg; lost: frames that it leaves out."""
    path = folder / "ffmpeg"
    path.write_text(FAKE.format(python=sys.executable, model=MODEL, lost=lost))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_vmaf_is_asked_of_the_program_in_path(tmp_path, monkeypatch):
    fake_ffmpeg(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    vmaf = find_vmaf()
    assert vmaf.version == "vmaf_v0.6.1, ffmpeg version fake-1"
    planes_TYX = numbered(5)
    assert vmaf(planes_TYX, [planes_TYX, planes_TYX, planes_TYX], FPS) == [50, 51, 52]
    monkeypatch.setattr("thinker.data.reference_labels.vmaf.NUM_AT_ONCE_BYTES", 1)
    assert vmaf(planes_TYX, [planes_TYX, planes_TYX], FPS) == [50, 50]  # one at a time


def test_frames_that_were_not_compared_are_an_error(tmp_path):
    vmaf = Vmaf(program=str(fake_ffmpeg(tmp_path, lost=1)), version="")
    with pytest.raises(ValueError, match="libvmaf compared 4 of 5 frames"):
        vmaf(numbered(5), [numbered(5)], FPS)


def test_a_program_that_fails_says_why(tmp_path):
    path = fake_ffmpeg(tmp_path)
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no such filter')\n")
    with pytest.raises(ValueError, match="ended with status 1: no such filter"):
        Vmaf(program=str(path), version="")(numbered(5), [numbered(5)], FPS)


def real_vmaf():
    try:
        return find_vmaf()
    except ValueError:
        pytest.skip("no ffmpeg with libvmaf")


def test_vmaf_falls_with_the_rate():
    vmaf = real_vmaf()
    planes_TYX = to_planes(shot(1, 24), None, None)
    made = [
        degrade(planes_TYX, Condition(name="x", encoder="libx264", crf=crf), fps=FPS, seed=0)[1]
        for crf in (20, 35, 50)
    ]
    labels = vmaf(planes_TYX, made, FPS)
    assert 100 >= labels[0] > labels[1] > labels[2] >= 0
    # Several versions in one call have the labels that each has alone.
    assert [vmaf(planes_TYX, [one], FPS)[0] for one in made] == pytest.approx(labels, abs=1e-4)


# --- whole runs ---


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_clips_labels_and_where_each_came_from(made, sources):
    output, manifest = made
    entries = lines(output / "clips.jsonl")
    assert len(entries) == 4 * len(LADDER)
    digest = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sources.rglob("*.mp4")}
    for entry in entries:
        content = (output / "clips" / entry["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert len(content) == entry["num_bytes"]
        assert decode(content).shape == (6, 48, 32)
        assert entry["source_sha256"] == digest[Path(entry["source"]).name]
        assert entry["label_name"] == "ssim" and 0 <= entry["label"] <= 1
        assert "libavfilter" in entry["label_version"] and "libavcodec" in entry["encoder_version"]
    assert {entry["source"] for entry in entries} == {"film.mp4", "more/one shot.mp4"}
    assert {entry["shot"] for entry in entries if entry["source"] == "film.mp4"} == {0, 1, 2}
    by_name = {name: [e["label"] for e in entries if e["condition"] == name] for name in
               ("pristine", "x264_45", "noise_30")}  # fmt: skip
    truth = json.loads((output / "distortions.json").read_text())
    for entry in entries:
        said = truth[entry["path"]]
        assert (said["distortion"], said["severity"]) == (entry["word"], entry["severity"])
        assert said["severity"] == ("severe" if entry["condition"] == "noise_30" else None)
    assert min(by_name["pristine"]) > 0.98 > max(by_name["x264_45"] + by_name["noise_30"])
    assert manifest == json.loads((output / "manifest.json").read_text())
    assert manifest["label"]["name"] == "ssim" and manifest["num_clips"] == {"train": 8, "eval": 8}
    assert manifest["conditions"]["x264_45"]["encoder_settings"]["crf"] == "45"
    sheet = Image.open(output / "contact_sheet.png")
    assert sheet.size == (4 * 128, 4 * (128 + 28)) and len(set(sheet.convert("L").tobytes())) > 50


def test_the_data_set_reader_takes_the_labels_by_their_name(made):
    output, _ = made
    config = load_dataset_config(output / "ssim.yaml")
    train = load_train_examples(config).examples
    (eval_set,) = config.eval
    held_out = load_eval_examples(eval_set, require_files=True).examples
    assert eval_set.label_name == "ssim"
    assert not {one.content for one in train} & {one.content for one in held_out}
    by_path = {entry["path"]: entry for entry in lines(output / "clips.jsonl")}
    for example in (*train, *held_out):
        (one,) = example.media
        entry = by_path[str(one.path.relative_to(output / "clips"))]
        severity = {} if entry["severity"] is None else {"severity": entry["severity"]}
        assert dict(example.tags) == {"distortion": entry["word"], **severity}
        assert example.mos == entry["label"] and example.target == 1 + 4 * entry["label"]
        assert example.content == entry["content"]
    assert len(train) + len(held_out) == len(by_path)
    for path in output.rglob("*"):  # what is measured is nowhere called a rating
        if path.suffix in (".jsonl", ".json"):
            assert '"mos' not in path.read_text()


def state(output):
    return {p: p.stat().st_mtime_ns for p in (output / "clips").rglob("*.mp4")}


def test_what_is_made_is_not_made_again_and_what_is_damaged_is(made, sources):
    output, manifest = made
    before, clips = state(output), lines(output / "clips.jsonl")
    assert make_labels(sources, output, settings(), num_workers=1) == manifest
    assert state(output) == before
    one, other = clips[0]["path"], clips[5]["path"]
    (output / "clips" / one).unlink()
    (output / "clips" / other).write_bytes(b"half")
    make_labels(sources, output, settings(), num_workers=2)
    changed = {path for path, time in state(output).items() if before[path] != time}
    again = {e["path"] for e in clips if e["content"] in (clips[0]["content"], clips[5]["content"])}
    assert {str(path.relative_to(output / "clips")) for path in changed} == again
    assert lines(output / "clips.jsonl") == clips  # the same bytes, by their SHA-256


def test_a_folder_belongs_to_one_configuration(made, sources):
    output, _ = made
    with pytest.raises(ValueError, match=r"settings\.seed was 0, is 1"):
        make_labels(sources, output, settings(seed=1), num_workers=1)


def test_a_run_that_is_killed_goes_on(sources, tmp_path):
    """SIGKILL once the first window is written down; what comes of it is what a run of its own
    makes."""
    config = {
        "name": "Films", "label": "ssim", "window_seconds": 0.25, "windows_per_shot": 2,
        "clip_px": 64,
        "conditions": [{"name": "pristine"}, {"name": "x264_45", "encoder": "libx264", "crf": 45}],
    }  # fmt: skip
    (tmp_path / "films.yaml").write_text(json.dumps(config))
    output, journal = tmp_path / "out", tmp_path / "out" / "rows.jsonl"
    arguments = ["--sources", str(sources), "--output", str(output)]
    arguments += ["--config", str(tmp_path / "films.yaml"), "--num-workers", "1"]
    running = subprocess.Popen(
        [sys.executable, "-m", "thinker.cli", "make-labels", *arguments],
        cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < until:
        assert running.poll() is None
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    num_rows = len(journal.read_bytes().splitlines())
    assert 1 <= num_rows < 8 and not (output / "manifest.json").exists()
    time.sleep(0.5)  # its worker ends with it
    before = state(output)
    assert main(["make-labels", *arguments]) == 0
    kept = [path for path, made_at in state(output).items() if before.get(path) == made_at]
    assert len(kept) >= 2 * num_rows - 2
    make_labels(
        sources, tmp_path / "whole",
        build(ReferenceLabelSettings, config, "here"), num_workers=1,
    )  # fmt: skip
    assert lines(output / "clips.jsonl") == lines(tmp_path / "whole" / "clips.jsonl")


def test_what_cannot_be_done_is_said_before_anything_is_made(
    sources, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    output = tmp_path / "out"
    arguments = ["make-labels", "--sources", str(sources), "--output", str(output)]
    assert main(arguments) == 2
    assert "label vmaf needs an ffmpeg that was built with libvmaf" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*arguments, "--label", "ssim", "--sources", str(tmp_path / "empty")]) == 2
    assert "empty holds no video" in capsys.readouterr().err
    assert not output.exists()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"no video")
    assert main([*arguments, "--label", "ssim", "--sources", str(tmp_path / "bad")]) == 2
    assert "1 source(s) cannot be read" in capsys.readouterr().err
    assert not (output / "clips").exists()


# --- what is written ---


def entry(label, *, split="train", number=0, **fields):
    return {
        "path": f"a/0000/{number:06d}.mp4", "content": "a/0000", "split": split, "label": label,
        "label_name": "vmaf", "word": "none", "severity": None, "condition": "pristine",
        "encoder": "libx264",
        "encoder_settings": {}, "encoder_version": "", "num_bytes": 10, "height": 64,
        "start_frame": 0, "crop": [0, 0, 64, 64],
    } | fields  # fmt: skip


def test_flat_labels_keep_what_is_rare():
    wanted = settings(label="vmaf", flatten=True)
    crowded = [entry(90 + i / 10, number=i) for i in range(80)]
    rare = [entry(10.0 * i + 5, number=100 + i) for i in range(8)]
    held_out = [entry(99.0, number=200, split="eval")]
    kept = flattened([*crowded, *rare, *held_out], wanted)
    labels = [one["label"] for one in kept]
    # 88 clips to train on: 9 a tenth on the average.
    assert sum(label >= 90 for label in labels[:-1]) == 9 and labels[9:] == [
        *(one["label"] for one in rare), 99.0
    ]  # fmt: skip
    assert kept == flattened([*crowded, *rare, *held_out], wanted)


def test_labels_of_larger_crops_are_compared_by_rank(tmp_path):
    larger = {20.0: 22, 40.0: 35, 60.0: 80, 80.0: 70}
    entries = [
        entry(label, number=i, check_label=other, check_px=160)
        for i, (label, other) in enumerate(larger.items())
    ]
    fingerprint = {"label_version": "vmaf_v0.6.1"}
    manifest = write_files(tmp_path, entries, settings(label="vmaf"), fingerprint, [])
    # Ranks 1 2 3 4 and 1 2 4 3: 1 - 6 * 2 / (4 * 15) = .8
    assert manifest["larger_crops"] == {
        "num_clips": 4, "num_crops": 1, "height": 64, "larger_heights": [160], "srcc": 0.8,
        "mean_srcc_within_a_crop": 0.8,
    }  # fmt: skip
    assert manifest["labels"]["train"]["tenths"] == [0, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert manifest["labels"]["eval"] is None and not (tmp_path / "vmaf_eval.json").exists()
    assert load_dataset_config(tmp_path / "vmaf.yaml").eval == ()


def test_a_set_that_is_only_evaluated_on_has_nothing_to_train_on(tmp_path):
    (source,) = name_sources([tmp_path / "a.mp4"], tmp_path, ["0" * 64])
    wanted = settings(label="vmaf", split=SplitSettings(held_out=1))
    windows = plan_windows([source], [still_scan([[1.0]])], wanted)
    assert {window.split for window in windows} == {"eval"}
    entries = [entry(50.0 + i, number=i, split="eval") for i in range(3)]
    write_files(tmp_path, entries, wanted, {"label_version": ""}, [])
    (eval_set,) = load_dataset_config(
        tmp_path / "vmaf.yaml", overrides={"eval.0.video_root": str(tmp_path)}
    ).eval
    assert [one.mos for one in load_eval_examples(eval_set).examples] == [50, 51, 52]
    assert not (tmp_path / "vmaf_train.jsonl").exists()


def test_larger_crops_lie_around_the_clips_at_the_same_scale(sources, tmp_path):
    wanted = settings(crop_px=48, clip_px=32, check_px=64, check_share=1.0, conditions=LADDER[:2])
    manifest = make_labels(sources, tmp_path / "out", wanted, num_workers=1)
    # 64 * 48 / 32 = 96 pixels of the source, which is all of its height.
    assert manifest["larger_crops"]["larger_heights"] == [64]
    assert manifest["larger_crops"]["num_clips"] == 8
    assert manifest["larger_crops"]["srcc"] > 0.5
