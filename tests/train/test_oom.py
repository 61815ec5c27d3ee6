"""Out of memory, injected: fewer groups at once, the same update."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.fault_jobs import before_logprobs, build, save_start, small_memory
from tests.helpers.trainer_runs import answer, scripted, snapshot
from thinker.policies import load_policy
from thinker.train.step_guard import TrainingFault

ONE_BATCH = {
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "steps_per_generation": 1,
    "num_iterations": 1, "max_steps": 2, "save_strategy": "no", "optim": "sgd",
    "max_grad_norm": 0.0, "learning_rate": 0.1,
}  # fmt: skip


def trained(folder, *, capacity=None, own=None, **settings):
    """Weights after two steps of four groups, logged metrics, groups a forward."""
    if not (folder / "start").exists():
        folder.mkdir(exist_ok=True)
        save_start(folder)
    trainer = build(folder, rollout=scripted(own=own), **{**ONE_BATCH, **settings})
    sizes = small_memory(trainer, 99 if capacity is None else capacity)
    trainer.train()
    return snapshot(trainer.core), trainer.state.log_history, sizes


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "bnpo", "dr_grpo"])
def test_the_update_is_the_same_with_half_and_a_quarter_of_the_groups(tmp_path, caplog, loss):
    """Entropy bonus and KL included, whose means no split of the loss would keep."""
    settings = {"loss_type": loss, "entropy_coef": 0.05, "beta": 0.1}
    whole, logs, sizes = trained(tmp_path / "whole", **settings)
    assert set(sizes) == {4}
    start = load_policy(tmp_path / "whole" / "start").model.state_dict()
    assert largest_difference(whole, start) > 1e-4
    for capacity in (2, 1):
        with caplog.at_level(logging.WARNING, logger="thinker"):
            small, small_logs, sizes = trained(
                tmp_path / f"{capacity}", capacity=capacity, **settings
            )
        assert sizes.count(4) == 1 and sizes.count(2) > 0 and sizes[-1] == capacity
        assert largest_difference(whole, small) <= 1e-6
        for key in ("loss", "entropy", "kl", "reward"):
            assert small_logs[-2][key] == pytest.approx(logs[-2][key], abs=1e-6)
        for key in ("tokens/train/prompt", "tokens/train/completion"):
            assert [log[key] for log in small_logs[:-1]] == [log[key] for log in logs[:-1]], key
        assert "out of memory with 4 groups at once, from now on 2: INJECTED" in caplog.text


def test_groups_of_different_length_apart_fit_after_all(tmp_path, monkeypatch):
    def own(video, number):
        return f"{answer(1.0 + 0.3 * number)}{' blur' * 9 * (video % 2)}"

    whole, _, sizes = trained(tmp_path / "whole", own=own)
    assert set(sizes) == {4}
    monkeypatch.setattr("thinker.train.grpo.bunches.FORWARD_TOKENS", 0)
    apart, _, sizes = trained(tmp_path / "apart", own=own)
    assert set(sizes) == {2} and largest_difference(whole, apart) <= 1e-6
    small, _, sizes = trained(tmp_path / "small", own=own, capacity=1)
    assert sizes[-1] == 1 and largest_difference(whole, small) <= 1e-6


def test_one_failure_at_any_forward_changes_nothing(tmp_path):
    """Forward and recomputation, first and second step: INJECTED once at the n-th forward."""
    settings = {"entropy_coef": 0.05}
    whole, logs, _ = trained(tmp_path / "whole", **settings)
    for number in (1, 2, 3, 4, 7, 9):  # two forwards and two recomputations a step
        folder = tmp_path / str(number)
        folder.mkdir()
        save_start(folder)
        trainer = build(folder, rollout=scripted(), **{**ONE_BATCH, **settings})
        trainer.groups_at_once.number = 2  # so that there are recomputations to hit
        fail_once(trainer, number)
        trainer.train()
        assert trainer.groups_at_once.number == (1 if number <= 8 else 2), number
        assert largest_difference(whole, snapshot(trainer.core)) <= 1e-6
        rows = (folder / "run" / "rollouts.jsonl").read_text().splitlines()
        assert len(rows) == 16  # the batch was generated once, whatever was redone
        assert trainer.state.log_history[0].keys() == logs[0].keys()


def fail_once(trainer, number):
    seen = []

    def count(kwargs):
        seen.append(len(kwargs["input_ids"]))
        if len(seen) == number:
            raise torch.OutOfMemoryError("INJECTED: once")

    before_logprobs(trainer, count)


def test_a_group_that_does_not_fit_alone_ends_the_run(tmp_path):
    with pytest.raises(TrainingFault, match=r"single group at once: INJECTED.*lower num_gen"):
        trained(tmp_path / "run", capacity=0)


def test_lost_sums_of_gradients_are_redone_after_a_restart(tmp_path):
    """The second micro-batch of a step fails in its backward pass: what the first had added cannot
    be told from what the second did."""
    settings = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "steps_per_generation": 2, "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    whole, _, _ = trained(tmp_path / "whole", **settings)
    folder = tmp_path / "restarted"
    folder.mkdir()
    save_start(folder)
    trainer = build(folder, rollout=scripted(), **{**ONE_BATCH, **settings})
    plain = trainer.accelerator.backward
    calls = []

    def backward(loss, **kwargs):
        calls.append(loss)
        plain(loss, **kwargs)
        if len(calls) == 4:  # step 1, second micro-batch
            raise torch.OutOfMemoryError("INJECTED: in the backward pass")

    trainer.accelerator.backward = backward
    with pytest.raises(TrainingFault, match="run the same command again, it resumes with 1 group"):
        trainer.train()
    assert json.loads((folder / "run" / "memory.json").read_text()) == 1
    again = build(folder, rollout=scripted(), **{**ONE_BATCH, **settings})
    sizes = small_memory(again, 1)
    again.train(resume_from_checkpoint=True)
    assert set(sizes) == {1} and again.state.global_step == 2
    assert largest_difference(whole, snapshot(again.core)) <= 1e-6


@pytest.mark.slow
def test_processes_need_not_agree_on_the_number_of_groups(zygote, tmp_path):
    """One of two processes runs out of memory; the other never learns of it."""
    weights = []
    for capacity in (9, 1):
        folder = tmp_path / f"{capacity}"
        folder.mkdir()
        assert zygote.run("save_start", folder=folder).codes == [0]
        outcome = zygote.run(
            "lack_memory", num_processes=2, folder=folder, capacity=capacity, rank=1
        )
        assert outcome.codes == [0, 0], outcome.log[-3000:]
        assert ("from now on 1: INJECTED" in outcome.log) == (capacity == 1)
        weights.append(load_file(folder / "weights.safetensors"))
    assert largest_difference(*weights) <= 1e-6
