"""Does `thinker plan`'s simulation say how long real steps take? Predicted against measured.

Real GRPO runs of a small policy (plan_worker.py), one thread a process, on one and two processes
over gloo. From two settings on one process the seconds of every part of a step are fitted: linear
functions of the FLOPs that `thinker.policies.cost` counts, of tokens drawn and of cached tokens
that they read, of videos. The seconds of a part are skewed, so a median step takes longer than the
medians of its parts together: how much longer in the fitted settings multiplies every prediction.
What two processes cost each other by sharing a machine is measured by two runs side by side that do
not know of each other, what they send by summing as many bytes over gloo. Then the simulation of
`thinker.plan.simulate` predicts the median step of settings that were not fitted, on one and two
processes, and the measured one stands beside it.

Before that two gates: the FLOPs of the formulas are those that the runs counted, and the bytes of
gradients those that DDP says it reduces. Launches and settings alternate, first steps are dropped.
Nothing fails where a prediction is far off: the record says by how much.

    OMP_NUM_THREADS=1 python benchmarks/plan.py --output benchmarks/plan.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from inference_sides import environment
from plan_worker import FRAMES, Setting, benchmark_policy
from scipy.optimize import nnls

from thinker.plan.simulate import Outcome, Work, simulate
from thinker.plan.step import Decoding
from thinker.policies.cost import StepSize, VideoTokens, motion_flops, video_flops

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers import launch

WORKER = Path(__file__).parent / "plan_worker.py"
DROPPED = 2
"""Steps at the start of a run, which load code and fill caches."""

PASSES = 2
"""Runs of each setting in a launch, in turns, so that slow minutes of the machine meet all."""

FITTED = {"small": (2, 2, 12), "large": (4, 4, 32)}
"""Videos of a process, G, mean length."""
ALONE = {"more completions": (2, 8, 24), "longer completions": (4, 2, 64), "videos": (6, 4, 24)}
TOGETHER = {
    "two processes": (2, 4, 32),
    "two processes, more completions": (2, 8, 24),
    "two processes, longer completions": (4, 2, 48),
}


def setting(numbers: tuple[int, int, int], processes: int, steps: int, seed: int) -> Setting:
    """Lengths are drawn for each step and process, from half the mean to one and a half."""
    videos, group, mean = numbers
    draw = np.random.default_rng(seed)
    lengths = draw.integers(mean // 2, mean + mean // 2 + 1, (steps, processes))
    return Setting(videos=videos, group=group, lengths=lengths.tolist())


# Measuring


class Bench:
    """Launches of the worker. Each gives its result: runs by setting, see plan_worker.py."""

    def __init__(self, folder: Path):
        self.folder, self.number = folder, 0

    def launch(self, settings: dict[str, Setting], processes: int = 1, **more: Any) -> Any:
        """Start; call what comes back for the result."""
        self.number += 1
        job, result = (self.folder / f"{kind}-{self.number}.json" for kind in ("job", "result"))
        described = {name: vars(one) for name, one in settings.items()}
        job.write_text(json.dumps({"settings": described, "result": str(result), **more}))
        command = [sys.executable, str(WORKER), str(job)]
        if processes > 1:
            command[1:1] = [
                "-m", "torch.distributed.run", "--nnodes=1", f"--nproc_per_node={processes}",
                "--master_addr=127.0.0.1", f"--master_port={launch.free_port()}",
            ]  # fmt: skip
        started = subprocess.Popen(
            command,
            env=launch.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

        def finished() -> dict[str, Any]:
            _, errors = started.communicate()
            if started.returncode:
                raise RuntimeError(f"a measured run failed:\n{errors[-3000:]}")
            return json.loads(result.read_text())

        return finished


def measure(steps: int, rounds: int) -> dict[str, Any]:
    """All runs: by kind and setting, a list of steps with their seconds and counters."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {"alone": {}, "pair": {}, "together": {}}
    reduced, sizes = [], set()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        for round_ in range(rounds):
            settings = in_turn(FITTED | ALONE, 1, steps, round_)
            gather(found["alone"], bench.launch(settings)())
            meet = Path(name) / f"meet-{round_}"
            meet.mkdir()
            large = in_turn({"large": FITTED["large"]}, 1, steps, round_)
            pair = [bench.launch(large, meet=str(meet), number=n, of=2) for n in range(2)]
            for finished in pair:
                gather(found["pair"], finished())
            both = bench.launch(in_turn(TOGETHER, 2, steps, round_), processes=2)()
            gather(found["together"], both)
            reduced.append(both["all_reduce_seconds"])
            sizes |= {run["ddp_bytes"] for run in both["runs"].values()}
    [size] = sizes
    return {**found, "all_reduce_seconds": float(np.median(reduced)), "ddp_bytes": size}


def in_turn(settings, processes: int, steps: int, round_: int) -> dict[str, Setting]:
    """Runs of a launch, by setting and pass, beginning with another one in each round."""
    names = list(settings)
    first = round_ % len(names)
    order = (names[first:] + names[:first]) * PASSES
    runs = {}
    for place, name in enumerate(order):
        turn = round_ * PASSES + place // len(names)
        runs[f"{name}#{turn}"] = setting(settings[name], processes, steps, turn)
    return runs


def gather(into: dict[str, list[dict[str, float]]], result: dict[str, Any]) -> None:
    """Steps that count."""
    for name, run in result["runs"].items():
        steps = zip(run["seconds"], run["counters"], strict=True)
        into.setdefault(name.partition("#")[0], []).extend(
            {"seconds": seconds, **counters} for seconds, counters in list(steps)[DROPPED:]
        )


# Predicting


class Sizes:
    """FLOPs of the worker's policy by the package's formulas."""

    def __init__(self, prompt: int):
        self.policy = benchmark_policy()
        backbone = self.policy.model.model
        visual = FRAMES * backbone.config.vision_config.image_size[0] ** 2
        patch = backbone.config.vision_config.patch_size[0] ** 2
        patches = visual // patch // FRAMES
        motion = backbone.motion.config.tokens_per_frame * FRAMES
        tokens = FRAMES * patches // backbone.patches_per_token
        self.tokens = VideoTokens(
            slots=FRAMES,
            patches=patches,
            visual=tokens,
            motion=motion,
            text=prompt - tokens - motion,
        )
        self.motion = motion_flops(backbone.motion.config)

    def of(self, group: int, length: int):
        """Of one video."""
        size = StepSize(num_keyframes=FRAMES, num_generations=group, completion_tokens=length)
        return video_flops(self.policy.model, self.tokens, size)


def features(sizes: Sizes, videos: int, group: int, length: int) -> dict[str, list[float]]:
    """What the seconds of each part of a step are linear in."""
    flops = sizes.of(group, length)
    cached = sizes.tokens.prompt + length / 2  # of each completion, in the mean of its tokens
    train = 3 * videos * (flops.encode + flops.logprobs)
    return {
        "data": [videos],
        "encode": [videos * flops.encode],
        "rollout": [
            1,
            length,
            videos * (flops.prefill + flops.decode),
            videos * group * length * cached,
        ],
        "rewards": [1],
        "train": [1, train],
        "rest": [1, videos * group * length],
    }


def fit(sizes: Sizes, measured: dict[str, list[dict[str, float]]]) -> dict[str, list[float]]:
    """Coefficients of each part, none below 0, of all steps of the fitted settings."""
    rows: dict[str, list[list[float]]] = {}
    for name, (videos, group, _) in FITTED.items():
        for step in measured[name]:
            length = round(step["completions/mean_length"])
            parts = seconds_of(step)
            for part, values in features(sizes, videos, group, length).items():
                rows.setdefault(part, []).append([*values, parts[part]])
    return {part: least_deviations(np.array(lines)) for part, lines in rows.items()}


def least_deviations(table: np.ndarray) -> list[float]:
    """Coefficients, none below 0, with the smallest sum of relative absolute errors, so that they
    speak of medians; by least squares whose weights are the inverse errors of the time before.
    table: (rows, inputs and then what they should give)."""
    inputs, given = table[:, :-1], table[:, -1]
    scale = inputs.max(axis=0)  # of like size, as the solver needs them
    size = np.maximum(given, 1e-4)
    weight = 1 / size
    for _ in range(30):
        solved, _ = nnls(inputs / scale * weight[:, None], given * weight)
        errors = np.abs(inputs / scale @ solved - given) / size
        weight = 1 / (size * np.sqrt(np.maximum(errors, 1e-3)))
    return (solved / scale).tolist()


def seconds_of(step: dict[str, float]) -> dict[str, float]:
    """Of the parts of a measured step."""
    parts = {
        name: step[f"seconds/{name}"] for name in ("data", "encode", "rollout", "rewards", "train")
    }
    return {**parts, "rest": max(0.0, step["seconds"] - sum(parts.values()))}


def predict(
    sizes: Sizes, rates: dict[str, list[float]], one: Setting, slowed: float, sums: float
) -> Outcome:
    """The simulation of a setting. slowed: what multiplies all seconds but those of `sums`, which
    are what summing the gradients takes."""
    lengths = np.array(one.lengths)  # (steps, processes)
    steps, processes = lengths.shape
    mean = round(lengths.mean())
    given = features(sizes, one.videos, one.group, mean)
    call, token, flop, read = (slowed * rate for rate in rates["rollout"])
    flops, longer = sizes.of(one.group, mean), sizes.of(one.group, mean + 1)
    engine = Decoding(
        prompt_seconds=flop * flops.prefill,
        token_seconds=token,
        sequence_seconds=flop * flops.decode / (one.group * mean)
        + read * (sizes.tokens.prompt + mean / 2),
        slots=float("inf"),
    )
    a_token = 3 * rates["train"][1] * (longer.logprobs - flops.logprobs) / one.group
    drawn = one.videos * one.group * mean
    train = sum(np.multiply(given["train"], rates["train"])) - a_token * drawn
    work = Work(
        data=slowed * given["data"][0] * rates["data"][0],
        before=slowed * given["encode"][0] * rates["encode"][0] + call,
        rewards=slowed * rates["rewards"][0],
        after=slowed * train,
        after_token=slowed * a_token,
        together=slowed * sum(np.multiply(given["rest"], rates["rest"])) + sums,
    )
    shape = (steps, processes, one.videos, one.group)
    return simulate(work, engine, np.broadcast_to(lengths[:, :, None, None], shape))


def predict_steps(
    sizes: Sizes,
    rates: dict[str, list[float]],
    numbers: tuple[int, int, int],
    processes: int,
    cost: tuple[float, float],
    runs: tuple[int, int],
) -> tuple[list[float], list[float]]:
    """Seconds of the steps that count, and the shares of waiting, of all runs of a setting.

    cost: `slowed` and `sums` of `predict`. runs: steps of one, and rounds."""
    steps, rounds = runs
    seconds, waiting = [], []
    for turn in range(rounds * PASSES):
        outcome = predict(sizes, rates, setting(numbers, processes, steps, turn), *cost)
        seconds += outcome.step_seconds[DROPPED:]
        waiting.append(outcome.waiting)
    return seconds, waiting


def skew_of(sizes: Sizes, rates, measured: dict[str, float], runs: tuple[int, int]) -> float:
    """Measured over predicted median steps of the fitted settings, in the mean."""
    ratios = []
    for name, numbers in FITTED.items():
        seconds, _ = predict_steps(sizes, rates, numbers, 1, (1.0, 0.0), runs)
        ratios.append(measured[name] / float(np.median(seconds)))
    return float(np.mean(ratios))


def check_counts(sizes: Sizes, found: dict[str, Any]) -> None:
    """Raises RuntimeError where formulas and counters differ."""
    for name, (videos, group, _) in (FITTED | ALONE).items():
        for step in found["alone"][name]:
            flops = sizes.of(group, round(step["completions/mean_length"]))
            expected = {
                "encode": videos * flops.encode,
                "rollout": videos * (flops.prefill + flops.decode),
                "train": 3 * videos * (flops.encode + flops.logprobs),
            }
            counted = {stage: step[f"flops/{stage}"] for stage in expected}
            if any(abs(counted[stage] / expected[stage] - 1) > 1e-6 for stage in expected):
                raise RuntimeError(f"{name}: FLOPs {expected} by formula, {counted} counted")
    sent = {step["bytes/gradients"] for name in TOGETHER for step in found["together"][name]}
    if sent != {2.0 * found["ddp_bytes"]}:  # two processes send the size of the gradients each
        raise RuntimeError(f"gradients: {sent} bytes counted, DDP reduces {found['ddp_bytes']}")


def compare(steps: int, rounds: int) -> dict[str, Any]:
    """The record."""
    found = measure(steps, rounds)
    first = found["alone"]["small"][0]
    sizes = Sizes(round(first["tokens/rollout/prompt"] / FITTED["small"][0]))
    check_counts(sizes, found)
    rates = fit(sizes, found["alone"])
    medians = {
        kind: {name: median_seconds(rows) for name, rows in found[kind].items()}
        for kind in ("alone", "pair", "together")
    }
    runs = steps, rounds
    skew = skew_of(sizes, rates, medians["alone"], runs)
    # Two processes on two cores cannot be faster than one: below 1 it is noise.
    slowed = max(1.0, medians["pair"]["large"] / medians["alone"]["large"])
    lines = []
    for kind, settings in (("alone", FITTED | ALONE), ("together", TOGETHER)):
        processes = 2 if kind == "together" else 1
        cost = (slowed * skew, found["all_reduce_seconds"]) if processes == 2 else (skew, 0.0)
        for name, numbers in settings.items():
            seconds, waiting = predict_steps(sizes, rates, numbers, processes, cost, runs)
            predicted, measured = float(np.median(seconds)), medians[kind][name]
            lines.append(
                {
                    "setting": name,
                    "processes": processes,
                    "videos": numbers[0],
                    "group": numbers[1],
                    "tokens": numbers[2],
                    "fitted": name in FITTED,
                    "predicted_seconds": round(predicted, 4),
                    "measured_seconds": round(measured, 4),
                    "error_percent": round(100 * (predicted / measured - 1), 1),
                    "waiting_percent": round(100 * float(np.mean(waiting)), 1),
                }
            )
    return {
        "settings": lines,
        "steps": steps,
        "rounds": rounds,
        "slowed_by_a_second_process": round(slowed, 3),
        "median_step_over_medians_of_parts": round(skew, 3),
        "all_reduce_seconds": found["all_reduce_seconds"],
        "gradient_bytes": found["ddp_bytes"],
        "rates": rates,
    }


def median_seconds(rows: list[dict[str, float]]) -> float:
    return float(np.median([row["seconds"] for row in rows]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8, help="of a run, the first two dropped")
    parser.add_argument("--rounds", type=int, default=2, help="of launches")
    parser.add_argument("--output", type=Path, help="JSON record")
    args = parser.parse_args()
    if args.steps <= DROPPED or args.rounds < 1:
        parser.error(f"--steps is at least {DROPPED + 1}, --rounds at least 1")
    record = {"environment": environment(), **compare(args.steps, args.rounds)}
    print(f"{'setting':<36}{'processes':>10}{'predicted':>11}{'measured':>10}{'error':>8}")
    for line in record["settings"]:
        print(
            f"{line['setting'] + (' (fitted)' if line['fitted'] else ''):<36}"
            f"{line['processes']:>10}{line['predicted_seconds']:>11.3f}"
            f"{line['measured_seconds']:>10.3f}{line['error_percent']:>7.1f}%"
        )
    print(f"a second process makes a step {record['slowed_by_a_second_process']:.2f} times as long")
    if args.output is not None:
        args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
