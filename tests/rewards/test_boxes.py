"""Boxes: every form that policies write, every fault with its reason, and a reward that cheats do
not pay under."""

import random
import re
import time

import pytest

from rewards.answer import InvalidAnswer
from rewards.boxes import (
    Boxes,
    BoxesConfig,
    BoxesReference,
    BoxesReward,
    FaultyBox,
    LabelledBox,
    box_iou,
    matched_f1,
    parse_boxes,
)

VIDA = (
    "Low clarity:\n<|object_ref_start|>Moderate low clarity<|object_ref_end|><|box_start|>(0,1),"
    "(20,30)<|box_end|><|box_start|>(40,50),(60,70)<|box_end|>\n<|object_ref_start|>Severe low "
    "clarity<|object_ref_end|><|box_start|>(100,100),(200,200)<|box_end|>\nNoise:\n"
    "<|object_ref_start|>Minor noise<|object_ref_end|><|box_start|>(5,5),(995,1000)<|box_end|>."
    "<|im_end|>"
)
"""One reference with two boxes, two severities of one class on two lines."""


def found(text: str, **more) -> list[tuple]:
    answer = parse_boxes(text, **more)
    assert not isinstance(answer, InvalidAnswer), answer
    assert answer.value.faults == ()
    return [(one.name, one.severity, one.box) for one in answer.value.boxes]


WANTED = [
    ("low clarity", "moderate", (0.0, 1.0, 20.0, 30.0)),
    ("low clarity", "moderate", (40.0, 50.0, 60.0, 70.0)),
    ("low clarity", "severe", (100.0, 100.0, 200.0, 200.0)),
    ("noise", "minor", (5.0, 5.0, 995.0, 1000.0)),
]


def test_the_published_form_with_its_marks_and_without_them() -> None:
    assert found(VIDA) == WANTED
    bare = VIDA
    for mark in ("object_ref_start", "object_ref_end", "box_start", "box_end", "im_end"):
        bare = bare.replace(f"<|{mark}|>", "")
    assert found(bare) == WANTED  # as a tokenizer writes it that drops special tokens
    one_line = VIDA.replace(":\n", ": ").replace("<|box_end|>\n", "<|box_end|> ")
    assert found(one_line) == WANTED


@pytest.mark.parametrize(
    "text",
    [
        "<ref>moderate low clarity</ref><box>[[0, 1, 20, 30], [40, 50, 60, 70]]</box>",
        '```json\n[{"bbox_2d": [0, 1, 20, 30], "label": "moderate low clarity"}, {"bbox_2d": '
        '[40, 50, 60, 70], "label": "Moderate Low-Clarity"}]\n```',
        "<think>Soft at the left.</think><answer>Moderate low clarity (0,1),(20,30), (40,50), "
        "(60,70)</answer>",
        "- Low clarity: (0,1),(20,30) and (40,50),(60,70)".replace("Low", "Moderate low"),
    ],
)
def test_the_forms_of_other_policies(text) -> None:
    assert found(text) == WANTED[:2]


@pytest.mark.parametrize(
    ("before", "text"),
    [
        ("", VIDA),
        ("<think>noise (1,2),(3,4)</think>\n<answer>", "severe noise (10,20),(30,40)</answer>"),
        ("So: ", '[{"bbox_2d": [1, 2, 30, 40], "label": "noise"}]'),
    ],
)
def test_a_box_says_where_it_stands(before, text) -> None:
    whole = before + text
    for one in parse_boxes(whole).value.boxes:
        label, corners = (whole[start:end] for start, end in one.spans)
        assert [float(n) for n in re.findall(r"\d+", corners)] == list(one.box)
        assert label.lower() == f"{one.severity or ''} {one.name}".strip()


def test_one_place_needs_no_class_and_pixels_are_a_size() -> None:
    assert found("(3,4),(50,60)", names=()) == [(None, None, (3.0, 4.0, 50.0, 60.0))]
    assert found("Noise: [10, 20, 1900, 1000]", size=(1920, 1080))[0][2] == (10, 20, 1900, 1000)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Noise: (10,20),(1001,40)", "outside"),
        ("Noise: (-1,20),(100,40)", "outside"),
        ("Noise: (100,20),(10,40)", "swapped"),
        ("Noise: (10,20),(10,40)", "swapped"),
        ("Noise: (NaN,20),(100,40)", "not_finite"),
        ("Noise: (10,20),(inf,40)", "not_finite"),
        ("Cat: (10,20),(100,40)", "unknown_class"),
        ("(10,20),(100,40)", "no_class"),
        ("Noise: (10,20),(100", "cut_off"),
        ("Noise: (10,20)", "cut_off"),
        ("Noise: everywhere", "no_box"),
        ("", "no_answer"),
        ("<think>Noise: (10,20),(100,40)", "broken_tags"),
        ('[{"bbox_2d": [1, 2, 3], "label": "noise"}]', "no_box"),
    ],
)
def test_every_fault_has_its_reason(text, reason) -> None:
    answer = parse_boxes(text)
    assert isinstance(answer, InvalidAnswer) and answer.reason == reason
    if reason not in ("no_box", "no_answer", "broken_tags"):  # beside a good one it is a fault
        both = parse_boxes(f"Noise: (1,2),(30,40)\n{text}")
        assert not isinstance(both, InvalidAnswer)
        assert [fault.reason for fault in both.value.faults] == (
            [] if reason == "no_class" else [reason]
        )


def test_nothing_to_be_found_is_an_answer() -> None:
    for text in ("No distortion affects this region.", "There is no visible distortion."):
        assert parse_boxes(text).value == Boxes()


def test_a_flaw_of_json_costs_its_own_box_only() -> None:
    good = '{"bbox_2d": [1, 2, 30, 40], "label": "noise"}'
    for bad, reasons in (
        ('{"bbox_2d": [10, 20', ["cut_off"]),
        ('{"bbox_2d": [10, 20, 30, 40], "la', ["cut_off"]),
        ('{"bbox_2d": [10, 20, null, 40], "label": "noise"}]', ["not_finite"]),
        ('{"bbox_2d": [10, 20, NaN, 40], "label": "noise"}]', ["not_finite"]),
        ("]", []),
        ("", ["cut_off"]),  # the list goes on
    ):
        answer = parse_boxes(f"[{good}, {bad}").value
        assert [one.box for one in answer.boxes] == [(1, 2, 30, 40)]
        assert [one.reason for one in answer.faults] == reasons
    both = parse_boxes(f"[{good}] Also noise (600,600),(700,700).").value
    assert len(both.boxes) == 2 and parse_boxes("[]").value == Boxes()
    assert parse_boxes(good).value.boxes[0].name == "noise"


def test_what_is_denied_is_not_there_and_what_is_named_is_no_nothing() -> None:
    assert parse_boxes("There is no noise (100,100),(500,500)").reason == "unknown_class"
    assert parse_boxes("There is no noise at (100,100),(500,500)").reason == "unknown_class"
    (at,) = parse_boxes("Severe noise at (100,100),(500,500).").value.boxes
    assert (at.name, at.severity) == ("noise", "severe")
    for text in ("There is severe noise but no other distortion.", "no distortion, but noise"):
        assert parse_boxes(text).reason == "no_box"


def test_overlaps_by_hand() -> None:
    assert box_iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert box_iou((0, 0, 10, 10), (0, 5, 10, 15)) == pytest.approx(50 / 150)
    for other in ((10, 0, 20, 10), (20, 20, 30, 30), (5, 5, 5, 9), (9, 9, 1, 1)):
        assert box_iou((0, 0, 10, 10), other) == 0.0


NOISE = LabelledBox(name="noise", box=(0.0, 0.0, 100.0, 100.0))
BLUR = LabelledBox(name="motion blur", box=(500.0, 500.0, 900.0, 900.0))


def test_matches_are_one_to_one_and_as_many_as_possible() -> None:
    """The first box fits both truths, the second only the one that the first fits better."""
    truth = [LabelledBox(name="noise", box=(0, 0, 100, 100)),
             LabelledBox(name="noise", box=(0, 0, 100, 60))]  # fmt: skip
    written = [LabelledBox(name="noise", box=(0, 0, 100, 90)),
               LabelledBox(name="noise", box=(0, 0, 100, 120))]  # fmt: skip
    assert matched_f1(Boxes(boxes=tuple(written)), truth, (0.6,)) == 1.0
    assert matched_f1(Boxes(), [], (0.5,)) == 1.0
    assert matched_f1(Boxes(), truth, (0.5,)) == 0.0


def test_flooding_repeating_and_breaking_do_not_pay() -> None:
    """Against two true boxes: what was wrong or doubled is worse than what was left away."""
    thresholds = BoxesConfig().thresholds
    honest = matched_f1(Boxes(boxes=(NOISE, BLUR)), [NOISE, BLUR], thresholds)
    one = matched_f1(Boxes(boxes=(NOISE,)), [NOISE, BLUR], thresholds)
    repeated = matched_f1(Boxes(boxes=(NOISE,) * 20), [NOISE, BLUR], thresholds)
    side = 100.0
    grid = tuple(
        LabelledBox(name=name, box=(x * side, y * side, (x + 1) * side, (y + 1) * side))
        for name in ("noise", "motion blur") for x in range(10) for y in range(10)
    )  # fmt: skip
    flooded = matched_f1(Boxes(boxes=grid), [NOISE, BLUR], thresholds)
    whole = LabelledBox(name="noise", box=(0.0, 0.0, 1000.0, 1000.0))
    vague = matched_f1(Boxes(boxes=(whole,)), [NOISE, BLUR], thresholds)
    bad = FaultyBox(reason="outside", detail="")
    broken = matched_f1(Boxes(boxes=(NOISE,), faults=(bad,)), [NOISE, BLUR], thresholds)
    other_class = matched_f1(
        Boxes(boxes=(LabelledBox(name="noise", box=BLUR.box),)), [BLUR], thresholds
    )
    assert honest == 1.0 and one == pytest.approx(2 / 3) and repeated == pytest.approx(2 / 22)
    assert flooded < 0.02 and vague == 0.0 and other_class == 0.0
    assert broken == pytest.approx(2 / 4) and broken < one


def test_the_reward_needs_a_reference_and_leaves_invalid_answers_alone() -> None:
    reward = BoxesReward()
    known = BoxesReference(boxes=(NOISE,))
    assert reward(["It is noisy."], ["q"], [None], reference=[known]) == [None]
    with pytest.raises(ValueError, match="a BoxesReference with boxes"):
        reward(["x"], ["q"], [None], reference=[BoxesReference(boxes=None)])
    with pytest.raises(ValueError, match=r"boxes\.thresholds"):
        BoxesConfig(thresholds=(0.0,))


def test_any_text_is_read_in_one_pass() -> None:
    """Pieces of answers in any order and number never raise, and a megabyte takes no minute."""
    draw = random.Random(0)
    marks = '( ) [ ] 1,2 (1,2),(3,4) , <|box_start|> <ref> </ref> Noise: bbox_2d { } " severe - nan'
    pieces = [*marks.split(" "), "\n", "<answer>", "</think>"]
    for _ in range(2000):
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(30)))
        parse_boxes(text)
    for piece in ("(", "[1,", "(1,2),(", "<ref>", "Noise: (1,2),(3,4)\n", " ", "a: "):
        began = time.perf_counter()
        parse_boxes(piece * (1_000_000 // len(piece)))
        assert time.perf_counter() - began < 20
