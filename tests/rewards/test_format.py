import pytest

from rewards.format import FormatReward


def score(completion: str) -> float | None:
    (reward,) = FormatReward()([completion], ["a"], [3.5])
    return reward


def test_docstring_example() -> None:
    reward = FormatReward()
    completions = ["<think>a</think> <answer>3.50</answer>", "<answer>3.50</answer>"]
    assert reward(completions, ["a", "a"], [3.5, 3.5]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>a\nb</think>\n\n<answer> 3 </answer>", 1.0),
        ("<think></think><answer>5</answer>", 1.0),
        ("<think>a</think><answer>good</answer>", 0.0),  # 1.0 in the reference
        ("<think>a</think><answer>6.00</answer>", 0.0),
        ("<think>a</think><answer>3</answer><answer>3</answer>", 0.0),
        ("<think>a</think><answer>3.50</answer>.", 0.0),
        ("<think>a<answer>3.50</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_form(completion: str, expected: float) -> None:
    assert score(completion) == expected
