"""The parts of a description, and which are missing."""

import time

import pytest

from rewards.parts import parse_parts

CONTENT = "The image shows a street at night, with two cars."
MARKED = "<|object_ref_start|>{label}<|object_ref_end|><|box_start|>{box}<|box_end|>"
OCCURRENCES = (
    "There is one {noise} affecting the sky. Grains cover it.\n"
    "There is one {blur} affecting the cars: edges are soft."
)
KEY = "The key distortion in the image is {noise}. It hides the sky, as {blur} does not."
LEVEL = "Thus, the quality of the image is poor."
REASONS = ("missing_content", "missing_distortions", "missing_key", "missing_level")


def written(form: str) -> list[str]:
    """The four parts with or without marks."""
    noise = form.format(label="Severe noise", box="(10,20),(300,400)")
    blur = form.format(label="Minor motion blur", box="(500,500),(900,990)")
    return [one.format(noise=noise, blur=blur) for one in (CONTENT, OCCURRENCES, KEY, LEVEL)]


FORMS = [MARKED, "{label} {box}", "<ref>{label}</ref><box>{box}</box>"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("break_", ["\n", "\n\n", " \r\n"])
@pytest.mark.parametrize("end", ["", "\n\n", "<|im_end|>", " \n<|im_end|>\n"])
def test_all_parts(form: str, break_: str, end: str) -> None:
    parts = parse_parts(break_.join(written(form)) + end)
    assert parts.missing == () and parts.content == CONTENT and parts.level == "poor"
    assert parts.distortions is not None and parts.key is not None
    assert [(one.name, one.severity) for one in parts.distortions.boxes] == [
        ("noise", "severe"), ("motion blur", "minor")
    ]  # fmt: skip
    assert [(one.name, one.box) for one in parts.key.boxes] == [("noise", (10, 20, 300, 400))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gone", range(16))
def test_what_is_missing_is_named(form: str, gone: int) -> None:
    """Every set of parts: bit n of `gone` leaves part n out."""
    kept = [part for place, part in enumerate(written(form)) if not gone >> place & 1]
    parts = parse_parts("\n".join(kept))
    assert parts.missing == tuple(REASONS[place] for place in range(4) if gone >> place & 1)


def test_a_reference_with_several_boxes() -> None:
    text = f"{CONTENT}\nThere are two severe noise (1,2),(30,40) (50,60),(70,80).\n{LEVEL}"
    parts = parse_parts(text)
    assert parts.distortions is not None and len(parts.distortions.boxes) == 2
    assert parts.missing == ("missing_key",)


def test_a_picture_without_distortions() -> None:
    text = "A cat.\nThere is no distortion in the image.\nThere is no key distortion.\n" + LEVEL
    parts = parse_parts(text)
    assert parts.missing == () and parts.key is not None and parts.key.boxes == ()
    free = parse_parts("A cat.\nDetail is clear, light even.\nThe clarity counts most.\n" + LEVEL)
    assert free.missing == () and free.key is not None
    assert free.distortions is not None and free.distortions.text == "Detail is clear, light even."


def test_key_distortions_that_are_not_called_so() -> None:
    """As the reference reads them: the last paragraph but one."""
    text = f"A cat.\nThere is one noise (1,2),(30,40).\nSevere noise (1,2),(30,40) hurts.\n{LEVEL}"
    parts = parse_parts(text)
    assert parts.missing == () and parts.key is not None and len(parts.key.boxes) == 1


def test_a_verdict_on_the_line_of_the_key_distortions() -> None:
    parts = parse_parts(
        f"A cat.\nThere is one noise (1,2),(30,40).\nThe key distortion is it. {LEVEL}"
    )
    assert parts.missing == () and parts.key is not None
    assert parts.key.text == "The key distortion is it."


@pytest.mark.parametrize(
    ("text", "level"),
    [("A cat.\nGood", "good"), ("A cat.\nThe quality of the image is odd.", None), ("", None)],
)
def test_levels(text: str, level: str | None) -> None:
    assert parse_parts(text).level == level


def test_boxes_that_cannot_be_used_are_told() -> None:
    parts = parse_parts("A cat.\nThere is one noise (30,40),(1,2), (1,2),(30,40).\n" + LEVEL)
    assert parts.distortions is not None and len(parts.distortions.boxes) == 1
    assert [fault.reason for fault in parts.distortions.faults] == ["swapped"]
    alone = parse_parts("A cat.\nThere is one banding (1,2),(30,40).\n" + LEVEL)
    assert alone.distortions is not None and alone.distortions.boxes == ()
    assert [fault.reason for fault in alone.distortions.faults] == ["unknown_class"]


def test_nothing_and_broken_tags() -> None:
    for text in ("", " \n", "<think>x", "<answer></answer>"):
        assert parse_parts(text).missing == REASONS


@pytest.mark.parametrize(
    "text", ["there is (1,2" * 20000, "key " * 50000, "(1,2),(3,4) " * 5000, "a.\n" * 20000]
)
def test_time_is_linear(text: str) -> None:
    began = time.perf_counter()
    parse_parts(text)
    assert time.perf_counter() - began < 5
