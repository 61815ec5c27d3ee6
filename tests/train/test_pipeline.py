"""The whole path, as a user runs it, in miniature: generated videos to a trained policy on disk."""

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from tests.helpers.odd_files import odd_matrix
from tests.helpers.pipeline_runs import run_config, without_warm_start
from tests.helpers.places import REPO
from tests.helpers.policy_factory import BACKBONES
from tests.helpers.released_factory import SLOWFAST, write_released
from tests.helpers.vqa2_factory import write_vqa2
from thinker.data.demo.generate import generate_demo_set
from thinker.data.demo.plan import SyntheticConfig
from thinker.policies import load_policy
from thinker.policies.convert import convert_released, vital, vqa2
from thinker.score.scorer import QualityScorer
from thinker.train.pipeline import record_split, run_training
from thinker.train.run_data import read_labels


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    config = SyntheticConfig(num_train_contents=12, num_eval_contents=6, clips_per_content=2)
    return generate_demo_set(folder, config, num_workers=1).root.parent


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_auto_runs_the_whole_path_with_vllm(demo, tmp_path, caplog):
    """Heads of 32, the narrowest that vLLM takes on a CPU."""
    width = "model.motion={width: 64, vision_width: 32, slow_width: 8}"
    with caplog.at_level("INFO", logger="thinker"):
        run_training(run_config(demo, tmp_path, "rollout.backend=auto", width))
    assert "rollouts by vLLM, colocate" in caplog.text
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    probes = [json.loads(line).get("rollout/probe_logp_difference") for line in lines]
    assert len([p for p in probes if p is not None]) == 2  # one a step
    assert max(p for p in probes if p is not None) < 1e-4


@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_backbones_run_the_whole_path(demo, tmp_path, backbone):
    summary = run_training(run_config(demo, tmp_path, f"model.backbone={backbone}"))
    written = {path.name for path in tmp_path.iterdir()}
    assert {
        "metrics.jsonl", "rollouts.jsonl", "summary.json", "curves.png", "start",
        "warm_start", "final",
    } <= written  # fmt: skip
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["num_train"] == 24 and summary["num_eval"] == 12
    assert summary["steps"] == 2
    assert {name: stage["steps"] for name, stage in summary["stages"].items()} == {
        "warm_start": 3, "grpo": 2,
    }  # fmt: skip
    assert summary["sets"]["demo"] == {
        "before": summary["stages"]["warm_start"]["sets"]["demo"],
        "after": summary["stages"]["grpo"]["sets"]["demo"],
    }
    for key in ("srcc_before", "srcc_after", "plcc_before", "plcc_after", "seconds", "seed"):
        assert key in summary
    lines = (tmp_path / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    rollouts = [json.loads(line) for line in lines]
    assert len(rollouts) == 2 * 8
    rewards = {"regression", "ranking", "format", "temporal", "reasoning"}
    assert set(rollouts[0]["rewards"]) == rewards
    assert all(row["rewards"]["reasoning"] in (None, 0, 1) for row in rollouts)
    assert load_policy(tmp_path / "final").new_parts == ()
    video = next((demo / "videos").rglob("*.mp4"))
    prediction = QualityScorer.from_pretrained(tmp_path / "final", max_new_tokens=8).score(video)
    assert prediction.status in ("ok", "invalid_answer")


@pytest.mark.parametrize("layout", ["vital", "vqa2"])
def test_a_converted_policy_is_trained_further(demo, tmp_path, monkeypatch, layout):
    """A step of each kind moves every part. Frames are smaller than released, lest it take long."""
    if layout == "vital":
        monkeypatch.setattr(vital, "PX", 112)
        write_released(tmp_path / "released", channels=SLOWFAST.fast_channels)
    else:
        monkeypatch.setattr(vqa2, "PX", 80)
        write_vqa2(tmp_path / "released", patch=16, max_positions=48)
    convert_released(tmp_path / "released", tmp_path / "converted")
    parts = "{vision_tower: 1e-2, slowfast: 1e-2, motion_projector: 1e-2, language_model: 1e-2}"
    overrides = [
        "model={path: '%s', dtype: float32}" % (tmp_path / "converted"),
        *(f"stages.{stage}.train={parts}" for stage in ("warm_start", "grpo")),
        *(f"stages.{stage}.trainer.max_steps=1" for stage in ("warm_start", "grpo")),
        "stages.grpo.rewards=[{name: regression}, {name: format}]",
        "data.eval=[]",
        "stages.grpo.trainer.max_completion_length=8",
    ]
    summary = run_training(run_config(demo, tmp_path / "run", *overrides))
    assert summary["stages"]["warm_start"]["steps"] == summary["stages"]["grpo"]["steps"] == 1
    start, taught, final = (
        load_policy(tmp_path / folder) for folder in ("converted", "run/warm_start", "run/final")
    )
    assert final.inputs.clip_spec == start.inputs.clip_spec
    for name, part in start.model.parts().items():
        one, other = next(part.parameters()), next(taught.model.parts()[name].parameters())
        assert torch.equal(one, other) == (name == "vision_projector"), name


def test_contents_of_the_training_data_are_held_out(demo, tmp_path, capsys):
    """As `run_grpo_lsvq.sh` runs one's own data: scores before, during and after training."""
    overrides = ("data.eval=[]", "data.held_out=0.25", "stages.grpo.trainer.eval_strategy=steps")
    more = ("stages.grpo.trainer.eval_steps=1", "stages.grpo.trainer.max_steps=2")
    config = without_warm_start(run_config(demo, tmp_path / "run", *overrides, *more))
    summary = run_training(config)
    assert (summary["num_train"], summary["num_eval"]) == (18, 6)  # 9 and 3 of 12 contents
    assert list(summary["sets"]) == ["demo_held_out"]
    assert [line["step"] for line in summary["during"]] == [1, 2]
    table = capsys.readouterr().out.splitlines()
    rows = [line.split()[1:3] for line in table if line.startswith("demo_held_out")]
    assert [row[0] for row in rows] == ["start", "step", "step", "grpo"]
    record = json.loads((tmp_path / "run" / "held_out_examples.json").read_text())
    held_out = record["sets"]["demo_held_out"]
    assert len(held_out["ids"]) == 6 and len(held_out["contents"]) == 3
    rollouts = (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()
    trained = {json.loads(line)["sample_id"] for line in rollouts}
    assert trained and not trained & set(held_out["ids"])
    again = read_labels(config)
    assert [e.id for e in again.eval_sets[0][1]] == held_out["ids"]  # after a restart, too

    shorter = demo / "shorter.jsonl"  # the label file of a run changes between its parts
    shorter.write_text("".join((demo / "train.jsonl").read_text().splitlines(True)[2:]))
    changed = f"stages.grpo.data.0.overrides={{train.0.jsonl: '{shorter}'}}"
    first = without_warm_start(run_config(demo, tmp_path / "other", *overrides, changed))
    (tmp_path / "other").mkdir()
    record_split(first, read_labels(first))
    shorter.write_text((demo / "train.jsonl").read_text())
    with pytest.raises(ValueError, match="holds out other examples"):
        record_split(first, read_labels(first))


def test_a_video_that_cannot_be_read_is_left_out_and_said(demo, tmp_path, caplog):
    lines = (demo / "train.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    odd_matrix(demo / "videos" / "train_0000" / "99.mp4")  # it raised an OSError of FFmpeg's
    record |= {"id": 999, "image": ["train_0000/99.mp4"]}
    bad = demo / "with_broken.jsonl"
    bad.write_text("\n".join([*lines, json.dumps(record)]) + "\n")
    overrides = (
        f"stages.grpo.data.0.overrides={{train.0.jsonl: '{bad}'}}",
        "stages.grpo.trainer.max_steps=1",
    )

    def config(name, *more):
        return without_warm_start(run_config(demo, tmp_path / name, *overrides, *more))

    with pytest.raises(ValueError, match=r"99\.mp4: unsupported"):
        run_training(config("strict"))
    summary = run_training(config("lenient", "data.max_failed_share=0.2"))
    assert summary["stages"].keys() == {"start", "grpo"}  # measured, as nothing was before
    assert summary["num_train"] == 24
    assert any("99.mp4" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("stages.grpo.rewards=[{name: regresion}]", "did you mean 'regression'"),
        ("stages.grpo.rewards=[{name: choice}]", "examples of task 'score', which none"),
        ("stages.grpo.rewards=[]", "examples of task 'score', which none"),
        ("stages.grpo.perturbations=[blur]", "unknown perturbation 'blur'"),
    ],
)
def test_a_faulty_grpo_stage_is_refused_before_the_stages_ahead_of_it(
    demo, tmp_path, override, reason
):
    with pytest.raises(ValueError, match=reason):
        run_training(run_config(demo, tmp_path, override))
    assert not (tmp_path / "start").exists()
    assert not (tmp_path / "run.json").exists()  # mended, it can be started in the same folder


@pytest.mark.parametrize("quantization", ["null", "nf4"])
def test_lora_run_saves_a_merged_policy(demo, tmp_path, quantization):
    # a random policy earns no reward; the entropy bonus gives it a gradient
    overrides = (
        "stages.grpo.train={lora: 3e-4, vision_projector: 3e-4, motion_projector: 3e-4}",
        f"stages.grpo.lora={{r: 4, quantization: {quantization}}}",
        "stages.grpo.trainer.beta=0.1",
        "stages.grpo.trainer.entropy_coef=0.1",
    )
    if quantization == "nf4":
        pytest.importorskip("bitsandbytes")
        overrides += ("data.eval=[]", "stages.grpo.trainer.max_steps=1")
    run_training(without_warm_start(run_config(demo, tmp_path, *overrides)))
    start, final = (load_policy(tmp_path / name).model.state_dict() for name in ("start", "final"))
    assert start.keys() == final.keys()
    changed = {name for name in start if not (start[name] == final[name]).all()}
    assert any("q_proj" in name for name in changed)
    assert any("motion.projector" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    assert not any("embed_tokens" in name or "slowfast" in name for name in changed)
    if quantization == "nf4":  # every layer that was in 4 bits is another
        layers = {n for n in start if "language_model.layers" in n and "proj.weight" in n}
        assert layers and layers <= changed


def test_single_infer_and_batch_infer_as_commands(demo, tmp_path):
    """A saved policy scores one file with reasoning, and a set to CSV, from the command line."""
    from tests.helpers.policy_factory import small_policy

    small_policy("internvl3").save(tmp_path / "model")
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    video = next((demo / "videos").rglob("*.mp4"))

    def run(script, *arguments):
        command = [sys.executable, REPO / script, "--model", tmp_path / "model", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    single = run("single_infer.py", "--video", video, tmp_path / "absent.mp4")
    assert "reasoning:" in single.stdout and "score:" in single.stdout
    assert "missing" in single.stdout and single.returncode == 1
    batch = run(
        "batch_infer.py", "--meta", demo / "eval.json", "--video-root", demo / "videos",
        "--mos-scale", "1:5:identity", "--output-dir", tmp_path / "csv", "--num-workers", "1",
    )  # fmt: skip
    assert batch.returncode == 0, batch.stderr
    assert "SRCC" in batch.stdout
    with open(tmp_path / "csv" / "eval.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:4] == ["filename", "pred_score", "gt_score", "status"]
    assert len(rows) == 12
    assert {row[3] for row in rows} <= {"ok", "invalid_answer"}
