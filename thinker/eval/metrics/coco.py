"""Mean average precision of boxes by COCO's rule (Lin et al. 2014), which pycocotools computes.

In: true boxes, and found ones with a confidence that orders them. Out: the mean over classes of the
area under the curve of precision over recall, at an overlap of .5 and averaged over .5 to .95.
"""

import contextlib
import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from rewards.boxes import Box
from thinker.score.prediction import FoundBox


class NamedBox(Protocol):
    """A true box."""

    @property
    def name(self) -> str | None: ...
    @property
    def box(self) -> Box: ...


NO_COCO = "pycocotools is missing; install it: pip install 'vqa-thinker[bench]'"


def has_coco() -> bool:
    """Whether the library is installed."""
    return find_spec("pycocotools") is not None


def coco_map(
    truth: Sequence[tuple[int, str, Box]], found: Sequence[tuple[int, str, Box, float]]
) -> tuple[float | None, float | None]:
    """mAP at an overlap of .5, and averaged over .5, .55, …, .95, of (picture, class, box) and
    (picture, class, box, confidence); (None, None) where nothing is true.

    A class that nothing is true of has no precision, as COCO has it. Precision is taken at the
    recalls 0, .01, …, 1.

    Example: of two pictures with one true box each, a surer wrong box beside one right one is .5 at
    the recalls up to .5, 51 of 101: .2525.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = sorted({name for _, name, _ in truth})
    if not names:
        return None, None
    images = [{"id": n} for n in sorted({one[0] for one in (*truth, *found)})]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    # Ids from 1: a match with id 0 counts as none.
    true = [
        _annotation(i, n, names.index(name), box) for i, (n, name, box) in enumerate(truth, start=1)
    ]
    predicted = [
        _annotation(i, n, names.index(name), box) | {"score": score}
        for i, (n, name, box, score) in enumerate(found, start=1)
        if name in names
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        known, said = COCO(), COCO()
        for dataset, annotations in ((known, true), (said, predicted)):
            dataset.dataset = {
                "images": images, "categories": categories, "annotations": annotations
            }  # fmt: skip
            dataset.createIndex()
        run = COCOeval(known, said, "bbox")
        run.params.maxDets = [max(1, len(predicted))]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    precision_TRK = run.eval["precision"][:, :, :, 0, 0]
    return float(precision_TRK[0].mean()), float(np.mean(precision_TRK))


def map_of_pictures(
    truth: Sequence[Sequence[NamedBox]], found: Sequence[Sequence[FoundBox]]
) -> tuple[float | None, float | None]:
    """`coco_map` of the boxes of each picture; a found box without a confidence counts as sure."""
    return coco_map(
        [(n, one.name or "", one.box) for n, boxes in enumerate(truth) for one in boxes],
        [
            (n, one.name or "", one.box, 1.0 if one.confidence is None else one.confidence)
            for n, boxes in enumerate(found)
            for one in boxes
        ],
    )


def _annotation(number: int, image: int, category: int, box: Box) -> dict:
    left, top, right, bottom = box
    sides = [left, top, right - left, bottom - top]
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": sides,
        "area": sides[2] * sides[3], "iscrowd": 0,
    }  # fmt: skip
