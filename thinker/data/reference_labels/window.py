"""All clips of one window: read, cut, degraded, labelled, written. Runs in a worker process.

A clip's file appears whole (utils/atomic.py); its row is written down by the run only once all
files of the window are there.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thinker.data.reference_labels.codec import encoder_version, settings_of
from thinker.data.reference_labels.degrade import degrade
from thinker.data.reference_labels.measure import Measure
from thinker.data.reference_labels.plan import Box, Window
from thinker.data.reference_labels.planes import size, to_planes
from thinker.data.reference_labels.scan import frame_index
from thinker.data.reference_labels.settings import ReferenceLabelSettings
from thinker.utils.atomic import write_atomic
from thinker.utils.seeds import derive_seed
from thinker.video import VideoError
from thinker.video.boundary import attempt
from thinker.video.decode import VideoFile

Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes windows; picklable."""

    settings: ReferenceLabelSettings
    """What is made."""
    clips: Path
    """The folder of the clips; paths in the label files are relative to it."""
    measure: Measure
    """What measures the label."""
    version: str
    """Of the label."""

    def __call__(self, window: Window) -> bytes:
        """JSON: {"clips": [an entry for each]}, or {"error": why the source could not be read}."""
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes a page about itself for each clip
        made = attempt(window.source.path, lambda: self._make(window))
        if isinstance(made, VideoError):
            return json.dumps({"error": str(made)}).encode()
        return json.dumps({"clips": made}).encode()

    def _make(self, window: Window) -> list[Entry]:
        entries: list[Entry] = []
        for number, pristine_TYX in enumerate(self._pictures(window)):
            is_larger = number >= len(window.cuts)
            cut = window.cuts[number % len(window.cuts)]
            conditions = [self.settings.conditions[place] for place in cut.conditions]
            made = [
                degrade(
                    pristine_TYX,
                    condition,
                    fps=window.fps,
                    # that of the larger crop is the same, so that it drops the same frames
                    seed=derive_seed(cut.seed, place),
                )
                for place, condition in zip(cut.conditions, conditions, strict=True)
            ]
            labels = self.measure(pristine_TYX, [shown for _, shown in made], window.fps)
            if is_larger:
                first = (number - len(window.cuts)) * len(conditions)
                for entry, label in zip(entries[first:], labels, strict=False):
                    entry["check_label"], entry["check_px"] = label, size(pristine_TYX)[1]
                continue
            for place, (content, _), label in zip(cut.conditions, made, labels, strict=True):
                entry = self._entry(window, number, place, content, label)
                entry["width"], entry["height"] = size(pristine_TYX)
                self._write(entry["path"], content)
                entries.append(entry)
        return entries

    def _pictures(self, window: Window) -> Iterator[np.ndarray]:
        """The planes of every cut, then of the larger crops around them; the window is decoded
        once."""
        boxes: list[Box | None] = [cut.box for cut in window.cuts]
        heights = [self.settings.clip_px] * len(boxes)
        for larger in window.check_box_of:
            scale = (self.settings.crop_px or 1) / (self.settings.clip_px or 1)
            boxes.append(larger)
            heights.append(
                None if heights[0] is None else round((larger[3] - larger[1]) / scale) // 2 * 2
            )
        planes: list[list[np.ndarray]] = [[] for _ in boxes]
        wanted = list(range(window.start, window.start + window.num_frames))
        with VideoFile(window.source.path, index=frame_index(window.source.path)) as file:
            for _, picture_HWC in file.frames(wanted):
                for place, (box, height) in enumerate(zip(boxes, heights, strict=True)):
                    planes[place].append(to_planes([picture_HWC], box, height)[0])
        return map(np.stack, planes)

    def _entry(
        self, window: Window, number: int, place: int, content: bytes, label: float
    ) -> Entry:
        cut, condition = window.cuts[number], self.settings.conditions[place]
        name = f"{window.start:06d}_{number}_{condition.name}.mp4"
        return {
            "path": f"{window.content}/{name}",
            "content": window.content,
            "split": window.split,
            "scene": window.scene,
            "source": window.source.name,
            "source_sha256": window.source.sha256,
            "shot": window.shot,
            "start_frame": window.start,
            "num_frames": window.num_frames,
            "fps": window.fps,
            "crop": cut.box,
            "condition": condition.name,
            "word": condition.word,
            "severity": condition.severity,
            "encoder": condition.encoder or "libx264",
            "encoder_settings": settings_of(condition.encoder, condition.crf),
            "encoder_version": encoder_version(content),
            "seed": derive_seed(cut.seed, place),
            "label_name": self.settings.label,
            "label_version": self.version,
            "label": label,
            "num_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def _write(self, path: str, content: bytes) -> None:
        target = self.clips / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content, flush=False)  # thousands, and each can be made again


def are_whole(entries: Sequence[Entry], clips: Path) -> bool:
    """Whether the files of a window are there and as long as they were when they were made."""
    sizes = ((clips / entry["path"], entry["num_bytes"]) for entry in entries)
    return all(path.is_file() and path.stat().st_size == number for path, number in sizes)
