"""Supervised examples: a video, a question, the answer to it.

`warm_start_lessons` makes the short stage that a policy without pretraining needs before GRPO can
start, after VQA² (arXiv 2411.03795) stage 1: every clip teaches the name of its distortion, a small
share also the answer form with a coarse level word. No lesson holds a MOS; the number in an answer
is drawn uniformly from the bin of the level word, so that the policy starts uncertain rather than
wrong.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thinker import prompts
from thinker.data.examples import Example
from thinker.tasks.level import LEVEL_PREFIX, LEVEL_QUESTION, LEVELS, level_word


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One supervised example."""

    path: Path
    """The video."""
    question: str | None
    """What is asked; None stands for the policy's own scoring question."""
    answer: str
    """What the policy should say, without the end-of-sequence token."""


def recognition_answer(distortion: str) -> str:
    """Example: `recognition_answer("low_contrast") == "It is low contrast."`."""
    return f"It is {distortion.replace('_', ' ')}."


def level_answer(level: str) -> str:
    """Example: `level_answer("poor") == "The quality of the video is poor."`."""
    return f"{LEVEL_PREFIX} {level}."


def reasoning_text(distortion: str, level: str) -> str:
    """Example: `reasoning_text("low_contrast", "poor")` is `"low contrast, poor quality"`."""
    return f"{distortion.replace('_', ' ')}, {level} quality"


def warm_start_lessons(
    samples: Sequence[Example],
    distortions: dict[str, str],
    *,
    level_share: float,
    seed: int,
) -> list[Lesson]:
    """Recognition lessons for all samples, scoring lessons for a share of them.

    distortions: sample id → distortion word. Raises ValueError for a sample without one.
    """
    missing = [sample.id for sample in samples if sample.id not in distortions]
    if missing:
        raise ValueError(f"no distortion known of {len(missing)} samples, e.g. {missing[:3]}")
    draw = random.Random(seed)
    labelled = draw.sample(list(samples), round(level_share * len(samples)))
    lessons = [
        Lesson(
            path=sample.media[0].path,
            question=prompts.RECOGNITION,
            answer=recognition_answer(distortions[sample.id]),
        )
        for sample in samples
    ]
    for sample in labelled:
        path = sample.media[0].path
        assert sample.target is not None
        target = min(max(sample.target, 1.0), 5.0)
        level = level_word(target)
        score = f"{1.0 + 0.8 * LEVELS.index(level) + draw.randint(0, 7) / 10:.1f}0"
        answer = prompts.scoring_answer(reasoning_text(distortions[sample.id], level), score)
        lessons += [
            Lesson(
                path=sample.media[0].path,
                question=LEVEL_QUESTION,
                answer=level_answer(level),
            ),
            Lesson(path=path, question=None, answer=answer),
        ]
    return lessons
