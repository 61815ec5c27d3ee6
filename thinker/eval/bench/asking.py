"""The words in which benchmarks are asked: published prompts, as published, and the policy's own.

Sources: "official" is that of Q-Future/Q-Bench-Video (`GPT_test.py`), for images that of Q-Bench's
example code; "vqa2" is that of VQA² (`VQA_benchmark_test/llava/eval/model_vqa_q_bench_video.py`),
its slips of the pen included, because a prompt without them is another prompt. Each sentence
names the numbers of frames that the policy really sees. A medium stands where the published program
puts its frames, in the form in which the policy was trained to read it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_uppercase as LETTERS

from thinker.data.examples import Example
from thinker.prompts import Turn, ask, words

LETTER_WISH = (
    "Please answer the question in the following format: the uppercase letter of the correct "
    "answer option itself +'.'. Please do not add any other answers beyond this."
)
DIRECT_WISH = "Please directly answer the question."
TIME_MARKS = "Time marks count from 1 second, which is the first second of the video."
"""Before a question that speaks of a certain second, in mode "own"."""


@dataclass(frozen=True, kw_only=True)
class FrameCounts:
    """How many frames a policy sees of a video."""

    single: int
    """Keyframes of the one video of a question."""
    pair: int
    """Keyframes of each video of a pair."""
    motion_per_keyframe: int
    """Motion frames a keyframe; 0 where there is no motion branch of its own frames."""


Asking = Callable[[Example, str, FrameCounts], tuple[Turn, ...]]
"""What is asked in place of an example's own turns, given its bare question."""


def own(example: Example, question: str, counts: FrameCounts) -> tuple[Turn, ...]:
    """As the policy is asked everywhere (`ChoiceTask.question`), and what time marks mean."""
    if ("time", "yes") not in example.tags:
        return example.turns
    return ask(f"{TIME_MARKS}\n{words(example.turns[-1])}")


def official_video(example: Example, question: str, counts: FrameCounts) -> tuple[Turn, ...]:
    """Q-Bench-Video's prompt."""
    each = counts.pair
    if len(example.media) == 2:
        text = (
            f"You will receive {2 * each} distinct frames in total. The first {each} frames and "
            f"{each + 1}-{2 * each} frames are uniformly sampled from the first and the second "
            "video sequence, arranged in the same temporal order as they appear in the videos. "
            "Please analyze these frames and answer the questions based on your observations.\n"
            "The first video frames:<video>The second video frames:<video>"
        )
    else:
        text = (
            f"You will receive {counts.single} distinct frames that have been uniformly sampled "
            "from a video sequence, arranged in the same temporal order as they appear in the "
            "video. Please analyze these frames and answer the questions based on your "
            "observations.\nThe video frames:<video>"
        )
    return ask(text + _message(example, question))


def vqa2_video(example: Example, question: str, counts: FrameCounts) -> tuple[Turn, ...]:
    """VQA²'s prompt. What it says of motion features is left out where the policy has none."""
    per = counts.motion_per_keyframe
    if len(example.media) == 2:
        each, moving = counts.pair, counts.pair * per
        text = (
            f"You will receive {2 * each} distinct frames in total. The first {each} frames and "
            f"{each + 1}-{2 * each}frames are uniformly sampled in each second from the first and "
            "the second video sequence, arranged in the same temporal order as they appear in the "
            "videos. "
        )
        if per:
            text += (
                f"In addition, you will also obtain motion features extracted from all {moving} "
                f"frames of the the first video and all {moving} frames of the the second "
                "video'+'. The temporal motion features also follows the original frame order of "
                "the video. "
            )
        places = "The first video frames:<video>\nThe second video frames:<video>\n"
    else:
        text = (
            f"You will receive {counts.single} distinct frames that have been uniformly sampled in "
            "each second from a video sequence, arranged in the same temporal order as they appear "
            "in the video. "
        )
        if per:
            text += (
                "In addition, you will also obtain motion features extracted from all "
                f"{counts.single * per} frames of the the first video.  "
            )
        places = "The video frames:<video>\n"
    text += "Please analyze these images and answer the questions based on your observations."
    message = _message(example, question)
    if example.task == "open":
        message = question + DIRECT_WISH
    return ask(f"{text}\n{places}{message}")


def official_image(example: Example, question: str, counts: FrameCounts) -> tuple[Turn, ...]:
    """Q-Bench's prompt."""
    lines = "".join(f"{line}\n" for line in _lines(example))
    places = "<image>\n" * len(example.media)
    return ask(f"{places}{question}\nChoose between one of the options as follows:\n{lines}")


def _message(example: Example, question: str) -> str:
    """The question, the options a line each, and the wish for a letter."""
    if example.task == "open":
        return f"{question}\n"
    return "".join(f"{line}\n" for line in (question, *_lines(example))) + LETTER_WISH


def _lines(example: Example) -> list[str]:
    return [f"{letter}. {o}" for letter, o in zip(LETTERS, example.options, strict=False)]
