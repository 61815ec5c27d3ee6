"""Training with vLLM rollouts: pushes, probes, importance ratios, and an engine that is lost."""

import dataclasses
import itertools
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig

from tests.helpers.policy_factory import BACKBONES, conversations
from tests.helpers.rollout_oracle import EXACT, Engines, engine_policy
from tests.helpers.trainer_runs import ClipsByName, examples_of
from thinker.policies import load_policy
from thinker.rollout.vllm.rollout import VllmRollout
from thinker.train.grpo.trainer import ThinkerTrainer, WeightedReward

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture(scope="module")
def engines():
    started = Engines()
    yield started
    started.close()


def trainer_with(policy, tmp_path, rollout, *, lora=False, one_step_off=False, **grpo):
    """On prompts with two videos, a still beside a video, three turns, and no media."""
    policy.save(tmp_path / "start")
    policy = load_policy(tmp_path / "start")
    args = GRPOConfig(
        **{
            "output_dir": str(tmp_path / "run"),
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": 8,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "disable_tqdm": True,
            **grpo,
        }
    )
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    asked = conversations(policy)
    peft_config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    return ThinkerTrainer(
        policy=policy,
        args=args,
        rewards=[WeightedReward(reward=LengthOfAnswer())],
        samples=examples_of(asked),
        read_clip=ClipsByName(asked),
        rollout=lambda model: rollout(dataclasses.replace(policy, model=model)),
        perturbations=("reverse",),
        peft_config=peft_config if lora else None,
        one_step_off=one_step_off,
    )


class LengthOfAnswer:
    """A reward that random completions differ in; it asks for perturbed copies too."""

    name = "length"
    needs_perturbed = True
    tasks = ("score",)

    def __call__(self, completions, perturbed_completions, **columns):
        assert len(perturbed_completions) == len(completions)
        return [float(len(text)) for text in completions]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_three_steps_of_training(engines, tmp_path, backbone, lora):
    """Every step pushes, probes and rolls out; the importance ratio between the engine's logprobs
    and the trainer's logprobs forward is 1 because they agree."""
    engine = engines(backbone)
    trainer = trainer_with(
        engine_policy(backbone, amplify=1.0),
        tmp_path,
        lambda policy: VllmRollout(policy, engine),
        lora=lora,
        vllm_importance_sampling_correction=True,
    )
    before = {name: tensor.clone() for name, tensor in trainer.core.state_dict().items()}
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 3
    for log in logs:
        assert log["rollout/probe_logp_difference"] < EXACT
        assert log["sampling/sampling_logp_difference/max"] < 1e-3
        assert log["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0, abs=1e-3)
    moved = [n for n, t in trainer.core.state_dict().items() if not torch.equal(t, before[n])]
    assert any("language_model" in name for name in moved)


def test_rollouts_one_step_off_are_corrected_for_it(engines, tmp_path):
    """The engine's logprobs are those of the weights before the last update: nothing to correct for
    the first batch, and of all later ones as much as an update changes."""
    engine = engines("internvl3")
    trainer = trainer_with(
        engine_policy("internvl3", amplify=1.0),
        tmp_path,
        lambda policy: VllmRollout(policy, engine),
        one_step_off=True,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode="token_truncate",
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    differences = [log["sampling/sampling_logp_difference/max"] for log in logs]
    ratios = [log["sampling/importance_sampling_ratio/max"] for log in logs]
    assert differences[0] < 1e-3 and min(differences[1:]) > 0.01
    assert ratios[0] == pytest.approx(1.0, abs=1e-3) and min(ratios[1:]) > 1.01


def test_an_engine_that_dies_in_training_changes_nothing(engines, tmp_path, caplog):
    """It fails in the second batch of rollouts; weights and completions are those of the
    undisturbed run, to the bit."""
    engine = engines("internvl3")
    finals = {}
    for name in ("undisturbed", "disturbed"):
        trainer = trainer_with(
            engine_policy("internvl3", amplify=1.0),
            tmp_path / name,
            lambda policy: VllmRollout(policy, engine, max_restarts=1),
        )
        if name == "disturbed":
            trainer.add_callback(FailsAfterStep(1, engine))
        before = engine._llm
        trainer.train()
        assert (engine._llm is before) == (name == "undisturbed")
        finals[name] = trainer.core.state_dict()
    for key, tensor in finals["undisturbed"].items():
        assert torch.equal(tensor, finals["disturbed"][key]), key
    assert "failed while generating (ZeroDivisionError" in caplog.text
    texts = [(tmp_path / name / "run" / "rollouts.jsonl").read_text() for name in finals]
    assert texts[0] == texts[1]


class FailsAfterStep(TrainerCallback):
    """Injected: after a training step the engine does 12 more steps of its own, the probe's 8 and
    some of the next batch, and then fails."""

    def __init__(self, step, engine):
        self.step, self.engine = step, engine

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            llm_engine = self.engine._llm.llm_engine
            own, calls = llm_engine.step, itertools.count(1)
            llm_engine.step = lambda: own() if next(calls) <= 12 else 1 / 0
