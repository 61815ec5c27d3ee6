"""Every prompt text, in one place: training, inference and evaluation read the same words.

The question and the output instruction are those of VQAThinker (arXiv 2508.06051, training
release); its inference release differs in white space and in the frame sampler, a train/test
mismatch that one source rules out. A policy carries its layout, so that the released weights can be
asked exactly as they were evaluated. The recognition question is that of VQA² (arXiv 2411.03795),
stage 1. What other tasks ask stands in `thinker/tasks/`.
"""

from dataclasses import dataclass

QUESTION = (
    "You are doing the video quality assessment task. Here is the question: "
    "What is your overall rating on the quality of this video? "
    "The rating should be a float between 1 and 5, rounded to two decimal places, "
    "with 1 representing very poor quality and 5 representing excellent quality."
)
OUTPUT_FORMAT = (
    "First output the thinking process in <think> </think> tags "
    "and then output the final answer in <answer> </answer> tags."
)
SCORING = f"{QUESTION} {OUTPUT_FORMAT}"

SHORT_SCORING = "Rate the quality of this video from 1 to 5."
"""For the tiny policies: with SCORING, two thirds of their prompt would be the question."""

OPENING = "Now you will receive a video:"

RECOGNITION = "What is the main distortion presented in this video?"

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """One of `ROLES`."""
    text: str
    """What is said. `<image>` and `<video>` in a user turn mark where a medium stands, in order."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}, expected one of {', '.join(ROLES)}")


LAYOUTS = ("lines", "inline")
"""White space of the user turn: "lines" is VQAThinker's training text, "inline" its inference text,
which the released weights were evaluated with."""


def video_text(
    frame_slots: list[str],
    question: str,
    *,
    motion_slot: str | None = None,
    layout: str = "lines",
) -> str:
    """The user turn: the frame slots, one motion slot for the whole video if given, the question.

    Slots hold the expanded placeholder text (built by the policy's inputs); `layout` is one of
    `LAYOUTS`.

    Example: `video_text(["<a>", "<b>"], "Why?", motion_slot="<m>")` is
    `"Now you will receive a video:\\nFrame1:<a>\\nFrame2:<b>\\nMotion Feature:<m>\\nWhy?"`, inline
    `"Now you will receive a video:Frame1: <a>Frame2: <b>Motion Feature: <m>Why?"`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"prompt layout is {layout!r}, expected one of {', '.join(LAYOUTS)}")
    space = " " if layout == "inline" else ""
    pieces = [f"Frame{i}:{space}{slot}" for i, slot in enumerate(frame_slots, start=1)]
    if motion_slot is not None:
        pieces.append(f"Motion Feature:{space}{motion_slot}")
    if layout == "inline":
        question = question.replace(f" {OUTPUT_FORMAT}", OUTPUT_FORMAT)
    return ("" if layout == "inline" else "\n").join([OPENING, *pieces, question])


def scoring_answer(reasoning: str, score: str) -> str:
    """The completion form the format reward asks for.

    Example: `scoring_answer("It is sharp.", "4.20")` is
    `"<think>It is sharp.</think><answer>4.20</answer>"`.
    """
    return f"<think>{reasoning}</think><answer>{score}</answer>"
