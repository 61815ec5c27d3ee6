"""The training data set: rows whose `clip` is read when they are fetched, by decoding or from the
frame cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from thinker.data.examples import Example
from thinker.video import Clip
from thinker.video.cache import ClipReader


def video_dataset(samples: Sequence[Example], read_clip: Callable[[Path], Clip]) -> Dataset:
    """Rows of TRL's form whose `clip` is read when the row is fetched, once a video and batch."""
    dataset = Dataset.from_dict(
        {
            "prompt": [""] * len(samples),  # TRL wants the column; prompts are built from clips
            "sample_id": [sample.id for sample in samples],
            "path": [str(sample.media[0].path) for sample in samples],
            "target": [sample.target for sample in samples],
        }
    )
    return dataset.with_transform(_ClipColumn(read_clip))


@dataclass(frozen=True)
class _ClipColumn:
    """Batch transform of `datasets`: reads each distinct path once and adds two columns, `clip` and
    `decoded` (whether reading it took decoding)."""

    read_clip: Callable[[Path], Clip]
    """A `ClipReader`, which knows whether it decoded, or any function that reads a path."""

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        clips: dict[str, Clip] = {}
        decoded: dict[str, bool] = {}
        for path in dict.fromkeys(batch["path"]):
            if isinstance(self.read_clip, ClipReader):
                clips[path], decoded[path] = self.read_clip.fetch(Path(path))
            else:
                clips[path], decoded[path] = self.read_clip(Path(path)), False
        return {
            **batch,
            "clip": [clips[path] for path in batch["path"]],
            "decoded": [decoded[path] for path in batch["path"]],
        }
