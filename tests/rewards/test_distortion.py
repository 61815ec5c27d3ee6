"""Which distortion a completion names, row by row; references; the reward; time."""

import time

import pytest

from rewards import build_reward
from rewards.answer import Answer
from rewards.distortion import (
    DISTORTIONS,
    DistortionReference,
    DistortionReward,
    parse_distortion,
    read_distortion,
    severity_word,
    split_distortion,
)
from thinker.data.demo.plan import DISTORTIONS as DEMO

NONE, TWO, DEGREES = "no_option", "several_options", "several_severities"
# fmt: off
SAID = [
    # sentences and tags, with a severity or without
    ("It is noise.", "noise"), ("It is severe noise.", "severe noise"), ("Noise", "noise"),
    ("<think>grain</think><answer>noise</answer>", "noise"), ("**Low_contrast**", "low contrast"),
    ("<answer> severe low-contrast </answer>", "severe low contrast"),
    ("The main distortion is a slight motion blur.", "slight motion blur"),
    ("noise (severe)", "severe noise"), ("Type: noise. Severity: severe.", "severe noise"),
    ("The noise is strong.", "strong noise"), ("camera shake", "camera shake"),
    # a severity that belongs to something else
    ("There is strong light. It is noise.", "noise"),
    # the longest name counts
    ("motion blur", "motion blur"), ("spatial blur", "spatial blur"), ("blur", "blur"),
    # nothing impairs it
    ("It is none.", "none"), ("There is no distortion.", "none"), ("severe none", "none"),
    # two types or severities, unless the verdict decides
    ("blur or noise", TWO), ("It is blur and noise.", TWO), ("blur\nnoise", TWO),
    ("I see blur and a little noise. It is blur.", "blur"),
    ("slight? It's severe noise. Not blur.", "severe noise"),
    ("slight or severe noise", DEGREES),
    # negated, unknown, only a part of a word
    ("It is not noise.", NONE), ("There is no noise.", NONE), ("It isn't a severe blur", NONE),
    ("no noise. It is blur.", "blur"), ("not blur, but noise", NONE),
    ("noisy", NONE), ("It is sharp.", NONE), ("None of the frames is sharp.", NONE), ("?", NONE),
    # tags and reasoning
    ("<think>noise", "broken_tags"), ("<think>noise</think>", "no_answer"), ("", "no_answer"),
    ("<answer></answer>", NONE), ("<think>blur?</think> noise", "noise"),
]
# fmt: on


@pytest.mark.parametrize(("completion", "expected"), SAID)
def test_what_is_said(completion: str, expected: str) -> None:
    answer = parse_distortion(completion)
    assert (answer.value if isinstance(answer, Answer) else answer.reason) == expected


def test_every_distortion_of_the_demo_set_is_known() -> None:
    for name in DEMO:
        said = name.replace("_", " ")
        assert said in DISTORTIONS
        for severity in (None, "severe"):
            text = said if severity is None or name == "none" else f"{severity} {said}"
            answer = parse_distortion(f"It is {text}.")
            assert isinstance(answer, Answer) and answer.value == text


@pytest.mark.parametrize(
    ("raw", "name", "severity", "is_declared"),
    [
        ("It is noise.", "noise", None, False),
        ("severe low_contrast", "low contrast", "severe", False),
        ("<think>x</think><answer>noise</answer>", "noise", None, False),
        ("There is a lot of noise in this video.", "noise", None, False),
        ("It is banding.", "banding", None, True),
        ("It is mild gaussian noise.", "gaussian noise", "mild", True),
        ("none", "none", None, False),
        ("There is no distortion.", "none", None, False),
    ],
)
def test_references(raw, name, severity, is_declared) -> None:
    names = (*DISTORTIONS, name) if is_declared else DISTORTIONS
    assert read_distortion(raw) == DistortionReference(name=name, severity=severity, names=names)


def test_a_declared_name_is_an_answer_and_wins_over_the_names_inside_of_it() -> None:
    known = read_distortion("It is gaussian noise.")
    reward = DistortionReward()
    said = ["gaussian noise", "It is noise.", "It is banding."]
    assert reward(said, list("abc"), [None] * 3, reference=[known] * 3) == [1.0, 0.0, None]


@pytest.mark.parametrize("raw", ["", "The video is sharp and clean.", "blur or noise, who knows?"])
def test_what_is_no_reference_has_a_reason(raw: str) -> None:
    with pytest.raises(ValueError, match="reference"):
        read_distortion(raw)


def test_severities_of_numbers_and_of_answers() -> None:
    assert severity_word(1 / 3) == "moderate"  # thirds begin a word
    for severity in (-0.1, 1.1):
        with pytest.raises(ValueError, match="from 0 to 1"):
            severity_word(severity)
    assert split_distortion("severe low contrast") == ("low contrast", "severe")
    assert split_distortion("low contrast") == ("low contrast", None)


def test_the_reward_has_a_part_for_the_severity() -> None:
    """severity_part .3: type and severity 1, type alone 1 - .3 = .7, another type 0."""
    known = DistortionReference(name="noise", severity="severe")
    said = ["severe noise", "noise", "slight noise", "severe blur", "sharp", "noise or blur"]
    reward = build_reward("distortion", {"severity_part": 0.3})
    got = reward(said, list("abcdef"), [None] * 6, reference=[known] * 6)
    assert got == [1.0, 0.7, 0.7, 0.0, None, None]
    bare = DistortionReference(name="noise")
    assert reward(said[:3], list("abc"), [None] * 3, reference=[bare] * 3) == [1.0] * 3
    with pytest.raises(ValueError, match=r"severity_part.*from 0 to 1"):
        build_reward("distortion", {"severity_part": 1.5})
    with pytest.raises(ValueError, match=r"sample 'x'\); expected a DistortionReference"):
        reward(["noise"], ["x"], [None], reference=[DistortionReference(name=None)])


def test_a_long_answer_takes_linear_time() -> None:
    seconds = []
    for size in (2_000, 8_000):
        started = time.perf_counter()
        parse_distortion("it is not severe motion " * size)
        seconds.append(time.perf_counter() - started)
    assert seconds[1] < 12 * seconds[0] + 0.2
