"""Faithfulness of explanations: an oracle passes, four cheats do not."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from thinker.data.demo.generate import generate_demo_set
from thinker.data.demo.plan import DISTORTIONS, SyntheticConfig
from thinker.eval.faithfulness import Case, faithfulness_cases, measure, named_distortions
from thinker.score.prediction import Prediction
from thinker.tasks.level import level_word
from thinker.video import ClipSpec, read_clip

KINDS = [name for name in DISTORTIONS if name != "none"]


def cases(num_contents=30, takes=4) -> list[Case]:
    """Cases as the demo set has them: distortions spread evenly over contents."""
    return [
        Case(
            distorted=Path(f"{content}/{take}.mp4"),
            pristine=Path(f"{content}.mp4"),
            distortion=KINDS[(content * takes + take) % len(KINDS)],
            content=str(content),
        )
        for content in range(num_contents)
        for take in range(takes)
    ]


@dataclass
class Truth:
    """Knows everything, and answers as one of five characters."""

    style: str

    def __call__(self, paths: list[Path]) -> list[Prediction]:
        known = {case.distorted: case.distortion for case in cases()}
        texts = [self.reasoning(known.get(path, "none"), self.score(path)) for path in paths]
        if self.style == "swapped":  # true scores, the explanation of another clip
            texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
        return [
            Prediction(path=path, score=self.score(path), status="ok", reasoning=text)
            for path, text in zip(paths, texts, strict=True)
        ]

    def score(self, path: Path) -> float:
        return 4.8 if path.parent == Path(".") else 2.0 + int(path.stem) / 2

    def reasoning(self, distortion: str, score: float) -> str | None:
        return {
            "oracle": f"It is {distortion.replace('_', ' ')}. The quality is {level_word(score)}.",
            "swapped": f"It is {distortion.replace('_', ' ')}.",
            "constant": "It is blur.",
            "template": f"Distortions are visible and the quality is {level_word(score)}.",
            "score only": None,
        }[self.style]


def test_an_oracle_passes():
    report = measure(cases(), Truth("oracle"))
    assert (report.faithful, report.ci_low, report.num_cases) == (1.0, 1.0, 120)
    assert report.passes and set(report.by_distortion) == set(KINDS)


@pytest.mark.parametrize(
    ("style", "at_most"),
    [("constant", 0.0), ("template", 0.0), ("swapped", 0.25), ("score only", 0.0)],
)
def test_four_cheats_fail_though_their_scores_are_true(style, at_most):
    report = measure(cases(), Truth(style))
    assert report.score_rises == 1.0
    assert report.faithful <= at_most and not report.passes


def test_listing_every_distortion_earns_a_tenth_and_fails():
    def lister(paths):
        everything = "It is " + ", ".join(kind.replace("_", " ") for kind in KINDS)
        rows = Truth("oracle")(paths)
        return [
            Prediction(
                path=row.path,
                score=row.score,
                status="ok",
                reasoning="It is none." if row.path.parent == Path(".") else everything,
            )
            for row in rows
        ]

    report = measure(cases(), lister)
    assert report.faithful == pytest.approx(0.1) and not report.passes


def test_scores_that_do_not_rise_fail():
    def flat(paths):
        rows = Truth("oracle")(paths)
        return [
            Prediction(path=row.path, score=3.0, status="ok", reasoning=row.reasoning)
            for row in rows
        ]

    report = measure(cases(), flat)
    assert (report.named, report.let_go, report.score_rises) == (1.0, 1.0, 0.0)
    assert report.faithful == 0.0


def test_shares_are_balanced_over_distortions_by_hand():
    """Three blur clips of which one is right, one noise clip that is right: (1/3 + 1) / 2."""
    some = [
        Case(distorted=Path(f"{i}"), pristine=Path("p"), distortion=kind, content=str(i))
        for i, kind in enumerate(["blur", "blur", "blur", "noise"])
    ]
    words = {"0": "blur", "1": "shake", "2": "", "3": "noise", "p": "none"}

    def predict(paths):
        return [
            Prediction(
                path=path, score=5.0 if path.name == "p" else 2.0, status="ok",
                reasoning=words[path.name],
            )
            for path in paths
        ]  # fmt: skip

    report = measure(some, predict)
    assert report.faithful == pytest.approx((1 / 3 + 1) / 2)
    assert report.by_distortion == {"blur": pytest.approx(1 / 3), "noise": 1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is low contrast.", {"low_contrast"}),
        ("Blurry and noisy, but no flicker.", {"blur", "noise"}),
        ("The clip shakes; without visible blur", {"shake"}),
        ("A noiseless, unblocked view", set()),
        ("It is none.", set()),
        (None, set()),
        ("It is frame drops.", {"frame_drops"}),
    ],
)
def test_which_distortions_a_text_names(text, expected):
    assert named_distortions(text) == expected


def test_every_distortion_is_named_by_its_own_word():
    for kind in KINDS:
        assert named_distortions(f"It is {kind.replace('_', ' ')}.") == {kind}


def test_cases_of_a_real_demo_set_have_pristine_versions(tmp_path):
    config = SyntheticConfig(num_train_contents=1, num_eval_contents=3)
    demo = generate_demo_set(tmp_path / "demo", config, num_workers=1)
    found = faithfulness_cases(tmp_path / "demo", tmp_path / "out")
    truth = json.loads(demo.distortions_json.read_text())
    spec = ClipSpec(
        num_keyframes=2, resize="square", keyframe_px=80, min_pixels=0, max_pixels=0, factor=1,
        num_motion_frames=0, motion_px=1,
    )  # fmt: skip
    for case in found:
        name = str(case.distorted.relative_to(demo.root))
        assert truth[name]["distortion"] == case.distortion != "none"
        assert case.pristine.name == f"{truth[name]['content']}.mp4"
    # overexposure adds light and blur takes detail: the pristine version differs, content stays
    first = found[0]
    clips = [
        read_clip(path, spec).keyframes_KCHW.float() for path in (first.distorted, first.pristine)
    ]
    assert clips[0].sub(clips[1]).abs().mean() > 1
    correlation = np.corrcoef(clips[0].flatten().numpy(), clips[1].flatten().numpy())[0, 1]
    assert correlation > 0.3
    with pytest.raises(ValueError, match=r"manifest\.json"):
        faithfulness_cases(tmp_path, tmp_path)
