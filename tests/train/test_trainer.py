"""The GRPO trainer on tiny real policies: what is trained, what is not, and what the rewards
see."""

import dataclasses
import json
import math

import pytest
import torch

from rewards import build_reward
from tests.helpers.policy_factory import ALL_BACKBONES, BACKBONES, small_policy
from tests.helpers.trainer_runs import (
    GROUP,
    NUM_VIDEOS,
    Scripted,
    answer,
    make_trainer,
    read_jsonl,
    rewards,
    scripted,
    snapshot,
)
from thinker.policies import load_policy
from thinker.rollout.base import RolloutError
from thinker.train.checkpoint import newest_valid
from thinker.train.grpo.rewards import WeightedReward


def changed_parts(core, before):
    after = core.state_dict()
    changed = set()
    for part, module in core.parts().items():
        addresses = {p.data_ptr() for p in module.parameters()}
        names = [n for n, p in core.named_parameters() if p.data_ptr() in addresses]
        if any(not torch.equal(before[n], after[n]) for n in names):
            changed.add(part)
    return changed


@pytest.mark.parametrize("backbone", ALL_BACKBONES)
def test_gradient_reaches_every_part_and_frozen_slowfast_does_not_move(tmp_path, backbone):
    answers = scripted(backbone=backbone)
    trainer = make_trainer(tmp_path, backbone, rollout=answers, freeze=["slowfast"], max_steps=2)
    before = snapshot(trainer.core)
    trainer.train()
    assert changed_parts(trainer.core, before) == {
        "vision_tower", "vision_projector", "language_model", "motion_projector",
    }  # fmt: skip
    after = trainer.core.state_dict()
    frozen = [name for name in before if "slowfast" in name]
    assert any("running_mean" in name for name in frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)  # BatchNorm included


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_first_step_kl_is_exactly_zero_and_later_ones_are_not(tmp_path, backbone, lora):
    trainer = make_trainer(
        tmp_path, backbone, lora=lora, beta=0.04, max_steps=3, rollout=scripted(backbone=backbone)
    )
    trainer.train()
    kl = [log["kl"] for log in trainer.state.log_history if "kl" in log]
    assert kl[0] == 0.0
    assert kl[-1] > 0.0


def test_perturbed_rollouts_never_reach_the_loss(tmp_path):
    """Two runs differ in nothing but the texts of the perturbed copies, of which a reward of weight
    0 is told: the trained weights are bit-equal."""
    weights = []
    for name, value in (("a", 1.5), ("b", 4.5)):
        temporal = WeightedReward(reward=build_reward("temporal"), weight=0.0)
        rollout = scripted(perturbed=lambda i, j, value=value: answer(value))
        trainer = make_trainer(
            tmp_path / name, reward_list=[*rewards("regression"), temporal], rollout=rollout
        )
        trainer.train()
        assert trainer.rollouts.backend.num_requests == 2 * NUM_VIDEOS
        weights.append(snapshot(trainer.core))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_perturbed_texts_reach_the_temporal_reward(tmp_path):
    """True rollouts hit the target, perturbed ones miss it by 2: every rollout earns the bonus."""
    right = lambda i, j: answer(1.0 + i)  # noqa: E731
    wrong = lambda i, j: answer(3.0 + i if i < 2 else i - 1.0)  # noqa: E731
    trainer = make_trainer(
        tmp_path, reward_list=rewards("temporal"), rollout=scripted(own=right, perturbed=wrong)
    )
    trainer.train()
    rows = read_jsonl(tmp_path / "run" / "rollouts.jsonl")
    assert [row["rewards"]["temporal"] for row in rows] == pytest.approx([0.3] * 8)
    assert [row["advantage"] for row in rows] == [0.0] * 8  # equal rewards in every group


def test_rollout_lines_hold_what_was_judged(tmp_path):
    trainer = make_trainer(
        tmp_path,
        reward_list=rewards("regression", "format"),
        rollout=scripted(own=lambda i, j: answer(2.5) if j else "no idea"),
    )
    trainer.train()
    rows = read_jsonl(tmp_path / "run" / "rollouts.jsonl")
    assert len(rows) == NUM_VIDEOS * GROUP
    ids = [row["sample_id"] for row in rows]
    assert sorted(set(ids)) == [f"demo/{i}" for i in range(NUM_VIDEOS)]
    invalid, valid = rows[0], rows[1]
    assert invalid["score"] is None and invalid["invalid"] == "no_answer"
    assert invalid["rewards"] == {"regression": None, "format": 0.0}
    assert valid["score"] == 2.5 and valid["invalid"] is None
    # bell: exp(-(2.5 - y)² / (2 · 0.25)) for target y
    expected = math.exp(-((2.5 - valid["target"]) ** 2) / 0.5)
    assert valid["rewards"] == pytest.approx({"regression": expected, "format": 1.0})
    # format alone separates the two: the valid one is better
    assert valid["advantage"] > 0 > invalid["advantage"]
    assert valid["weighted_sum"] == pytest.approx(expected + 1.0) and invalid["weighted_sum"] == 0
    # counted as metrics.jsonl counts, whose first update is step 1
    assert {row["step"] for row in rows} == {1} == {trainer.state.log_history[0]["step"]}
    (medium,) = valid["media"]
    assert medium["path"] == f"clip{valid['sample_id'].removeprefix('demo/')}.mp4"
    assert medium["seconds"] == [0.0, 1.0] and medium["kind"] == "video"
    tokens = len(trainer.processing_class.tokenizer(answer(2.5))["input_ids"])
    assert valid["num_tokens"] == tokens + 1 and valid["is_ended"]  # and the end token
    assert valid["mean_logprob"] is None  # the scripted back end reports none
    assert valid["perturbation"] is valid["perturbed_completion"] is None


def test_the_log_says_how_different_answers_are_and_how_long(tmp_path):
    """Groups answer 1 and 2, 1 and 1, 1 and 3, 1 and "no idea": 3 distinct ones, 1.00 is 5 of 7."""
    said = [(1, 2), (1, 1), (1, 3), (1, None)]
    trainer = make_trainer(
        tmp_path,
        reward_list=rewards("format"),
        rollout=scripted(own=lambda i, j: answer(said[i][j]) if said[i][j] else "no idea"),
    )
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["answers/distinct"] == 3.0
    assert log["answers/commonest_share"] == pytest.approx(5 / 7)
    assert log["answers/commonest_8_share"] == 1.0
    assert log["advantages/zero_share"] == 0.75  # three groups whose format is equally right
    short, long = sorted({row["num_tokens"] for row in read_jsonl(tmp_path / "run/rollouts.jsonl")})
    assert log["completions/p50_length"] == log["completions/p95_length"] == long
    # position .05 · 7 = .35 between the one short completion and the next
    assert log["completions/p5_length"] == pytest.approx(short + 0.35 * (long - short))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_hf_rollouts_train_and_all_four_rewards_are_logged(tmp_path, backbone):
    trainer = make_trainer(tmp_path, backbone, max_steps=2)
    trainer.train()
    log = trainer.state.log_history[0]
    for name in ("regression", "ranking", "format", "temporal"):
        assert f"rewards/{name}/mean" in log
    assert 0.0 <= log["answers/valid_share"] <= 1.0
    rows = read_jsonl(tmp_path / "run" / "rollouts.jsonl")
    assert {row["step"] for row in rows} == {1, 2} and len({row["seed"] for row in rows}) == 2
    for row in rows:
        assert (
            row["perturbation"] in ("reverse", "drop") and row["perturbed_completion"] is not None
        )
        assert row["is_ended"] or row["num_tokens"] == 8  # max_completion_length
        # a tiny policy of random weights draws nearly evenly from some hundred tokens
        assert -8 < row["mean_logprob"] < -2


def test_micro_batches_hold_whole_groups_and_give_the_same_update(tmp_path):
    """8 rows at once, or 2 micro-batches of 4 rows: the same parameters after a step."""
    weights = []
    for name, rows, accumulation in (("one", 8, 1), ("two", 4, 2)):
        trainer = make_trainer(
            tmp_path / name,
            rollout=scripted(),
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulation,
            loss_type="grpo",
            max_grad_norm=0.0,
            optim="sgd",
        )
        trainer.train()
        weights.append(snapshot(trainer.core))
    start = load_policy(tmp_path / "one" / "start").model.state_dict()
    moved = max((weights[0][n] - start[n]).abs().max() for n in start)
    difference = max((weights[0][n] - weights[1][n]).abs().max() for n in start)
    assert moved > 1e-5
    assert difference < 1e-3 * moved


def test_a_reference_without_the_attention_function_fails_loudly(tmp_path):
    """It would be handed a mask it cannot read, and must not ignore it."""
    trainer = make_trainer(tmp_path, rollout=scripted(), beta=0.04)
    trainer.ref_model.model.language_model.set_attn_implementation("sdpa")
    with pytest.raises((AttributeError, TypeError)):
        trainer.train()


def test_groups_must_not_straddle_micro_batches(tmp_path):
    with pytest.raises(ValueError, match="multiple of num_generations"):
        make_trainer(tmp_path, per_device_train_batch_size=3, generation_batch_size=6)


def test_each_video_is_read_once_a_batch(tmp_path):
    """TRL repeats a row G times; the clip behind it is read once."""
    trainer = make_trainer(tmp_path, rollout=scripted())
    reads = []
    reader = trainer.train_dataset.format["format_kwargs"]["transform"]
    counted = dataclasses.replace(
        reader, read_clip=lambda path: reads.append(path) or reader.read_clip(path)
    )
    trainer.train_dataset = trainer.train_dataset.with_transform(counted)
    trainer.train()
    assert sorted(medium.path.stem for medium in reads) == [str(i) for i in range(NUM_VIDEOS)]


class LostAtSecondStep(Scripted):
    """Injected: the engine is lost for good after one step."""

    def generate(self, requests, num_generations, sampling, seed):
        if hasattr(self, "num_requests"):
            raise RolloutError("the engine is gone")
        return super().generate(requests, num_generations, sampling, seed)


def test_a_run_without_rollouts_saves_its_last_step(tmp_path):
    policy = small_policy("internvl3")
    lost = LostAtSecondStep(policy.tokenizer, lambda i, j: answer(1.0 + i + 0.3 * j), None)
    trainer = make_trainer(tmp_path, reward_list=rewards("regression"), rollout=lost, max_steps=3)
    assert trainer.save_last_step().startswith("no step was done yet")
    with pytest.raises(RolloutError, match="the engine is gone"):
        trainer.train()
    folder = tmp_path / "run" / "checkpoint-1"
    assert trainer.save_last_step() == f"step 1 is saved in {folder}"
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 1
    assert newest_valid(folder.parent) == (folder, [])
    saved = load_policy(folder).model.state_dict()
    for name, tensor in trainer.core.state_dict().items():
        assert torch.equal(saved[name], tensor), name
