"""What ranking and temporal rewards cost: ours, and the reference's loop over pairs.

The loop is written from the formulas of the published VQAThinker (docstrings of `rewards.ranking`
and `rewards.temporal`): a Python loop over every pair of a rollout and another video, small tensors
inside, statistics computed again for every pair. It runs in float64, because the square root near 0
turns float32's 6e-8 into 3e-5. Both get the same texts; ours includes parsing them, the loop gets
the parsed answers. Values must agree to 1e-6 before anything is timed.

    python benchmarks/reward_cost.py --rollouts 32 128 512 --out benchmarks/reward_cost.jsonl
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from rewards import build_reward

GROUP = 8
TOLERANCE = 1e-6
NORMAL = torch.distributions.Normal(
    torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
)


def reference_ranking(answers: list[float], target: list[float]) -> list[float]:
    """Pairwise ranking reward by loops; rollouts of a video stand together, `GROUP` each."""
    videos = [
        torch.tensor(answers[i : i + GROUP], dtype=torch.float64)
        for i in range(0, len(answers), GROUP)
    ]
    labels = target[::GROUP]
    rewards = []
    for i, own in enumerate(videos):
        for answer in own:
            fidelities = []
            for z, other in enumerate(videos):
                if z == i:
                    continue
                spread = torch.sqrt(own.var() + other.var() + 1e-6)
                p = NORMAL.cdf((answer - other.mean()) / spread)
                g = 1.0 if labels[i] > labels[z] else 0.0 if labels[i] < labels[z] else 0.5
                fidelities.append(torch.sqrt(p * g + 1e-6) + torch.sqrt((1 - p) * (1 - g) + 1e-6))
            rewards.append(torch.stack(fidelities).mean().item())
    return rewards


def reference_regression(answers: list[float], target: list[float]) -> list[float]:
    """The bell of every rollout, sigma 0.5; all answers here have two decimals and no final 0."""
    return [
        torch.exp(-((torch.tensor(a, dtype=torch.float64) - y) ** 2) / (2 * 0.5**2)).item()
        for a, y in zip(answers, target, strict=True)
    ]


def reference_temporal(answers: list[float], perturbed: list[float], target: list[float]):
    """The published rule (`rule: parity`): batch means, thresholds 0.5 and 0.9, 0.3 each."""
    totals = [0.0] * len(answers)
    for function, threshold in ((reference_ranking, 0.5), (reference_regression, 0.9)):
        true, other = function(answers, target), function(perturbed, target)
        if sum(true) / len(true) >= sum(other) / len(other):
            totals = [t + 0.3 * (v > threshold) for t, v in zip(totals, true, strict=True)]
    return totals


def draw(num_rollouts: int):
    """Answers in 1..5 around the label, two decimals, the second not 0."""
    random_ = random.Random(num_rollouts)
    target = [random_.uniform(1, 5) for _ in range(num_rollouts // GROUP)]
    target = [y for y in target for _ in range(GROUP)]

    def answers(width):
        drawn = [min(4.99, max(1.01, random_.gauss(y, width))) for y in target]
        return [int(a * 10) / 10 + random_.randint(1, 9) / 100 for a in drawn]

    return [round(a, 2) for a in answers(0.4)], [round(a, 2) for a in answers(0.9)], target


def text(answer: float) -> str:
    return f"<think>It is blur.</think><answer>{answer:.2f}</answer>"


def seconds(function: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def measure(num_rollouts: int, repeats: int) -> dict:
    answers, perturbed, target = draw(num_rollouts)
    texts, others = [text(a) for a in answers], [text(a) for a in perturbed]
    ids = [str(i // GROUP) for i in range(num_rollouts)]
    ranking, temporal = build_reward("ranking"), build_reward("temporal", {"rule": "parity"})
    ways = {
        "ranking": (
            lambda: ranking(texts, ids, target),
            lambda: reference_ranking(answers, target),
        ),
        "temporal": (
            lambda: temporal(texts, ids, target, perturbed_completions=others),
            lambda: reference_temporal(answers, perturbed, target),
        ),
    }
    record: dict = {"rollouts": num_rollouts, "group": GROUP, "repeats": repeats}
    for name, (ours, loop) in ways.items():
        gap = max(abs(a - b) for a, b in zip(ours(), loop(), strict=True))
        if gap > TOLERANCE:
            raise AssertionError(f"{name}: values differ by {gap}, allowed {TOLERANCE}")
        record[name] = {
            "gap": gap,
            "seconds": seconds(ours, max(repeats, 5)),
            "loop_seconds": seconds(loop, repeats),
        }
    packages = ("torch", "numpy")
    record["versions"] = {"python": platform.python_version()} | {p: version(p) for p in packages}
    return record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Cost of the ranking and temporal rewards.")
    parser.add_argument("--rollouts", type=int, nargs="+", default=[32, 128, 512, 2048])
    parser.add_argument("--repeats", type=int, default=1, help="of the loop, which is slow")
    parser.add_argument("--out", type=Path, help="jsonl file to append the records to")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for count in args.rollouts:
        record = measure(count, args.repeats)
        line = json.dumps(record)
        print(line)
        if args.out is not None:
            with open(args.out, "a", encoding="utf-8") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
