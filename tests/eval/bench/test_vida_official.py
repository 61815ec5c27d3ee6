"""ViDA's published metrics: by hand, quirk by quirk, and against a derivation of their own here."""

import random

import pytest

from thinker.data.builders.facts import Place
from thinker.eval.bench.vida.official import (
    description_map,
    distortion_map,
    image_quality,
    key_distortions,
    perception,
    region_map,
    singular_mapped,
)
from thinker.eval.bench.vida.truth import TrueBox, TruePicture, TrueRegion
from thinker.eval.metrics.detection import map_11_points, map_all_points

FIRST, SECOND = (0, 0, 100, 100), (0, 40, 100, 140)
"""(0, 15, 100, 115) overlaps the first one by 85 / 115, the second one by 75 / 125."""
BOTH = (0, 15, 100, 115)
FAR = (500, 500, 600, 600)


def true(label, box, importance=1.0):
    place = Place(name=label.lower(), severity=None, box=box, importance=importance)
    return TrueBox(label=label, place=place)


def pictures(**boxes):
    """By name, each with the level "fair"."""
    return {
        name: TruePicture(image=name, mos=3.0, level="fair", boxes=tuple(found))
        for name, found in boxes.items()
    }


def said(label, *boxes):
    return [{"distortion": label, "severity": "Severe", "coordinates": list(b)} for b in boxes]


def item(image="a", kind="distortion-detection", found=()):
    return {"image": image, "question_type": kind, "distortions": list(found)}


def described(image="a", every=(), key=(), level="fair"):
    return {
        "image": image, "all_distortions": list(every), "key_distortions": list(key),
        "image_quality": level,
    }  # fmt: skip


# mAP


def test_of_two_truths_the_better_one_is_taken_once():
    """July: the second prediction overlaps the first truth most, which is taken: recall 1/2 at
    precision 1, so .5. May: it takes the free one: 1."""
    known = pictures(a=[true("Noise", FIRST), true("Noise", SECOND)])
    items = [item(found=said("Noise", FIRST, BOTH))]
    assert distortion_map(known, items, map_all_points) == pytest.approx(0.5)
    assert distortion_map(known, items, map_11_points) == pytest.approx(1.0)


def test_answers_about_regions_count_in_the_distortion_map_too():
    """A wrong region answer in the same class before the right detection: precision 1/2."""
    known = pictures(a=[true("Noise", FIRST)])
    region, detection = item(kind="region-perception", found=said("Noise", FAR)), item()
    detection["distortions"] = said("Noise", FIRST)
    assert distortion_map(known, [detection], map_all_points) == 1.0
    assert distortion_map(known, [region, detection], map_all_points) == pytest.approx(0.5)
    assert distortion_map(known, [detection, region], map_all_points) == 1.0  # the order counts


def test_the_regions_of_a_picture_are_pooled():
    """Region 1 is answered with the box of region 2 and the other way round: pooled, both are
    right. Detection does not count here; an item without a type does."""
    known = {
        "1": TrueRegion(image="a", boxes=(true("Noise", FIRST),)),
        "2": TrueRegion(image="a", boxes=(true("Noise", FAR),)),
        "3": TrueRegion(image="a", boxes=()),
    }
    one = item(kind="region-perception", found=said("Noise", FAR))
    other = item(found=said("Noise", FIRST)) | {"question_type": None}
    assert region_map(known, [one, other], map_all_points) == 1.0
    assert region_map(known, [one, item(found=said("Noise", FIRST))], map_all_points) == 0.5


def test_labels_count_as_written_in_grounding_and_in_lower_case_in_descriptions():
    """A class too many halves the mean: one of two classes is right."""
    known = pictures(a=[true("Low clarity", FIRST)])
    small = said("low clarity", FIRST)
    assert distortion_map(known, [item(found=small)], map_all_points) == 0.0
    assert (
        description_map(known, [described(every=said("LOW_clarity", FIRST))], map_all_points) == 1
    )
    odd = [described(every=small + said("blocking artifact", FIRST))]
    assert description_map(known, odd, map_all_points) == 0.5


def test_one_malformed_item_makes_a_map_0():
    known = pictures(a=[true("Noise", FIRST)])
    good = item(found=said("Noise", FIRST))
    for bad in (item() | {"distortions": None}, item(found=[{"distortion": "Noise"}]), {}):
        assert distortion_map(known, [good, bad], map_all_points) == 0.0
    null = [{"distortion": None, "coordinates": [0, 0, 1, 1]}]
    assert description_map(known, [described(every=null)], map_all_points) == 0.0
    assert distortion_map(pictures(a=[]), [good], map_all_points) == 0.0


# key distortions, levels


def test_key_distortions_are_hits_over_what_is_predicted():
    """Of a: the most significant one right, the less significant one not a hit; b has no
    distortion and does not count; c is not known. So 1 of 2."""
    known = pictures(a=[true("Noise", FIRST, 0.9), true("Motion blur", FAR, 0.2)], b=[])
    key = said("noise", FIRST) + said("Motion blur", FAR)
    items = [described(key=key), described("b", key=key), described("c", key=key)]
    found = key_distortions(known, items)
    assert (found.hits, found.of, found.value) == (1, 2, 0.5)
    assert key_distortions(known, [described()]).value == 0.0  # 0 of 0


def test_a_key_distortion_overlaps_by_more_than_half():
    """(0, 0, 100, 200) and the half of it: exactly .5, which is no hit, and is one of a mAP."""
    known = pictures(a=[true("Noise", (0, 0, 100, 200))])
    assert key_distortions(known, [described(key=said("noise", FIRST))]).hits == 0
    items = [described(every=said("noise", FIRST))]
    assert description_map(known, items, map_all_points) == 1.0


def test_the_singular_is_mapped_by_the_rule_of_may_only():
    known = pictures(a=[true("Blocking artifacts", FIRST)])
    items = [described(key=said("blocking artifact", FIRST))]
    assert key_distortions(known, items).hits == 0
    assert key_distortions(known, items, singular_mapped).hits == 1


def test_missing_pictures_are_left_out_of_the_levels():
    known = pictures(a=[], b=[], c=[])
    items = [described("a"), described("b", level="unknown")]
    found = image_quality(known, items)
    assert (found.hits, found.of) == (1, 2)
    broken = image_quality(known, [*items, described("c", level=None)])
    assert broken.is_malformed and broken.value == 0.0


# choices


def choices(*right):
    options = ["one", "two", "three", "four"]
    return [{"id": n, "candidates": options, "correct_ans": one} for n, one in enumerate(right)]


def answers(*texts):
    return [{"id": n, "pred_ans": text} for n, text in enumerate(texts)]


def test_the_first_character_is_an_index():
    """ "@" is one before "A": the last candidate. "?" is two before it."""
    truth = choices("four", "two", "three", "one")
    assert perception(truth, answers("@", " B. Two", "?", "b")).is_malformed  # "b" is beyond
    found = perception(truth, answers("@", " B. Two", "?", "D"))
    assert (found.hits, found.of) == (3, 4)


def test_choices_are_paired_by_id_and_have_to_be_whole():
    truth = choices("one", "two")
    assert perception(truth, answers("A", "B")[::-1]).value == 1.0
    for bad in (answers("A"), answers("A", ""), [{"id": 0, "pred_ans": "A"}, {"id": 1}]):
        assert perception(truth, bad).is_malformed
        assert perception(truth, bad).value == 0.0


# another derivation


def naive_map(truth, predicted):
    """All-points mAP with lists and loops: truth and predicted are (image, label, box)."""
    if not truth or not predicted:
        return 0.0
    labels = {one[1] for one in truth + predicted}
    total = 0.0
    for label in labels:
        true_ones = [one for one in truth if one[1] == label]
        used, right, points = set(), 0, []
        for seen, (image, _, box) in enumerate([p for p in predicted if p[1] == label], 1):
            best, where = -1.0, None
            for place, (other, _, real) in enumerate(true_ones):
                if other == image and overlap(box, real) > best:
                    best, where = overlap(box, real), place
            if best >= 0.5 and where not in used:
                used.add(where)
                right += 1
            points.append((right, right / seen))
        for count in range(1, len(true_ones) + 1):
            later = [precision for hits, precision in points if hits >= count]
            total += max(later, default=0.0) / len(true_ones) / len(labels)
    return total


def overlap(a, b):
    w = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return w * h / (sum(sizes) - w * h)


@pytest.mark.parametrize("seed", range(20))
def test_the_map_is_that_of_another_derivation(seed):
    draw = random.Random(seed)
    names = ["Noise", "Motion blur", "Overexposure"]

    def box(near=None):
        if near is not None:
            return tuple(side + draw.randint(-12, 12) for side in near)
        left, top = draw.randint(20, 600), draw.randint(20, 600)
        return (left, top, left + draw.randint(60, 300), top + draw.randint(60, 300))

    truth = [(image, draw.choice(names), box()) for image in "abc" for _ in range(3)]
    found = [
        (i, draw.choice([n, draw.choice(names)]), box(b)) for i, n, b in truth if draw.random()
    ]
    found += [(draw.choice("abc"), draw.choice(names), box()) for _ in range(4)]
    draw.shuffle(found)
    known = pictures(**{i: [true(n, b) for j, n, b in truth if i == j] for i in "abc"})
    items = [item(image, found=said(name, corners)) for image, name, corners in found]
    assert distortion_map(known, items, map_all_points) == pytest.approx(naive_map(truth, found))
