"""Contents held out of training data: never on both sides, the same ones every time."""

import pytest

from thinker.data.examples import Example
from thinker.data.split import split_by_content
from thinker.video.medium import medium


def examples(dataset, contents, versions=2, folder=None):
    return [
        Example(
            id=f"{dataset}/{content}-{version}", dataset=dataset, content=f"c{content}", mos=3.0,
            target=3.0, media=(medium(f"/{folder or dataset}/{content}-{version}.mp4"),),
        )
        for content in contents
        for version in range(versions)
    ]  # fmt: skip


def contents(side):
    return {example.content for example in side}


def test_contents_are_split_and_the_split_depends_on_seed_and_data_only():
    sources = {"a": examples("a", range(10)), "b": examples("b", range(20))}
    splits = split_by_content(sources, 0.2, seed=0)
    assert (len(splits["a"].trained), len(splits["a"].held_out)) == (16, 4)  # of the docstring
    assert (len(splits["b"].trained), len(splits["b"].held_out)) == (32, 8)
    for name, split in splits.items():
        assert not contents(split.trained) & contents(split.held_out)
        assert sorted([*split.trained, *split.held_out], key=str) == sorted(sources[name], key=str)
    assert split_by_content(sources, 0.2, seed=0) == splits
    others = [split_by_content(sources, 0.2, seed=seed)["b"] for seed in range(1, 4)]
    assert any(other.held_out != splits["b"].held_out for other in others)


def test_a_content_is_on_one_side_in_every_source():
    """`same` names the contents of `a` again, `files` its files under another name."""
    first = examples("a", range(10))
    same = examples("a", range(5, 15), versions=1, folder="elsewhere")
    files = examples("z", range(10), folder="a")
    splits = split_by_content({"first": first, "same": same, "files": files}, 0.3, seed=0)
    held = contents(splits["first"].held_out)
    assert contents(splits["files"].held_out) >= held
    trained = {e.content for split in splits.values() for e in split.trained}
    assert not trained & {e.content for split in splits.values() for e in split.held_out}


@pytest.mark.parametrize(
    ("count", "versions", "share", "reason"),
    [
        (4, 2, 0.1, "0.1 of its 4 contents holds 0 examples out and leaves 8"),
        (10, 1, 0.1, "holds 1 examples out and leaves 9, expected at least 3 and 1"),
        (1, 8, 0.9, "0.9 of its 1 contents holds 8 examples out and leaves 0"),
    ],
)
def test_too_few_contents(count, versions, share, reason):
    with pytest.raises(ValueError, match=reason):
        split_by_content({"set": examples("a", range(count), versions)}, share, seed=0)
