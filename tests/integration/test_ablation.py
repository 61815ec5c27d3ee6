"""The ablation harness (benchmarks/ablation.py): four real runs in miniature, figures by hand."""

import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from tests.helpers.places import REPO
from thinker.data.datasets import EvalSet
from thinker.data.demo.generate import generate_demo_set
from thinker.data.demo.plan import SyntheticConfig
from thinker.data.examples import Example
from thinker.data.scale import MosScale
from thinker.eval.sets import LoadedSet
from thinker.eval.summary import write_results
from thinker.score.prediction import Prediction
from thinker.video.medium import medium

FIGURES = ["srcc_after", "sets.demo.after.valid_share"]
BETA = "stages.grpo.trainer.beta"
DEMO = {"config": str(REPO / "data_configs" / "demo.yaml")}
RUN = {
    "model": {"motion": {"width": 32, "vision_width": 32, "slow_width": 8}},
    "data": {"eval": [DEMO], "num_workers": 0},
    "rollout": {"backend": "hf"},
    "stages": [
        {
            "name": "grpo",
            "kind": "grpo",
            "data": [DEMO],
            "train": {"language_model": 1e-5},
            "rewards": [{"name": "format"}],
            "trainer": {
                "max_steps": 1,
                "per_device_train_batch_size": 4,
                "num_generations": 2,
                "max_completion_length": 4,
                "beta": 0.0,
                "bf16": False,
                "gradient_checkpointing": False,
                "save_strategy": "no",
                "disable_tqdm": True,
            },
        }
    ],
}


@pytest.fixture
def ablation(monkeypatch):
    """The script, as `python benchmarks/ablation.py` finds its modules."""
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    return importlib.import_module("ablation")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Writes a plan; keys given replace its own."""
    monkeypatch.setenv("DEMO_ROOT", "/no/demo")

    def write(**keys):
        run = tmp_path / "run.yaml"
        run.write_text(json.dumps(RUN), encoding="utf-8")
        values = {
            "config": str(run),
            "conditions": {"all": [], "no-ranking": [f"{BETA}=0.04"]},
            "seeds": [3, 5],
            "figures": FIGURES,
        }
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(values | keys, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def no_command(monkeypatch):
    """Instead of a command: a process that says so and fails."""
    commands = []

    def run(command, *, stdout, stderr):
        commands.append(command)
        stdout.write(b"Traceback\nMemoryError: too large\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def prepare(folder, values):
    """Finished runs, {(condition, seed): SRCC}."""
    for (condition, seed), srcc in values.items():
        run = folder / "runs" / condition / f"seed_{seed}"
        run.mkdir(parents=True)
        summary = {"srcc_after": srcc, "sets": {"demo": {"after": {"valid_share": 0.5}}}}
        (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


@pytest.mark.slow
def test_four_real_runs_are_compared_and_not_run_again(
    ablation, plan, zygote, tmp_path, monkeypatch, capsys
):
    """The runs are real processes of the real command, forked from one that has its imports."""
    size = SyntheticConfig(num_train_contents=2, num_eval_contents=6, clips_per_content=2)
    demo = generate_demo_set(tmp_path / "demo", size, num_workers=1).root.parent
    commands = []

    def run(command, *, stdout, stderr):
        assert command[:3] == [sys.executable, "-m", "thinker.cli"] and stderr is stdout
        commands.append(command)
        outcome = zygote.run("shell", command=["thinker", *command[3:]], folder=str(tmp_path))
        stdout.write(outcome.log.encode())
        return subprocess.CompletedProcess(command, outcome.codes[0])

    monkeypatch.setattr(subprocess, "run", run)
    overrides = [f"data.variables.DEMO_ROOT='{demo}'", f"data.cache='{demo}/cache_{{seed}}'"]
    doubled = "stages.grpo.rewards=[{name: format, weight: 2}]"
    conditions = {"base": [], "doubled": [doubled]}
    path = plan(overrides=overrides, conditions=conditions)
    arguments = [str(path), "--output-dir", str(tmp_path / "out")]
    assert ablation.main(arguments) == 0
    assert len(commands) == 4
    for name, weight in (("base", 1), ("doubled", 2)):
        for seed in (3, 5):
            folder = tmp_path / "out" / "runs" / name / f"seed_{seed}"
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            assert summary["seed"] == seed
            assert (demo / f"cache_{seed}").is_dir()
            assert summary["config"]["stages"][0]["rewards"][0]["weight"] == weight
    written = json.loads((tmp_path / "out" / "ablation.json").read_text(encoding="utf-8"))
    assert list(written["differences"]) == ["stages.grpo.rewards"]
    share = [line for line in written["lines"] if line["figure"] == FIGURES[1]]
    assert [line["values"] for line in share] == [{"3": 0.0, "5": 0.0}] * 2
    assert share[1]["verdict"] == "not shown" and "equal" in share[1]["interval"]

    assert ablation.main(arguments) == 0 and len(commands) == 4
    capsys.readouterr()
    plan(overrides=[*overrides, f"{BETA}=0.5"], conditions=conditions)
    with pytest.raises(SystemExit) as exit:
        ablation.main(arguments)
    assert exit.value.code == 2 and len(commands) == 4
    assert "config.stages.grpo.trainer.beta was 0.0, is 0.5" in capsys.readouterr().err


def test_differences_are_paired_by_seed(ablation, plan, tmp_path, no_command, capsys):
    """Differences .1, .2 and .3: mean .2, deviation .1, t(.975, 2) = 4.3027, so that the interval
    is .2 ± 4.3027 · .1 / √3 = .2 ± .2484. Differences -.10, -.11 and -.12: mean -.11, deviation
    .01, so -.11 ± .0248."""
    first = {1: 0.5, 2: 0.6, 3: 0.7}
    values = {("a", seed): srcc for seed, srcc in first.items()}
    values |= {("up", seed): srcc + seed / 10 for seed, srcc in first.items()}
    values |= {("down", seed): srcc - 0.09 - seed / 100 for seed, srcc in first.items()}
    prepare(tmp_path / "out", values)
    conditions = {"a": [], "up": [f"{BETA}=0.1"], "down": [f"{BETA}=0.2"]}
    share = "sets.demo.after.valid_share"
    path = plan(
        conditions=conditions, seeds=[1, 2, 3], figures=["srcc_after", f"srcc_after - {share}"]
    )
    assert ablation.main([str(path), "--output-dir", str(tmp_path / "out")]) == 0
    assert not no_command
    written = json.loads((tmp_path / "out" / "ablation.json").read_text(encoding="utf-8"))
    a, up, down = written["lines"][:3]
    assert (a["mean"], a["num_pairs"], a["verdict"]) == (pytest.approx(0.6), 0, "")
    assert a["mean_interval"] == pytest.approx([0.3516, 0.8484], abs=1e-4)  # deviation .1 again
    assert up["difference"] == pytest.approx(0.2) and up["num_pairs"] == 3
    assert up["interval"] == pytest.approx([-0.0484, 0.4484], abs=1e-4)
    assert up["verdict"] == "not shown"
    assert down["interval"] == pytest.approx([-0.1348, -0.0852], abs=1e-4)
    assert down["verdict"] == "lower"
    assert written["lines"][3]["values"] == pytest.approx({"1": 0.0, "2": 0.1, "3": 0.2})  # - .5
    assert "+0.200 [-0.048, +0.448]" in capsys.readouterr().out
    assert written["differences"] == {BETA: {"a": 0.0, "up": 0.1, "down": 0.2}}


def test_a_failed_run_is_shown_and_leaves_its_pair(ablation, plan, tmp_path, no_command, capsys):
    values = {("all", 3): 0.5, ("no-ranking", 3): 0.4, ("all", 5): 0.7}
    prepare(tmp_path / "out", values)
    arguments = [str(plan()), "--output-dir", str(tmp_path / "out")]
    assert ablation.main(arguments) == 1
    reason = "no-ranking, seed 5: failed: thinker train, status 1: MemoryError: too large"
    assert reason in capsys.readouterr().out
    page = (tmp_path / "out" / "ablation.html").read_text(encoding="utf-8")
    assert "MemoryError: too large" in page and "3 of 4 runs finished" in page
    written = json.loads((tmp_path / "out" / "ablation.json").read_text(encoding="utf-8"))
    without = written["lines"][1]
    assert without["values"] == {"3": 0.4, "5": None} and without["num_pairs"] == 1
    assert without["difference"] == pytest.approx(-0.1)
    assert without["interval"] == "an interval needs two seeds"
    ablation.main(arguments)
    assert len(no_command) == 2  # what failed is tried again


def test_a_plan_that_cannot_run_says_why(ablation, plan, tmp_path, no_command, capsys):
    for keys, words in (
        ({"conditions": {}}, "no condition"),
        ({"conditions": {"a": [], "b": ["stages.grpo.logprobs=fast"]}}, "condition b: "),
        ({"conditions": {"a": [], "b/c": []}}, "'b/c' names a folder"),
        ({"overrides": ["seed=4"]}, "'seed=4'"),
        ({"seeds": [1, 1]}, "each once"),
        ({"figures": []}, "no figure"),
    ):
        with pytest.raises(SystemExit) as exit:
            ablation.main([str(plan(**keys)), "--output-dir", str(tmp_path / "out")])
        assert exit.value.code == 2 and words in capsys.readouterr().err
    assert not no_command and not (tmp_path / "out").exists()


def test_jobs_run_at_a_time(ablation, plan, tmp_path, monkeypatch):
    """Each of the four commands waits for another one to run beside it."""
    both = threading.Barrier(2, timeout=20)

    def run(command, *, stdout, stderr):
        both.wait()
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    arguments = [str(plan()), "--output-dir", str(tmp_path / "out"), "--jobs", "2"]
    assert ablation.main(arguments) == 1 and not both.broken


def test_an_evaluation_follows_each_training(ablation, plan, tmp_path, monkeypatch):
    """Its figures are called `eval.…`, and the page holds its differences over contents."""
    commands = []

    def run(command, *, stdout, stderr):
        commands.append(command[3:])
        assert command[3] == "eval" and command[-2:] == ["--config", "sets.yaml"]
        folder = Path(command[command.index("--output-dir") + 1])
        write_evaluation(folder, offset=0.1 * len(commands))
        return subprocess.CompletedProcess(command, 0)

    prepare(tmp_path / "out", {(c, s): 0.5 for c in ("all", "no-ranking") for s in (3, 5)})
    monkeypatch.setattr(subprocess, "run", run)
    path = plan(evaluate=["--config", "sets.yaml"], figures=["eval.sets.own.report.n_scored"])
    assert ablation.main([str(path), "--output-dir", str(tmp_path / "out")]) == 0
    assert len(commands) == 4 and commands[0][2].endswith("runs/all/seed_3/final")
    written = json.loads((tmp_path / "out" / "ablation.json").read_text(encoding="utf-8"))
    assert written["lines"][0]["values"] == {"3": 12.0, "5": 12.0}
    assert written["contents"].count("A: no-ranking, B: all, seed") == 2


def write_evaluation(folder, offset):
    """What `thinker eval` leaves, of twelve made-up predictions."""
    scale = MosScale(min=1, max=5, mapping="identity")
    own = EvalSet(name="own", key="own", meta=folder / "m", video_root=folder, mos_scale=scale)
    examples = [
        Example(
            id=f"own/{i}.mp4", dataset="own", media=(medium(folder / f"{i}.mp4"),),
            mos=1 + i / 4, target=1 + i / 4, content=str(i // 2),
        )
        for i in range(12)
    ]  # fmt: skip
    rows = [
        {"id": e.id}
        | Prediction(path=e.media[0].path, score=1 + (i + offset * i * i) % 4, status="ok").to_row()
        for i, e in enumerate(examples)
    ]
    folder.mkdir(parents=True)
    loaded = LoadedSet(
        key="own", name="own", task="score", source=own, examples=examples, bad_lines=[]
    )
    write_results(folder, [(loaded, rows)], {})


def test_committed_plans_are_valid(ablation, monkeypatch):
    monkeypatch.chdir(REPO)
    for name in (
        "DEMO_ROOT",
        "ABLATION_ROOT",
        "FILM_ROOT",
        "LOCAL_ROOT",
        "ASSISTANT_ROOT",
        "STALLED_ROOT",
    ):
        monkeypatch.setenv(name, "/data")
    plans = sorted((REPO / "benchmarks").glob("ablation_*.yaml"))
    assert plans
    for path in plans:
        ablation.load_plan(path).check_data()


def test_data_that_a_condition_describes_wrongly_stops_the_plan_before_its_runs(
    ablation, plan, no_command, tmp_path, capsys
):
    wrong = ["stages.grpo.data.0.overrides={train.0.records: /labels.jsonl}"]
    path = plan(conditions={"all": [], "other": wrong})
    with pytest.raises(SystemExit) as stopped:
        ablation.main([str(path), "--output-dir", str(tmp_path / "out")])
    assert stopped.value.code == 2 and no_command == []
    assert "condition other: " in (said := capsys.readouterr().err) and "train.0.records" in said
