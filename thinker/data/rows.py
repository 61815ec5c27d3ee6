"""The training data set: rows whose `clips` are read when they are fetched, by decoding or from the
frame cache."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from thinker.data.examples import Example, parsed_reference
from thinker.video import Clip, VideoError
from thinker.video.cache import ClipReader
from thinker.video.medium import Medium

logger = logging.getLogger(__name__)

MAX_STAND_INS = 8
"""How many examples in a row may fail before the run ends: one file is gone, or all of them are."""

_Read = tuple[Clip, bool, float]
"""A clip, whether reading it took decoding, and seconds of that."""


def example_dataset(examples: Sequence[Example], read_clip: Callable[[Medium], Clip]) -> Dataset:
    """Rows of TRL's form, whose clips are read when they are fetched, each medium once a batch.

    All were read before training starts. Where one fails now, the next example that is not in the
    batch stands in for it, with a warning.
    """
    dataset = Dataset.from_dict(
        {
            "prompt": [""] * len(examples),  # TRL wants the column; prompts are built from turns
            "number": list(range(len(examples))),
        }
    )
    return dataset.with_transform(_ExampleColumns(tuple(examples), read_clip))


@dataclass(frozen=True)
class _ExampleColumns:
    """Batch transform of `datasets`: the columns of the examples that the rows stand for, their
    `clips`, for each clip whether reading it took decoding (`decoded`), and how many seconds that
    took (`decode_seconds`, 0 where a cache held the clip)."""

    examples: tuple[Example, ...]
    """All of them, by their number."""
    read_clip: Callable[[Medium], Clip]
    """A `ClipReader`, which knows whether it decoded, or any function that reads a medium."""

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        read: dict[Medium, _Read] = {}
        shown = self._readable(batch["number"], read)
        examples = [self.examples[shown[number]] for number in batch["number"]]
        columns: dict[str, list[Any]] = {
            "prompt": batch["prompt"],
            "sample_id": [example.id for example in examples],
        }
        for name, place in (("clips", 0), ("decoded", 1), ("decode_seconds", 2)):
            columns[name] = [tuple(read[medium][place] for medium in e.media) for e in examples]
        for name in ("task", "target", "options", "turns"):
            columns[name] = [getattr(example, name) for example in examples]
        columns["tags"] = [dict(example.tags) for example in examples]
        columns["reference"] = [parsed_reference(example) for example in examples]
        return columns

    def _readable(self, numbers: Sequence[int], read: dict[Medium, _Read]) -> dict[int, int]:
        """The example that is shown for each: itself, or what stands in for it. Fills `read`."""
        shown: dict[int, int] = {}
        taken = set(numbers)
        for number in dict.fromkeys(numbers):
            others = (
                n % len(self.examples) for n in range(number + 1, number + len(self.examples))
            )
            candidates = [number, *(other for other in others if other not in taken)]
            for tried, candidate in enumerate(candidates[: 1 + MAX_STAND_INS], start=1):
                try:
                    for medium in self.examples[candidate].media:
                        if medium not in read:
                            read[medium] = self._read(medium)
                except VideoError as error:
                    logger.warning("left out of a batch: %s", error)
                    if tried == min(len(candidates), 1 + MAX_STAND_INS):
                        raise
                else:
                    shown[number] = candidate
                    taken.add(candidate)
                    break
        return shown

    def _read(self, medium: Medium) -> _Read:
        began = time.perf_counter()
        if not isinstance(self.read_clip, ClipReader):
            return self.read_clip(medium), False, 0.0
        clip, decoded = self.read_clip.fetch(medium)
        return clip, decoded, time.perf_counter() - began if decoded else 0.0
