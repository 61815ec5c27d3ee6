"""Shared-prompt log-probabilities inside the trainer equal plain ones, TRL's own forward: loss,
every gradient, and the parameters after three optimizer steps."""

import os
import subprocess
import sys

import pytest
import torch

from tests.helpers.exact_precision import use_exact_precision
from tests.helpers.logprobs_runs import LOSS_TYPES, Case, compare, save_start, with_frozen
from tests.helpers.places import REPO
from tests.helpers.policy_factory import BACKBONES
from tests.helpers.trainer_runs import GROUP, make_trainer
from thinker.train.grpo.logprobs import Logprobs
from thinker.train.grpo.plain_logprobs import VideoRows


def count_quiet_rows(monkeypatch):
    """Rows that later passes make without gradient, a number a pass."""
    found: list[int] = []
    divide = Logprobs._divided

    def divided(self, *given):
        quiet, loud = divide(self, *given)
        found.append(len(quiet))
        return quiet, loud

    monkeypatch.setattr(Logprobs, "_divided", divided)
    return found


HELPERS = REPO / "tests" / "helpers"


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_float64_training_equals_the_plain_path(tmp_path, monkeypatch, backbone, loss_type):
    """Without KL one group in four adds no gradient, and is passed without."""
    use_exact_precision(monkeypatch.setattr)
    save_start(backbone, tmp_path)
    for beta in (0.0, 0.04):
        quiet = count_quiet_rows(monkeypatch)
        compare(
            with_frozen(Case(backbone=backbone, loss_type=loss_type, beta=beta)), tmp_path, 1e-10
        )
        assert sum(quiet) == (GROUP * 3 if beta == 0 else 0)  # once an update


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_float32_training_equals_the_plain_path(tmp_path, backbone, loss_type):
    """The fused LM head as it is; SGD (see `recorded_trainer`)."""
    save_start(backbone, tmp_path)
    for beta in (0.0, 0.04):
        case = Case(backbone=backbone, dtype=torch.float32, loss_type=loss_type, beta=beta)
        compare(with_frozen(case), tmp_path, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {"lora": True},
        {"checkpointing": "reentrant"},
        {"checkpointing": "non_reentrant"},
        {"several": True, "frozen": ("slowfast",)},
    ],
    ids=["lora", "reentrant", "non_reentrant", "several"],
)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_variants_equal_the_plain_path(tmp_path, monkeypatch, backbone, variant):
    """several: two videos of different size, a still beside a video, three turns, no media."""
    use_exact_precision(monkeypatch.setattr)
    save_start(backbone, tmp_path)
    compare(Case(backbone=backbone, beta=0.04, steps=2, **variant), tmp_path, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_groups_of_different_length_apart_equal_the_plain_path(tmp_path, monkeypatch, backbone):
    """As many forwards as save a token."""
    use_exact_precision(monkeypatch.setattr)
    monkeypatch.setattr("thinker.train.grpo.bunches.FORWARD_TOKENS", 0)
    found = []
    divide = Logprobs._bunches

    def divided(self, *given):
        found.append(divide(self, *given))
        return found[-1]

    monkeypatch.setattr(Logprobs, "_bunches", divided)
    save_start(backbone, tmp_path)
    compare(Case(backbone=backbone, beta=0.04, steps=2), tmp_path, 1e-10)
    assert found and all(len(together) > 1 for together in found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_equal_the_plain_path(tmp_path):
    """torchrun with gloo: all loss types with both betas, the backbones in turns; each process
    compares its own losses, the gradients after the reduction, and its parameters."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc_per_node=2",
            "--master_addr=127.0.0.1", "--master_port=29671",
            str(HELPERS / "logprobs_worker.py"), str(tmp_path),
        ],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    done = [(tmp_path / f"done{rank}").read_text(encoding="utf-8") for rank in range(2)]
    assert done == [str(len(LOSS_TYPES) * 2)] * 2


def test_plain_is_trls_forward_with_one_row_a_completion(tmp_path, monkeypatch):
    """Every row of every chunk arrives with its own video, and the attention is not ours."""
    from tests.helpers.trainer_runs import scripted

    trainer = make_trainer(tmp_path, rollout=scripted(), logprobs="plain")
    seen = []
    forward = VideoRows.__call__

    def counted(self, input_ids, attention_mask, **kwargs):
        seen.append((len(input_ids), kwargs["fused_lm_head"], sorted(kwargs)))
        return forward(self, input_ids, attention_mask, **kwargs)

    monkeypatch.setattr(VideoRows, "__call__", counted)
    trainer.train()
    assert seen == [(8, True, ["fused_lm_head", "labels"])]
    assert trainer.core.model.language_model.config._attn_implementation == "sdpa"
