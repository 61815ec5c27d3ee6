"""The level that a depiction ends in."""

import pytest

from rewards.answer import Answer
from rewards.describe import final_level, parse_description


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("It is sharp. Hence, the quality of this video is good.", "good"),
        ("Thus the overall quality of the image is very poor.", "poor"),
        ("The quality of this video is high.", "excellent"),
        ("The quality of this video is low", "bad"),
        ("The quality of this video is good at first. Hence, the quality of this video is fair.",
         "fair"),
        ("The quality of this video is good. Hence, the quality of this video is not good.", None),
        ("The sharpness is good.", None), ("good", "good"), ("**Fair.**", "fair"), ("", None),
    ],
)  # fmt: skip
def test_the_last_verdict_decides(text: str, level: str | None) -> None:
    assert final_level(text) == level


def test_the_text_is_the_answer() -> None:
    answer = parse_description("<think>x</think>Sharp. Hence, the quality of this video is good.")
    assert isinstance(answer, Answer)
    assert answer.value == "Sharp. Hence, the quality of this video is good."
    assert parse_description("<think>x").reason == "broken_tags"  # type: ignore[union-attr]
