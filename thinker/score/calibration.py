"""How sure a score is: an interval that holds the truth of 90 in 100 media, and a warning for media
unlike those that it was measured on.

In: scores of labelled examples that the policy was not trained on, and features of their media
(`thinker.eval.calibrate` makes them). Out: a `Calibration`, one file a data set and mode beside the
policy's weights, and what it adds to a row.

The interval is the score ± a quantile of |score - target| over the calibration set: split conformal
prediction (Vovk et al. 2005; Lei et al., JASA 2018). Versions of one content resemble each other,
so contents count, not examples: each content has the same weight, whatever the number of its
versions (Lee, Barber and Willett, arXiv 2306.06342). It holds for media like those of the
calibration set, and on average over them, not for every kind of them.

The warning is a p-value: how many media of the calibration set lie as far out as this one does.
The distance is Mahalanobis', of the mean and deviation of the embeddings that the policy makes of
the media (Lee et al., arXiv 1807.03888); its p-value is conformal (Bates et al., arXiv 2104.08279).

Shapes: N media of the calibration set, S tokens of a medium, D width, F = 2·D features.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from thinker.policies.digest import model_digest
from thinker.prompts import Turn
from thinker.score.prediction import Prediction
from thinker.utils.atomic import write_atomic

logger = logging.getLogger(__name__)

FOLDER = "calibration"
"""Below the policy's folder. The digest of a policy counts no files of folders below its own."""

MISS = 0.1
"""Share of media whose truth may lie outside of the interval."""

UNLIKE = 0.05
"""Below this p-value media are called unlike: of media like the calibration set one in twenty."""

NUM_FOLDS = 10
"""Parts of a set that are held against the others in turn."""

MAX_MEDIA = 500
"""So many media of a set are kept: their axes take 14 MB where D is 3584."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


# intervals


def content_weights(contents: Sequence[str]) -> Floats:
    """Weights (N,) by which examples count: K contents have 1 / (K + 1) each, shared by their
    examples. The rest, 1 / (K + 1), is the weight of what is asked next.

    >>> content_weights(["a", "a", "b"]).round(3).tolist()
    [0.167, 0.167, 0.333]
    """
    names, codes, counts = np.unique(list(contents), return_inverse=True, return_counts=True)
    return 1.0 / ((len(names) + 1) * counts[codes])


def radius(errors: Floats, contents: Sequence[str], miss: float = MISS) -> float:
    """The smallest r such that errors of at most r weigh 1 - `miss` or more; infinity where there
    are too few contents for that.

    errors: |score - target| of each example.

    Nine contents of one example each, errors 1 to 9: each weighs .1, so all nine are needed for
    .9.

    >>> radius(np.arange(1.0, 10.0), list("abcdefghi"))
    9.0
    >>> radius(np.arange(1.0, 9.0), list("abcdefgh"))
    inf
    """
    order = np.argsort(errors, kind="stable")
    reached = np.cumsum(content_weights(contents)[order])
    place = np.searchsorted(reached, 1 - miss - 1e-9)  # ten weights of .1 sum to a little less
    return float(errors[order[place]]) if place < len(order) else float("inf")


# likeness


def media_features(embeds_SD: torch.Tensor) -> torch.Tensor:
    """What a medium's embeddings are like, float32 (2·D,) on the CPU: their mean over all visual
    and motion tokens, and their standard deviation. The policy computes the embeddings anyway."""
    embeds = embeds_SD.float()
    return torch.cat([embeds.mean(0), embeds.std(0, correction=0)]).cpu()


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A Gaussian cloud of media: how far a medium lies from its centre, by Mahalanobis."""

    centre_F: torch.Tensor
    """Mean of the features."""
    scale_F: torch.Tensor
    """Their standard deviation; 1 where they are all equal."""
    axes_RF: torch.Tensor
    """Principal axes of the features less the mean, by the deviation; R is less than N."""
    variances_R: torch.Tensor
    """Variance along each of them, shrunk."""
    rest: torch.Tensor
    """Variance across all of them, a scalar above 0."""

    def distances(self, features_NF: torch.Tensor) -> torch.Tensor:
        """Squared Mahalanobis distances (N,), float64."""
        points = ((features_NF - self.centre_F) / self.scale_F).double()
        along_NR = points @ self.axes_RF.double().T
        across = (points.square().sum(1) - along_NR.square().sum(1)).clamp(min=0)
        return (along_NR.square() / self.variances_R).sum(1) + across / self.rest


def cloud(features_NF: torch.Tensor) -> Cloud:
    """That of a set of media. Its covariance S is shrunk to (1 - λ)·S + λ·μ·I, where μ is the mean
    variance and λ that of Ledoit and Wolf (J. Multivariate Analysis 88, 2004): there are often
    fewer media than features. All is computed from N x N products."""
    centre, scale = features_NF.mean(0), features_NF.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    points = ((features_NF - centre) / scale).double()
    num, width = points.shape
    gram_NN = points @ points.T / num
    mean_variance, squares = gram_NN.trace() / width, gram_NN.square().sum()
    off = (squares / width - mean_variance**2).clamp(min=1e-12)  # ‖S - μI‖² / F
    noise = (num * gram_NN.diagonal().square().sum() - squares) / num / width
    shrinkage = (noise / off).clamp(1e-3, 1.0)
    variances, sides_NR = torch.linalg.eigh(gram_NN)  # those of S, which is F x F, too
    kept = variances > 1e-10 * variances.max()
    axes = sides_NR[:, kept].T @ points / (num * variances[kept, None]).sqrt()
    rest = (shrinkage * mean_variance).clamp(min=1e-12)
    return Cloud(
        centre_F=centre,
        scale_F=scale,
        axes_RF=axes.float(),
        variances_R=(1 - shrinkage) * variances[kept] + rest,
        rest=rest,
    )


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """The media of a calibration set, which another one resembles or not."""

    cloud: Cloud
    """Of all media."""
    distances_N: torch.Tensor
    """Of each from a cloud of media of other contents."""
    weights_N: torch.Tensor
    """See `content_weights`, float64."""

    def p_value(self, features_F: torch.Tensor) -> float:
        """1 / (K + 1) to 1: the weight of the media of the set that lie at least as far out as this
        one, and its own."""
        distance = self.cloud.distances(features_F[None])
        farther = self.weights_N[self.distances_N >= distance].sum().item()
        return min(1.0, farther + 1.0 - self.weights_N.sum().item())


def likeness_of(features_NF: torch.Tensor, contents: Sequence[str]) -> Likeness:
    """That of a set; of more than `MAX_MEDIA`, of some that are drawn with seed 0. Each medium is
    held against the cloud of the `NUM_FOLDS` - 1 parts of the contents that it is not of."""
    draw = np.random.default_rng(0)
    if len(features_NF) > MAX_MEDIA:
        kept = np.sort(draw.permutation(len(features_NF))[:MAX_MEDIA])
        features_NF, contents = features_NF[kept], [contents[i] for i in kept]
    names, codes = np.unique(list(contents), return_inverse=True)
    folds_N = torch.from_numpy((draw.permutation(len(names)) % NUM_FOLDS)[codes])
    distances = torch.empty(len(features_NF), dtype=torch.float64)
    for fold in folds_N.unique():
        own = folds_N == fold
        distances[own] = cloud(features_NF[~own]).distances(features_NF[own])
    return Likeness(
        cloud=cloud(features_NF),
        distances_N=distances,
        weights_N=torch.from_numpy(content_weights(contents)),
    )


# the file


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All of a calibration but what its media are like."""

    dataset: str
    """Key of the calibration set."""
    mode: str
    """Of the scorer."""
    policy: str
    """Digest of the policy's weights and settings (`thinker.policies.digest`)."""
    num_samples: int
    """Rollouts of mode "sample"; 0 in other modes."""
    question: str
    """What is asked, as JSON turns; "[]" is the policy's own scoring question."""
    num_examples: int
    """Examples with a score, which the interval is made of."""
    num_left_out: int
    """Examples without one."""
    num_contents: int
    """Contents of the examples with a score."""
    miss: float
    """Share of media that the interval may miss."""
    radius: float
    """Half of the interval's width, on the answer scale."""
    lowest: float
    """The lowest target that the set's scale can express, on the answer scale."""
    highest: float
    """The highest one."""
    coverage: tuple[float, ...]
    """Share of targets that the interval held, in each of the splits of contents in halves: it was
    made of one half, and tried on the other."""
    false_warnings: tuple[float, ...]
    """Share of media of the other half that were called unlike, in each split."""
    range_coverage: float | None = None
    """Share of targets inside the range of the answers; None in a mode without one."""

    def __post_init__(self) -> None:
        numbers = (self.radius, self.miss, self.lowest, self.highest)
        if not all(isinstance(one, int | float) and np.isfinite(one) for one in numbers):
            raise ValueError("radius, miss, lowest and highest are to be finite numbers")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What one data set says of a policy's scores in one mode."""

    facts: Facts
    """Numbers and settings."""
    likeness: Likeness
    """The media of the set."""

    def applied(self, row: Prediction, question: str, embeds_SD: torch.Tensor) -> Prediction:
        """The row with its interval and likeness; as it is where it has no score, or where another
        question was asked. embeds_SD: of its media."""
        facts = self.facts
        if row.score is None or row.task != "score" or question != facts.question:
            return row
        likeness = self.likeness.p_value(media_features(embeds_SD))
        notes = [row.note] if row.note else []
        if likeness < UNLIKE:
            notes.append(
                f"the media are unlike those of the calibration set {facts.dataset} "
                f"(p = {likeness:.3f}), so the interval may not hold"
            )
        low = max(row.score - facts.radius, facts.lowest)
        high = min(row.score + facts.radius, facts.highest)
        return replace(
            row,
            interval=(min(low, row.score), max(high, row.score)),
            likeness=likeness,
            calibrated_on=facts.dataset,
            note="; ".join(notes) or None,
        )


def question_text(turns: Sequence[Turn]) -> str:
    """What is asked, as it stands in `Facts`. No turns: "[]"."""
    return json.dumps([[turn.role, turn.text] for turn in turns])


def calibration_path(policy: Path, dataset: str, mode: str) -> Path:
    """Example: `calibration_path(Path("p"), "konvid_1k", "level")` is
    `p/calibration/konvid_1k.level.safetensors`."""
    return policy / FOLDER / f"{dataset}.{mode}.safetensors"


def save_calibration(policy: Path, calibration: Calibration) -> Path:
    """Write it beside the policy in place of an older one; returns where."""
    facts = calibration.facts
    path = calibration_path(policy, facts.dataset, facts.mode)
    path.parent.mkdir(exist_ok=True)
    tensors = vars(calibration.likeness) | vars(calibration.likeness.cloud)
    del tensors["cloud"]
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(content, metadata={"facts": json.dumps(asdict(facts))}))
    return path


def load_calibration(policy: Path, dataset: str, mode: str) -> Calibration:
    """Read what `save_calibration` wrote. Raises ValueError where there is none, naming those that
    there are, and for a file that is none."""
    path = calibration_path(policy, dataset, mode)
    if not path.is_file():
        there = ", ".join(calibrated_sets(policy, mode)) or "none"
        raise ValueError(
            f"there is no calibration of {policy} in mode {mode} by {dataset!r}; there are: "
            f"{there}. Make it with thinker calibrate"
        )
    try:
        with safe_open(path, framework="pt") as file:
            raw: dict[str, Any] = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        by_split = {name: tuple(raw[name]) for name in ("coverage", "false_warnings")}
        facts = Facts(**raw | by_split)
        points = {name: tensors.pop(name) for name in ("distances_N", "weights_N")}
        likeness = Likeness(cloud=Cloud(**tensors), **points)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no calibration: {error}; make it anew") from None
    return Calibration(facts=facts, likeness=likeness)


def calibrated_sets(policy: Path, mode: str) -> list[str]:
    """Keys of the data sets by which a policy is calibrated in a mode, in order."""
    ending = f".{mode}.safetensors"
    found = (policy / FOLDER).glob(f"*{ending}")
    return sorted(path.name.removesuffix(ending) for path in found)


def find_calibrations(
    policy: Path, wanted: str | None, modes: Sequence[str], num_samples: int
) -> dict[str, Calibration]:
    """By mode: the calibration by the data set that is wanted, or by the only one that there is.

    Raises ValueError where the wanted one was made of other weights, or of another number of
    samples. One that nobody named is left out then, with a warning.
    """
    found = {mode: calibrated_sets(policy, mode) for mode in modes}
    keys = {key for sets in found.values() for key in sets}
    if wanted is None and len(keys) > 1:
        names = ", ".join(sorted(keys))
        logger.info("calibrated by %s; name one of them to get intervals (--calibration)", names)
        return {}
    usable, digest = {}, model_digest(str(policy), None) if keys else ""
    for mode in [mode for mode in modes if set(found[mode]) & ({wanted} if wanted else keys)]:
        calibration = load_calibration(policy, wanted or found[mode][0], mode)
        facts = calibration.facts
        problem = ""
        if facts.policy != digest:
            problem = "of other weights or settings of the policy"
        elif mode == "sample" and facts.num_samples != num_samples:
            problem = f"of {facts.num_samples} samples, not of {num_samples}"
        if not problem:
            usable[mode] = calibration
            continue
        path = calibration_path(policy, facts.dataset, mode)
        message = f"{path} was made {problem}; make it anew with thinker calibrate"
        if wanted is not None:
            raise ValueError(message)
        logger.warning("%s. Scores have no interval", message)
    return usable
