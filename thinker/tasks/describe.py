"""A depiction of the quality of a video or picture in words, which may end in a level."""

from typing import Any

from rewards.answer import Answer, InvalidAnswer
from rewards.describe import DescribeReference, final_level, parse_description
from thinker.tasks.base import Verdict, WordTask


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
