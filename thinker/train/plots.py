"""Pictures of a training run: reward, answers and held-out correlation over steps, one PNG."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

REWARD = "rewards/{}/mean"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plot_curves(metrics: list[dict[str, Any]], summary: dict[str, Any], path: Path) -> None:
    """Write `curves.png`: mean rewards, validity and entropy of answers, held-out SRCC and PLCC; of
    a run without rewards the loss in place of the first two.

    metrics: lines of `metrics.jsonl`. summary: needs `srcc_before`, `srcc_after`, `plcc_…` and
    `steps`; the held-out panel shows them and every evaluation in between.
    """
    figure, (rewards, answers, held_out) = plt.subplots(1, 3, figsize=(13, 3.8))
    names = sorted({key.split("/")[1] for line in metrics for key in line if _is_reward(key)})
    for name in names:
        _draw(rewards, metrics, REWARD.format(name), name)
    rewards.set(title="mean reward on training videos", xlabel="step")
    if not names:
        _draw(rewards, metrics, "loss", "loss")
        rewards.set(title="loss of the supervised stages", ylim=(0, None))
        answers.set_visible(False)
    _draw(answers, metrics, "answers/valid_share", "share of valid answers")
    _draw(answers, metrics, "entropy", "token entropy (nats)")
    answers.set(title="answers", xlabel="step", ylim=(0, None))
    for name, marker in (("srcc", "o"), ("plcc", "s")):
        points = [(0, summary[f"{name}_before"])]
        points += [(m["step"], m[f"eval_{name}"]) for m in metrics if f"eval_{name}" in m]
        points += [(summary["steps"], summary[f"{name}_after"])]
        points = [(step, value) for step, value in points if value is not None]
        held_out.plot(*zip(*points, strict=True), marker=marker, label=name.upper())
    title = f"{summary['num_eval']} held-out videos"
    held_out.set(title=title, xlabel="step", ylim=(min(0, held_out.get_ylim()[0]), 1))
    held_out.set_xlim(left=0)
    for axis in (rewards, answers, held_out):
        if axis.lines:  # none where no figure is defined, as in the smoke run
            axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _is_reward(key: str) -> bool:
    return key.startswith("rewards/") and key.endswith("/mean")


def _draw(axis, metrics: list[dict[str, Any]], key: str, label: str) -> None:
    points = [(m["step"], m[key]) for m in metrics if m.get(key) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), label=label)
