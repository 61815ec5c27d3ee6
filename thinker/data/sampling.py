"""Which records of a file are taken: `all`, `first:N`, `end:N`, `random:N`.

N is a count, `first:1000`, or a share, `random:10%`, rounded up, as LLaVA's lists of files have it.
What is taken keeps the order of the file: epochs are shuffled elsewhere (mixture.py).
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

STRATEGIES = ("all", "first", "end", "random")
_STRATEGY = re.compile(r"(first|end|random):([0-9]+(?:\.[0-9]+)?)(%?)")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A strategy, its number, and what is drawn with."""

    strategy: str
    """One of `STRATEGIES`."""
    number: float
    """A count, or a share in per cent; not used by "all"."""
    is_share: bool
    """Whether `number` is in per cent."""
    seed: int
    """Of the draw; not used by others than "random"."""

    def pick(self, items: Sequence[T]) -> list[T]:
        """Those that are taken, in their order. Raises ValueError for a count beyond their number.

        `parse_sampling("end:30%").pick("abcde")` is `["d", "e"]`: 30 % of 5 is 1.5, so 2.
        """
        if self.strategy == "all":
            return list(items)
        number = math.ceil(len(items) * self.number / 100) if self.is_share else int(self.number)
        if number > len(items):
            raise ValueError(
                f"sampling_strategy {self.strategy}:{number} of {len(items)} record(s); expected "
                "at most as many, or a share such as 50%"
            )
        if self.strategy == "first":
            return list(items[:number])
        if self.strategy == "end":
            return list(items[len(items) - number :])
        places = random.Random(self.seed).sample(range(len(items)), number)
        return [items[place] for place in sorted(places)]


EVERY_RECORD = Sampling(strategy="all", number=0, is_share=False, seed=0)


def parse_sampling(text: str, seed: int = 0) -> Sampling:
    """The strategy that a YAML names; raises ValueError for any other text."""
    if text == "all":
        return EVERY_RECORD
    match = _STRATEGY.fullmatch(text)
    if match is not None:
        strategy, number, percent = match[1], float(match[2]), bool(match[3])
        in_range = 0 < number <= 100 if percent else number >= 1 and number == int(number)
        if in_range:
            return Sampling(strategy=strategy, number=number, is_share=percent, seed=seed)
    raise ValueError(
        f"sampling_strategy {text!r}: expected all, or first:N, end:N or random:N, N being a whole "
        "number from 1 or a share such as 10%"
    )
