"""Rewards on a real trainer: those that raise, are not finite, or are equal in a group."""

import math

import pytest
import torch

from tests.helpers.given_rewards import given_trainer
from tests.helpers.trainer_runs import read_jsonl, snapshot
from thinker.train.grpo.rewards import equal_reward_rows
from thinker.train.step_guard import TrainingFault


def test_a_reward_that_raises_names_reward_step_and_sample(tmp_path):
    def value(sample, rollout):
        if sample == 2 and trainer.state.global_step == 1:
            raise KeyError("no label")
        return sample + rollout

    trainer = given_trainer(tmp_path, value, max_steps=3)
    expected = r"reward 'given' failed at step 1 on samples \['demo/2'\]: KeyError: 'no label'"
    with pytest.raises(TrainingFault, match=expected):
        trainer.train()


def test_values_that_are_not_finite_act_like_none_and_are_counted(tmp_path):
    """Bit-equal weights: NaN and inf never reach the loss, nor the rollouts that are written."""
    weights, counts = [], []
    for name, odd in (("none", (None, None)), ("odd", (math.nan, math.inf))):
        values = lambda s, j, odd=odd: odd[s] if s < 2 and j == 0 else s + 0.3 * j  # noqa: E731
        trainer = given_trainer(tmp_path / name, values)
        trainer.train()
        weights.append(snapshot(trainer.core))
        counts.append(trainer.state.log_history[0]["rewards/given/non_finite"])
        assert math.isfinite(trainer.state.log_history[0]["loss"])
        rows = read_jsonl(tmp_path / name / "run" / "rollouts.jsonl")
        rows.sort(key=lambda row: row["sample_id"])  # stable: rollouts stay in order
        given = [row["rewards"]["given"] for row in rows]
        assert given == pytest.approx([None, 0.3, None, 1.3, 2.0, 2.3, 3.0, 3.3])
        # group [2, 2.3]: mean 2.15, unbiased std .3 / √2: ±.15 / (.2121 + 1e-4)
        assert rows[5]["advantage"] == pytest.approx(0.15 / (0.3 / math.sqrt(2) + 1e-4), rel=1e-5)
        assert all(torch.isfinite(p).all() for p in trainer.core.parameters())
    assert counts == [0.0, 2.0]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def unequal_mean(count: int) -> float:
    """A number whose mean over `count` copies, in float32, is another number."""
    for value in torch.linspace(0.1, 3, 1000).tolist():
        copies = torch.full((count,), value)
        if (copies - copies.mean()).abs().max() > 0:
            return value
    raise AssertionError("every mean is exact")


def test_equal_rewards_give_exactly_no_advantage_and_move_nothing(tmp_path):
    """Six equal floats whose mean rounds to another float: TRL's advantages are not 0."""
    same = unequal_mean(6)
    settings = {"num_generations": 6, "per_device_train_batch_size": 24}
    trainer = given_trainer(tmp_path, lambda s, j: same, **settings)
    before = snapshot(trainer.core)
    trainer.train()
    rows = read_jsonl(tmp_path / "run" / "rollouts.jsonl")
    assert [row["advantage"] for row in rows] == [0.0] * 24
    assert trainer.state.log_history[0]["groups/equal_rewards_share"] == 1.0
    after = snapshot(trainer.core)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_groups_of_equal_rewards_are_zeroed(tmp_path):
    trainer = given_trainer(tmp_path, lambda s, j: s + (j if s < 1 else 0))
    trainer.train()
    rows = read_jsonl(tmp_path / "run" / "rollouts.jsonl")
    by_sample = {row["sample_id"]: row["advantage"] for row in rows}
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
