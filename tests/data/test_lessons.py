"""Records of the demo set: what is taught of which clips, and questions with one right option."""

import hashlib
import json
from collections import Counter

from thinker.data.demo.lessons import (
    LOOKS,
    choice_records,
    distortion_records,
    lesson_texts,
    quality_records,
)
from thinker.data.demo.plan import DISTORTIONS, SyntheticConfig, plan_demo_set

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


def test_a_choice_has_four_options_and_the_right_one_among_them():
    plans = {plan.path: plan for plan in PLANS["eval"]}
    records = choice_records(PLANS["eval"], seed=0, reasoned=False)
    letters, answers = Counter(), Counter()
    for record, (path, question, answer) in zip(records, rows(records), strict=True):
        plan = plans[path]
        if record["type"] == "what":
            _, *options = question.split("\n")
            assert [option[0] for option in options] == list("ABCD") and len(set(options)) == 4
            (right,) = [option for option in options if option.startswith(answer)]
            assert right[3:] == plan.distortion.replace("_", " ")
            assert record["concern"] == DISTORTIONS[plan.distortion].kind
            letters[answer] += 1
        else:
            (asked,) = [n for n, look in LOOKS.items() if question == f"Is this video {look}?"]
            assert answer == ("Yes" if asked == plan.distortion else "No")
            assert record["concern"] == DISTORTIONS[asked].kind
            answers[answer] += 1
    assert sum(letters.values()) == 285 and sum(answers.values()) == 300  # 15 are pristine
    assert min(letters.values()) > 50 and min(answers.values()) > 110
    reasoned = rows(choice_records(PLANS["eval"][:1], seed=0, reasoned=True))
    assert all(answer.startswith("<think>") for _, _, answer in reasoned)
