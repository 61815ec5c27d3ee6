"""Mixtures of data sets: sources with weights go in, the order in which they are trained on comes
out.

Everything follows from the sources, their weights and a seed, so a run that stopped goes on from
the number of batches that it has used up. A weight is a share: a source of weight 2 is seen twice
as often as one of weight 1, however many examples the two hold.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

from thinker.data.examples import Example
from thinker.video.medium import Medium

MAX_ROWS = 10**7
"""Most rows of an epoch of a mixture, in which a source of tiny weight repeats all others."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The examples of one data set, and their share of a mixture."""

    examples: tuple[Example, ...]
    """What is trained on, in the order of the files."""
    weight: float = 1.0
    """Its share, relative to the other sources."""

    def __post_init__(self) -> None:
        if not self.examples or self.weight <= 0:
            raise ValueError(
                f"a source of weight {self.weight} with {len(self.examples)} examples; expected a "
                "weight above 0 and at least one example"
            )


def batches(sources: Sequence[Source], batch_size: int, seed: int) -> Iterator[list[Example]]:
    """Batches without end, each of one source; the sources take turns by their weights.

    A source is shuffled by its media, so that examples of the same media stand in one batch, and
    shuffled anew when it is used up. One generator draws for all sources, when its turn has come.
    """
    draw = random.Random(seed)
    streams = [_endless(_by_media(source.examples), draw) for source in sources]
    for number in turns([source.weight for source in sources]):
        yield list(islice(streams[number], batch_size))


def union(sources: Sequence[Source], seed: int) -> list[Example]:
    """The examples of one epoch: every source at least once, and as often as its weight says.

    The source that has most examples for its weight is in it once; of the others, what is missing
    to their share is repeated: whole, and a sample of the rest. A single source stays as it is,
    several are shuffled. Example: sources of 6 and 2 examples and equal weights give 12 rows, each
    of the 2 three times.
    """
    if len(sources) == 1:
        return list(sources[0].examples)
    draw = random.Random(seed)
    # by fractions: weights of .1 and .3 are 1 to 3
    weights = [Fraction(str(source.weight)) for source in sources]
    longest = max(len(s.examples) / w for s, w in zip(sources, weights, strict=True))
    num_rows = sum(round(longest * weight) for weight in weights)
    if num_rows > MAX_ROWS:
        raise ValueError(
            f"weights {', '.join(str(source.weight) for source in sources)} of sources of "
            f"{', '.join(str(len(source.examples)) for source in sources)} examples make an epoch "
            f"of {num_rows:.3g} rows, at most {MAX_ROWS:.0e}; raise the smallest weight"
        )
    rows: list[Example] = []
    for source, weight in zip(sources, weights, strict=True):
        whole, rest = divmod(round(longest * weight), len(source.examples))
        rows += source.examples * whole
        rows += draw.sample(source.examples, rest)
    draw.shuffle(rows)
    return rows


def turns(weights: Sequence[float]) -> Iterator[int]:
    """Numbers of the sources whose turn it is, without end (smooth weighted round robin).

    Every source gains its weight at each turn; the one with most, the first of several, is next and
    pays the sum of all weights. Weights 2, 1 give 0, 1, 0, 0, 1, 0, …; equal weights 0, 1, 2, 0, ….
    """
    exact = [Fraction(str(weight)) for weight in weights]
    credit, total = [Fraction(0)] * len(exact), sum(exact)
    while True:
        credit = [have + gain for have, gain in zip(credit, exact, strict=True)]
        number = credit.index(max(credit))
        credit[number] -= total
        yield number


def _by_media(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples of the same media together, in the order in which the media come first."""
    groups: dict[tuple[Medium, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(example.media, []).append(example)
    text_only = groups.pop((), [])
    return [*groups.values(), *([example] for example in text_only)]


def _endless(groups: list[list[Example]], draw: random.Random) -> Iterator[Example]:
    """The examples of the groups again and again, the groups in a new order each time."""
    while True:
        for group in draw.sample(groups, len(groups)):
            yield from group
