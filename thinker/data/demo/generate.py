"""The embedded demo set: generated video files with a known distortion and a known MOS.

In: a `SyntheticConfig`. Out: a folder of H.264 files (`videos/`) with labels in the two forms that
real data sets have, `train.jsonl` (training jsonl) and `eval.json` (meta JSON), and
`distortions.json`, the truth behind the labels, by path:
`{"content", "split", "distortion", "kind", "severity", "true_mos", "mos"}`.
Contents are never shared between training and held-out clips. Each clip carries one distortion of
`DISTORTIONS`, of a severity in 0..1, or none. The distortions follow the recognition stage of VQA²
(arXiv 2411.03795); the motion distortions act in every window of eight frames, and a single frame
does not show them.

The MOS follows a stated rule: severity → `impairment` (Naka-Rushton) → `true_mos` → `rate`, the
mean of 15 simulated raters.

    python -m thinker.data.demo.generate OUTPUT_DIR
"""

import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageFilter

from thinker import prompts
from thinker.data.demo.scenes import Scene, scale_luminance

# Part of the manifest's hash: raise it with any change to labels or pixels, scenes included.
GENERATOR_VERSION = 6

DATASET = "demo"
SPLITS = ("train", "eval")

# --- the MOS rule ---

# Raters hardly ever agree on the ends of a scale, so pristine and worst lie .2 inside 1..5. That
# also bounds what clipping single ratings takes off the mean: .12 at 4.8, less elsewhere.
BEST_MOS = 4.8
MOS_RANGE = 3.6
# Naka-Rushton: a just noticeable distortion costs little, and strong ones saturate. The half point
# leaves a slope at severity 1 that is still visible above rater noise.
EXPONENT = 1.5
HALF = 0.7
# ITU-T P.910 asks for at least 15 raters; they differ by half a level. MOS noise: .5/√15 = .13.
NUM_RATERS = 15
RATER_SD = 0.5
# Below this impairment a "blurred" clip would be a pristine one.
MIN_IMPAIRMENT = 0.06


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """One kind of impairment."""

    kind: str
    """"spatial": seen in one frame; "motion": seen in consecutive frames only; "none": nothing."""
    weight: float
    """Share of MOS_RANGE that severity 1 costs."""


# Weights are close to each other: recognising the type must not give the score away.
DISTORTIONS = {
    "none": Distortion(kind="none", weight=0.0),
    "blur": Distortion(kind="spatial", weight=1.0),
    "noise": Distortion(kind="spatial", weight=0.96),
    "blocking": Distortion(kind="spatial", weight=1.0),
    "overexposure": Distortion(kind="spatial", weight=0.96),
    "underexposure": Distortion(kind="spatial", weight=0.96),
    "low_contrast": Distortion(kind="spatial", weight=0.92),
    "stutter": Distortion(kind="motion", weight=1.0),
    "frame_drops": Distortion(kind="motion", weight=0.96),
    "flicker": Distortion(kind="motion", weight=0.96),
    "shake": Distortion(kind="motion", weight=1.0),
}


def impairment(severity: float) -> float:
    """Perceived impairment in 0..1: `s^n (1 + h^n) / (s^n + h^n)`, n = 1.5, h = 0.7 (Naka-Rushton).

    impairment(0.5) = .3536 · 1.5857 / (.3536 + .5857) = .597; 0 and 1 map to themselves.
    """
    if not 0 <= severity <= 1:
        raise ValueError(f"severity is {severity}, expected 0..1")
    raised, half = severity**EXPONENT, HALF**EXPONENT
    return raised * (1 + half) / (raised + half)


def severity_of(impaired: float) -> float:
    """The inverse of `impairment`: `h (d / (1 + h^n - d))^(1/n)`; severity_of(.597) = .500."""
    return HALF * (impaired / (1 + HALF**EXPONENT - impaired)) ** (1 / EXPONENT)


def true_mos(distortion: str, severity: float) -> float:
    """The noise-free MOS: `4.8 - 3.6 · weight · impairment(severity)`.

    true_mos("blur", 0.5) = 4.8 - 3.6 · 1 · .597 = 2.651; true_mos("none", 0) = 4.8.
    """
    return BEST_MOS - MOS_RANGE * DISTORTIONS[distortion].weight * impairment(severity)


def rate(mos: float, rng: np.random.Generator) -> float:
    """Mean of 15 ratings `clip(mos + N(0, 0.5), 1, 5)`, to two decimals as data sets publish it."""
    ratings = np.clip(mos + rng.normal(0.0, RATER_SD, NUM_RATERS), 1, 5)
    return round(float(ratings.mean()), 2)


# --- what the set holds ---


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What the demo set holds."""

    num_train_contents: int = 1250
    """Scenes of the training clips."""
    num_eval_contents: int = 75
    """Scenes of the held-out clips, none of which is trained on."""
    clips_per_content: int = 4
    """Versions of each scene, every one with its own distortion."""
    none_share: float = 0.05
    """Share of pristine clips."""
    size_px: int = 64
    """Both sides of a frame, in whole patches of the tiny policies: a codec's blocks line up."""
    num_frames: int = 48
    """Frames of a clip."""
    fps: int = 24
    """Frames a second."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        for name in ("num_train_contents", "num_eval_contents", "clips_per_content", "fps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.size_px < 48 or self.size_px % 2:
            raise ValueError(f"size_px is {self.size_px}, expected an even number, at least 48")
        if self.num_frames < 16:
            raise ValueError(f"num_frames is {self.num_frames}, expected at least 16")
        if not 0 <= self.none_share < 1:
            raise ValueError(f"none_share is {self.none_share}, expected at least 0 and below 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """All that is known of a clip before it is rendered."""

    path: str
    """Relative to the video root."""
    split: str
    """One of SPLITS."""
    content: str
    """The scene; also the folder of its clips."""
    distortion: str
    """A key of DISTORTIONS."""
    severity: float
    """0 to 1."""
    true_mos: float
    """By the rule, without the noise of raters."""
    mos: float
    """The label: the mean of the simulated raters."""
    scene_seed: tuple[int, ...]
    """What the scene is drawn from."""
    clip_seed: tuple[int, ...]
    """What the distortion is drawn from."""


@dataclass(frozen=True, kw_only=True)
class DemoSet:
    """Where the files of a generated set lie."""

    root: Path
    """The video root: paths in the label files are relative to it."""
    train_jsonl: Path
    """Training labels."""
    eval_json: Path
    """Labels of the held-out clips."""
    eval_motion_json: Path
    """Those of `eval_json` with a motion distortion."""
    distortions_json: Path
    """The truth behind the labels, by path."""
    num_train: int
    """Training clips."""
    num_eval: int
    """Held-out clips."""


def plan_demo_set(config: SyntheticConfig) -> list[ClipPlan]:
    """Every clip with its labels, training clips first, clips of a content side by side.

    In each split the types are equally frequent, and impairment is stratified over its range within
    each type: the type tells next to nothing about the MOS.
    """
    counts = (config.num_train_contents, config.num_eval_contents)
    return [
        plan
        for split_number, num_contents in enumerate(counts)
        for plan in _plan_split(config, split_number, num_contents)
    ]


def _plan_split(config: SyntheticConfig, split_number: int, num_contents: int) -> list[ClipPlan]:
    rng = np.random.default_rng((config.seed, split_number))
    num_clips = num_contents * config.clips_per_content
    drawn = _draw_distortions(num_clips, config.none_share, rng)
    plans = []
    for number, (distortion, severity) in enumerate(drawn):
        content, take = divmod(number, config.clips_per_content)
        folder = f"{SPLITS[split_number]}_{content:04d}"
        mos = true_mos(distortion, severity)
        plans.append(
            ClipPlan(
                path=f"{folder}/{take}.mp4",
                split=SPLITS[split_number],
                content=folder,
                distortion=distortion,
                severity=severity,
                true_mos=round(mos, 4),
                mos=rate(mos, rng),
                scene_seed=(config.seed, split_number, content),
                clip_seed=(config.seed, split_number, content, take),
            )
        )
    return plans


def _draw_distortions(
    num_clips: int, none_share: float, rng: np.random.Generator
) -> list[tuple[str, float]]:
    """(distortion, severity) of each clip, in random order."""
    names = [name for name in DISTORTIONS if name != "none"]
    num_none = round(none_share * num_clips)
    drawn = [("none", 0.0)] * num_none
    for i, name in enumerate(names):
        count = len(range(i, num_clips - num_none, len(names)))
        strata = (np.arange(count) + rng.random(count)) / max(count, 1)
        impaired = MIN_IMPAIRMENT + (1 - MIN_IMPAIRMENT) * strata
        drawn += [(name, round(severity_of(float(value)), 4)) for value in impaired]
    return [drawn[i] for i in rng.permutation(num_clips)]


# --- distortions ---

# Quantiser of every clip but the blocking ones: coding noise stays below the weakest added noise.
CLEAN_QP = 20
STUTTER_CYCLE = 8  # frames; a window of eight dense frames holds a whole cycle


def _dither(mean: float, count: int, rng: np.random.Generator) -> list[int]:
    """`count` integers, floors or ceilings of `mean`, that average to it (error diffusion)."""
    return [int(step) for step in np.diff(np.floor(mean * np.arange(count + 1) + rng.random()))]


def stutter_times(num_frames: int, severity: float, rng: np.random.Generator) -> list[int]:
    """The source frame shown at each instant: freezes, each with a jump that catches up.

    In every cycle of 8 frames the first is repeated 1 (severity 0) to 7 times (severity 1), then
    playback is where it would have been. Three repeats: 0 0 0 0 4 5 6 7 8 8 8 8 12 13 14 15.
    """
    repeats = _dither(1 + 6 * severity, num_frames // STUTTER_CYCLE + 2, rng)
    phase = int(rng.integers(STUTTER_CYCLE))
    times = []
    for i in range(num_frames):
        cycle, place = divmod(i + phase, STUTTER_CYCLE)
        times.append(max(i - place, 0) if place <= repeats[cycle] else i)
    return times


def frame_drop_times(num_frames: int, severity: float, rng: np.random.Generator) -> list[int]:
    """The source frame shown at each instant: time skips, and no frame is ever shown twice.

    With severity 0..1 the skips come more often, every 7 to every 3 frames, and lose more source
    frames, 1 to 7: longer jumps would not look longer, since nothing of the old frame is left.
    Severity .25, every 6 frames 2 or 3 lost: 0 1 2 5 6 7 8 9 10 14 15.
    """
    num_events = num_frames // 3 + 2
    steps = np.ones(num_frames, dtype=int)
    gaps = _dither(7 - 4 * severity, num_events, rng)
    events = np.cumsum(gaps) - int(rng.integers(gaps[0]))
    for event, lost in zip(events, _dither(1 + 6 * severity, num_events, rng), strict=True):
        if event < num_frames:
            steps[event] += lost
    return [int(time) for time in np.cumsum(steps) - 1]


def render_clip(
    scene: Scene, distortion: str, severity: float, num_frames: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], int]:
    """The clip's frames, uint8 RGB (H, W, 3) each, and the quantiser to code them with.

    Strengths at severity 0 are just visible; at 1 little of the content, or of its motion, is left.
    """
    if DISTORTIONS[distortion].kind == "motion":
        return _render_motion(scene, distortion, severity, num_frames, rng), CLEAN_QP
    frames = [scene.steady_frame(time) for time in range(num_frames)]
    if distortion == "blocking":  # nothing is drawn: the codec makes its own artefacts
        return frames, round(29 + 22 * severity)
    return [
        _distort_frame(frame, distortion, severity, scene.unit, rng) for frame in frames
    ], CLEAN_QP


def _distort_frame(
    frame_HWC: np.ndarray, distortion: str, severity: float, unit: float, rng: np.random.Generator
) -> np.ndarray:
    if distortion == "none":
        return frame_HWC
    if distortion == "blur":
        blur = ImageFilter.GaussianBlur((0.45 + 3.05 * severity) * unit)
        return np.asarray(Image.fromarray(frame_HWC).filter(blur))
    if distortion == "noise":  # the same in all channels: 4:2:0 coding would lose chroma noise
        noise_HW1 = rng.standard_normal((*frame_HWC.shape[:2], 1), dtype=np.float32)
        return np.clip(frame_HWC + (5 + 45 * severity) * noise_HW1, 0, 255).astype(np.uint8)
    if distortion == "overexposure":
        return scale_luminance(frame_HWC, 1.05 + 0.9 * severity, 50 * severity)
    if distortion == "underexposure":
        return scale_luminance(frame_HWC, 0.92 - 0.74 * severity)
    assert distortion == "low_contrast", distortion
    kept = 0.9 - 0.74 * severity
    return scale_luminance(frame_HWC, kept, (1 - kept) * 119)  # 119: the mean of a scene


def _render_motion(
    scene: Scene, distortion: str, severity: float, num_frames: int, rng: np.random.Generator
) -> list[np.ndarray]:
    if distortion == "stutter":
        return [scene.steady_frame(time) for time in stutter_times(num_frames, severity, rng)]
    if distortion == "frame_drops":
        return [scene.steady_frame(time) for time in frame_drop_times(num_frames, severity, rng)]
    if distortion == "flicker":  # 4 to 7 Hz at 24 fps: more than one oscillation in eight frames
        period, phase = rng.uniform(3.4, 6.0), rng.uniform(0, 2 * math.pi)
        waves = np.sin(2 * math.pi * np.arange(num_frames) / period + phase)
        gains = 1 + (0.012 + 0.13 * severity) * waves
        return [scale_luminance(scene.steady_frame(t), gain) for t, gain in enumerate(gains)]
    assert distortion == "shake", distortion
    rms_px = (0.3 + 3.7 * severity) * scene.unit
    shifts_px = rng.normal(0.0, rms_px / math.sqrt(2), (num_frames, 2))
    return [scene.frame(time, (dx, dy)) for time, (dx, dy) in enumerate(shifts_px.tolist())]


def encode(
    frames: list[np.ndarray], path: Path, *, fps: int, qp: int, intra_only: bool = False
) -> None:
    """Write uint8 RGB frames as H.264 at one quantiser; intra_only: every frame coded for itself.

    The file appears whole or not at all.
    """
    partial = _partial(path)
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the bits depend on the number of threads
        stream.options = {
            "preset": "superfast",
            "qp": str(qp),
            # A loop filter would hide the block edges. Key frames would pulse.
            "x264-params": "no-deblock=1:bframes=0:scenecut=0:"
            f"keyint={1 if intra_only else len(frames)}",
        }
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    os.replace(partial, path)


# --- the set on disk ---


def generate_demo_set(folder: Path | str, config: SyntheticConfig, num_workers: int = 2) -> DemoSet:
    """Write the set into `folder`, or reuse or complete what is there; returns where things lie.

    Labels and decoded frames depend on `config` only, not on `num_workers`. Every file is renamed
    into place, so an existing file is a whole one. `manifest.json` holds the config the folder
    belongs to and, once the set is complete, each video's size: a video that is missing or has
    another size is rendered again. A set of another config or generator version is replaced.
    One process at a time.

    Raises `ValueError` for a folder with files but without a manifest: those are not ours.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}, expected at least 1")
    folder = Path(folder).absolute()
    plans = plan_demo_set(config)
    demo = DemoSet(
        root=folder / "videos",
        train_jsonl=folder / "train.jsonl",
        eval_json=folder / "eval.json",
        eval_motion_json=folder / "eval_motion.json",
        distortions_json=folder / "distortions.json",
        num_train=sum(plan.split == "train" for plan in plans),
        num_eval=sum(plan.split == "eval" for plan in plans),
    )
    manifest = _claim_folder(folder, config)
    missing = _missing_clips(demo.root, plans, manifest["num_bytes"])
    _render(missing, demo.root, config, num_workers)
    for path, text in _label_files(demo, plans).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            _write(path, text)
    if missing or not manifest["num_bytes"]:
        num_bytes = {plan.path: (demo.root / plan.path).stat().st_size for plan in plans}
        _write(folder / "manifest.json", json.dumps(manifest | {"num_bytes": num_bytes}))
    return demo


def _claim_folder(folder: Path, config: SyntheticConfig) -> dict[str, Any]:
    """This set's manifest in `folder`; what another set left there is removed first."""
    identity = {"generator_version": GENERATOR_VERSION, "config": dataclasses.asdict(config)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = folder / "manifest.json"
    if path.is_file():
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest.get("sha256") == digest:
            return manifest
        if "generator_version" not in manifest:
            raise ValueError(f"{path} is not a demo set's manifest; choose an empty folder")
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files but no demo set's manifest; choose an empty folder")
    for video in (folder / "videos").glob("*/*.mp4"):
        video.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"sha256": digest, **identity, "num_bytes": {}}
    _write(path, json.dumps(manifest))
    return manifest


def _missing_clips(root: Path, plans: list[ClipPlan], num_bytes: dict[str, int]) -> list[ClipPlan]:
    """Clips without a file, or with one of another size than when the set was complete."""
    missing = []
    for plan in plans:
        path = root / plan.path
        size = path.stat().st_size if path.is_file() else None
        if size is None or size != num_bytes.get(plan.path, size):
            missing.append(plan)
    return missing


def _render(plans: list[ClipPlan], root: Path, config: SyntheticConfig, num_workers: int) -> None:
    for leftover in root.glob("*/.*.partial"):  # of a run that was killed
        leftover.unlink()
    contents: dict[str, list[ClipPlan]] = {}
    for plan in plans:
        contents.setdefault(plan.content, []).append(plan)
    render = functools.partial(_render_content, root=root, config=config)
    if num_workers == 1 or len(contents) < 2:
        for clips in contents.values():
            render(clips)
        return
    # spawn: the parent may run torch's threads, whose locks a fork would copy as they happen to be.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        for _ in pool.map(render, contents.values(), chunksize=4):
            pass  # raises what a worker raised


def _render_content(plans: list[ClipPlan], *, root: Path, config: SyntheticConfig) -> None:
    scene = Scene(plans[0].scene_seed, config.size_px)
    (root / plans[0].content).mkdir(parents=True, exist_ok=True)
    for plan in plans:
        rng = np.random.default_rng(plan.clip_seed)
        frames, qp = render_clip(scene, plan.distortion, plan.severity, config.num_frames, rng)
        # Blocks that are copied along the motion would hide their edges.
        blocky = plan.distortion == "blocking"
        encode(frames, root / plan.path, fps=config.fps, qp=qp, intra_only=blocky)


def _label_files(demo: DemoSet, plans: list[ClipPlan]) -> dict[Path, str]:
    train = [plan for plan in plans if plan.split == "train"]
    lines = [json.dumps(_train_line(number, plan)) for number, plan in enumerate(train)]
    held_out = [plan for plan in plans if plan.split == "eval"]
    motion = [plan for plan in held_out if DISTORTIONS[plan.distortion].kind == "motion"]
    truth = {
        plan.path: {
            "content": plan.content,
            "split": plan.split,
            "distortion": plan.distortion,
            "kind": DISTORTIONS[plan.distortion].kind,
            "severity": plan.severity,
            "true_mos": plan.true_mos,
            "mos": plan.mos,
        }
        for plan in plans
    }
    return {
        demo.train_jsonl: "\n".join(lines) + "\n",
        demo.eval_json: _meta_json(held_out),
        demo.eval_motion_json: _meta_json(motion),
        demo.distortions_json: json.dumps(truth, indent=1) + "\n",
    }


def _meta_json(plans: list[ClipPlan]) -> str:
    annotations = [
        {"image_id": plan.path, "ann_type": "score", "score": f"{plan.mos:.2f}"} for plan in plans
    ]
    return json.dumps({"annotations": annotations}, indent=1) + "\n"


def _train_line(number: int, plan: ClipPlan) -> dict[str, Any]:
    return {
        "id": number,
        "dataset_name": DATASET,
        "image": [plan.path],
        "conversations": [
            {"from": "human", "value": prompts.QUESTION},
            {"from": "gpt", "value": plan.mos},
        ],
    }


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _write(path: Path, text: str) -> None:
    partial = _partial(path)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m thinker.data.demo.generate OUTPUT_DIR")
    print(generate_demo_set(sys.argv[1], SyntheticConfig()))
