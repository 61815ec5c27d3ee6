"""Records of the demo set beside its scores: what distorts a clip, how good it is, and choices.

In: the plans of clips. Out: LLaVA-style records, one a question. After VQA² (arXiv 2411.03795),
stage 1, every training clip teaches the name of its distortion, and a small share of them also the
answer form with a coarse level word. No lesson holds a MOS; the number in an answer is drawn
uniformly from the bin of the level word, so that the policy starts uncertain rather than wrong.
"""

import random
from collections.abc import Sequence
from typing import Any

from rewards.choice import LETTERS
from thinker import prompts
from thinker.data.demo.plan import DISTORTIONS, ClipPlan
from thinker.tasks.level import LEVEL_PREFIX, LEVEL_QUESTION, LEVELS, level_word

LESSON_SHARE = 0.05
"""Share of the training clips that are taught a level word and the answer form: 250 of 5,000. So
few leave most of what severity means to reinforcement (docs/log.md)."""

CHOICE_QUESTION = "Which distortion is in this video?"

GRADE_QUESTION = "How good is the quality of this video?"

MOTION_QUESTION = "Is the motion of this video distorted?"

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
        level = _level(plan)
        score = f"{1.0 + 0.8 * LEVELS.index(level) + draw.randint(0, 7) / 10:.1f}0"
        answer = prompts.scoring_answer(reasoning_text(plan.distortion, level), score)
        levels.append(_record("level", number, plan, LEVEL_QUESTION, level_answer(level)))
        scores.append(_record("score", number, plan, prompts.SHORT_SCORING, answer))
    return levels, scores, drawn


def choice_records(plans: Sequence[ClipPlan]) -> list[Record]:
    """Questions about every clip, answered by a letter, yes or no: which distortion it shows (not
    asked of a pristine one), how good it is, and of a part whether its motion is distorted: half of
    these are answered yes. Where no was right of 62 %, reinforcement ended in saying no only in
    four of seven runs (docs/log.md)."""
    of_motion = _asked_of_motion(plans)
    asked = [
        (plan, *question)
        for plan in plans
        for question in _choices(plan, is_asked_of_motion=plan.path in of_motion)
    ]
    return [_choice(number, *question) for number, question in enumerate(asked)]


def choice_lessons(plans: Sequence[ClipPlan]) -> list[Record]:
    """The same questions with the answers that rewards ask for: a reason, then the letter, yes or
    no."""
    records: list[Record] = []
    of_motion = _asked_of_motion(plans)
    for plan in plans:
        for kind, question, answer in _choices(plan, is_asked_of_motion=plan.path in of_motion):
            reason = _words(plan.distortion)
            if kind == "how":
                reason = reasoning_text(plan.distortion, _level(plan))
            lesson = prompts.scoring_answer(reason, answer)
            records.append(_choice(len(records), plan, kind, question, lesson))
    return records


def _asked_of_motion(plans: Sequence[ClipPlan]) -> set[str]:
    """Paths of as many clips with a motion distortion as of others, the latter drawn."""
    is_motion = {plan.path: DISTORTIONS[plan.distortion].kind == "motion" for plan in plans}
    sides = [[path for path, said in is_motion.items() if said is side] for side in (True, False)]
    count = min(map(len, sides))
    return {path for side in sides for path in random.Random(0).sample(side, count)}


def _choices(plan: ClipPlan, *, is_asked_of_motion: bool) -> list[tuple[str, str, str]]:
    """Kind, question and answer of each question about a clip.

    Options stand in one order, so that a small policy learns what a letter means; it does not learn
    to look a letter up (docs/log.md).
    """
    is_motion = DISTORTIONS[plan.distortion].kind == "motion"
    found = [
        ("how", _listed(GRADE_QUESTION, LEVELS), LETTERS[LEVELS.index(_level(plan))]),
    ]
    if is_asked_of_motion:
        found.append(("yes-or-no", MOTION_QUESTION, "Yes" if is_motion else "No"))
    if plan.distortion != "none":
        names = [name for name in DISTORTIONS if name != "none"]
        question = _listed(CHOICE_QUESTION, [_words(name) for name in names])
        found.append(("what", question, LETTERS[names.index(plan.distortion)]))
    return found


def _listed(question: str, options: Sequence[str]) -> str:
    """The question and its options, one a line, with their letters."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines])


def _choice(number: int, plan: ClipPlan, kind: str, question: str, answer: str) -> Record:
    tags = {"type": kind, "concern": DISTORTIONS[plan.distortion].kind}
    return _record("choice", number, plan, question, answer, task="choice") | tags


def _level(plan: ClipPlan) -> str:
    return level_word(min(max(plan.mos, 1.0), 5.0))


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
