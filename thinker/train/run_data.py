"""What a run reads: labels of all stages, and every medium of them read once before training."""

import logging
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from thinker.config.run import EvalSettings, RunConfig, SftStage, SourceSettings
from thinker.data.bad_lines import BadLine, BadLinesError
from thinker.data.datasets import (
    DatasetConfig,
    EvalSet,
    RecordSet,
    load_dataset_config,
    load_eval_examples,
    load_train_examples,
)
from thinker.data.examples import Example, lesson_turns
from thinker.data.mixture import Source
from thinker.data.records import dataset_key
from thinker.data.split import Split, split_by_content
from thinker.video import ClipSpec, FrameCache, check_videos
from thinker.video.cache import ClipReader
from thinker.video.medium import Medium

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class HeldOutPart:
    """The contents of a training source that are held out."""

    key: str
    """Its name in figures: that of the source and "held_out"."""


EvalPart = EvalSet | RecordSet | HeldOutPart


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the label files of a run say."""

    stages: dict[str, list[Source]]
    """By stage, its data with their weights."""
    eval_sets: list[tuple[EvalPart, list[Example]]]
    """Held-out sets, each with its examples; those of `data.eval` first."""

    def examples(self) -> list[Example]:
        """All of them."""
        trained = [e for sources in self.stages.values() for s in sources for e in s.examples]
        return trained + [example for _, examples in self.eval_sets for example in examples]


@dataclass(frozen=True, kw_only=True)
class RunData(Labels):
    """The same where every medium was read once without an error."""

    reader: ClipReader
    """Reads their clips."""


def read_labels(config: RunConfig) -> Labels:
    """Read all label files. Raises BadLinesError with the bad lines of all of them, and ValueError
    for a supervised stage whose examples have no answer in words."""
    bad: list[BadLine] = []
    known: dict[str, list[Example]] = {}
    names: dict[str, str] = {}
    skip = config.data.skip_bad_lines

    def load(read: Callable[[], Sequence[Example]]) -> list[Example]:
        try:
            return list(read())
        except BadLinesError as error:
            bad.extend(line for line in error.bad_lines if line not in bad)
            return []

    def trained(settings: SourceSettings) -> str:
        key = f"{settings.config} {sorted(settings.overrides.items())}"
        if key not in known:
            described = data_set_of(settings, config)
            names[key] = _unused(described.name, " ", names.values())
            known[key] = load(lambda: load_train_examples(described, skip_bad_lines=skip)[0])
        return key

    keys = {stage.name: [(trained(s), s.weight) for s in stage.data] for stage in config.stages}
    eval_sets: list[tuple[EvalPart, list[Example]]] = [
        (eval_set, load(lambda: load_eval_examples(eval_set, require_files=True)[0]))  # noqa: B023
        for settings in config.data.eval
        for eval_set in data_set_of(settings, config).eval
    ]
    if bad:
        raise BadLinesError(bad)
    if config.data.held_out:
        named = {names[key]: examples for key, examples in known.items()}
        splits = split_by_content(named, config.data.held_out, config.seed)
        known = {key: splits[names[key]].trained for key in known}
        eval_sets += _held_out_parts(splits, {part.key for part, _ in eval_sets})
    found = {
        stage: [(known[key], weight) for key, weight in sources] for stage, sources in keys.items()
    }
    for stage in config.stages:
        for example in (e for examples, _ in found[stage.name] for e in examples):
            if isinstance(stage, SftStage):
                lesson_turns(example)
    return Labels(
        stages={
            name: [Source(examples=tuple(examples), weight=weight) for examples, weight in sources]
            for name, sources in found.items()
        },
        eval_sets=eval_sets,
    )


def _held_out_parts(
    splits: dict[str, Split], taken: set[str]
) -> list[tuple[EvalPart, list[Example]]]:
    """The part of each source that is held out; a key that is taken gets a number."""
    parts: list[tuple[EvalPart, list[Example]]] = []
    for name, split in splits.items():
        key = _unused(f"{dataset_key(name) or 'data'}_held_out", "_", taken)
        taken.add(key)
        parts.append((HeldOutPart(key=key), split.held_out))
    return parts


def _unused(name: str, sign: str, taken: Collection[str]) -> str:
    """The name, with a number behind the sign where it is taken: "lsvq", "lsvq 2", "lsvq 3"."""
    numbered = (f"{name}{sign}{number}" for number in count(2))
    return next(one for one in chain([name], numbered) if one not in taken)


def held_out_record(labels: Labels, config: RunConfig) -> dict[str, Any]:
    """Which examples of the training data are held out, as a file in the run's folder tells it."""
    return {
        "share": config.data.held_out,
        "seed": config.seed,
        "sets": {
            part.key: {
                "contents": sorted({example.content for example in examples}),
                "ids": [example.id for example in examples],
            }
            for part, examples in labels.eval_sets
            if isinstance(part, HeldOutPart)
        },
    }


def data_set_of(settings: SourceSettings | EvalSettings, config: RunConfig) -> DatasetConfig:
    """The data set that a place of a run configuration names, with the run's variables and the
    place's own overrides."""
    return load_dataset_config(
        settings.config, variables=config.data.variables, overrides=settings.overrides
    )


def check_media(labels: Labels, config: RunConfig, spec: ClipSpec) -> RunData:
    """Decode (or find cached) every medium once; examples of those that fail are left out."""
    settings = config.data
    reader = clip_reader(settings.cache, spec)
    media = list(dict.fromkeys(m for example in labels.examples() for m in example.media))
    failures = check_videos(media, spec, reader.cache, max_failed_share=settings.max_failed_share)
    for error in failures.values():
        logger.warning("left out: %s", error)

    def readable(examples: Sequence[Example]) -> list[Example]:
        return [example for example in examples if not _fails(example, failures)]

    return RunData(
        stages={
            name: [
                Source(examples=tuple(readable(source.examples)), weight=source.weight)
                for source in sources
            ]
            for name, sources in labels.stages.items()
        },
        eval_sets=[(eval_set, readable(examples)) for eval_set, examples in labels.eval_sets],
        reader=reader,
    )


def _fails(example: Example, failures: Container[Medium]) -> bool:
    return any(medium in failures for medium in example.media)


def clip_reader(cache: str | None, spec: ClipSpec) -> ClipReader:
    """Medium → Clip, picklable."""
    return ClipReader(spec, None if cache is None else FrameCache(cache))
