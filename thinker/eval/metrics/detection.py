"""Mean average precision of boxes by the two rules that ViDA published, for comparison with its
figures.

In: true and predicted boxes of all pictures. Out: average precision by class, and its mean. Both
rules give every prediction the confidence 1, so precision is taken in the order of the file; a mAP
that depends on it is a floor, and no figure to steer by. Sources: the scoring of the MIPI challenge
(ICCV 2025), July 2025 ("all-points", PASCAL VOC 2010 and later) and May 2025 ("11-points", VOC
2007; its README calls it COCO's).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rewards.boxes import Box, box_iou

MIN_IOU = 0.5
"""From this overlap on a prediction fits a truth."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A box of a picture, true or predicted."""

    image: str
    """The picture."""
    name: str
    """The class, as it is written."""
    box: Box
    """Left, top, right, bottom, in one unit throughout."""


def map_all_points(truth: Sequence[Detection], predicted: Sequence[Detection]) -> float:
    """The rule of July: classes are compared as they are written.

    A prediction is held against the truth of its picture and class that it overlaps most. Where
    that one is taken already it is false, even if another truth would fit. The area under the
    precision that is made monotone from the right.

    Example: two truths with two predictions that both overlap the first one most are .5.
    """
    return _mean_by_class(truth, predicted, _nearest, _area)


def map_11_points(truth: Sequence[Detection], predicted: Sequence[Detection]) -> float:
    """The rule of May: classes in lower case, "blocking artifact" is "blocking artifacts".

    A prediction takes the best truth that is not taken. The mean over the recalls 0, .1, …, 1 of
    the best precision from there on.

    Example: two truths with two predictions that both overlap the first one most, and the second
    one by more than half, are 1.
    """
    return _mean_by_class(
        [_plain(one) for one in truth], [_plain(one) for one in predicted], _best_free, _eleven
    )


Choose = Callable[[Sequence[float], Sequence[bool]], int | None]
"""Overlaps with the truths of a picture, and which are taken → the one that fits, or None."""


def _mean_by_class(
    truth: Sequence[Detection],
    predicted: Sequence[Detection],
    choose: Choose,
    area: Callable[[Sequence[bool], int], float],
) -> float:
    """The mean over all classes that are true or predicted; 0 where nothing is."""
    if not truth or not predicted:
        return 0.0
    classes = dict.fromkeys(one.name for one in (*truth, *predicted))
    areas = []
    for name in classes:
        true = [one for one in truth if one.name == name]
        hits = _hits(true, [one for one in predicted if one.name == name], choose)
        areas.append(area(hits, len(true)) if true and hits else 0.0)
    return sum(areas) / len(areas)


def _hits(truth: Sequence[Detection], predicted: Sequence[Detection], choose: Choose) -> list[bool]:
    """Whether each prediction of a class is right, in their order."""
    boxes: dict[str, list[Box]] = defaultdict(list)
    for one in truth:
        boxes[one.image].append(one.box)
    taken = {image: [False] * len(known) for image, known in boxes.items()}
    hits = []
    for one in predicted:
        overlaps = [box_iou(one.box, box) for box in boxes.get(one.image, ())]
        chosen = choose(overlaps, taken.get(one.image, ()))
        hits.append(chosen is not None)
        if chosen is not None:
            taken[one.image][chosen] = True
    return hits


def _nearest(overlaps: Sequence[float], taken: Sequence[bool]) -> int | None:
    if not overlaps:
        return None
    best = max(range(len(overlaps)), key=overlaps.__getitem__)
    return best if overlaps[best] >= MIN_IOU and not taken[best] else None


def _best_free(overlaps: Sequence[float], taken: Sequence[bool]) -> int | None:
    free = [place for place, is_taken in enumerate(taken) if not is_taken]
    best = max(free, key=overlaps.__getitem__, default=None)
    return best if best is not None and overlaps[best] >= MIN_IOU else None


def _curve(hits: Sequence[bool], num_true: int) -> tuple[list[float], list[float]]:
    """Recall and precision after each prediction."""
    recalls, precisions, right = [], [], 0
    for count, is_hit in enumerate(hits, start=1):
        right += is_hit
        recalls.append(right / num_true)
        precisions.append(right / count)
    return recalls, precisions


def _area(hits: Sequence[bool], num_true: int) -> float:
    recalls, precisions = _curve(hits, num_true)
    for place in reversed(range(len(precisions) - 1)):
        precisions[place] = max(precisions[place], precisions[place + 1])
    steps = zip(recalls, [0.0, *recalls], precisions, strict=False)
    return sum((now - before) * precision for now, before, precision in steps)


def _eleven(hits: Sequence[bool], num_true: int) -> float:
    points = list(zip(*_curve(hits, num_true), strict=True))
    best = [max((p for r, p in points if r >= level / 10), default=0.0) for level in range(11)]
    return sum(best) / 11


def _plain(one: Detection) -> Detection:
    name = one.name.lower()
    name = "blocking artifacts" if name == "blocking artifact" else name
    return Detection(image=one.image, name=name, box=one.box)
