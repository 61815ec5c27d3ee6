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
from thinker.train.grpo.batch import JudgedRows

METRICS, ROLLOUTS = JOURNALS = ("metrics.jsonl", "rollouts.jsonl")


class MetricsFile(TrainerCallback):
    """Appends every log of the trainer to `metrics.jsonl`."""

    def __init__(self, folder: Path):
        self.path = folder / METRICS

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            append_lines(self.path, [{"step": state.global_step, **logs}])


def rollout_lines(step: int, judged: JudgedRows, logged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line of `rollouts.jsonl` a rollout of all processes.

    step: of the first update that they are trained in, as `metrics.jsonl` counts. logged: TRL's
    `rewards` by name and `advantages` of the last rollouts, the rows at hand last.
    """
    columns, answers = judged.columns, judged.answers
    count = len(answers)
    rewards = {name: list(values)[-count:] for name, values in logged["rewards"].items()}
    advantages = list(logged["advantages"])[-count:]
    return [
        {
            "step": step,
            "sample_id": columns["sample_id"][i],
            "task": columns["task"][i],
            "target": columns["target"][i],
            "completion": columns["completions"][i],
            "answer": answer.value if isinstance(answer, Answer) else None,
            "score": _score(columns["task"][i], answer),
            "invalid": None if isinstance(answer, Answer) else answer.reason,
            "rewards": {name: _finite(values[i]) for name, values in rewards.items()},
            "weighted_sum": judged.sums[i],
            "advantage": advantages[i],
            **judged.drawn[i],
        }
        for i, answer in enumerate(answers)
    ]


def _score(task: str, answer: Answer | InvalidAnswer) -> float | None:
    """The number on the answer scale; None for an invalid answer and for tasks without one."""
    return answer.value if task == "score" and isinstance(answer, Answer) else None


def append_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append to a journal of a run; numbers that are not finite become null."""
    with open(path, "a", encoding="utf-8") as file:
        for line in lines:
            finite = {key: _finite(value) for key, value in line.items()}
            file.write(json.dumps(finite, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
