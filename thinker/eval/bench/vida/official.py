"""The six published metrics of ViDA's challenge (MIPI, ICCV 2025, July 2025), with their quirks.

In: the items of a submission (`submit.py`) and the truth. Out: each metric in 0..1, and their sum.
Quirks that count: answers about regions count in the distortion mAP, too; the regions of a picture
are pooled under its name; labels of grounding are compared as they are written; key distortions are
hits over all that are *predicted*; pictures without an item are left out of the level's
denominator; a character before "A" indexes the candidates from their end; and whatever is malformed
makes the whole metric 0. `thinker.eval.bench.vida.robust` measures the same without them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.boxes import Box, box_iou
from thinker.eval.bench.vida.submit import REGION_TYPE, Item
from thinker.eval.bench.vida.truth import TrueBox, TruePicture, TrueRegion
from thinker.eval.metrics.detection import MIN_IOU, Detection

Pictures = Mapping[str, TruePicture]
Rule = Callable[[Sequence[Detection], Sequence[Detection]], float]
"""True and predicted boxes → mAP (`thinker.eval.metrics.detection`)."""
ODD = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What items that are not of the form raise; the published program takes any exception for 0."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Hits of so many."""

    hits: int
    """Number of right ones."""
    of: int
    """Number of all that count."""
    is_malformed: bool = False
    """Whether an item is not of the form, which makes the whole metric 0."""

    @property
    def value(self) -> float:
        """0..1; 0 of 0 is 0."""
        return self.hits / self.of if self.of else 0.0


MALFORMED = Share(hits=0, of=0, is_malformed=True)


def region_map(regions: Mapping[str, TrueRegion], items: Sequence[Item], rule: Rule) -> float:
    """mAP of answers about regions, which are pooled by picture."""
    truth = [_true(one.image, box, box.label) for one in regions.values() for box in one.boxes]
    return _zero_of_malformed(
        lambda: rule(
            truth,
            _predicted(i for i in items if i.get("question_type") in (REGION_TYPE, None)),
        )
    )


def distortion_map(pictures: Pictures, items: Sequence[Item], rule: Rule) -> float:
    """mAP of detection and, by the program's slip, of regions."""
    truth = [_true(one.image, box, box.label) for one in pictures.values() for box in one.boxes]
    return _zero_of_malformed(lambda: rule(truth, _predicted(items)))


def description_map(pictures: Pictures, items: Sequence[Item], rule: Rule) -> float:
    """mAP of all boxes of descriptions; labels in lower case, underscores as blanks."""
    truth = [
        _true(one.image, box, _lower(box.label)) for one in pictures.values() for box in one.boxes
    ]
    return _zero_of_malformed(
        lambda: rule(truth, _predicted(items, key="all_distortions", label=_lower))
    )


def key_distortions(
    pictures: Pictures, items: Sequence[Item], label: Callable[[str], str] | None = None
) -> Share:
    """How many of the predicted key distortions are right, of pictures that have distortions: the
    label and more than half an overlap with a truth of the highest significance.

    label: how labels are compared; lower case and blanks unless said otherwise.
    """
    same = label or _lower

    def count() -> Share:
        hits = number = 0
        for item in items:
            known = pictures.get(item["image"])
            if known is None or not known.boxes:
                continue
            for one in item["key_distortions"]:
                number += 1
                hits += any(
                    same(one["distortion"]) == same(true.label)
                    and box_iou(_box(one), true.place.box) > MIN_IOU
                    for true in known.key
                )
        return Share(hits=hits, of=number)

    return _checked(count)


def image_quality(pictures: Pictures, items: Sequence[Item]) -> Share:
    """How many levels are exactly right, of the pictures that have an item."""

    def count() -> Share:
        said = {item["image"]: item["image_quality"].lower() for item in items}
        asked = [one for name, one in pictures.items() if name in said]
        return Share(hits=sum(said[one.image] == one.level for one in asked), of=len(asked))

    return _checked(count)


def perception(truth: Sequence[Mapping[str, Any]], items: Sequence[Item]) -> Share:
    """How many choices are right. Both sides are sorted by id and paired; the first character of
    the stripped answer, counted from "A", is an index as Python takes it."""

    def count() -> Share:
        if len(truth) != len(items):
            raise ValueError(f"{len(items)} answers for {len(truth)} questions")
        pairs = zip(
            sorted(truth, key=lambda one: one["id"]),
            sorted(items, key=lambda one: one["id"]),
            strict=True,
        )
        hits = sum(
            known["candidates"][ord(item["pred_ans"].strip()[0]) - ord("A")] == known["correct_ans"]
            for known, item in pairs
        )
        return Share(hits=hits, of=len(truth))

    return _checked(count)


def singular_mapped(label: str) -> str:
    """A label as the rule of May compares it.

    >>> singular_mapped("Blocking_artifact")
    'blocking artifacts'
    """
    lower = _lower(label)
    return "blocking artifacts" if lower == "blocking artifact" else lower


def _lower(label: str) -> str:
    return label.lower().replace("_", " ")


def _true(image: str, box: TrueBox, name: str) -> Detection:
    return Detection(image=image, name=name, box=box.place.box)


def _predicted(
    items: Any, *, key: str = "distortions", label: Callable[[str], str] = str
) -> list[Detection]:
    return [
        Detection(image=item["image"], name=label(one["distortion"]), box=_box(one))
        for item in items
        for one in item[key]
    ]


def _box(one: Mapping[str, Any]) -> Box:
    left, top, right, bottom = one["coordinates"]
    return left, top, right, bottom


def _zero_of_malformed(metric: Callable[[], float]) -> float:
    try:
        return metric()
    except ODD:
        return 0.0


def _checked(metric: Callable[[], Share]) -> Share:
    try:
        return metric()
    except ODD:
        return MALFORMED
