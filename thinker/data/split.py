"""Training data of one's own split in two, so that a run has something to be evaluated on.

What is split are contents, never examples: two versions of one source on the two sides would make
an easy test. Examples belong together that share a content (within a data set) or a file; where one
of them is held out they all are, in every source.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinker.data.examples import Example

MIN_HELD_OUT = 3
"""Any two points correlate perfectly."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The two sides of one source."""

    trained: list[Example]
    """What is left to train on, in the order of the source."""
    held_out: list[Example]
    """What is evaluated on, in the order of the source."""


def split_by_content(
    sources: Mapping[str, Sequence[Example]], share: float, seed: int
) -> dict[str, Split]:
    """Each source without the share of its contents that is held out, and those apart.

    sources: examples by the name of the source, which is part of the draw. share: 0 to 1, of the
    contents of each source; at least one content is held out and one is left. A content that
    another source has held out is held out here, too, and counts. The same sources, share and seed
    give the same split. Raises ValueError for a source that has too few contents.

    Ten contents of two examples each and a share of .2 give 16 examples to train on and 4 held out.
    """
    groups = _groups(sources)
    held_out: set[int] = set()
    for name, examples in sources.items():
        # In the order of the file, so that a draw depends on nothing else.
        own = list(dict.fromkeys(groups[_content(example)] for example in examples))
        number = round(share * len(own))
        left = [group for group in own if group not in held_out]
        missing = number - (len(own) - len(left))
        if missing > 0:
            held_out |= set(random.Random(f"{seed} {name}").sample(left, missing))
    splits = {
        name: Split(
            trained=[e for e in examples if groups[_content(e)] not in held_out],
            held_out=[e for e in examples if groups[_content(e)] in held_out],
        )
        for name, examples in sources.items()
    }
    for name, split in splits.items():
        if not split.trained or len(split.held_out) < MIN_HELD_OUT:
            contents = len({groups[_content(example)] for example in sources[name]})
            raise ValueError(
                f"{name}: {share:g} of its {contents} contents holds {len(split.held_out)} "
                f"examples out and leaves {len(split.trained)}, expected at least {MIN_HELD_OUT} "
                "and 1; set data.held_out to another share, or to 0 and name sets to evaluate on "
                "in data.eval"
            )
    return splits


def _content(example: Example) -> tuple[str, str]:
    return example.dataset, example.content


def _groups(sources: Mapping[str, Sequence[Example]]) -> dict[tuple[str, str], int]:
    """A number for each content; contents that share a file, over any chain of them, have one."""
    parent: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    examples = [example for own in sources.values() for example in own]
    for example in examples:
        first = root(_content(example))
        for medium in example.media:
            parent[root(medium.path)] = first
    numbers: dict[Any, int] = {}
    return {
        content: numbers.setdefault(root(content), len(numbers))
        for content in map(_content, examples)
    }
