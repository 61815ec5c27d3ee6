"""Every prompt text, in one place: training, inference and evaluation read the same words.

The question and the output instruction are those of VQAThinker (arXiv 2508.06051, training
release); its inference release differs in white space and in the frame sampler, a train/test
mismatch that one source rules out. The recognition question is that of VQA² (arXiv 2411.03795),
stage 1; the level question and prefix are those of its scorer.
"""

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

RECOGNITION = "What is the main distortion presented in this video?"

LEVELS = ("bad", "poor", "fair", "good", "excellent")
"""Five equal bins of the 1..5 answer scale, worst first (ITU-T P.910 wording)."""


LEVEL_QUESTION = "How would you rate the quality of this video?"
LEVEL_PREFIX = "The quality of the video is"
"""VQA²'s scoring question; its answer is forced to begin with the prefix, a level word follows."""


def video_text(frame_slots: list[str], question: str) -> str:
    """The user turn: one line per frame slot, then the question.

    `frame_slots` holds the expanded placeholder text of each slot (built by the policy's inputs).

    Example: `video_text(["<a>", "<b>"], "Why?")` is
    `"Now you will receive a video:\\nFrame1:<a>\\nFrame2:<b>\\nWhy?"`.
    """
    lines = [f"Frame{i}:{slot}" for i, slot in enumerate(frame_slots, start=1)]
    return "\n".join(["Now you will receive a video:", *lines, question])


def level_word(target: float) -> str:
    """The level word of a score on the 1..5 answer scale; five equal bins of width 0.8.

    Example: `level_word(1.0) == "bad"`, `level_word(1.8) == "poor"`, `level_word(5.0) ==
    "excellent"`.
    """
    if not 1.0 <= target <= 5.0:
        raise ValueError(f"a level needs a score between 1 and 5, got {target!r}")
    # 1e-9 keeps the decimal bin edges (1.8, 2.6, ...) in the upper bin despite binary rounding.
    return LEVELS[min(int((target - 1.0) / 0.8 + 1e-9), 4)]


def scoring_answer(reasoning: str, score: str) -> str:
    """The completion form the format reward asks for.

    Example: `scoring_answer("It is sharp.", "4.20")` is
    `"<think>It is sharp.</think><answer>4.20</answer>"`.
    """
    return f"<think>{reasoning}</think><answer>{score}</answer>"
