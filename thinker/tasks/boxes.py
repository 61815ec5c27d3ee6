"""What impairs a picture, and where: labelled boxes."""

from dataclasses import replace
from typing import Any

from rewards.answer import Answer, InvalidAnswer
from rewards.boxes import (
    PICTURE_DISTORTIONS,
    BoxesConfig,
    BoxesReference,
    LabelledBox,
    matched_f1,
    parse_boxes,
    read_boxes,
)
from thinker.tasks.base import Verdict, WordTask

DETECTION = "Please provide the bounding box coordinates of all distortions in the image."
"""ViDA's question (MIPI challenge, ICCV 2025)."""


LOCATING_TASKS = ("boxes", "describe")
"""Tasks whose answers may hold boxes."""


def said_boxes(task: str, completion: str, reference: Any) -> tuple[LabelledBox, ...]:
    """The boxes of an answer of any task that can be used, in the order in which they are written.

    >>> said_boxes("describe", "There is one severe noise (10,20),(300,400).", None)[0].name
    'noise'
    """
    if task not in LOCATING_TASKS:
        return ()
    names = reference.names if isinstance(reference, BoxesReference) else PICTURE_DISTORTIONS
    answer = parse_boxes(completion, names)
    return answer.value.boxes if isinstance(answer, Answer) else ()


class BoxesTask(WordTask):
    """Distortions with their boxes in thousandths of the picture's sides, in any form that
    `rewards.boxes` reads; "No distortion …" where there is none.

    The classes are those of ViDA-UGC, and those that the reference of the example names.
    """

    name: str = "boxes"
    media_kinds: tuple[str, ...] = ("image",)
    num_media: tuple[int, int | None] = (1, 1)
    takes_mos: bool = False
    figures: tuple[str, ...] = ("matched_f1", "map_50")
    rewards: tuple[str, ...] = ("boxes",)

    def question(self, text: str, options: tuple[str, ...]) -> str:
        """As the record says it, or the detection question of ViDA."""
        return text or DETECTION

    def read_reference(self, raw: Any, options: tuple[str, ...]) -> BoxesReference:
        """See `rewards.boxes.read_boxes`."""
        if raw is None:
            return BoxesReference(boxes=None)
        if not isinstance(raw, str):
            raise ValueError(f"reference {raw!r}: expected a text with boxes")
        return read_boxes(raw)

    def parse(self, completion: str, reference: BoxesReference) -> Answer[str] | InvalidAnswer:
        """The text with the boxes, of which at least one can be used; see
        `rewards.boxes.parse_boxes`."""
        answer = parse_boxes(completion, reference.names)
        if isinstance(answer, InvalidAnswer):
            return answer
        return replace(answer, value=answer.text)  # type: ignore[arg-type, return-value]

    def compare(self, answer: str | None, reference: BoxesReference) -> Verdict:
        """How well the boxes match (`rewards.boxes.matched_f1`), faulty ones too; 0 for an invalid
        answer."""
        found = None if answer is None else parse_boxes(answer, reference.names)
        if reference.boxes is None or not isinstance(found, Answer):
            return Verdict(is_correct=False, matched_f1=0.0, true_boxes=reference.boxes)
        f1 = matched_f1(found.value, reference.boxes, BoxesConfig().thresholds)
        return Verdict(is_correct=f1 == 1.0, matched_f1=f1, true_boxes=reference.boxes)
