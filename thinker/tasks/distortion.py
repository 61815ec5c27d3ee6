"""What impairs a video or picture most, and how strongly."""

from typing import Any

from rewards.answer import Answer, InvalidAnswer
from rewards.distortion import (
    DistortionReference,
    parse_distortion,
    read_distortion,
    split_distortion,
)
from thinker.prompts import RECOGNITION
from thinker.tasks.base import Verdict, WordTask


class DistortionTask(WordTask):
    """A type such as "noise", or a severity and a type, "severe noise", in a sentence or in tags.

    The names that can be answered are those of `rewards.distortion.DISTORTIONS`, and the one that
    the reference of the example declares.
    """

    name: str = "distortion"
    media_kinds: tuple[str, ...] = ("video", "image")
    num_media: tuple[int, int | None] = (1, 1)
    takes_mos: bool = False
    figures: tuple[str, ...] = ("accuracy", "macro_f1", "severity_accuracy")
    rewards: tuple[str, ...] = ("distortion",)

    def question(self, text: str, options: tuple[str, ...]) -> str:
        """As the record says it, or the recognition question of VQA², stage 1."""
        return text or RECOGNITION

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> DistortionReference:
        """See `rewards.distortion.read_distortion`."""
        if raw is None:
            return DistortionReference(name=None)
        if not isinstance(raw, str):
            raise ValueError(f"reference {raw!r}: expected the name of a distortion")
        return read_distortion(raw)

    def parse(self, completion: str, reference: DistortionReference) -> Answer[str] | InvalidAnswer:
        """See `rewards.distortion.parse_distortion`."""
        return parse_distortion(completion, reference.names)

    def compare(self, answer: str | None, reference: DistortionReference) -> Verdict:
        """Right is the right type; the severity has a figure of its own."""
        name, severity = (None, None) if answer is None else split_distortion(answer)
        return Verdict(
            is_correct=name == reference.name,
            named=name,
            right=reference.name,
            is_severity_correct=None
            if reference.severity is None
            else severity == reference.severity,
        )
