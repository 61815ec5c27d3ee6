"""Are explanations true? Measured on the demo set, where the injected distortion is known.

For every held-out clip with a distortion the pristine version of the same content is rendered, and
both are scored. An explanation is faithful where it
- names: the reasoning names the injected distortion (credit 1 / number of distortions named),
- lets go: the reasoning on the pristine version does not name it any more,
- matters: the pristine version gets the higher score.
All three must hold at once for one clip; the score is the mean over clips of each distortion, then
over distortions, so that no frequent one dominates. A constant text names but never lets go; a
template or a bare score names nothing; reasoning that belongs to another clip names by chance only.

In: a demo folder (`thinker demo-data`) and something that predicts. Out: `FaithfulnessReport`.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thinker.data.demo.plan import DISTORTIONS, ClipPlan, SyntheticConfig, plan_demo_set
from thinker.data.demo.render import CLEAN_QP, encode, render_clip
from thinker.data.demo.scenes import Scene
from thinker.score.prediction import Prediction

FAITHFUL_FROM = 0.5  # most explanations
NUM_RESAMPLES = 1000

WORDS = {
    "blur": r"blur\w*|out of focus",
    "noise": r"nois(?:es?|y|iness)|grain(?:y|iness)?",
    "blocking": r"block(?:ing|y|iness)\w*|compression artifacts?",
    "overexposure": r"over-?exposed?\w*|over-?exposure",
    "underexposure": r"under-?exposed?\w*|under-?exposure|too dark",
    "low_contrast": r"low(?:er)?[ -]contrast|washed[ -]out",
    "stutter": r"stutter\w*|jerk\w*|freez\w*",
    "frame_drops": r"frame drops?|dropped frames?|skip(?:s|ped)? frames?",
    "flicker": r"flicker\w*",
    "shake": r"shak[ey]\w*|unsteady",
}
"""How a text may name each distortion of the demo set."""

_NEGATION = re.compile(r"\b(?:no|not|without|free of|lacks?)(?: \w+){0,2}$")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A distorted clip and the pristine version of the same content."""

    distorted: Path
    """A clip with a known distortion."""
    pristine: Path
    """The same content without it."""
    distortion: str
    """A key of `DISTORTIONS`."""
    content: str
    """The source that both were made from."""


@dataclass(frozen=True, kw_only=True)
class FaithfulnessReport:
    """Shares in 0..1, each the mean over distortions of the mean over their clips."""

    named: float
    """The explanation names the distortion (1 over the number of distortions that it names)."""
    let_go: float
    """The explanation of the pristine version does not name it."""
    score_rises: float
    """The pristine version has the higher score."""
    faithful: float
    """All three at once."""
    ci_low: float
    """Lower end of the 95 % interval of `faithful`, by a bootstrap over contents."""
    ci_high: float
    """Its upper end."""
    num_cases: int
    """Clips that were judged."""
    by_distortion: dict[str, float]
    """`faithful` of each distortion."""

    @property
    def passes(self) -> bool:
        return self.ci_low > FAITHFUL_FROM


def named_distortions(reasoning: str | None) -> set[str]:
    """Distortions that a text names and does not deny.

    Example: "Blurry and noisy, but no flicker." → {"blur", "noise"}.
    """
    text = (reasoning or "").lower()
    return {
        name
        for name, pattern in WORDS.items()
        for match in re.finditer(rf"\b(?:{pattern})\b", text)
        if not _NEGATION.search(text[: match.start()].rstrip())
    }


def faithfulness_cases(demo: Path, folder: Path, max_cases: int | None = None) -> list[Case]:
    """Cases of the held-out clips of a demo set; pristine versions are rendered into `folder`."""
    manifest = demo / "manifest.json"
    if not manifest.is_file():
        raise ValueError(f"{demo} holds no manifest.json; expected a folder of thinker demo-data")
    config = SyntheticConfig(**json.loads(manifest.read_text(encoding="utf-8"))["config"])
    plans = [p for p in plan_demo_set(config) if p.split == "eval" and p.distortion != "none"]
    folder.mkdir(parents=True, exist_ok=True)
    return [
        Case(
            distorted=demo / "videos" / plan.path,
            pristine=_pristine(plan, config, folder),
            distortion=plan.distortion,
            content=plan.content,
        )
        for plan in plans[:max_cases]
    ]


def _pristine(plan: ClipPlan, config: SyntheticConfig, folder: Path) -> Path:
    """The content without any distortion, rendered once."""
    path = folder / f"{plan.content}.mp4"
    if not path.is_file():
        scene = Scene(plan.scene_seed, config.size_px)
        rng = np.random.default_rng(plan.clip_seed)  # "none" draws nothing from it
        frames, _ = render_clip(scene, "none", 0.0, config.num_frames, rng)
        encode(frames, path, fps=config.fps, qp=CLEAN_QP)
    return path


def measure(
    cases: Sequence[Case], predict: Callable[[list[Path]], list[Prediction]], *, seed: int = 0
) -> FaithfulnessReport:
    """Score both versions of every case and judge the explanations."""
    if not cases:
        raise ValueError("no case to judge; expected held-out clips with a distortion")
    paths = list(dict.fromkeys(p for case in cases for p in (case.distorted, case.pristine)))
    predictions = dict(zip(paths, predict(paths), strict=True))
    judged = np.array([_judge(case, predictions) for case in cases])  # (cases, 3)
    faithful = judged.prod(axis=1)
    kinds = [case.distortion for case in cases]
    low, high = _interval(faithful, kinds, [case.content for case in cases], seed)
    named, let_go, rises = (_balanced(column, kinds) for column in judged.T)
    return FaithfulnessReport(
        named=named,
        let_go=let_go,
        score_rises=rises,
        faithful=_balanced(faithful, kinds),
        ci_low=low,
        ci_high=high,
        num_cases=len(cases),
        by_distortion=_by_kind(faithful, kinds),
    )


def _judge(case: Case, predictions: dict[Path, Prediction]) -> tuple[float, float, float]:
    """(naming credit, lets go, score rises); a video without a score cannot have risen."""
    before, after = predictions[case.distorted], predictions[case.pristine]
    named = named_distortions(before.reasoning)
    credit = 1 / len(named) if case.distortion in named else 0.0
    let_go = case.distortion not in named_distortions(after.reasoning)
    rises = before.score is not None and after.score is not None and after.score > before.score
    return credit, float(let_go), float(rises)


def _by_kind(values: np.ndarray, kinds: Sequence[str]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for kind, value in zip(kinds, values, strict=True):
        groups.setdefault(kind, []).append(float(value))
    return {kind: sum(group) / len(group) for kind, group in sorted(groups.items())}


def _balanced(values: np.ndarray, kinds: Sequence[str]) -> float:
    means = _by_kind(values, kinds)
    return sum(means.values()) / len(means)


def _interval(
    values: np.ndarray, kinds: Sequence[str], contents: Sequence[str], seed: int
) -> tuple[float, float]:
    """95 % percentile bootstrap over contents."""
    members: dict[str, list[int]] = {}
    for place, content in enumerate(contents):
        members.setdefault(content, []).append(place)
    groups = list(members.values())
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(NUM_RESAMPLES):
        drawn = [i for g in rng.integers(len(groups), size=len(groups)) for i in groups[g]]
        means.append(_balanced(values[drawn], [kinds[i] for i in drawn]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def format_faithfulness(report: FaithfulnessReport) -> str:
    """A few lines for a person."""
    verdict = "faithful" if report.passes else "not faithful"
    kinds = ", ".join(f"{kind} {value:.2f}" for kind, value in report.by_distortion.items())
    assert set(report.by_distortion) <= set(DISTORTIONS)
    return (
        f"faithfulness {report.faithful:.3f} [{report.ci_low:.3f}, {report.ci_high:.3f}] on "
        f"{report.num_cases} clips: {verdict} (needs an interval above {FAITHFUL_FROM})\n"
        f"names the distortion {report.named:.3f}, lets go of it {report.let_go:.3f}, "
        f"score rises without it {report.score_rises:.3f}\n{kinds}"
    )
