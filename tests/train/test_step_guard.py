"""Numeric faults on a real trainer: rewards that raise or are not finite, equal rewards, steps
whose loss or gradient is not finite."""

import math

import pytest
import torch
from transformers import TrainerCallback

from tests.helpers.fault_jobs import build, save_start
from tests.helpers.trainer_runs import read_jsonl, scripted, snapshot
from thinker.train.checkpoint import checkpoints
from thinker.train.grpo.rewards import WeightedReward, equal_reward_rows
from thinker.train.step_guard import TrainingFault

ONE_BATCH = {
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "steps_per_generation": 1,
    "num_iterations": 1,
}  # fmt: skip


class Given:
    """A reward whose values are given, by sample number and rollout."""

    name = "given"
    needs_perturbed = False

    def __init__(self, value):
        self.value, self.seen = value, {}

    def __call__(self, completions, sample_id, target, **columns):
        places: dict[str, int] = {}
        values = []
        for sample in sample_id:
            place = places[sample] = places.get(sample, -1) + 1
            values.append(self.value(int(sample.split("/")[1]), place))
        return values


@pytest.fixture
def folder(tmp_path):
    save_start(tmp_path)
    return tmp_path


def trainer_of(folder, value, **settings):
    reward = WeightedReward(reward=Given(value))
    settings = {**ONE_BATCH, "max_steps": 1, "save_strategy": "no", **settings}
    return build(folder, rewards=[reward], rollout=scripted(), **settings)


# Rewards


def test_a_reward_that_raises_names_reward_step_and_sample(folder):
    def value(sample, rollout):
        if sample == 2 and trainer.state.global_step == 1:
            raise KeyError("no label")
        return sample + rollout

    trainer = trainer_of(folder, value, max_steps=3)
    expected = r"reward 'given' failed at step 1 on samples \['demo/2'\]: KeyError: 'no label'"
    with pytest.raises(TrainingFault, match=expected):
        trainer.train()


def test_values_that_are_not_finite_act_like_none_and_are_counted(tmp_path):
    """Bit-equal weights: NaN and inf never reach the loss."""
    weights, counts = [], []
    for name, odd in (("none", (None, None)), ("odd", (math.nan, math.inf))):
        (tmp_path / name).mkdir()
        save_start(tmp_path / name)
        values = lambda s, j, odd=odd: odd[s] if s < 2 and j == 0 else s + 0.3 * j  # noqa: E731
        trainer = trainer_of(tmp_path / name, values)
        trainer.train()
        weights.append(snapshot(trainer.core))
        counts.append(trainer.state.log_history[0]["rewards/given/non_finite"])
        assert math.isfinite(trainer.state.log_history[0]["loss"])
    assert counts == [0.0, 2.0]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def unequal_mean(count: int) -> float:
    """A number whose mean over `count` copies, in float32, is another number."""
    for value in torch.linspace(0.1, 3, 1000).tolist():
        copies = torch.full((count,), value)
        if (copies - copies.mean()).abs().max() > 0:
            return value
    raise AssertionError("every mean is exact")


def test_equal_rewards_give_exactly_no_advantage_and_move_nothing(folder):
    """Six equal floats whose mean rounds to another float: TRL's advantages are not 0."""
    same = unequal_mean(6)
    settings = {"num_generations": 6, "per_device_train_batch_size": 24}
    trainer = trainer_of(folder, lambda s, j: same, **settings)
    before = snapshot(trainer.core)
    trainer.train()
    rows = read_jsonl(folder / "run" / "rollouts.jsonl")
    assert [row["advantage"] for row in rows] == [0.0] * 24
    assert trainer.state.log_history[0]["groups/equal_rewards_share"] == 1.0
    after = snapshot(trainer.core)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_groups_of_equal_rewards_are_zeroed(folder):
    trainer = trainer_of(folder, lambda s, j: s + (j if s < 1 else 0))
    trainer.train()
    rows = read_jsonl(folder / "run" / "rollouts.jsonl")
    by_sample = {row["prompt_id"]: row["advantage"] for row in rows}
    assert by_sample["demo/0"] != 0 and by_sample["demo/1"] == by_sample["demo/3"] == 0
    assert trainer.state.log_history[0]["groups/equal_rewards_share"] == 0.75  # 3 of 4 groups


def test_equal_rows_of_the_docstring():
    nan = math.nan
    rewards = torch.tensor([[0.1], [0.1], [0.1], [0.2], [nan], [0.3]])
    rows = equal_reward_rows(rewards, torch.tensor([1.0]), 3)
    assert rows.tolist() == [True, True, True, False, False, False]
    # weighted sums count: 1 · 2 + 0 · 1 = 0 · 2 + 2 · 1
    rewards = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert equal_reward_rows(rewards, torch.tensor([2.0, 1.0]), 2).all()
    assert not equal_reward_rows(rewards, torch.tensor([1.0, 1.0]), 2).any()


# Steps


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
def test_a_step_that_is_not_finite_is_skipped_counted_and_not_saved(folder, where):
    graded = lambda s, j: s + 0.3 * j  # noqa: E731
    trainer = trainer_of(
        folder, graded, max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=9
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
    assert [step for step, _ in checkpoints(folder / "run")] == [1, 3, 4]
    lines = read_jsonl(folder / "run" / "metrics.jsonl")
    assert [line["faults/skipped_steps"] for line in lines] == [0, 1, 1, 1, 1]
    assert all(bool(torch.isfinite(p).all()) for p in trainer.core.parameters())


def test_a_skipped_first_pass_leaves_no_old_logps_to_the_second(folder):
    """The second update of a batch takes its old logps from the first, unless they are NaN."""
    graded = lambda s, j: s + 0.3 * j  # noqa: E731
    trainer = trainer_of(folder, graded, max_steps=2, num_iterations=2)
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
    lines = read_jsonl(folder / "run" / "metrics.jsonl")
    assert [line["faults/skipped_steps"] for line in lines] == [1, 1, 1]


def test_a_run_stops_after_so_many_skipped_steps_in_a_row(folder):
    trainer = trainer_of(
        folder, lambda s, j: s + 0.3 * j, max_steps=9, save_strategy="steps", save_steps=1,
        save_total_limit=9,
    )  # fmt: skip
    trainer.guard.max_skipped_steps = 3
    with_bad_loss(trainer, {1, 3, 4, 5}, math.inf)
    with pytest.raises(TrainingFault, match=r"not finite in 3 steps in a row, last at step 5"):
        trainer.train()
    # after 1 (step 0) and 3 (step 2); 2 was skipped, 4 and later are the end
    assert [step for step, _ in checkpoints(folder / "run")] == [1, 3]


def test_a_checkpoint_that_was_due_at_a_skipped_step_is_made_up_for(folder):
    trainer = trainer_of(
        folder, lambda s, j: s + 0.3 * j, max_steps=6, save_strategy="steps", save_steps=3,
        save_total_limit=9,
    )  # fmt: skip
    with_bad_loss(trainer, {2})
    trainer.train()
    assert [step for step, _ in checkpoints(folder / "run")] == [4, 6]


def test_weights_that_are_not_finite_are_never_saved(folder):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.lm_head.weight.data[0, 0] = math.nan

    trainer = trainer_of(
        folder, lambda s, j: s + 0.3 * j, max_steps=4, save_strategy="steps", save_steps=1
    )
    trainer.add_callback(Break())
    with pytest.raises(TrainingFault, match=r"weights are not finite at step 2 .*lm_head"):
        trainer.train()
    assert [step for step, _ in checkpoints(folder / "run")] == [1]


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
