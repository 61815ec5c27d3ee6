"""How well simple predictors guess the labels of the film run's held-out clips.

    python benchmarks/film_baselines.py runs/film/set runs/film/natural --output FILE.json

In: folders of `thinker make-labels`, the first with clips to train on; of each, its held-out clips
are judged. Out: SRCC of each predictor with the 95 % interval over shots, over all clips and by
what is wrong with them. Predictors: size of the file; sharpness (variance of the Laplacian); ridge
on pixel features and their products; kernel ridge on the features of BRISQUE, fitted to the same
training clips (its authors fitted theirs to ratings of larger pictures); the mean training label of
the clip's condition (its name known) and of its word. They are what a policy that sees the clip has
to be compared with.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from brisque import brisque_features
from scipy import linalg, stats
from scipy.spatial.distance import cdist

from thinker.data.reference_labels.codec import decode
from thinker.data.reference_labels.planes import split_planes
from thinker.eval.metrics import evaluate_scores
from thinker.utils.atomic import write_atomic
from thinker.utils.worker_pool import Failure, map_in_workers

Entry = dict[str, Any]
Predict = Callable[[Sequence[Entry], np.ndarray], np.ndarray]
"""(clips, their pixel features) → predictions."""

STRENGTHS = np.logspace(-1, 5, 13)  # of the ridge penalty; chosen on shots of the training side
FOLDS = 5
MIN_CLIPS = 20  # of a word, for a figure of its own
SHARPNESS = 4  # place of the Laplacian's variance among the features
FEATURES = (
    "log deviation of luma", "log |dx|", "log |dy|", "log |dx| over two pixels",
    "log variance of the Laplacian", "log deviation of the Laplacian's frames", "kurtosis of dx",
    "log |dt|", "log 90 % quantile of |dt|", "share of frames that stay", "longest stay",
    "log deviation of |dt|", "|dx| at edges of 8 pixels over |dx| elsewhere",
    "|dx| at edges of 4 pixels over |dx| elsewhere", "mean luma",
)  # fmt: skip
BRISQUE_FRAMES = 6  # of a clip, evenly spread; their features are averaged
WIDTHS = (0.02, 0.05, 0.2)  # of the kernel, as 1 / squared distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", help="of thinker make-labels")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    parser.add_argument("--num-workers", type=int, default=2)
    args = parser.parse_args()
    sets = {folder.name: load(folder, args.num_workers) for folder in args.folders}
    entries, features = next(iter(sets.values()))
    is_trained = np.array([entry["split"] == "train" for entry in entries])
    trained = [entry for entry in entries if entry["split"] == "train"]
    predictors = fit(trained, features[is_trained])
    found = {"num_trained": len(trained), "features": FEATURES, "brisque_features": 36, "sets": {}}
    for name, (entries, features) in sets.items():
        is_held_out = np.array([entry["split"] == "eval" for entry in entries])
        held_out = [entry for entry in entries if entry["split"] == "eval"]
        found["sets"][name] = judge(held_out, features[is_held_out], predictors)
    write_atomic(args.output, json.dumps(found, indent=1) + "\n")
    print(table(found))


def load(folder: Path, num_workers: int) -> tuple[list[Entry], np.ndarray]:
    """The clips that label files name, and their features (N, F)."""
    lines = (folder / "clips.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["is_used"]]
    paths = [folder / "clips" / entry["path"] for entry in entries]
    answers = list(map_in_workers(pixel_features, paths, num_workers=num_workers))
    failed = [answer for answer in answers if isinstance(answer, Failure)]
    if failed:
        raise SystemExit(f"{len(failed)} clips could not be read: {failed[0].detail}")
    return entries, np.array([json.loads(answer) for answer in answers])


def pixel_features(path: Path) -> bytes:
    """JSON of `FEATURES` of one clip, from luma alone, and the features of BRISQUE behind them."""
    luma_THW = split_planes(decode(path.read_bytes()))[0].astype(np.float32)
    dx, dy, dt = (np.diff(luma_THW, axis=axis) for axis in (2, 1, 0))
    inner = luma_THW[:, 1:-1, 1:-1]
    laplacian = (
        luma_THW[:, 1:-1, 2:] + luma_THW[:, 1:-1, :-2] + luma_THW[:, 2:, 1:-1]
        + luma_THW[:, :-2, 1:-1] - 4 * inner
    )  # fmt: skip
    moved = np.abs(dt).mean((1, 2))
    stays = moved < 0.15  # a held frame differs by what the nearly lossless coding leaves
    runs = np.diff(np.flatnonzero(np.concatenate([[True], ~stays, [True]])))
    log = partial(np.log, dtype=np.float64)
    values = [
        log(luma_THW.std() + 1),
        log(np.abs(dx).mean() + 0.1),
        log(np.abs(dy).mean() + 0.1),
        log(np.abs(luma_THW[:, :, 2:] - luma_THW[:, :, :-2]).mean() + 0.1),
        log(laplacian.var() + 0.1),
        log(laplacian.std((1, 2)).std() + 0.1),
        float(stats.kurtosis(dx, axis=None)),
        log(moved.mean() + 0.1),
        log(np.quantile(moved, 0.9) + 0.1),
        stays.mean(),
        (runs.max() - 1) / len(moved),
        log(moved.std() + 0.1),
        _at_edges(dx, 8),
        _at_edges(dx, 4),
        luma_THW.mean() / 255,
    ]
    shown = np.linspace(0, len(luma_THW) - 1, BRISQUE_FRAMES).round().astype(int)
    values += np.mean([brisque_features(luma_THW[i]) for i in shown], axis=0).tolist()
    return json.dumps([float(value) for value in values]).encode()


def _at_edges(dx: np.ndarray, side: int) -> float:
    columns = np.arange(1, dx.shape[2] + 1)
    edge = columns % side == 0
    return float((np.abs(dx[:, :, edge]).mean() + 0.1) / (np.abs(dx[:, :, ~edge]).mean() + 0.1))


def fit(entries: Sequence[Entry], features: np.ndarray) -> dict[str, Predict]:
    """Each predictor, with what it takes from the training side."""
    labels = np.array([entry["label"] for entry in entries])
    fold = _folds([entry["content"] for entry in entries])
    own = len(FEATURES)
    ridge = _ridge(features[:, :own], labels, fold)
    brisque = _kernel_ridge(features[:, own:], labels, fold)
    return {
        "file size": lambda clips, _: np.array([clip["num_bytes"] for clip in clips]),
        "sharpness": lambda _, given: given[:, SHARPNESS],
        "ridge on pixel features": lambda _, given: ridge(given[:, :own]),
        "BRISQUE's features": lambda _, given: brisque(given[:, own:]),
        "condition known": _mean_of("condition", entries),
        "word known": _mean_of("word", entries),
    }


def _mean_of(key: str, entries: Sequence[Entry]) -> Predict:
    groups: dict[str, list[float]] = defaultdict(list)
    for entry in entries:
        groups[entry[key]].append(entry["label"])
    means = {name: float(np.mean(labels)) for name, labels in groups.items()}
    return lambda clips, _: np.array([means[clip[key]] for clip in clips])


def _folds(contents: Sequence[str]) -> np.ndarray:
    """A fold for each clip, the same for all of a shot."""
    shots = np.unique(contents, return_inverse=True)[1]
    return np.random.default_rng(0).integers(FOLDS, size=shots.max() + 1)[shots]


def _kernel_ridge(
    features: np.ndarray, labels: np.ndarray, fold: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares with a penalty on a Gaussian kernel of features scaled to -1..1; width and
    penalty are the best on shots left out."""
    low, high = features.min(0), features.max(0)

    def scaled(given: np.ndarray) -> np.ndarray:
        return np.clip(2 * (given - low) / (high - low + 1e-9) - 1, -2, 2)

    x, mean = scaled(features), labels.mean()
    squared = cdist(x, x, "sqeuclidean")

    def error(width: float, strength: float) -> float:
        kernel, total = np.exp(-width * squared), 0.0
        for f in range(FOLDS):
            ours, rest = fold == f, fold != f
            inner = kernel[np.ix_(rest, rest)] + strength * np.eye(rest.sum())
            weights = linalg.solve(inner, labels[rest] - mean, assume_a="pos")
            total += np.sum((kernel[np.ix_(ours, rest)] @ weights + mean - labels[ours]) ** 2)
        return total

    grid = [(width, strength) for width in WIDTHS for strength in np.logspace(-3, 0, 4)]
    width, strength = min(grid, key=lambda pair: error(*pair))
    kernel = np.exp(-width * squared) + strength * np.eye(len(x))
    weights = linalg.solve(kernel, labels - mean, assume_a="pos")
    return lambda given: np.exp(-width * cdist(scaled(given), x, "sqeuclidean")) @ weights + mean


def _ridge(
    features: np.ndarray, labels: np.ndarray, fold: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares with a penalty on standardised features and their products of two; the penalty
    is the best of `STRENGTHS` on shots left out."""
    mean, deviation = features.mean(0), features.std(0) + 1e-9
    pairs = list(combinations_with_replacement(range(features.shape[1]), 2))

    def expanded(given: np.ndarray) -> np.ndarray:
        z = np.clip((given - mean) / deviation, -4, 4)
        return np.concatenate([z, np.stack([z[:, i] * z[:, j] for i, j in pairs], 1)], 1)

    x = expanded(features)
    shift, scale = x.mean(0), x.std(0) + 1e-9
    x = (x - shift) / scale
    errors = [
        sum(
            np.sum(
                (
                    _solved(x[fold != f], labels[fold != f], strength)(x[fold == f])
                    - labels[fold == f]
                )
                ** 2
            )
            for f in range(FOLDS)
        )
        for strength in STRENGTHS
    ]
    solved = _solved(x, labels, STRENGTHS[int(np.argmin(errors))])
    return lambda given: solved((expanded(given) - shift) / scale)


def _solved(
    x: np.ndarray, labels: np.ndarray, strength: float
) -> Callable[[np.ndarray], np.ndarray]:
    mean = labels.mean()
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (labels - mean))
    return lambda given: given @ weights + mean


def judge(
    entries: Sequence[Entry], features: np.ndarray, predictors: dict[str, Predict]
) -> dict[str, Any]:
    """SRCC of each predictor, with its interval by shot, of all clips and of each word's."""
    labels = np.array([entry["label"] for entry in entries])
    contents = np.array([entry["content"] for entry in entries])
    words = np.array([entry["word"] for entry in entries])
    parts = {"all": np.full(len(entries), True)}
    parts |= {
        word: words == word
        for word in dict.fromkeys(words.tolist())
        if (words == word).sum() >= MIN_CLIPS
    }
    found: dict[str, Any] = {
        "num_clips": {name: int(part.sum()) for name, part in parts.items()},
        "num_shots": len(set(contents.tolist())),
        "srcc": {},
    }
    for name, predict in predictors.items():
        predicted = predict(entries, features)
        found["srcc"][name] = {
            part: _figure(predicted[chosen], labels[chosen], contents[chosen])
            for part, chosen in parts.items()
        }
    return found


def _figure(predicted: np.ndarray, labels: np.ndarray, contents: np.ndarray) -> dict[str, Any]:
    figure = evaluate_scores(
        predicted.tolist(), labels.tolist(), contents.tolist(), len(labels), num_resamples=1000
    ).srcc
    values = asdict(figure)
    return {
        key: None if values[key] is None else round(values[key], 4)
        for key in ("value", "ci_low", "ci_high")
    }


def table(found: dict[str, Any]) -> str:
    """A block a set, a line a predictor."""
    lines = []
    for name, one in found["sets"].items():
        counts = one["num_clips"]
        lines.append(f"{name}: {counts['all']} held-out clips of {one['num_shots']} shots; SRCC")
        lines.append(" " * 26 + "".join(f"{f'{p} ({n})':>22}" for p, n in counts.items()))
        for predictor, figures in one["srcc"].items():
            cells = "".join(f"{_cell(figure):>22}" for figure in figures.values())
            lines.append(f"  {predictor:24}{cells}")
    return "\n".join(lines)


def _cell(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["ci_low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['ci_low']:.2f}, {figure['ci_high']:.2f}]"


if __name__ == "__main__":
    main()
