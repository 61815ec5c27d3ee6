"""Labelled sets → a policy's calibration: intervals of scores that hold, and how well they do.

In: a scorer and sets of scores that its policy was not trained on. Out: a `Calibration` each, with
the coverage that its interval had on contents that it was not made of: in `NUM_SPLITS` splits of
the contents in halves, one half makes an interval and the other one tries it. What is kept is made
of both halves.
"""

from collections.abc import Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from thinker.data.examples import Example
from thinker.data.split import split_by_content
from thinker.eval.run import WINDOW
from thinker.eval.sets import LoadedSet
from thinker.policies.digest import model_digest
from thinker.policies.encode import run_policy
from thinker.score.calibration import (
    MISS,
    UNLIKE,
    Calibration,
    Facts,
    Likeness,
    likeness_of,
    media_features,
    question_text,
    radius,
)
from thinker.score.prediction import Prediction
from thinker.score.question import Question, read_questions
from thinker.score.scorer import QualityScorer
from thinker.utils.progress import Progress
from thinker.video import Clip, read_clip
from thinker.video.read_ahead import Reading

NUM_SPLITS = 20

MIN_CONTENTS = 40
"""Half of them are tried at a time, and the smallest p-value of 20 contents is 1/21, just below
`UNLIKE`."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An example of the set with its score."""

    example: Example
    """It has a target."""
    row: Prediction
    """It has a score."""
    features_F: torch.Tensor
    """Of its media (`media_features`)."""


def check_sets(loaded: Sequence[LoadedSet]) -> None:
    """Raises ValueError, before a model is loaded, for a set that cannot calibrate scores."""
    for one in loaded:
        if one.task != "score":
            raise ValueError(f"{one.name} asks for {one.task}; only sets of scores calibrate")
        if any(example.target is None for example in one.examples):
            raise ValueError(
                f"{one.name}: the scale of the MOS is not known, so scores cannot be compared with "
                "them; give --mos-scale, or mos_scale in YAML"
            )
        contents = {example.content for example in one.examples}
        if len(contents) < MIN_CONTENTS:
            raise ValueError(
                f"{one.name} has {len(contents)} source contents, expected at least "
                f"{MIN_CONTENTS}: fewer say too little of other media"
            )
        questions = {question_text(example.turns) for example in one.examples}
        if len(questions) > 1:
            raise ValueError(
                f"{one.name} asks in {len(questions)} ways, expected one: an interval holds for "
                "one question"
            )


def calibrate(scorer: QualityScorer, one: LoadedSet, reading: Reading) -> Calibration:
    """Score a set, of which `check_sets` approves, and make its calibration in the scorer's mode.

    Raises ValueError where too few contents have a score.
    """
    scored = _score(scorer, one, reading)
    num_contents = len({each.example.content for each in scored})
    if num_contents < MIN_CONTENTS:
        raise ValueError(
            f"{one.name}: {len(scored)} of {len(one.examples)} examples have a score, of "
            f"{num_contents} contents, expected at least {MIN_CONTENTS}; thinker eval shows why "
            "the others have none"
        )
    coverage, false_warnings = measured(scored)
    scale = one.mos_scale
    assert scale is not None, "there are targets"
    facts = Facts(
        dataset=one.key,
        mode=scorer.mode,
        policy=model_digest(scorer.model_name, scorer.policy),
        num_samples=scorer.num_samples if scorer.mode == "sample" else 0,
        question=question_text(scored[0].example.turns),
        num_examples=len(scored),
        num_left_out=len(one.examples) - len(scored),
        num_contents=num_contents,
        miss=MISS,
        radius=radius(_errors(scored), _contents(scored)),
        lowest=scale.to_answer(scale.min),
        highest=scale.to_answer(scale.max),
        coverage=coverage,
        false_warnings=false_warnings,
        range_coverage=_range_coverage(scored),
    )
    return Calibration(facts=facts, likeness=_likeness(scored))


def measured(scored: Sequence[Scored]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(coverage, share called unlike) of the half that did not make the interval, by split."""
    places = {each.example.id: each for each in scored}
    coverage, warned = [], []
    for seed in range(NUM_SPLITS):
        split = split_by_content({"": [each.example for each in scored]}, 0.5, seed)[""]
        made = [places[example.id] for example in split.trained]
        tried = [places[example.id] for example in split.held_out]
        reach = radius(_errors(made), _contents(made))
        known = _likeness(made)
        coverage.append(float(np.mean(_errors(tried) <= reach)))
        p_values = [known.p_value(each.features_F) for each in tried]
        warned.append(float(np.mean(np.array(p_values) < UNLIKE)))
    return tuple(coverage), tuple(warned)


def format_calibration(facts: Facts) -> str:
    """What was found, for a person."""
    held, warned = np.array(facts.coverage) * 100, np.array(facts.false_warnings) * 100
    lines = [
        f"{facts.dataset}, mode {facts.mode}: the truth of {100 * (1 - facts.miss):.0f} in 100 "
        f"media lies within {facts.radius:.2f} of the score (1 to 5)",
        f"  made of {facts.num_examples} examples of {facts.num_contents} contents; "
        f"{facts.num_left_out} without a score are left out",
        f"  {len(held)} splits of the contents, made of one half and tried on the other: holds "
        f"{held.mean():.1f} % ({held.min():.1f} to {held.max():.1f}), calls {warned.mean():.1f} % "
        f"unlike ({warned.min():.1f} to {warned.max():.1f})",
    ]
    if facts.range_coverage is not None:
        lines.append(
            f"  the range of the answers, 5 % to 95 %, holds {100 * facts.range_coverage:.1f} %"
        )
    return "\n".join(lines)


def _score(scorer: QualityScorer, one: LoadedSet, reading: Reading) -> list[Scored]:
    """The examples that have a score. Not resumed when it ends early; a window is in memory."""
    scorer.prepare(one.examples)
    own, features = copy(scorer), dict[Hashable, torch.Tensor]()
    own.calibrations = {}

    def encode(clips: list[Clip]) -> list[torch.Tensor]:
        embeds = run_policy(own.policy, clips)
        features.update(zip([c.key for c in clips], map(media_features, embeds), strict=True))
        return embeds

    own.encode = encode
    read, scored = partial(read_clip, spec=own.clip_spec), []
    items = read_questions(one.examples, read, reading, ahead=WINDOW)
    with Progress(len(one.examples), unit="video", name=one.key) as progress:
        for start in range(0, len(one.examples), WINDOW):
            examples = one.examples[start : start + WINDOW]
            window = [next(items) for _ in examples]
            for place, row in own.answer_as_done(window):
                progress.update()
                asked = window[place]
                if isinstance(asked, Question) and row.score is not None:
                    seen = features[asked.clips[0].key]
                    scored.append(Scored(example=examples[place], row=row, features_F=seen))
            features.clear()
    return scored


def _range_coverage(scored: Sequence[Scored]) -> float | None:
    inside = [
        each.row.answer_range[0] <= (each.example.target or 0.0) <= each.row.answer_range[1]
        for each in scored
        if each.row.answer_range is not None
    ]
    return sum(inside) / len(inside) if inside else None


def _errors(scored: Sequence[Scored]) -> np.ndarray:
    return np.array([abs((s.row.score or 0.0) - (s.example.target or 0.0)) for s in scored])


def _contents(scored: Sequence[Scored]) -> list[str]:
    return [each.example.content for each in scored]


def _likeness(scored: Sequence[Scored]) -> Likeness:
    return likeness_of(torch.stack([each.features_F for each in scored]), _contents(scored))
