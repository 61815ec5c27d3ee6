"""A depiction of the quality of a video or picture in words, which may end in a level."""

from typing import Any

from rewards.answer import Answer, InvalidAnswer
from rewards.describe import DescribeReference, final_level, parse_description
from thinker.tasks.base import Verdict, WordTask
from thinker.tasks.boxes import EXPERT

DESCRIBER = (
    f"{EXPERT} Think step by step: say what the image shows; analyse each distortion with its box "
    "in thousandths of the sides; name the key distortions; end with the quality of the image. "
    "Separate the steps by line breaks."
)
BRIEF = (
    f"{EXPERT} Answer in three points: Conclusion (the level), Distortion assessment (number and "
    "effect of each distortion), Scene description."
)
ONE_KIND = (
    f"{EXPERT} You are asked about one kind of distortion. Say so if there is none of it; else how "
    "often it occurs, then each occurrence with its box in thousandths of the sides."
)
"""What is said to a policy before it describes a picture: in four steps, in three points, or one
kind of distortion (the roles of ViDA-UGC, arXiv 2508.12605)."""
DESCRIPTION = "Please evaluate the image quality in detail and provide your reasons."
BRIEF_DESCRIPTION = "Briefly assess this image."
ONE_KIND_QUESTION = "Analyse the {name} of this image."


class DescribeTask(WordTask):
    """A text, "… Hence, the quality of this video is good."; its level is compared, not its words.

    Accuracy is that of the level, of the examples whose reference ends in one; an answer that ends
    in none is wrong.
    """

    name: str = "describe"
    media_kinds: tuple[str, ...] = ("video", "image")
    num_media: tuple[int, int | None] = (1, 1)
    takes_mos: bool = False
    figures: tuple[str, ...] = ("accuracy",)
    rewards: tuple[str, ...] = ()

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> DescribeReference:
        """The reference text, and the level that it ends in, if any."""
        if raw is None:
            return DescribeReference(text=None, answer=None)
        if not isinstance(raw, str):
            raise ValueError(f"reference {raw!r}: expected a text")
        return DescribeReference(text=raw, answer=final_level(raw))

    def parse(self, completion: str, reference: DescribeReference) -> Answer[str] | InvalidAnswer:
        """See `rewards.describe.parse_description`."""
        return parse_description(completion)

    def compare(self, answer: str | None, reference: DescribeReference) -> Verdict:
        """Right is a text that ends in the level of the reference."""
        level = None if answer is None else final_level(answer)
        return Verdict(is_correct=level == reference.answer)
