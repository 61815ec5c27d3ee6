"""Pictures of an evaluation, as PNG bytes: predictions against labels, error by label, lengths."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from thinker.eval.metrics import fit_logistic

NUM_BINS = 10
MIN_IN_BIN = 3
"""A mean of fewer is noise."""
BLUE, ORANGE, GREY = "#2f6fb0", "#d9822b", "#9aa3ad"
DPI = 110


def scatter(predicted: Sequence[float], labels: Sequence[float], label_name: str) -> bytes:
    """Every video, and the 4-parameter logistic from prediction to label. label_name: "MOS"."""
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    alpha = float(np.clip(60 / max(len(labels), 1) ** 0.5 / 10, 0.12, 0.8))
    axis.scatter(predicted, labels, s=12, alpha=alpha, color=BLUE, edgecolors="none")
    mapping = fit_logistic(predicted, labels)
    if not isinstance(mapping, str):
        line = np.linspace(min(predicted), max(predicted), 200)
        axis.plot(line, mapping(line), color=ORANGE, label="fitted logistic")
        axis.legend(loc="upper left", frameon=False)
    axis.set(title=f"Prediction and {label_name}", xlabel="predicted", ylabel=label_name)
    return png(figure)


def error_by_label(predicted: Sequence[float], labels: Sequence[float], label_name: str) -> bytes:
    """Mean error and mean absolute error, predicted - label, in ten equal bins of the label."""
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    x, error = np.asarray(labels, dtype=float), np.subtract(predicted, labels)
    edges = np.linspace(x.min(), x.max(), NUM_BINS + 1)
    place = np.clip(np.digitize(x, edges) - 1, 0, NUM_BINS - 1)
    bins = [i for i in range(NUM_BINS) if (place == i).sum() >= MIN_IN_BIN]
    centres = [(edges[i] + edges[i + 1]) / 2 for i in bins]
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.plot(centres, [error[place == i].mean() for i in bins], "o-", color=BLUE, label="mean")
    axis.plot(
        centres, [np.abs(error[place == i]).mean() for i in bins], "s--", color=ORANGE,
        label="mean absolute",
    )  # fmt: skip
    if bins:
        axis.legend(frameon=False)
    else:
        note = f"no bin holds {MIN_IN_BIN} videos"
        axis.text(0.5, 0.6, note, transform=axis.transAxes, ha="center", color=GREY)
    axis.set(title=f"Error by {label_name}", xlabel=label_name, ylabel=f"predicted - {label_name}")
    return png(figure)


def lengths(num_tokens: dict[str, Sequence[float]]) -> bytes:
    """Histogram of answer lengths in tokens, one outline a set."""
    figure, axis = plt.subplots(figsize=(9.4, 3.2))
    longest = max(max(values) for values in num_tokens.values())
    for name, values in num_tokens.items():
        axis.hist(values, bins=40, range=(0, longest * 1.02), histtype="step", label=name)
    axis.legend(frameon=False, fontsize=8)
    axis.set(xlabel="tokens of an answer", ylabel="answers")
    return png(figure)


def shares(bars: Sequence[tuple[str, Mapping[str, Any]]]) -> bytes:
    """Accuracy of each (label, `MetricResult` as a dict), with its interval; the first on top."""
    figure, axis = plt.subplots(figsize=(7.2, 0.9 + 0.34 * len(bars)))
    for place, (_, result) in enumerate(bars):
        if result["value"] is None:
            continue
        axis.barh(place, result["value"], height=0.6, color=BLUE, alpha=0.75)
        if result["ci_low"] is not None:
            axis.plot([result["ci_low"], result["ci_high"]], [place] * 2, color=ORANGE, lw=2)
        axis.text(1.02, place, f"n = {result['n']}", va="center", fontsize=8)
    axis.set(xlim=(0, 1), xlabel="accuracy, with its 95 % interval", ylim=(len(bars) - 0.5, -0.5))
    axis.set_yticks(range(len(bars)), [_short(label) for label, _ in bars], fontsize=8)
    return png(figure)


def _short(label: str) -> str:
    """A label that fits beside its bar; what a dollar sign encloses would be set as mathematics."""
    shown = label if len(label) <= 40 else f"{label[:39]}…"
    return shown.replace("$", r"\$")


def strip(frames_KCHW: np.ndarray) -> bytes:
    """Keyframes side by side."""
    picture = np.concatenate(list(frames_KCHW.transpose(0, 2, 3, 1)), axis=1)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def by_condition(values: Mapping[str, Mapping[int, float]], name: str) -> bytes:
    """A figure of repeated runs by condition and seed: one point a run, a line joining those of one
    seed, and the mean of each condition."""
    figure, axis = plt.subplots(figsize=(max(4.6, 1.5 * len(values)), 3.6))
    places = {condition: place for place, condition in enumerate(values)}
    for seed in sorted({seed for of_seed in values.values() for seed in of_seed}):
        points = [(places[c], of_seed[seed]) for c, of_seed in values.items() if seed in of_seed]
        axis.plot(*zip(*points, strict=True), "o-", color=BLUE, alpha=0.5, linewidth=0.8)
    for condition, of_seed in values.items():
        if of_seed:
            mean = float(np.mean(list(of_seed.values())))
            axis.plot(places[condition], mean, "_", color=ORANGE, markersize=26, markeredgewidth=3)
    axis.set(title=f"{name}: one point a seed, mean", xlim=(-0.5, len(values) - 0.5))
    axis.set_xticks(list(places.values()), list(places), rotation=20, ha="right")
    return png(figure)


def png(figure: Figure) -> bytes:
    """The figure in the style of every picture here, as a file's bytes; it is closed."""
    for axis in figure.axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    out = io.BytesIO()
    # Without the date and version that matplotlib adds, the same data give the same bytes.
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()
