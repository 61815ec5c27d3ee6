"""Evaluation of annotated sets: one CSV a set, a row for every annotated video, and the figures.

Decoding runs in worker processes ahead of the model. A video that fails is a row with a status,
never a made-up score.
"""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from thinker.data import EvalSet, load_eval_samples
from thinker.metrics import evaluate_scores, format_table, summarise
from thinker.prediction import Prediction, failed
from thinker.samples import VideoSample
from thinker.scorer import QualityScorer
from thinker.video import Clip, VideoError, read_clip

COLUMNS = ("filename", "pred_score", "gt_score", "status", "error", "reasoning", "seconds")
"""The reference's three columns first, under its names."""


def evaluate_sets(
    scorer: QualityScorer,
    sets: Sequence[EvalSet],
    output_dir: Path,
    *,
    batch_size: int,
    num_workers: int,
) -> str:
    """Score every set, write `<output_dir>/<key>.csv`, return the table of figures.

    `pred_score` is on the set's own MOS scale, as `gt_score` is. Raises ValueError before anything
    is scored when a meta file is bad.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    loaded = [(eval_set, load_eval_samples(eval_set).samples) for eval_set in sets]
    reports = []
    for eval_set, samples in loaded:
        predictions = score_samples(scorer, samples, batch_size=batch_size, num_workers=num_workers)
        rows = list(zip(samples, predictions, strict=True))
        write_csv(output_dir / f"{eval_set.key}.csv", eval_set, rows)
        scored = [(p.score, sample) for sample, p in rows if p.score is not None]
        report = evaluate_scores(
            [score for score, _ in scored],
            [sample.target for _, sample in scored],
            [sample.content for _, sample in scored],
            len(samples),
        )
        reports.append((eval_set.name, eval_set.domain or "out", report))
    return format_table(summarise(reports))


def score_samples(
    scorer: QualityScorer, samples: Sequence[VideoSample], *, batch_size: int, num_workers: int
) -> Iterator[Prediction]:
    """Predictions of the samples, in order; decoding overlaps with the model."""
    reader = partial(read_or_fail, spec=scorer.clip_spec)
    loader = DataLoader(
        _Clips([sample.path for sample in samples], reader),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=2 * batch_size if num_workers else None,
    )
    return scorer.score_stream(loader, batch_size=batch_size)


def read_or_fail(path: Path, *, spec) -> Clip | Prediction:
    """The clip, or the row of a video that cannot be read."""
    try:
        return read_clip(path, spec)
    except VideoError as error:
        return failed(path, error)


class _Clips(Dataset):
    def __init__(self, paths, read):
        self.paths, self.read = paths, read

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.read(self.paths[index])


def write_csv(
    path: Path, eval_set: EvalSet, rows: Sequence[tuple[VideoSample, Prediction]]
) -> None:
    """One row an annotated video."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for sample, prediction in rows:
            writer.writerow(csv_row(eval_set, sample, prediction))


def csv_row(eval_set: EvalSet, sample: VideoSample, prediction: Prediction) -> dict[str, object]:
    """The columns of one row; numbers plain, text cells safe to open in a spreadsheet."""
    score = prediction.score
    return {
        "filename": safe_cell(sample.id.partition("/")[2]),
        "pred_score": "" if score is None else f"{eval_set.mos_scale.from_answer(score):.4f}",
        "gt_score": repr(sample.mos),
        "status": prediction.status,
        "error": safe_cell(prediction.error or ""),
        "reasoning": safe_cell(prediction.reasoning or ""),
        "seconds": f"{prediction.seconds:.3f}",
    }


def safe_cell(text: str) -> str:
    """Text that a spreadsheet will not take for a formula: a leading = + - @ or control character
    gets an apostrophe before it (OWASP, CSV injection).

    Example: `safe_cell("=1+1") == "'=1+1"`.
    """
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text
