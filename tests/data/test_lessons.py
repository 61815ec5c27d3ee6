"""Records of the demo set: what is taught of which clips, and questions with one right option."""

import hashlib
import json
from collections import Counter

from thinker.data.demo.lessons import (
    MOTION_QUESTION,
    choice_lessons,
    choice_records,
    distortion_records,
    lesson_texts,
    quality_records,
)
from thinker.data.demo.plan import DISTORTIONS, SyntheticConfig, plan_demo_set
from thinker.tasks.level import LEVELS, level_word

PLANS = {
    split: [plan for plan in plan_demo_set(SyntheticConfig()) if plan.split == split]
    for split in ("train", "eval")
}


def rows(records):
    """Path, question and answer of each."""
    return [
        (r["video"][0], *(turn["value"].removeprefix("<video>\n") for turn in r["conversations"]))
        for r in records
    ]


def test_lessons_are_those_that_the_first_warm_start_drew_with_seed_0():
    """The digest is that of the lessons of commit ec6577e for the whole demo set: distortions, then
    the level and the score of each drawn clip."""
    train = PLANS["train"]
    levels, scores, drawn = quality_records(train, seed=0)
    both = [row for pair in zip(rows(levels), rows(scores), strict=True) for row in pair]
    lessons = rows(distortion_records(train)) + both
    assert (len(lessons), len(drawn)) == (5500, 250)
    digest = hashlib.sha256(json.dumps(lessons).encode()).hexdigest()
    assert digest == "09186a5833e32ce139ca9f87bfb31aaaf766f92577e952d435eb8bc1110d3989"
    said = {answer for _, _, answer in rows(distortion_records(train)) + rows(levels)}
    assert said <= set(lesson_texts())


def test_clips_are_asked_for_their_distortion_their_motion_and_their_level():
    plans = {plan.path: plan for plan in PLANS["eval"]}
    names = [name for name in DISTORTIONS if name != "none"]
    shown = {"what": [name.replace("_", " ") for name in names], "how": list(LEVELS)}
    records, answers = choice_records(PLANS["eval"]), Counter()
    for record, (path, question, answer) in zip(records, rows(records), strict=True):
        kind, distortion = record["type"], plans[path].distortion
        answers[kind, answer] += 1
        assert record["concern"] == DISTORTIONS[distortion].kind
        if kind == "yes-or-no":
            assert question == MOTION_QUESTION
            assert answer == ("Yes" if DISTORTIONS[distortion].kind == "motion" else "No")
            continue
        _, *options = question.split("\n")
        assert options == [f"{a}. {t}" for a, t in zip("ABCDEFGHIJ", shown[kind], strict=False)]
        (right,) = [option[3:] for option in options if option.startswith(answer)]
        level = level_word(min(max(plans[path].mos, 1.0), 5.0))
        assert right == (level if kind == "how" else distortion.replace("_", " "))
    asked = Counter(kind for kind, _ in answers.elements())
    assert asked == {"yes-or-no": 224, "how": 300, "what": 285}  # 112 in motion; 15 are pristine
    assert answers["yes-or-no", "Yes"] == answers["yes-or-no", "No"] == 112
    assert len(answers) == 2 + 5 + 10


def test_lessons_of_choices_answer_as_rewards_ask_for():
    plans = {plan.path: plan for plan in PLANS["eval"]}
    asked = rows(choice_records(PLANS["eval"]))
    lessons = choice_lessons(PLANS["eval"])
    for (path, question, right), record, lesson in zip(asked, lessons, rows(lessons), strict=True):
        reason = plans[path].distortion.replace("_", " ")
        if record["type"] == "how":
            reason += f", {LEVELS['ABCDE'.index(right)]} quality"
        assert lesson == (path, question, f"<think>{reason}</think><answer>{right}</answer>")
