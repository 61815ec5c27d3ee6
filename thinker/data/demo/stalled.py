"""Generated clips that stall, with labels that follow from their stalls: what a prompt's words on
stalls are worth, in miniature (benchmarks/ablation_stalls.yaml).

In: a `StalledConfig`. Out: a folder with `videos/` and, for each of `TEXTS`, records to train on
(level sentences) and to evaluate on (MOS), which differ in what they say of the stalls only:
nothing, sentences, digits, or the sentences of another clip. The keyframes and motion windows of a
tiny policy hold a fifth of the frames, so the words say more of the stalls than the pictures.

The MOS follows a stated rule, `stalled_mos`; its form is that of the published models of streaming
quality, which fall with the stalled share and with the number of stalls.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thinker.data.demo.plan import rate
from thinker.data.demo.render import CLEAN_QP, encode
from thinker.data.demo.scenes import Scene
from thinker.tasks.level import LEVEL_PREFIX, LEVEL_QUESTION, level_word
from thinker.utils.atomic import write_atomic
from thinker.video.stalls.intervals import Runs, seconds_of_runs

TEXTS = ("none", "sentences", "digits", "wrong")
"""What the records say of stalls; "wrong": the sentences of another clip."""

SPLITS = ("train", "eval")
SMOOTH_SHARE = 0.15
"""Share of the clips that do not stall."""


@dataclass(frozen=True, kw_only=True)
class StalledConfig:
    """What the set holds."""

    num_train: int = 600
    """Training clips, each of its own scene."""
    num_eval: int = 150
    """Held-out clips, each of its own scene."""
    size_px: int = 64
    """Both sides of a frame."""
    num_frames: int = 240
    """Frames of a clip, stalled ones included. The tiny policies see 48 of them."""
    fps: int = 24
    """Frames a second."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        for name in ("num_train", "num_eval"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 2")


def stalled_mos(runs: Runs, num_frames: int) -> float:
    """The noise-free MOS: `4.8 - 2.8 (share / .6)^.7 - .3 (count - 1)`, at least 1.2.

    Example: no stall is 4.8; one stall of 18 of 72 frames, a share of .25, is 4.8 - 2.8 · .5418 =
    3.283.
    """
    if not runs:
        return 4.8
    share = sum(stop - first for first, stop in runs) / num_frames
    return max(4.8 - 2.8 * (share / 0.6) ** 0.7 - 0.3 * (len(runs) - 1), 1.2)


def draw_runs(num_frames: int, rng: np.random.Generator) -> Runs:
    """One to three stalls of 6 frames or more, apart by 6 or more, in a fifth of the cases from the
    first frame on; none for `SMOOTH_SHARE` of the clips."""
    if rng.random() < SMOOTH_SHARE:
        return ()
    count = int(rng.integers(1, 4))
    room = num_frames // count
    runs = []
    for number in range(count):
        length = int(rng.integers(6, max(room - 8, 7)))
        low = number * room + 3
        first = int(rng.integers(low, max((number + 1) * room - length - 2, low + 1)))
        runs.append((first, first + length))
    if rng.random() < 0.2:
        runs[0] = (0, runs[0][1] - runs[0][0])
    return tuple(runs)


def stalled_times(runs: Runs, num_frames: int) -> list[int]:
    """The source frame that is shown at each instant: a stall repeats the one before it, and
    playback goes on where it stopped. Example: `stalled_times(((2, 4),), 6)` → `[0, 1, 1, 1, 2,
    3]`; a stall at the first frame repeats that one: `((0, 2),)` → `[0, 0, 0, 1, 2, 3]`."""
    stalled = {number for first, stop in runs for number in range(first, stop)}
    times, time = [], -1
    for number in range(num_frames):
        if number not in stalled:
            time += 1
        times.append(max(time, 0))
    return times


def generate_stalled_set(folder: Path, config: StalledConfig) -> None:
    """Write the set into `folder`. What it draws depends on `config` only."""
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(
        zip(SPLITS, (config.num_train, config.num_eval), strict=True)
    ):
        rng = np.random.default_rng((config.seed, number))
        drawn = [draw_runs(config.num_frames, rng) for _ in range(count)]
        mos = [rate(stalled_mos(runs, config.num_frames), rng) for runs in drawn]
        names = [f"{split}_{place:04d}.mp4" for place in range(count)]
        for place, (name, runs) in enumerate(zip(names, drawn, strict=True)):
            if not (videos / name).is_file():
                scene = Scene((config.seed, 7, number, place), config.size_px)
                times = stalled_times(runs, config.num_frames)
                frames = [scene.steady_frame(time) for time in times]
                encode(frames, videos / name, fps=config.fps, qp=CLEAN_QP)
        for text in TEXTS:
            told = [*drawn[1:], drawn[0]] if text == "wrong" else drawn
            lines = (
                json.dumps(_record(split, text, name, score, runs, config.fps))
                for name, score, runs in zip(names, mos, told, strict=True)
            )
            write_atomic(folder / f"{text}_{split}.jsonl", "".join(f"{line}\n" for line in lines))


def _record(
    split: str, text: str, name: str, mos: float, runs: Sequence[tuple[int, int]], fps: int
) -> dict[str, Any]:
    record: dict[str, Any] = {"id": name, "task": "level", "video": name}
    record["question"] = LEVEL_QUESTION
    record["answer"] = mos if split == "eval" else f"{LEVEL_PREFIX} {level_word(mos)}."
    if text != "none":
        record["stalls"] = seconds_of_runs(tuple(runs), fps)
        record["stall_form"] = "digits" if text == "digits" else "sentences"
    return record
