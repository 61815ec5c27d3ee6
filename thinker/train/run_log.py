"""What a training run writes as it goes: `metrics.jsonl` and `rollouts.jsonl` in its folder.

Every line is strict JSON: what is not finite becomes null. A checkpoint records the length of both
files, and a resumed run cuts them back to it (resume.py).
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rewards import Answer, InvalidAnswer

METRICS, ROLLOUTS = JOURNALS = ("metrics.jsonl", "rollouts.jsonl")


class MetricsFile(TrainerCallback):
    """Appends every log of the trainer to `metrics.jsonl`."""

    def __init__(self, folder: Path):
        self.path = folder / METRICS

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            append_lines(self.path, [{"step": state.global_step, **logs}])


def rollout_lines(
    step: int,
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer | InvalidAnswer],
    rewards: Mapping[str, Sequence[float]],
    advantages: Sequence[float],
) -> list[dict[str, Any]]:
    """One line of `rollouts.jsonl` a rollout; all arguments are row-aligned.

    rows: with `sample_id`, `target` and `completions`. rewards: by name.
    """
    return [
        {
            "step": step,
            "prompt_id": row["sample_id"],
            "target": row["target"],
            "completion": row["completions"],
            "score": answer.value if isinstance(answer, Answer) else None,
            "invalid": None if isinstance(answer, Answer) else answer.reason,
            "rewards": {name: _finite(values[i]) for name, values in rewards.items()},
            "advantage": advantages[i],
        }
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True))
    ]


def append_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append to a journal of a run; numbers that are not finite become null."""
    with open(path, "a", encoding="utf-8") as file:
        for line in lines:
            finite = {key: _finite(value) for key, value in line.items()}
            file.write(json.dumps(finite, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
