"""Exact resume: runs that are killed again and again end as the run that never was.

Real processes (forks of one that has imported everything, see zygote.py), real SIGKILL.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.fault_jobs import GROUP
from tests.helpers.places import REPO
from thinker.config.run import load_run_config
from thinker.train.counters import counter_names
from thinker.train.resume import EpochOrder
from thinker.train.run_folder import open_run
from thinker.train.state_file import load_tree, random_state, save_tree, set_random_state

TIMINGS = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
SMOKE = REPO / "run_scripts" / "configs" / "grpo_smoke.yaml"


@pytest.fixture(scope="module")
def start(zygote, tmp_path_factory):
    """A folder with a saved tiny policy."""
    folder = tmp_path_factory.mktemp("start")
    assert zygote.run("save_start", folder=folder).codes == [0]
    return folder


def metrics(run: Path) -> list[dict]:
    """Lines of metrics.jsonl without times, and without counts of work: a restart reads and encodes
    the videos of a batch again."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    left_out = {*TIMINGS, *counter_names()}
    return [
        {key: value for key, value in json.loads(line).items() if key not in left_out}
        for line in lines
    ]


def run_to_the_end(zygote, start, folder, kills, num_processes=1, **settings):
    """Start the same command after each kill; `kills` are (moment, rank) of one attempt each."""
    shutil.copytree(start, folder)
    for moment, rank in kills:
        outcome = zygote.run(
            "train", num_processes=num_processes, folder=folder, kill_at=moment, rank=rank,
            **settings,
        )  # fmt: skip
        assert -9 in outcome.codes, outcome.log[-3000:]
    outcome = zygote.run("train", num_processes=num_processes, folder=folder, **settings)
    assert set(outcome.codes) == {0}, outcome.log[-3000:]


def assert_same(killed: Path, whole: Path):
    assert metrics(killed / "run") == metrics(whole / "run")
    rollouts = [(folder / "run" / "rollouts.jsonl").read_bytes() for folder in (killed, whole)]
    assert rollouts[0] == rollouts[1]
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (killed, whole)]
    assert weights[0] == weights[1]


CASES = {
    # One group of 2 rollouts a micro-batch, 2 micro-batches a step, a batch of 4 videos used twice
    # by 4 steps, which is also an epoch; checkpoints after 2 (mid batch), 4 (epoch), 6 and 7 steps.
    # A step has about nine moments; a run resumes 0, 2 or 4 steps further than the one before.
    "one process": (1, {}, [(2, 0), (4, 0), (13, 0), (25, 0), (7, 0), (24, 0), (9, 0), (23, 0)]),
    # 2 x 2 micro-batches a step, a batch of 4 videos used twice by 2 steps, logs every 3 steps
    "two processes": (
        2,
        {"steps_per_generation": 2, "logging_steps": 3},
        [(11, 0), (25, 1), (12, 0), (22, 1)],
    ),
    # adapters, reference log-probabilities, the entropy controller's state
    "lora": (
        1,
        {"lora": True, "beta": 0.1, "use_adaptive_entropy": True, "entropy_target": 5.0},
        [(24, 0), (20, 0)],
    ),
    # a batch is trained on by 2 steps, while the next one waits in the checkpoint
    "one step off": (
        2,
        {
            "one_step_off": True,
            "steps_per_generation": 2,
            "vllm_importance_sampling_mode": "token_truncate",
        },
        [(25, 1)],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_runs_end_bit_identical(zygote, start, tmp_path, case):
    num_processes, settings, kills = CASES[case]
    settings = {"save_steps": 2, "save_total_limit": 2, **settings}
    run_to_the_end(zygote, start, tmp_path / "whole", [], num_processes, **settings)
    run_to_the_end(zygote, start, tmp_path / "killed", kills, num_processes, **settings)
    assert_same(tmp_path / "killed", tmp_path / "whole")
    lines = (tmp_path / "whole" / "run" / "rollouts.jsonl").read_text().splitlines()
    num_batches = 2 if num_processes == 1 else 4
    assert len(lines) == num_batches * 4 * GROUP  # 4 videos a batch: none twice, none missing
    assert len({json.loads(line)["completion"] for line in lines}) > len(lines) / 2
    saved = sorted(path.name for path in (tmp_path / "killed" / "run").glob("checkpoint-*"))
    assert saved == ["checkpoint-6", "checkpoint-7"]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_supervised_training_ends_bit_identical(zygote, start, tmp_path, lora):
    """Two sources of other weights, checkpoints after 2, 4 and 5 steps, a log after 3."""
    for name, kills in (("whole", []), ("killed", [9, 19, 4, 14, 6])):
        shutil.copytree(start, tmp_path / name)
        for moment in kills:
            outcome = zygote.run(
                "train_supervised", folder=tmp_path / name, kill_at=moment, lora=lora
            )
            assert outcome.codes == [-9], outcome.log[-3000:]
        outcome = zygote.run("train_supervised", folder=tmp_path / name, lora=lora)
        assert outcome.codes == [0], outcome.log[-3000:]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert metrics(killed / "run") == metrics(whole / "run")
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (killed, whole)]
    assert weights[0] == weights[1]


WORLDS = {
    "grow": ((1, 8, 1), (2, 4, 1)),
    "shrink": ((2, 4, 1), (1, 8, 1)),
    "grow, fewer micro-batches": ((1, 4, 2), (2, 4, 1)),
}
"""(processes, rows of a micro-batch, micro-batches) before and after; 8 rows an update."""


@pytest.mark.slow
@pytest.mark.parametrize("worlds", WORLDS.values(), ids=WORLDS)
def test_another_number_of_processes_goes_on(zygote, start, tmp_path, worlds):
    """From the middle of a batch of rollouts, whose second use is still to come."""

    def train(folder, world, steps):
        processes, rows, parts = world
        outcome = zygote.run(
            "train_given", num_processes=processes, folder=folder, max_steps=steps,
            per_device_train_batch_size=rows, gradient_accumulation_steps=parts,
            steps_per_generation=parts,
        )  # fmt: skip
        assert set(outcome.codes) == {0}, outcome.log[-3000:]
        return load_file(folder / "weights.safetensors")

    before, after = worlds
    for name in ("whole", "divided"):
        shutil.copytree(start, tmp_path / name)
    whole = train(tmp_path / "whole", before, 6)
    first = train(tmp_path / "divided", before, 3)
    divided = train(tmp_path / "divided", after, 6)
    moved = max((whole[name] - first[name]).abs().max().item() for name in whole)
    difference = max((whole[name] - divided[name]).abs().max().item() for name in whole)
    assert moved > 1e-4
    assert difference < 1e-3 * moved
    rollouts = [
        list(map(json.loads, (tmp_path / name / "run" / "rollouts.jsonl").read_text().splitlines()))
        for name in ("whole", "divided")
    ]
    for row in rollouts[0] + rollouts[1]:
        del row["seed"]  # each process has its own
    assert rollouts[0] == rollouts[1]


@pytest.mark.slow
def test_another_number_of_processes_with_other_batches_is_refused(zygote, start, tmp_path):
    shutil.copytree(start, tmp_path / "run_of_two")
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    given = {"folder": tmp_path / "run_of_two", "steps_per_generation": 1, **settings}
    outcome = zygote.run("train_given", num_processes=2, max_steps=1, **given)
    assert set(outcome.codes) == {0}, outcome.log[-3000:]
    outcome = zygote.run("train_given", num_processes=1, max_steps=2, **given)
    assert outcome.codes != [0]
    assert "was written by 2 processes, this run has 1, and an update has 4 rows" in outcome.log
    assert "choose per_device_train_batch_size" in outcome.log


@pytest.mark.slow
def test_every_stage_of_the_pipeline_restarts(zygote, tmp_path):
    """Killed before and after the work of each stage; the warm start is done once."""
    demo = tmp_path / "demo"
    assert zygote.run("demo_set", folder=demo).codes == [0]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    outcome = zygote.run("pipeline_run", demo=demo, output=whole)
    assert outcome.codes == [0], outcome.log[-3000:]
    # after: `start/`, the warm start (resumed at its last step), `warm_start/`, its figures, GRPO
    # (resumed at its last step), `final/`
    for moment in (4, 2, 4, 4, 2, 4):
        outcome = zygote.run("pipeline_run", demo=demo, output=killed, kill_at=moment)
        assert outcome.codes == [-9], outcome.log[-3000:]
    outcome = zygote.run("pipeline_run", demo=demo, output=killed)
    assert outcome.codes == [0], outcome.log[-3000:]
    stages = (tmp_path / "killed" / "stages.txt").read_text().split()
    assert [stages.count(name) for name in ("train_sft", "train_grpo")] == [2, 2]
    summaries = [json.loads((run / "summary.json").read_text()) for run in (whole, killed)]
    for summary in summaries:
        del summary["seconds"], summary["config"]["output_dir"]
    assert summaries[0] == summaries[1]
    assert metrics(whole) == metrics(killed)
    assert metrics(whole / "work" / "warm_start") == metrics(killed / "work" / "warm_start")
    for name in (
        "rollouts.jsonl", "final/model.safetensors", "warm_start/model.safetensors",
        "start/model.safetensors",
    ):  # fmt: skip
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    # a complete run is not repeated, another configuration is refused
    again = zygote.run("pipeline_run", demo=demo, output=killed)
    assert again.codes == [0] and "is complete" in again.log
    trainer = "stages.grpo.trainer"
    other = zygote.run(
        "pipeline_run",
        demo=demo,
        output=killed,
        overrides=["seed=5", f"{trainer}.max_steps=4"],
    )
    assert other.codes == [2]
    assert "seed was 0, is 5; stages.grpo.trainer.max_steps was 3, is 4" in other.log


def test_another_configuration_is_refused_and_faster_reading_is_not(tmp_path):
    half, more = (f"stages.grpo.rewards=[{{name: format, weight: {w}}}]" for w in (0.5, 0.7))
    config = load_run_config(SMOKE, [half])
    open_run(tmp_path, load_run_config(SMOKE))
    open_run(tmp_path, config)  # nothing was made yet, as where the check of the media failed
    (tmp_path / "start").mkdir()
    others = [half, "data.num_workers=7", "output_dir=elsewhere"]
    open_run(tmp_path, load_run_config(SMOKE, others))
    with pytest.raises(
        ValueError, match=r"another model or configuration: stages.grpo.rewards was \[.*\.5.*\.7"
    ):
        open_run(tmp_path, load_run_config(SMOKE, [more]))


def test_a_run_of_an_older_version_is_told_what_its_keys_are_called_now(tmp_path):
    open_run(tmp_path, load_run_config(SMOKE))
    (tmp_path / "start").mkdir()
    path = tmp_path / "run.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "grpo.beta": 0.1, "warm_start": None}))
    with pytest.raises(ValueError, match=r"older version.*has grpo, warm_start; .*output_dir"):
        open_run(tmp_path, load_run_config(SMOKE))


def test_results_of_an_unknown_run_are_not_continued(tmp_path):
    (tmp_path / "rollouts.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"no run\.json that says of which"):
        open_run(tmp_path, load_run_config(SMOKE))


def test_training_state_comes_back_bit_for_bit(tmp_path):
    slices = torch.arange(6, dtype=torch.bfloat16).view(2, 3)
    tree = {
        "state": {0: {"step": torch.tensor(3.0), "m": slices[0]}, 1: {"m": slices[1]}},
        "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.95), "fused": None, "on": True}],
        "random": random_state(),
    }
    save_tree(tmp_path / "state.safetensors", tree)
    loaded = load_tree(tmp_path / "state.safetensors")
    assert list(loaded["state"]) == [0, 1]
    assert (
        loaded["state"][1]["m"].equal(slices[1]) and loaded["state"][1]["m"].dtype == slices.dtype
    )
    assert loaded["groups"] == tree["groups"]
    first = torch.rand(3)
    set_random_state(loaded["random"])
    assert torch.rand(3).equal(first)
    with pytest.raises(TypeError, match="holds a PosixPath"):
        save_tree(tmp_path / "bad.safetensors", {"path": tmp_path})


def test_order_of_an_epoch_follows_from_its_number():
    """The third epoch of a new sampler is that of one that went through the first two."""
    settings = {"mini_repeat_count": 2, "batch_size": 2, "repeat_count": 2, "seed": 1}
    plain = EpochOrder(range(8), **settings)
    epochs = []
    for epoch in range(3):
        plain.epoch = epoch
        epochs.append(list(plain))
    late = EpochOrder(range(8), **settings)
    late.epoch = 2
    assert list(late) == epochs[2] != epochs[1]
