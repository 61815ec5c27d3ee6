"""The training data set: rows whose `clips` are read when they are fetched, by decoding or from the
frame cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from thinker.data.examples import Example, parsed_reference
from thinker.video import Clip
from thinker.video.cache import ClipReader
from thinker.video.medium import Medium


def example_dataset(examples: Sequence[Example], read_clip: Callable[[Medium], Clip]) -> Dataset:
    """Rows of TRL's form, whose clips are read when they are fetched, each medium once a batch."""
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
    `clips`, and for each clip whether reading it took decoding (`decoded`)."""

    examples: tuple[Example, ...]
    """All of them, by their number."""
    read_clip: Callable[[Medium], Clip]
    """A `ClipReader`, which knows whether it decoded, or any function that reads a medium."""

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        examples = [self.examples[number] for number in batch["number"]]
        media = dict.fromkeys(medium for example in examples for medium in example.media)
        read = {medium: self._read(medium) for medium in media}
        columns: dict[str, list[Any]] = {
            "prompt": batch["prompt"],
            "sample_id": [example.id for example in examples],
            "clips": [tuple(read[medium][0] for medium in e.media) for e in examples],
            "decoded": [tuple(read[medium][1] for medium in e.media) for e in examples],
        }
        for name in ("task", "target", "options", "turns"):
            columns[name] = [getattr(example, name) for example in examples]
        columns["reference"] = [parsed_reference(example) for example in examples]
        return columns

    def _read(self, medium: Medium) -> tuple[Clip, bool]:
        if isinstance(self.read_clip, ClipReader):
            return self.read_clip.fetch(medium)
        return self.read_clip(medium), False
