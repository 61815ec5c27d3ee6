"""What a prompt says of stalls, against the published sentences."""

import pytest

from thinker.prompts import MediaText, ask, place_media
from thinker.tasks.stall_text import stall_text


def test_the_published_sentences() -> None:
    """374 frames, one stall of 125 that ends 123 frames before the end: 125/374 = .33422460,
    123/374 = .32887701 (a record of VQA², version 2)."""
    text = stall_text([(126, 251)], 374, "sentences")
    assert text == (
        "The stalling condition of this video is: The total stalling duration of this video is 125 "
        "frames, accounting for 33.422460 percent of the total duration. The number of stalling "
        "events of the video is 1. The time elapsed from the end of the last stalling event to the "
        "end of the video is 123 frames, accounting for 32.887701 percent of the total playback "
        "duration. The initial buffering time of the video is 0 frames. The duration of each "
        "stalling event is, in frames: 125."
    )


def test_initial_buffering_and_several_events() -> None:
    text = stall_text([(0, 3), (5, 7)], 10, "sentences")
    for said in (
        "is 5 frames, accounting for 50.000000 percent",
        "events of the video is 2.",
        "end of the video is 3 frames, accounting for 30.000000 percent",
        "initial buffering time of the video is 3 frames",
        "in frames: 3, 2.",
    ):
        assert said in text


def test_a_smooth_video() -> None:
    assert stall_text([], 5, "sentences") == (
        "The stalling condition of this video is: The video plays smoothly, without any stalling "
        "happens."
    )
    assert stall_text([], 5, "digits").endswith(": 00000")


def test_digits() -> None:
    assert stall_text([(2, 4)], 5, "digits") == (
        "The temporal sequence of the stalling information of each frame is shown as follows: 00110"
    )


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (
            "lines",
            "Now you will receive a video:\nFrame1:<a>\nMotion Feature:<m>\nIt stalls.\nWhy?",
        ),
        ("inline", "Now you will receive a video:Frame1: <a>Motion Feature: <m> It stalls. Why?"),
    ],
)
def test_it_stands_between_the_video_and_the_question(layout: str, expected: str) -> None:
    medium = MediaText(kind="video", slots=("<a>",), motion_slot="<m>", said="It stalls.")
    for question in ("Why?", "<video>\nWhy?"):
        (turn,) = place_media(ask(question), [medium], layout)
        assert turn.text == expected
