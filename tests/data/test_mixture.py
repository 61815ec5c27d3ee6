"""Mixtures: the order of batches and rows follows from weights and a seed, and can be continued."""

import random
from collections import Counter
from itertools import islice

import pytest

from thinker.data.examples import Example
from thinker.data.mixture import Source, batches, turns, union
from thinker.video.medium import medium


def examples(name, count, *, media=None):
    """`count` examples about as many videos, or about `media` of them."""
    return tuple(
        Example(
            id=f"{name}/{i}",
            dataset=name,
            task="open",
            media=(medium(f"/videos/{i % (media or count)}.mp4"),),
            content=str(i),
        )
        for i in range(count)
    )


def taken(batch_iterator, count):
    return [[example.id for example in batch] for batch in islice(batch_iterator, count)]


def test_sources_take_turns_by_their_weights():
    # credit 2,1 → 0 pays 3: -1,1; 1,2 → 1: 1,-1; 3,0 → 0: 0,0, and so on
    assert list(islice(turns([2, 1]), 6)) == [0, 1, 0, 0, 1, 0]
    assert list(islice(turns([1, 1, 1]), 6)) == [0, 1, 2, 0, 1, 2]
    assert list(islice(turns([5, 1, 1]), 7)) == [0, 0, 1, 0, 2, 0, 0]  # as nginx documents it
    assert Counter(islice(turns([0.1, 0.3]), 400)) == {0: 100, 1: 300}


def test_three_equal_sources_come_in_the_order_of_the_first_warm_start():
    """The rule before stages existed, written out again: one generator, three endless streams, a
    batch of each in turn. The demo's weights depend on it bit for bit."""
    sources = [Source(examples=examples(*given)) for given in (("a", 50), ("b", 7), ("c", 5))]
    draw = random.Random(3)

    def endless(lessons):
        while True:
            yield from draw.sample(lessons, len(lessons))

    streams = [endless([example.id for example in source.examples]) for source in sources]
    expected = [[next(streams[batch % 3]) for _ in range(4)] for batch in range(60)]
    assert taken(batches(sources, 4, seed=3), 60) == expected
    assert taken(batches(sources, 4, seed=4), 60) != expected


def test_a_batch_is_of_one_source_and_every_example_is_seen_equally_often():
    sources = [
        Source(examples=examples("a", 12), weight=3),
        Source(examples=examples("b", 6), weight=1),
    ]
    drawn = taken(batches(sources, 4, seed=0), 24)
    assert all(len({name.split("/")[0] for name in batch}) == 1 for batch in drawn)
    # 18 batches of 4 are six times all 12; 6 batches of 4 are four times all 6
    counts = Counter(name for batch in drawn for name in batch)
    assert {counts[f"a/{i}"] for i in range(12)} == {6}
    assert {counts[f"b/{i}"] for i in range(6)} == {4}


def test_examples_of_one_medium_stand_side_by_side():
    source = Source(examples=examples("a", 16, media=4))  # four questions about each of four videos
    batch = next(batches([source], 16, seed=1))
    videos = [example.media[0].path.stem for example in batch]
    assert videos == [v for v in dict.fromkeys(videos) for _ in range(4)] and len(set(videos)) == 4


def test_examples_without_media_are_shuffled_one_by_one():
    text = tuple(
        Example(id=f"t/{i}", dataset="t", task="open", media=(), content=str(i)) for i in range(9)
    )
    (order,) = taken(batches([Source(examples=text)], 9, seed=0), 1)
    assert sorted(order) == [f"t/{i}" for i in range(9)] != order


def test_the_union_has_the_shares_of_the_weights():
    first, second = examples("a", 6), examples("b", 2)
    assert union([Source(examples=first)], seed=1) == list(first)  # as the file has them
    rows = union([Source(examples=first), Source(examples=second)], seed=1)
    counts = Counter(example.id for example in rows)
    assert len(rows) == 12 and {counts[e.id] for e in second} == {3}
    assert {counts[e.id] for e in first} == {1}
    assert rows != sorted(rows, key=lambda example: example.id)
    assert union([Source(examples=first), Source(examples=second)], seed=1) == rows
    # 6 rows for weight 2, so 3 for weight 1: one of the two comes twice
    uneven = union([Source(examples=first, weight=2), Source(examples=second)], seed=1)
    assert sorted(Counter(e.dataset for e in uneven).items()) == [("a", 6), ("b", 3)]


def test_a_source_without_examples_is_an_error():
    with pytest.raises(ValueError, match="with 0 examples"):
        Source(examples=())
