"""The runs of a plan: each the public command, in a process of its own, begun or continued."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plan import Plan

SHOWN_LENGTH = 300
"""Characters of a failed run's last line that are shown; its log holds all."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One condition with one seed."""

    condition: str
    """Name of its condition."""
    seed: int
    """Its seed."""
    folder: Path
    """Where it is trained; `eval/` in it holds its evaluation."""


Results = dict[Run, dict[str, Any] | str]
"""What became of each run: its summary.json, with that of its evaluation as `eval`, or why there is
none."""


def planned_runs(plan: Plan, folder: Path) -> list[Run]:
    """Seed by seed, so that the first pairs are complete early."""
    return [
        Run(condition=name, seed=seed, folder=folder / "runs" / name / f"seed_{seed}")
        for seed in plan.seeds
        for name in plan.conditions
    ]


def finish_all(plan: Plan, folder: Path, jobs: int, say: Callable[[str], None]) -> Results:
    """All runs, `jobs` at a time; one that fails does not keep the others from being run."""
    runs = planned_runs(plan, folder)
    with ThreadPoolExecutor(jobs) as executor:
        waiting = {run: executor.submit(_finish, plan, run) for run in runs}
        results: Results = {}
        try:
            for number, (run, future) in enumerate(waiting.items(), 1):
                results[run] = end = future.result()
                shown = end if isinstance(end, str) else "finished"
                say(f"[{number}/{len(runs)}] {run.condition}, seed {run.seed}: {shown}")
        except BaseException:  # Ctrl-C: those that wait must not be begun
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _finish(plan: Plan, run: Run) -> dict[str, Any] | str:
    """Do what of a run is not done yet; `thinker` itself continues what was killed."""
    given = [*plan.overrides, *plan.conditions[run.condition]]
    train = [
        "train", "--config", plan.config, *(o.replace("{seed}", str(run.seed)) for o in given),
        f"seed={run.seed}", f"output_dir={json.dumps(str(run.folder))}",
    ]  # fmt: skip
    summary = _command(run, train, run.folder / "summary.json")
    if isinstance(summary, str) or not plan.evaluate:
        return summary
    target = run.folder / "eval"
    place = ["--model", str(run.folder / "final"), "--output-dir", str(target)]
    evaluation = _command(run, ["eval", *place, *plan.evaluate], target / "summary.json")
    return evaluation if isinstance(evaluation, str) else summary | {"eval": evaluation}


def _command(run: Run, arguments: list[str], result: Path) -> dict[str, Any] | str:
    """What the file `result` holds, which the command leaves when it has finished."""
    log = run.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    if not result.exists():
        with open(log, "ab") as file:
            command = [sys.executable, "-m", "thinker.cli", *arguments]
            status = subprocess.run(command, stdout=file, stderr=file).returncode
        if status or not result.exists():
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no output")
            return f"failed: thinker {arguments[0]}, status {status}: {last[:SHOWN_LENGTH]}"
    return json.loads(result.read_text(encoding="utf-8"))
