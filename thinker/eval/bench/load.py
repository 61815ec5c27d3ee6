"""A benchmark's own files → sets that the one evaluation takes.

`BENCHES` names what differs between benchmarks: the form of a record, the prompts, the samplers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker.data.bad_lines import Loaded, settle
from thinker.data.datasets import RecordSet
from thinker.data.examples import Example
from thinker.data.paths import media_rules
from thinker.data.read import RecordRules, scan_records
from thinker.data.records import dataset_key
from thinker.eval.bench.asking import (
    Asking,
    FrameCounts,
    official_image,
    official_video,
    own,
    vqa2_video,
)
from thinker.eval.bench.forms import SINGLE, image_fields, video_fields
from thinker.eval.bench.frames import FRAMES, OWN_FRAMES
from thinker.eval.sets import LoadedSet, by_task
from thinker.utils.names import path_text

PROTOCOLS = ("pairs", "single")
SPLITS = ("dev", "test", "all")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is special about one benchmark."""

    title: str
    """Its name in tables."""
    fields: Callable[[object], dict[str, Any]]
    """Makes fields of a flat question of one of its records (`forms.py`)."""
    prompts: Mapping[str, Asking]
    """By name, the policy's own first."""
    frames: tuple[str, ...]
    """Names of its samplers (`frames.FRAMES`), the policy's own first."""


BENCHES: dict[str, Bench] = {
    "q-bench-video": Bench(
        title="Q-Bench-Video",
        fields=video_fields,
        prompts={"own": own, "official": official_video, "vqa2": vqa2_video},
        frames=(OWN_FRAMES, *FRAMES),
    ),
    "q-bench": Bench(
        title="Q-Bench",
        fields=image_fields,
        prompts={"own": own, "official": official_image},
        frames=(OWN_FRAMES,),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a benchmark is run, as far as figures depend on it."""

    bench: str
    """A key of `BENCHES`."""
    media: str = "pairs"
    """One of `PROTOCOLS`: "pairs" asks all questions, "single" only those about one medium."""
    split: str | None = None
    """One of `SPLITS`: the part of the benchmark that the file holds; None: not said."""
    frames: str = OWN_FRAMES
    """Which frames: a name of the benchmark's samplers."""
    prompt: str = "own"
    """Which words: a name of the benchmark's prompts."""

    def __post_init__(self) -> None:
        if self.bench not in BENCHES:
            raise ValueError(f"benchmark {self.bench!r}: expected one of {', '.join(BENCHES)}")
        bench = BENCHES[self.bench]
        known = {
            "media": PROTOCOLS,
            "split": (None, *SPLITS),
            "frames": bench.frames,
            "prompt": tuple(bench.prompts),
        }
        for name, values in known.items():
            value = getattr(self, name)
            if value not in values:
                expected = ", ".join(one for one in values if one)
                option = "protocol" if name == "media" else name
                raise ValueError(
                    f"{option} is {value!r}, expected one of {expected} for {self.bench}"
                )

    def __str__(self) -> str:
        asked = "with pairs" if self.media == "pairs" else "single media only"
        part = f"{self.split} split" if self.split else "split not said"
        return f"{asked}, {part}; frames: {self.frames}, prompt: {self.prompt}"


@dataclass(frozen=True, kw_only=True)
class BenchData:
    """What was read of a benchmark."""

    protocol: Protocol
    """How it is run."""
    sets: list[LoadedSet]
    """One a task."""
    questions: dict[str, str]
    """The bare question of each example, by id: what a judge is told."""
    num_left_out: int
    """Questions about pairs that the protocol leaves out."""


def load_bench(
    protocol: Protocol,
    paths: Sequence[Path],
    media_root: Path,
    counts: FrameCounts,
    *,
    skip_bad_lines: bool = False,
) -> BenchData:
    """The questions of a benchmark's files (a JSON list, or jsonl), asked as `protocol` says.

    A medium that is not there is a row later. Raises BadLinesError with all bad lines, and
    ValueError where no question is left.
    """
    bench = BENCHES[protocol.bench]
    key = dataset_key(paths[0].stem) or dataset_key(protocol.bench)
    name = path_text(paths[0].stem)
    if protocol.media == "single":
        key, name = f"{key}_single", f"{name}, single"
    media = media_rules(media_root, None, require_files=False)
    rules = RecordRules(media=media, dataset=key)
    read = settle([scan_records(path, rules, bench.fields) for path in paths], skip_bad_lines)
    kept = [
        example
        for example in read.examples
        if protocol.media == "pairs" or dict(example.tags)["media"] == SINGLE
    ]
    if not kept:
        raise ValueError(f"{', '.join(map(str, paths))} hold no question about one medium")
    questions = {example.id: _bare_question(example) for example in kept}
    asking = bench.prompts[protocol.prompt]
    asked = [
        dataclasses.replace(
            example,
            turns=asking(example, questions[example.id], counts),
            media=_shared_frames(example, protocol, counts),
        )
        for example in kept
    ]
    source = RecordSet(name=name, key=key, records=tuple(paths), media_root=media_root)
    return BenchData(
        protocol=protocol,
        sets=by_task(source, Loaded(asked, read.bad_lines)),
        questions=questions,
        num_left_out=len(read.examples) - len(kept),
    )


def _bare_question(example: Example) -> str:
    """The question of the file: the policy's own prompt puts lines behind it only."""
    text = example.turns[-1].text
    num_lines = len(example.options) + 1 if example.options else 0
    return "\n".join(text.split("\n")[:-num_lines]) if num_lines else text


def _shared_frames(example: Example, protocol: Protocol, counts: FrameCounts) -> tuple:
    """The media; by a published sampler the videos of a pair share the number of frames."""
    if protocol.frames == OWN_FRAMES or len(example.media) == 1:
        return example.media
    return tuple(
        dataclasses.replace(one, num_keyframes=counts.pair if one.kind == "video" else None)
        for one in example.media
    )
