"""COCO's mean average precision, by hand."""

import pytest

from thinker.eval.metrics.coco import coco_map

BOX = (0.0, 0.0, 100.0, 100.0)
OTHER = (500.0, 500.0, 600.0, 600.0)


def test_a_sure_wrong_box_costs_precision_at_every_recall() -> None:
    """Two pictures; the right box of one comes second: precision .5 at the recalls 0 to .5."""
    truth = [(0, "noise", BOX), (1, "noise", BOX)]
    found = [(0, "noise", OTHER, 0.9), (0, "noise", BOX, 0.8)]
    assert coco_map(truth, found)[0] == pytest.approx(0.5 * 51 / 101)
    found[0] = (0, "noise", OTHER, 0.1)  # sure of the right one
    assert coco_map(truth, found)[0] == pytest.approx(51 / 101)


def test_classes_are_meant_and_only_true_ones_count() -> None:
    truth = [(0, "noise", BOX), (0, "blur", OTHER)]
    found = [(0, "noise", BOX, 0.5), (0, "low clarity", BOX, 0.9)]
    assert coco_map(truth, found) == pytest.approx((0.5, 0.5))
    assert coco_map(truth, []) == (0.0, 0.0)
    assert coco_map([], found) == (None, None)


def test_an_overlap_of_sixty_hundredths_counts_up_to_there() -> None:
    at_half, averaged = coco_map([(0, "noise", BOX)], [(0, "noise", (0, 0, 100, 60), 1.0)])
    assert (at_half, averaged) == pytest.approx((1.0, 0.3))  # of .5, .55, .6 among ten
