"""What a run reads: labels to samples, and every video of them read once before training."""

import logging
from collections.abc import Container
from dataclasses import dataclass

from thinker.config.run import RunConfig
from thinker.data.datasets import (
    EvalSet,
    RecordSet,
    load_dataset_config,
    load_eval_examples,
    load_train_examples,
)
from thinker.data.examples import Example
from thinker.video import ClipSpec, FrameCache, check_videos
from thinker.video.cache import ClipReader
from thinker.video.medium import Medium

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads; every video of it was read once without an error."""

    train: list[Example]
    """Samples to train on."""
    eval_sets: list[tuple[EvalSet | RecordSet, list[Example]]]
    """Held-out sets, each with its samples."""
    reader: ClipReader
    """Reads their clips."""


def load_data(config: RunConfig, spec: ClipSpec) -> RunData:
    """Read all labels, then decode (or find cached) every video once; what fails is left out."""
    settings = config.data
    dataset = load_dataset_config(
        settings.config, variables=settings.variables, overrides=settings.overrides
    )
    train, bad = load_train_examples(dataset, skip_bad_lines=settings.skip_bad_lines)
    if bad:
        logger.warning("%d bad label lines skipped", len(bad))
    eval_sets: list[tuple[EvalSet | RecordSet, list[Example]]] = [
        (eval_set, load_eval_examples(eval_set, require_files=True).examples)
        for eval_set in dataset.eval
    ]
    reader = clip_reader(settings.cache, spec)
    media = [
        medium
        for _, samples in [(None, train), *eval_sets]
        for sample in samples
        for medium in sample.media
    ]
    failures = check_videos(media, spec, reader.cache, max_failed_share=settings.max_failed_share)
    for error in failures.values():
        logger.warning("left out: %s", error)
    return RunData(
        train=[sample for sample in train if not _fails(sample, failures)],
        eval_sets=[
            (eval_set, [s for s in samples if not _fails(s, failures)])
            for eval_set, samples in eval_sets
        ],
        reader=reader,
    )


def _fails(example: Example, failures: Container[Medium]) -> bool:
    return any(medium in failures for medium in example.media)


def clip_reader(cache: str | None, spec: ClipSpec) -> ClipReader:
    """path → Clip, picklable."""
    return ClipReader(spec, None if cache is None else FrameCache(cache))
