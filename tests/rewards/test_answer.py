"""The parser decides what a completion is worth everywhere; it must be strict, total and linear."""

import random
import re
import time
from typing import get_args

import pytest

from rewards.answer import Answer, InvalidAnswer, InvalidReason, parse_answer, shown_reasoning

MEGABYTE = 1_000_000
# fmt: off
NOT_NUMBERS = [
    "", " ", ".85", "3.", "+3", "-3", "1e0", "1e999", "1_0", "3,5", "3/5", "3.5.1", "3 .5", "3 4",
    "NaN", "nan", "inf", "Infinity", "0x3", "3f", "٣.٥", "３.５", "²", "3\u00a0",
    "\u20033", "3\u200b", "3\x00", "three", "3.5 out of 5", "**3.5**", "<b>3</b>",
    "<think>3</think>", "<answer >3",
]
PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "3.50", "7", " ", "\n", "\u2003", "\x1c", "a",
]
# fmt: on


def test_docstring_examples() -> None:
    assert parse_answer("<think>sharp, a little noisy</think><answer>3.50</answer>") == Answer(
        value=3.5, text="3.50", reasoning="sharp, a little noisy", well_formed=True
    )
    assert parse_answer("I would say 3.50") == InvalidAnswer(
        reason="no_answer", detail="no <answer> tag"
    )


@pytest.mark.parametrize(
    ("written", "value", "num_decimals"),
    [
        ("3", 3.0, 0),
        ("3.5", 3.5, 1),
        ("3.50", 3.5, 2),
        ("03.50", 3.5, 2),
        ("1", 1.0, 0),
        ("5.00", 5.0, 2),
        ("0" * 400 + "3.25", 3.25, 2),
        ("3." + "25" * 200, 3 + 25 / 99, 400),  # 0.2525… = 25/99
    ],
)
def test_valid_numbers(written: str, value: float, num_decimals: int) -> None:
    answer = parse_answer(f"<answer> \t\r\n{written}\f\v\n</answer>")
    assert isinstance(answer, Answer)
    assert answer.value == value
    assert answer.text == written
    assert answer.num_decimals == num_decimals


@pytest.mark.parametrize("written", NOT_NUMBERS)
def test_not_a_number(written: str) -> None:
    answer = parse_answer(f"<think>a</think><answer>{written}</answer>")
    assert isinstance(answer, InvalidAnswer)
    assert answer.reason == "not_a_number"


@pytest.mark.parametrize("written", ["0.99", "5.01", "0", "68", "9" * 400, "9" * MEGABYTE])
def test_out_of_range(written: str) -> None:
    answer = parse_answer(f"<answer>{written}</answer>")
    assert isinstance(answer, InvalidAnswer)
    assert answer.reason == "out_of_range"
    assert len(answer.detail) < 120


def test_the_range_is_a_setting() -> None:
    answer = parse_answer("<answer>68</answer>", low=0, high=100)
    assert isinstance(answer, Answer) and answer.value == 68
    for low, high in [(5, 1), (1, 1), (1, float("nan"))]:
        with pytest.raises(ValueError, match="expected low < high"):
            parse_answer("<answer>3</answer>", low=low, high=high)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "no_answer"),
        ("3.50", "no_answer"),
        ("<Answer>3</Answer>", "no_answer"),
        ("<answer >3< /answer>", "no_answer"),
        ("<think>a</think>", "no_answer"),
        ("<answer>3.50", "broken_tags"),
        ("3.50</answer>", "broken_tags"),
        ("</answer>3.50<answer>", "broken_tags"),
        ("<answer>3</answer><answer>3</answer>", "several_answers"),
        ("<answer><answer>3</answer></answer>", "several_answers"),
        ("<answer>3</answer> so </answer>", "several_answers"),
        ("<think>maybe <answer>2</answer></think><answer>3</answer>", "several_answers"),
    ],
)
def test_tags(completion: str, reason: str) -> None:
    answer = parse_answer(completion)
    assert isinstance(answer, InvalidAnswer)
    assert answer.reason == reason


@pytest.mark.parametrize(
    ("completion", "reasoning", "well_formed"),
    [
        ("<think>a\nb</think>\n\u3000<answer>3</answer>", "a\nb", True),
        ("<think></think><answer>3</answer>", "", True),
        ("<think>a</think>b</think><answer>3</answer>", "a</think>b", True),
        (" <think>a</think><answer>3</answer>", "a", False),
        ("<think>a</think><answer>3</answer>\n", "a", False),
        ("<think>a</think>so<answer>3</answer>", "a", False),
        ("<answer>3</answer>", None, False),
        ("<answer>3</answer><think>a</think>", None, False),
        ("</think><think><answer>3</answer>", None, False),
        ("<think>a<answer>3</answer></think>", None, False),
    ],
)
def test_reasoning_and_form(completion: str, reasoning: str | None, well_formed: bool) -> None:
    answer = parse_answer(completion)
    assert isinstance(answer, Answer)
    assert (answer.reasoning, answer.well_formed) == (reasoning, well_formed)


@pytest.mark.parametrize(
    ("completion", "shown"),
    [
        # the examples of its docstring
        ("<think> sharp, a little noisy </think><answer>3.50</answer>", "sharp, a little noisy"),
        ("I would say it is sharp. <answer>3.50</answer>", "I would say it is sharp."),
        (
            "<think>sharp, but the completion was cut o",
            "sharp, but the completion was cut o",
        ),
        # one tag is missing, or the tags stand in another order
        ("sharp</think><answer>3</answer>", "sharp"),
        ("So: <think>sharp<answer>3</answer></think>", "sharp"),
        ("sharp</think> so <think>noisy", "noisy"),
        # nothing is said, or only behind the answer
        ("", ""),
        ("<think>", ""),
        ("<think></think><answer>3</answer>", ""),
        ("<answer>3</answer><think>sharp</think>", ""),
        # tags inside the reasoning belong to it
        ("<think>a</think>b</think><answer>3</answer>", "a</think>b"),
        ("<think>a <think>b</think>", "a <think>b"),
    ],
)
def test_shown_reasoning(completion: str, shown: str) -> None:
    assert shown_reasoning(completion) == shown


def test_agrees_with_the_regular_expressions_it_replaces() -> None:
    """Random strings of tags, numbers and blanks against a definition by regular expressions."""
    rng = random.Random(0)
    shape = r"<think>(.*?)</think>\s*<answer>.*?</answer>"
    num_valid = num_well_formed = 0
    for _ in range(100_000):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 5)))
        if rng.random() < 0.5:
            text = f"<think>{text}</think>{rng.choice(PIECES)}<answer>3.5</answer>"
        inside = re.findall(r"<answer>[ \t\n\r\f\v]*([0-9.]+)[ \t\n\r\f\v]*</answer>", text)
        valid = (
            text.count("<answer>") == text.count("</answer>") == len(inside) == 1
            and re.fullmatch(r"[0-9]+(\.[0-9]+)?", inside[0]) is not None
            and 1 <= float(inside[0]) <= 5
        )
        answer = parse_answer(text)
        assert isinstance(answer, Answer) == valid, text
        if isinstance(answer, Answer):
            match = re.fullmatch(shape, text, re.DOTALL)
            assert answer.well_formed == (match is not None), text
            if match:
                assert answer.reasoning == match[1]
                num_well_formed += 1
            if answer.reasoning is not None:
                assert shown_reasoning(text) == answer.reasoning.strip(), text
            num_valid += 1
        else:
            assert answer.reason in get_args(InvalidReason)
    assert num_valid > 1000 and num_well_formed > 1000


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 125_000,
        "</answer>" * 125_000,
        "<think>" * 140_000,
        "</think>" * 125_000,
        "<think></think>" * 66_000 + "<answer>3</answer>",
        "<think>" * 140_000 + "<answer>3</answer>",
        "<" * MEGABYTE + "<answer>3</answer>",
        "<think></think>" + " " * MEGABYTE + "<answer>3</answer>",
        "<think></think>" + " " * MEGABYTE + "a<answer>3</answer>",
        "<answer>" + " " * MEGABYTE + "3 a</answer>",
        "<answer>" + "9" * MEGABYTE + "x</answer>",
        "<answer>3." + "0" * MEGABYTE + "1</answer>",
        "<answer>" + "3." * (MEGABYTE // 2) + "</answer>",
    ],
    ids=lambda text: text[:12],
)
def test_a_megabyte_takes_linear_time(text: str) -> None:
    """A linear pass takes a few ms of processor time; one quadratic step would take minutes."""
    start = time.process_time()
    parse_answer(text)
    shown_reasoning(text)
    assert time.process_time() - start < 1.0
