"""The words of questions and answers: several wordings each, drawn with a seed.

The first question of a kind is that of VQA² (arXiv 2411.03795) where it is published.
`{medium}` is "video" or "image".
"""

import random

from thinker.prompts import RECOGNITION, SHORT_SCORING

LEVEL_ANSWER = "The quality of this {medium} is {level}."
HENCE = "Hence, the quality of this {medium} is {level}."

WORDINGS: dict[str, tuple[str, ...]] = {
    "distortion": (
        RECOGNITION.replace("video", "{medium}"),
        "Which distortion impairs this {medium} most?",
        "Name the main distortion of this {medium}.",
    ),
    "severity": (
        "What is the main distortion presented in this {medium}, and how severe is it?",
        "Name the main distortion of this {medium} and its severity.",
    ),
    "level": (
        "How would you rate the quality of this {medium}?",
        "How good is the quality of this {medium}?",
        "What is the level of quality of this {medium}?",
    ),
    "score": (SHORT_SCORING.replace("video", "{medium}"),),
    "is_distortion": (
        "Is {name} the main distortion of this {medium}?",
        "Does {name} impair this {medium} more than anything else?",
    ),
    "is_stalling": ("Does this video stall?", "Is there any stalling in this video?"),
    "is_degree": (
        "Is the {attribute} of this {medium} {degree}?",
        "Would you call the {attribute} of this {medium} {degree}?",
    ),
    "which_distortion": (
        "Which of these distortions is the main one of this {medium}?",
        "What impairs this {medium} most?",
    ),
    "which_degree": ("How is the {attribute} of this {medium}?",),
    "open_distortion": (
        "What impairs the quality of this {medium} most?",
        "What should be mended in this {medium}?",
    ),
    "open_attribute": (
        "How is the {attribute} of this {medium}?",
        "What can you say about the {attribute} of this {medium}?",
    ),
    "when_attribute": (
        "When is the {attribute} of this video {degree}?",
        "In which part of this video is the {attribute} {degree}?",
    ),
    "when_stalls": ("When does this video stall?", "At which times does this video stand still?"),
    "in_context": (
        "In the part of this video {when}, how is the {attribute}?",
        "Look at this video {when}. What can you say about the {attribute} there?",
    ),
    "in_context_text": ("What can you say about the quality of this video {when}?",),
    "causal": (
        "Provide a description of the overall quality of this {medium}, and how would you evaluate "
        "the quality of this {medium}?",
        "Describe the overall quality of this {medium}. What do you conclude about it?",
    ),
    "pair": (
        "Which of the two {medium}s has the better quality?",
        "Compare the quality of the two {medium}s. Which one is better?",
    ),
    "comparison": (
        "Which of the two {medium}s has the better quality, and why?",
        "Compare the quality of the two {medium}s. Which one is better, and why?",
    ),
}
"""The wordings of each question."""

PAIR_OPTIONS = ("The first", "The second", "They are about equal")


def draw_of(*parts: object) -> random.Random:
    """A generator of its own for whatever the parts name: adding a medium changes no other."""
    return random.Random(" ".join(map(str, parts)))


def seconds_text(time: tuple[float, float]) -> str:
    """Example: `seconds_text((1, 2.5))` is "from 1.0 to 2.5 seconds"."""
    return f"from {time[0]:.1f} to {time[1]:.1f} seconds"
