"""Which level a completion names."""

import pytest

from rewards.answer import Answer
from rewards.level import LEVELS, LevelReference, LevelReward, parse_level
from rewards.text import parse_text

WORDS = ("bad", "poor", "fair", "good", "excellent")

# fmt: off
TABLE = [
    ("good", "good"), ("Good.", "good"), ("**fair**", "fair"), ("<answer>poor</answer>", "poor"),
    ("The quality of the video is excellent.", "excellent"), ("It is rather bad", "bad"),
    ("<think>good or bad?</think>The quality of the image is fair.", "fair"),
    ("The light is good. Hence, the quality of this video is poor.", "poor"),
    ("The quality of this video is good.\nThus, the quality of the image is bad.", "bad"),
    ("good or fair", "several_options"), ("high", "no_option"), ("goodness", "no_option"),
    ("not good", "no_option"), ("It isn't bad", "no_option"), ("", "no_answer"),
    ("3.4", "no_option"), ("<think>good", "broken_tags"),
]
# fmt: on


@pytest.mark.parametrize(("completion", "expected"), TABLE)
def test_level_words(completion: str, expected: str) -> None:
    answer = parse_level(completion, WORDS)
    assert (answer.value if isinstance(answer, Answer) else answer.reason) == expected


def test_the_reward_falls_with_the_distance_in_levels() -> None:
    """Words of VQA² count by their rank; only an answer that names no level is not judged."""
    ours = LevelReference(levels=LEVELS, answer="bad")
    theirs = LevelReference(levels=("low", "poor", "fair", "good", "high"), answer="bad")
    said = [*LEVELS, "The quality of the video is low.", "low light", "4"]
    given = [ours] * 5 + [theirs] * 3
    paid = LevelReward()(said, ["q"] * 8, [None] * 8, reference=given)
    assert paid[:3] == pytest.approx([1.0, 0.2494, 0.0039], abs=1e-4)
    assert 1e-5 > paid[3] > paid[4] > 0
    assert paid[5:] == [1.0, None, None]
    unknown = LevelReference(levels=LEVELS, answer=None)
    with pytest.raises(ValueError, match="a LevelReference with an answer"):
        LevelReward()(["good"], ["q"], [None], reference=[unknown])


def test_free_text_is_what_follows_the_reasoning() -> None:
    for text in ("It stalls.", "<think>Hm.</think>\nIt stalls.", "<answer> It stalls. </answer>"):
        answer = parse_text(text)
        assert isinstance(answer, Answer) and answer.value == "It stalls."
    for text in ("", "<think>Hm.</think>", "<answer> </answer>"):
        assert parse_text(text).reason == "no_answer"
