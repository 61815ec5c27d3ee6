"""The figures of lmms-eval on our tasks, with our policy, against those of our own commands.

    THINKER_DATA=FOLDER python run_scripts/peers/compare_lmms_eval.py POLICY OUTPUT

Runs in the environment of lmms-eval. Prints a line a figure, and ends with status 1 where two that
shall be equal are not, to the last bit.
"""

import json
import math
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from thinker.peers.lmms_eval import TASKS_FOLDER
from thinker.score.scorer import QualityScorer

MODES = ("reason", "level", "sample")
CHOICES = "thinker_q_bench_video_dev"
BIN = Path(sys.executable).parent
BATCH_SIZE = "8"
HERE = Path(__file__).resolve().parent


def run(written: Path, pattern: str, *command: object) -> tuple[dict, float]:
    """The JSON that a command writes below a folder, and seconds. The status alone says nothing:
    lmms-eval ends with 0 whatever happens."""
    began = time.time()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    found = list(written.rglob(pattern))
    if done.returncode or len(found) != 1:
        raise SystemExit(f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return json.loads(found[0].read_text()), time.time() - began


def lmms_eval(policy: str, output: Path, tasks: str, folder: Path, mode: str) -> tuple[dict, float]:
    """Figures by task and name, and seconds."""
    written, seconds = run(
        output, "*_results.json",
        BIN / "lmms-eval", "--model", "thinker",
        "--model_args", f"pretrained={policy},mode={mode},max_new_tokens=32,num_workers=0",
        "--tasks", tasks, "--include_path", folder, "--batch_size", BATCH_SIZE, "--device", "cpu",
        "--output_path", output, "--log_samples",
    )  # fmt: skip
    return {
        task: {name.partition(",")[0]: value for name, value in of.items()}
        for task, of in written["results"].items()
    }, seconds


def ours(policy: str, output: Path, mode: str, *command: object) -> tuple[dict, float]:
    """The entries of `summary.json`, and seconds."""
    written, seconds = run(
        output, "summary.json",
        BIN / "thinker", *command, "--model", policy, "--mode", mode, "--max-new-tokens", 32,
        "--num-workers", 0, "--batch-size", BATCH_SIZE, "--output-dir", output,
    )  # fmt: skip
    return written["sets"], seconds


def same(name: str, theirs: object, own: object, shown: str = "") -> bool:
    both_undefined = own is None and isinstance(theirs, float) and math.isnan(theirs)
    is_same = theirs == own or both_undefined
    word = "equal  " if is_same else "DIFFERS"
    print(f"{word} {name}: lmms-eval {theirs}, thinker {own}{shown}", flush=True)
    return is_same


def ours_against(policy: str, output: Path, data: Path) -> bool:
    """Scores in each mode, and choices beside them in mode "reason"."""
    held = True
    for mode in MODES:
        tasks = ",".join(["thinker_konvid_1k", *([CHOICES] if mode == "reason" else [])])
        found, slow = lmms_eval(policy, output / f"lmms_{mode}", tasks, TASKS_FOLDER, mode)
        sets, quick = ours(
            policy, output / f"eval_{mode}", mode,
            "eval", "--meta", data / "meta" / "Konvid-1k_total_ds_score.json",
            "--video-root", data / "videos" / "konvid_1k",
        )  # fmt: skip
        report, of = sets["konvid_1k"]["report"], found["thinker_konvid_1k"]
        shown = f" ({slow:.0f} and {quick:.0f} s; {sets['konvid_1k']['statuses']})"
        held &= same(f"srcc, {mode}", of["srcc"], report["srcc"]["value"], shown)
        held &= same(f"plcc, {mode}", of["plcc"], report["plcc"]["value"])
        held &= same(f"answered, {mode}", of["answered"], report["n_scored"] / report["n_total"])
        if CHOICES in found:
            held &= choices(policy, output / "bench", data, found[CHOICES])
    return held


def choices(policy: str, output: Path, data: Path, of: dict) -> bool:
    sets, quick = ours(
        policy, output, "reason",
        "bench", "q-bench-video", "--data", data / "meta" / "Q_Bench_Video_dev.json",
        "--video-root", data / "videos" / "q_bench_video", "--split", "dev",
    )  # fmt: skip
    one = sets["q_bench_video_dev_choice"]
    report, shown = one["report"], f" ({quick:.0f} s; {one['statuses']})"
    held = same("accuracy", of["accuracy"], report["figures"]["accuracy"]["value"], shown)
    held &= same("answered, choices", of["answered"], report["n_valid"] / report["n_total"])
    tables = json.loads((output / "bench.json").read_text())["tables"]
    (line,) = [line for line in tables[0]["lines"] if line[0] == "all"]
    for column, rule in ((3, "official"), (4, "vlmevalkit")):
        share = f"{100 * of[f'accuracy_{rule}']:.2f}"
        held &= same(f"accuracy, {rule}, %", share, line[column].split()[0])
    return held


class Numbers(lmms):
    """Somebody else's model, of lmms-eval's other form ("simple"): a score that falls with the
    number in the name of the file, so the SRCC with the MOS, which fall with it, is 1."""

    def generate_until(self, requests):
        answers = []
        for request in requests:
            _, _, doc_to_visual, doc_id, task, split = request.args
            (path,) = doc_to_visual(self.task_dict[task][split][doc_id])
            name = Path(path).stem
            answers.append(f"<answer>{5 - int(name) / 4}</answer>" if name.isdigit() else "none")
        return answers

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError


def another_model(policy: str, output: Path, data: Path) -> bool:
    manager = TaskManager("ERROR", include_path=str(TASKS_FOLDER), include_defaults=False)
    results = simple_evaluate(model=Numbers(), tasks=["thinker_konvid_1k"], task_manager=manager)
    of = results["results"]["thinker_konvid_1k"]
    held = same("srcc of another model", round(of["srcc,none"], 12), 1.0)
    return held & same("answered by it", of["answered,none"], 10 / 12)


def theirs(policy: str, output: Path, data: Path) -> bool:
    """A task that is not ours: the same texts as `QualityScorer.ask` gives."""
    found, slow = lmms_eval(policy, output / "theirs", "theirs", HERE / "tasks", "reason")
    rows = [json.loads(line) for line in (data / "theirs.jsonl").read_text().splitlines()]
    scorer = QualityScorer.from_pretrained(policy, device="cpu", max_new_tokens=32)
    answers = [scorer.ask(row["path"], row["asked"]).answer for row in rows]
    right = [answer == row["answer"] for answer, row in zip(answers, rows, strict=True)]
    share = sum(right) / len(right)
    return same(
        "exact match of another task", found["theirs"]["exact_match"], share, f" ({slow:.0f} s)"
    )


def main(policy: str, output: str) -> int:
    names = ("lmms-eval", "torch", "transformers", "av", "decord2", "datasets", "numpy")
    print(", ".join(f"{name} {version(name)}" for name in names), flush=True)
    data = Path(os.environ["THINKER_DATA"])
    held = [check(policy, Path(output), data) for check in (ours_against, another_model, theirs)]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
