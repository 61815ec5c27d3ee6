"""What the demo set holds, before a frame is rendered: every clip with its distortion and labels.

In: a `SyntheticConfig`. Out: a `ClipPlan` for each clip. Contents are never shared between training
and held-out clips. Each clip carries one distortion of `DISTORTIONS`, of a severity in 0..1, or
none. The distortions follow the recognition stage of VQA² (arXiv 2411.03795).

The MOS follows a stated rule: severity → `impairment` (Naka-Rushton) → `true_mos` → `rate`, the
mean of 15 simulated raters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        self._check_held_out()

    def _check_held_out(self) -> None:
        """Types are dealt out in turn; the set of motion distortions must not be empty."""
        num_clips = self.num_eval_contents * self.clips_per_content
        names = [name for name in DISTORTIONS if name != "none"]
        first = next(i for i, name in enumerate(names) if DISTORTIONS[name].kind == "motion")
        if num_clips - round(self.none_share * num_clips) <= first:
            raise ValueError(
                f"num_eval_contents is {self.num_eval_contents} and clips_per_content "
                f"{self.clips_per_content}, {num_clips} held-out clips in all: none of them would "
                f"have a motion distortion; expected at least {first + 1} that are not pristine"
            )


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
    names = [name for name in DISTORTIONS if name != "none"]
    drawn = draw_distortions(names, num_clips, config.none_share, rng)
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


def draw_distortions(
    names: Sequence[str], num_clips: int, none_share: float, rng: np.random.Generator
) -> list[tuple[str, float]]:
    """(distortion, severity) of each clip, in random order: every name equally often, and severity
    stratified over the range of its impairment."""
    num_none = round(none_share * num_clips)
    drawn = [("none", 0.0)] * num_none
    for i, name in enumerate(names):
        count = len(range(i, num_clips - num_none, len(names)))
        strata = (np.arange(count) + rng.random(count)) / max(count, 1)
        impaired = MIN_IMPAIRMENT + (1 - MIN_IMPAIRMENT) * strata
        drawn += [(name, round(severity_of(float(value)), 4)) for value in impaired]
    return [drawn[i] for i in rng.permutation(num_clips)]
