"""What impairs a picture, and where: labelled boxes."""

from dataclasses import replace
from typing import Any, cast, get_args

from rewards.answer import Answer, InvalidAnswer
from rewards.boxes import (
    PICTURE_DISTORTIONS,
    THOUSANDTHS,
    Box,
    Boxes,
    BoxesConfig,
    BoxesReference,
    Fault,
    FaultyBox,
    matched_f1,
    parse_boxes,
    read_boxes,
)
from thinker.tasks.base import Verdict, WordTask

EXPERT = "You are an expert in image quality assessment."
"""What is said to a policy before it is asked about places."""
DETECTION = "Please provide the bounding box coordinates of all distortions in the image."
"""ViDA's question (MIPI challenge, ICCV 2025)."""
REGION = "What distortion affects this region {box}?"
REFERRING = (
    "Please provide the bounding box coordinates of the region this sentence describes: {sentence}"
)
POSITIONS = (
    "upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom",
    "lower right",
)  # fmt: skip
"""Ninths of a picture, row by row from the top."""


LOCATING_TASKS = ("boxes", "describe")
"""Tasks whose answers may hold boxes."""


def said_boxes(task: str, completion: str, reference: Any) -> Boxes:
    """What an answer of any task says of places: those that can be used, and those that cannot.

    >>> said_boxes("describe", "There is one severe noise (10,20),(300,400).", None).boxes[0].name
    'noise'
    >>> both = said_boxes("describe", "Noise: (1,2),(3,4) (5,5),(2,2)", None)
    >>> len(both.boxes), [one.reason for one in both.faults]
    (1, ['swapped'])
    >>> alone = said_boxes("describe", "It is grainy at (5,5),(2,2).", None)
    >>> [one.reason for one in alone.faults]
    ['swapped']
    """
    if task not in LOCATING_TASKS:
        return Boxes()
    names = reference.names if isinstance(reference, BoxesReference) else PICTURE_DISTORTIONS
    found = parse_boxes(completion, names)
    if isinstance(found, Answer):
        return found.value
    if found.reason not in get_args(Fault):
        return Boxes()
    return Boxes(faults=(FaultyBox(reason=cast(Fault, found.reason), detail=found.detail),))


def position_of(box: Box, size: tuple[float, float] = THOUSANDTHS) -> str:
    """Where the middle of a box lies, one of `POSITIONS`.

    size: the picture's width and height in the unit of the box.

    >>> position_of((0, 0, 30, 30), (128, 128)), position_of((400, 700, 600, 1000))
    ('upper left', 'bottom')
    """
    x, y = (box[0] + box[2]) / 2 / size[0], (box[1] + box[3]) / 2 / size[1]
    return POSITIONS[min(int(3 * y), 2) * 3 + min(int(3 * x), 2)]


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
