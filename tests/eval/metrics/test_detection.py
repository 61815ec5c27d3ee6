"""Published mean average precision: both rules by hand, with the quirks in which they differ."""

import pytest

from thinker.eval.metrics.detection import Detection, map_11_points, map_all_points

RULES = (map_all_points, map_11_points)


def at(box, name: str = "noise", image: str = "a") -> Detection:
    return Detection(image=image, name=name, box=box)


FIRST, SECOND = (0, 0, 100, 100), (0, 40, 100, 140)
"""Two truths; (0, 15, 100, 115) overlaps the first one by 85 / 115, the second one by 75 / 125."""


def test_two_truths_that_are_nearest_to_both_predictions() -> None:
    truth = [at(FIRST), at(SECOND)]
    predicted = [at((0, 0, 100, 100)), at((0, 15, 100, 115))]
    assert map_all_points(truth, predicted) == pytest.approx(0.5)
    assert map_11_points(truth, predicted) == pytest.approx(1.0)


def test_the_order_of_the_file_counts() -> None:
    """A right one before a wrong one: precision 1 at recall 1/2. Behind it: 1/2 at recall 1/2. Of
    11 recalls 0, .1, … .5 are reached."""
    truth, right, wrong = [at(FIRST), at((500, 500, 600, 600))], at(FIRST), at((300, 300, 310, 310))
    assert map_all_points(truth, [right, wrong]) == pytest.approx(0.5)
    assert map_all_points(truth, [wrong, right]) == pytest.approx(0.25)
    assert map_11_points(truth, [right, wrong]) == pytest.approx(6 / 11)
    assert map_11_points(truth, [wrong, right]) == pytest.approx(3 / 11)


def test_precision_is_made_monotone_from_the_right() -> None:
    """Right, wrong, right, right of three truths: precisions 1, 1/2, 2/3, 3/4; from the right 1,
    3/4, 3/4, 3/4, so the area is (1 + 3/4 + 3/4) / 3. The 11 recalls: 4 of 1, 7 of 3/4."""
    truth = [at((x, 0, x + 10, 10)) for x in (0, 100, 200)]
    predicted = [truth[0], at((500, 0, 510, 10)), truth[1], truth[2]]
    assert map_all_points(truth, predicted) == pytest.approx(2.5 / 3)
    assert map_11_points(truth, predicted) == pytest.approx((4 + 7 * 0.75) / 11)


def test_a_class_that_only_one_side_has_counts_0() -> None:
    truth = [at(FIRST)]
    for rule in RULES:
        assert rule(truth, [at(FIRST), at(FIRST, "blur")]) == pytest.approx(0.5)
        assert rule([*truth, at(FIRST, "blur")], [at(FIRST)]) == pytest.approx(0.5)
        assert rule([], [at(FIRST)]) == rule(truth, []) == rule([], []) == 0.0


def test_case_and_the_singular_are_classes_of_their_own_in_one_rule() -> None:
    truth = [at(FIRST, "Blocking artifacts")]
    predicted = [at(FIRST, "blocking artifact")]
    assert map_all_points(truth, predicted) == 0.0
    assert map_11_points(truth, predicted) == pytest.approx(1.0)


def test_overlap_of_half_is_enough_and_pictures_are_apart() -> None:
    for rule in RULES:
        assert rule([at(FIRST)], [at((0, 0, 100, 50))]) == pytest.approx(1.0)
        assert rule([at(FIRST)], [at((0, 0, 100, 49.9))]) == 0.0
        assert rule([at(FIRST)], [at(FIRST, image="b")]) == 0.0
