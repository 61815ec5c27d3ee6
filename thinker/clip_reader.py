"""The training data set: rows whose `clip` is read when they are fetched, by decoding or from the
frame cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from thinker import prompts
from thinker.samples import VideoSample
from thinker.video import Clip, ClipSpec, FrameCache, read_clip


@dataclass(frozen=True)
class ClipReader:
    """Reads clips of one spec, through a frame cache where there is one; safe to pickle into
    workers."""

    spec: ClipSpec
    cache: FrameCache | None = None

    def __call__(self, path: Path) -> Clip:
        """Raises `VideoError` as `read_clip`."""
        if self.cache is None:
            return read_clip(path, self.spec)
        return self.cache.get_or_read(path, self.spec)

    def decodes(self, path: Path) -> bool:
        """Whether the next call has to decode the file: no undamaged clip of it is cached."""
        return self.cache is None or not self.cache.contains(path, self.spec)


def video_dataset(samples: Sequence[VideoSample], read_clip: Callable[[Path], Clip]) -> Dataset:
    """Rows of TRL's form whose `clip` is read when the row is fetched, once a video and batch."""
    dataset = Dataset.from_dict(
        {
            "prompt": [prompts.SCORING] * len(samples),
            "sample_id": [sample.id for sample in samples],
            "path": [str(sample.path) for sample in samples],
            "target": [sample.target for sample in samples],
        }
    )
    return dataset.with_transform(_ClipColumn(read_clip))


@dataclass(frozen=True)
class _ClipColumn:
    """Batch transform of `datasets`: adds `clip`, reading each distinct path once, and `decoded`,
    whether that took decoding (known of a `thinker.clip_reader.ClipReader`)."""

    read_clip: Callable[[Path], Clip]

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        clips: dict[str, Clip] = {}
        decoded: dict[str, bool] = {}
        for path in dict.fromkeys(batch["path"]):
            decodes = getattr(self.read_clip, "decodes", None)
            decoded[path] = decodes is not None and decodes(Path(path))
            clips[path] = self.read_clip(Path(path))
        return {
            **batch,
            "clip": [clips[path] for path in batch["path"]],
            "decoded": [decoded[path] for path in batch["path"]],
        }
