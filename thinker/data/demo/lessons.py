"""Records of the demo set beside its scores: what distorts a clip, how good it is, and choices.

In: the plans of clips. Out: LLaVA-style records, one a question. After VQA² (arXiv 2411.03795),
stage 1, every training clip teaches the name of its distortion, and a small share of them also the
answer form with a coarse level word. No lesson holds a MOS; the number in an answer is drawn
uniformly from the bin of the level word, so that the policy starts uncertain rather than wrong.
"""

import random
from collections.abc import Sequence
from typing import Any

from thinker import prompts
from thinker.data.demo.plan import DISTORTIONS, ClipPlan
from thinker.tasks.level import LEVEL_PREFIX, LEVEL_QUESTION, LEVELS, level_word

LESSON_SHARE = 0.05
"""Share of the training clips that are taught a level word and the answer form: 250 of 5,000. So
few leave most of what severity means to reinforcement (docs/log.md)."""

NUM_OPTIONS = 4

CHOICE_QUESTION = "Which distortion is in this video?"

LOOKS = {
    "blur": "blurred",
    "noise": "noisy",
    "blocking": "blocky",
    "overexposure": "overexposed",
    "underexposure": "underexposed",
    "low_contrast": "low in contrast",
    "stutter": "stuttering",
    "frame_drops": "dropping frames",
    "flicker": "flickering",
    "shake": "shaking",
}
"""How a yes-or-no question calls a video with each distortion."""

Record = dict[str, Any]


def recognition_answer(distortion: str) -> str:
    """Example: `recognition_answer("low_contrast") == "It is low contrast."`."""
    return f"It is {_words(distortion)}."


def level_answer(level: str) -> str:
    """Example: `level_answer("poor") == "The quality of the video is poor."`."""
    return f"{LEVEL_PREFIX} {level}."


def reasoning_text(distortion: str, level: str) -> str:
    """Example: `reasoning_text("low_contrast", "poor")` is `"low contrast, poor quality"`."""
    return f"{_words(distortion)}, {level} quality"


def lesson_texts() -> list[str]:
    """All that lessons can say, for a tokenizer: every distortion with every level."""
    return [
        text
        for name in DISTORTIONS
        for level in LEVELS
        for text in (recognition_answer(name), level_answer(level), reasoning_text(name, level))
    ]


def distortion_records(plans: Sequence[ClipPlan]) -> list[Record]:
    """The name of the distortion of every clip."""
    return [
        _record(
            "distortion", number, plan, prompts.RECOGNITION, recognition_answer(plan.distortion)
        )
        for number, plan in enumerate(plans)
    ]


def quality_records(
    plans: Sequence[ClipPlan], seed: int
) -> tuple[list[Record], list[Record], list[ClipPlan]]:
    """Level words and scored answers of `LESSON_SHARE` of the clips (at least one), and the
    clips."""
    draw = random.Random(seed)
    drawn = draw.sample(list(plans), max(round(LESSON_SHARE * len(plans)), 1))
    levels, scores = [], []
    for number, plan in enumerate(drawn):
        level = level_word(min(max(plan.mos, 1.0), 5.0))
        score = f"{1.0 + 0.8 * LEVELS.index(level) + draw.randint(0, 7) / 10:.1f}0"
        answer = prompts.scoring_answer(reasoning_text(plan.distortion, level), score)
        levels.append(_record("level", number, plan, LEVEL_QUESTION, level_answer(level)))
        scores.append(_record("score", number, plan, prompts.SHORT_SCORING, answer))
    return levels, scores, drawn


def choice_records(plans: Sequence[ClipPlan], seed: int, *, reasoned: bool) -> list[Record]:
    """Two questions about every clip: which of four distortions it shows, and whether it shows a
    certain one. A pristine clip is asked the second only.

    reasoned: whether answers have the form that rewards ask for, as a lesson needs it, or are the
    letter, yes or no alone.
    """
    draw = random.Random(f"choices of {seed}")
    records: list[Record] = []
    for plan in plans:
        for kind in ("what", "yes-or-no"):
            asked = _which(plan, draw) if kind == "what" else _whether(plan, draw)
            if asked is None:
                continue
            question, answer, distortion = asked
            if reasoned:
                answer = prompts.scoring_answer(_words(plan.distortion), answer)
            record = _record("choice", len(records), plan, question, answer, task="choice")
            tags = {"type": kind, "concern": DISTORTIONS[distortion].kind}
            records.append(record | tags)
    return records


def _which(plan: ClipPlan, draw: random.Random) -> tuple[str, str, str] | None:
    """Question, letter of the right option, and the distortion that it is about."""
    if plan.distortion == "none":
        return None
    options = [plan.distortion, *draw.sample(_others(plan), NUM_OPTIONS - 1)]
    draw.shuffle(options)
    lines = [f"{letter}. {_words(o)}" for letter, o in zip("ABCD", options, strict=True)]
    question = "\n".join([CHOICE_QUESTION, *lines])
    return question, "ABCD"[options.index(plan.distortion)], plan.distortion


def _whether(plan: ClipPlan, draw: random.Random) -> tuple[str, str, str]:
    """As `_which`; half of the distorted clips are asked about their own distortion."""
    is_own = draw.random() < 0.5 and plan.distortion != "none"
    asked = plan.distortion if is_own else draw.choice(_others(plan))
    return f"Is this video {LOOKS[asked]}?", "Yes" if is_own else "No", asked


def _others(plan: ClipPlan) -> list[str]:
    return [name for name in DISTORTIONS if name not in ("none", plan.distortion)]


def _words(distortion: str) -> str:
    return distortion.replace("_", " ")


def _record(
    name: str, number: int, plan: ClipPlan, question: str, answer: str, *, task: str = "open"
) -> Record:
    return {
        "id": f"{name}/{number}",
        "task": task,
        "video": [plan.path],
        "conversations": [
            {"from": "human", "value": f"<video>\n{question}"},
            {"from": "gpt", "value": answer},
        ],
    }
