"""The same things measured without the published quirks.

In: replies and the truth. Out: mean average precision by the rule of COCO (Lin et al. 2014), its
predictions ordered by the probability of the tokens that say them, and shares by picture. One bad
answer costs what it is worth: an invalid one predicts nothing. Nothing is pooled: a region is a
picture of its own, and answers about regions count for regions only. What could not be read is left
out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.answer import Answer
from rewards.boxes import PICTURE_DISTORTIONS, Box, box_iou, parse_boxes
from rewards.parts import parse_parts
from thinker.data.builders.facts import Place
from thinker.eval.bench.tables import Point
from thinker.eval.bench.vida.submit import Reply
from thinker.eval.bench.vida.truth import TruePicture
from thinker.eval.metrics.coco import NO_COCO, has_coco, map_of_pictures
from thinker.eval.metrics.detection import MIN_IOU
from thinker.score.prediction import OK, FoundBox


def check_coco() -> None:
    """Raises ValueError where the library that computes COCO's mAP is not installed."""
    if not has_coco():
        raise ValueError(NO_COCO)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Mean average precision over the classes that are true somewhere, 0..1."""

    at_half: float | None
    """Of overlaps of .5 and more; None where nothing is true."""
    averaged: float | None
    """The mean over overlaps .5, .55, …, .95."""
    num_answers: int
    """Answers that count."""
    num_invalid: int
    """Of these, the ones that cannot be read: no prediction."""
    num_faulty: int
    """Boxes that cannot be used: no prediction either."""
    num_unsure: int
    """Boxes without a confidence, which counts as 1 then."""


def coco_precision(answered: Sequence[tuple[Reply, Sequence[Place]]]) -> Precision:
    """mAP of the boxes of replies, each beside what is true of its picture or region."""
    shown = [(reply, true) for reply, true in answered if reply.is_answered]
    found = [_once(reply.row.boxes) for reply, _ in shown]
    at_half, averaged = map_of_pictures([true for _, true in shown], found)
    return Precision(
        at_half=at_half,
        averaged=averaged,
        num_answers=len(shown),
        num_invalid=sum(reply.row.status != OK for reply, _ in shown),
        num_faulty=sum(_num_faults(reply) for reply, _ in shown),
        num_unsure=sum(box.confidence is None for boxes in found for box in boxes),
    )


def _once(boxes: Sequence[FoundBox]) -> list[FoundBox]:
    """Each box once, the surest: a description names its key distortions twice."""
    found: dict[tuple[str | None, Box], FoundBox] = {}
    for one in boxes:
        before = found.get((one.name, one.box))
        if before is None or (before.confidence or 0.0) < (one.confidence or 0.0):
            found[one.name, one.box] = one
    return list(found.values())


def _num_faults(reply: Reply) -> int:
    answer = parse_boxes(reply.row.completion, PICTURE_DISTORTIONS)
    return len(answer.value.faults) if isinstance(answer, Answer) else 0


def key_points(answered: Sequence[tuple[Reply, TruePicture]]) -> list[Point]:
    """Of each picture with distortions, the share of right ones among its predicted key
    distortions (`rewards.parts`); 0 where none is named."""
    points = []
    for reply, known in answered:
        if not reply.is_answered or not known.boxes:
            continue
        key = parse_parts(reply.row.completion).key
        hits = [
            any(
                one.name == true.place.name and box_iou(one.box, true.place.box) > MIN_IOU
                for true in known.key
            )
            for one in (key.boxes if key else ())
        ]
        value = sum(hits) / len(hits) if hits else 0.0
        points.append(Point(value=value, content=reply.example.content))
    return points


def level_points(answered: Sequence[tuple[Reply, TruePicture]]) -> list[Point]:
    """Whether the level of each description is right, however it ends."""
    return [
        Point(
            value=float(parse_parts(reply.row.completion).level == known.level),
            content=reply.example.content,
        )
        for reply, known in answered
        if reply.is_answered
    ]


def overlap_points(answered: Sequence[tuple[Reply, Box]]) -> list[Point]:
    """How much the first box of each answer overlaps the one that is meant, 0..1; 0 without one."""
    return [
        Point(
            value=box_iou(reply.row.boxes[0].box, box) if reply.row.boxes else 0.0,
            content=reply.example.content,
        )
        for reply, box in answered
        if reply.is_answered
    ]
