"""Steps whose loss, gradient or weights are not finite, on a real trainer."""

import math

import pytest
import torch
from transformers import TrainerCallback

from tests.helpers.given_rewards import given_trainer
from tests.helpers.trainer_runs import read_jsonl, snapshot
from thinker.train.checkpoint import checkpoints
from thinker.train.step_guard import TrainingFault


def with_bad_loss(trainer, bad_steps, factor=math.nan):
    """INJECTED: the loss of the given steps is not finite."""
    plain = trainer._compute_loss

    def compute_loss(model, inputs):
        loss = plain(model, inputs)
        return loss * factor if trainer.state.global_step in bad_steps else loss

    trainer._compute_loss = compute_loss


class Watch(TrainerCallback):
    """Weights and optimizer moments after every step."""

    def __init__(self):
        self.weights, self.moments = [], []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.weights.append(snapshot(model))
        states = optimizer.state_dict()["state"].values()
        self.moments.append([s["exp_avg"].clone() for s in states])


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_counted_and_not_saved(tmp_path, where):
    graded = lambda s, j: s + 0.3 * j  # noqa: E731
    trainer = given_trainer(
        tmp_path, graded, max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=9
    )
    if where == "loss":
        with_bad_loss(trainer, {1})
    else:
        parameter = next(p for p in trainer.core.parameters() if p.requires_grad)
        bad = lambda g: g / 0 if trainer.state.global_step == 1 else g  # noqa: E731
        parameter.register_hook(bad)
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    first, skipped, next_, _ = watch.weights
    assert all(torch.equal(first[name], skipped[name]) for name in first)
    assert all(torch.equal(a, b) for a, b in zip(*watch.moments[:2], strict=True))
    assert any(not torch.equal(skipped[name], next_[name]) for name in first)
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [1, 3, 4]
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["faults/skipped_steps"] for line in lines] == [0, 1, 1, 1, 1]
    assert all(bool(torch.isfinite(p).all()) for p in trainer.core.parameters())


def test_a_skipped_first_pass_leaves_no_old_logps_to_the_second(tmp_path):
    """The second update of a batch takes its old logps from the first, unless they are NaN."""
    graded = lambda s, j: s + 0.3 * j  # noqa: E731
    trainer = given_trainer(tmp_path, graded, max_steps=2, num_iterations=2)
    score = trainer.logprobs._groups

    def broken_at_first(model, stage, *args):
        log_probs, entropy = score(model, stage, *args)
        return (log_probs * math.nan if trainer.state.global_step == 0 else log_probs), entropy

    trainer.logprobs._groups = broken_at_first
    before = snapshot(trainer.core)
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    skipped, updated = watch.weights
    assert all(torch.equal(before[name], skipped[name]) for name in before)
    assert any(not torch.equal(skipped[name], updated[name]) for name in skipped)
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["faults/skipped_steps"] for line in lines] == [1, 1, 1]


def test_a_run_stops_after_so_many_skipped_steps_in_a_row(tmp_path):
    trainer = given_trainer(
        tmp_path, lambda s, j: s + 0.3 * j, max_steps=9, save_strategy="steps", save_steps=1,
        save_total_limit=9,
    )  # fmt: skip
    trainer.guard.max_skipped_steps = 3
    with_bad_loss(trainer, {1, 3, 4, 5}, math.inf)
    with pytest.raises(TrainingFault, match=r"not finite in 3 steps in a row, last at step 5"):
        trainer.train()
    # after 1 (step 0) and 3 (step 2); 2 was skipped, 4 and later are the end
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [1, 3]


def test_a_checkpoint_that_was_due_at_a_skipped_step_is_made_up_for(tmp_path):
    trainer = given_trainer(
        tmp_path, lambda s, j: s + 0.3 * j, max_steps=6, save_strategy="steps", save_steps=3,
        save_total_limit=9,
    )  # fmt: skip
    with_bad_loss(trainer, {2})
    trainer.train()
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [4, 6]


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.lm_head.weight.data[0, 0] = math.nan

    trainer = given_trainer(
        tmp_path, lambda s, j: s + 0.3 * j, max_steps=4, save_strategy="steps", save_steps=1
    )
    trainer.add_callback(Break())
    with pytest.raises(TrainingFault, match=r"weights are not finite at step 2 .*lm_head"):
        trainer.train()
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [1]


@pytest.mark.slow
def test_all_processes_skip_what_is_not_finite_on_one(zygote, tmp_path):
    """The loss of process 1 is infinite, every gradient finite: only an agreement can tell 0."""
    assert zygote.run("save_start", folder=tmp_path).codes == [0]
    outcome = zygote.run("make_infinite", num_processes=2, folder=tmp_path, step=1, rank=1)
    assert outcome.codes == [0, 0], outcome.log[-3000:]
    digests = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert digests[0] == digests[1]
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [1, 3, 4]
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["faults/skipped_steps"] for line in lines] == [0, 1, 1, 1, 1]
