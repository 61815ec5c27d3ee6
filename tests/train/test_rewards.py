"""Rewards on a real trainer: those that raise, are not finite, or are equal in a group; batches of
several tasks."""

import dataclasses
import math
import random
from types import SimpleNamespace

import pytest
import torch

from rewards import build_reward
from tests.helpers.given_rewards import ONE_BATCH, Given, given_trainer
from tests.helpers.trainer_runs import (
    answer,
    make_trainer,
    read_jsonl,
    rewards,
    samples,
    scripted,
    snapshot,
)
from thinker.data.examples import parsed_reference
from thinker.prompts import ask
from thinker.train.grpo.batch import BatchContext
from thinker.train.grpo.rewards import RewardTable, WeightedReward, check_tasks, equal_reward_rows
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


# --- batches of several tasks


def choices(numbers):
    """The samples of these numbers as choices between two options, of which "B" is right."""
    return [
        dataclasses.replace(
            samples()[i],
            task="choice",
            turns=ask("Which?\nA. blur\nB. noise"),
            options=("blur", "noise"),
            reference="B",
            mos=None,
            target=None,
        )
        for i in numbers
    ]


def table_of(names, notes=None):
    return RewardTable(
        rewards(*names),
        num_generations=2,
        accelerator=SimpleNamespace(device=torch.device("cpu"), process_index=0),
        note=lambda name, value: (notes if notes is not None else {}).update({name: value}),
        told_all=lambda rows: None,
    )


def judged(table, examples, texts, perturbed):
    rows = [
        {
            "sample_id": example.id,
            "task": example.task,
            "target": example.target,
            "reference": parsed_reference(example),
            "options": example.options,
            "tags": dict(example.tags),
        }
        for example in examples
        for _ in range(2)
    ]
    return table.judge(BatchContext(rows=rows, perturbed_texts=perturbed), texts, step=0)


def test_scores_in_a_mixed_batch_get_exactly_the_rewards_that_they_get_alone():
    """Whatever stands between them: the rows of the choices are wild, with numbers in tags, too."""
    names = ("regression", "ranking", "format", "temporal", "choice")
    draw = random.Random(3)
    texts = [answer(draw.uniform(1, 5)) for _ in range(8)]
    copies = [answer(draw.uniform(1, 5)) for _ in range(8)]
    scores = samples()
    alone = judged(table_of(names), scores, texts, copies)
    other = choices(range(4))
    other = [dataclasses.replace(one, id=f"choice/{i}") for i, one in enumerate(other)]
    wild = [
        answer(5.0),
        "B",
        "<think>It is noise.</think><answer>B</answer>",
        "A",
        "B",
        "x",
        "A",
        "B",
    ]
    mixed_examples, mixed_texts, mixed_copies = [], [], []
    for i in range(4):
        mixed_examples += [other[i], scores[i]]
        mixed_texts += [*wild[2 * i : 2 * i + 2], *texts[2 * i : 2 * i + 2]]
        mixed_copies += [None, None, *copies[2 * i : 2 * i + 2]]
    mixed = judged(table_of(names), mixed_examples, mixed_texts, mixed_copies)
    score_rows = [row for row, task in enumerate(mixed.columns["task"]) if task == "score"]
    choice_rows = [row for row in range(16) if row not in score_rows]
    torch.testing.assert_close(
        mixed.rewards[score_rows], alone.rewards, rtol=0, atol=0, equal_nan=True
    )
    assert [mixed.answers[row] for row in score_rows] == alone.answers
    assert alone.rewards[:, 1].isfinite().all() and alone.rewards[:, 4].isnan().all()
    of_choices = mixed.rewards[choice_rows]
    assert of_choices[:, [0, 1, 3]].isnan().all()
    assert of_choices[:, 2].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    nan = math.nan  # "3.00" and "x" name no option
    expected = torch.tensor([nan, 1, 1, 0, 1, nan, 0, 1])
    torch.testing.assert_close(of_choices[:, 4], expected, equal_nan=True)


def test_reasoning_is_compared_with_the_tag_of_each_example():
    one, two, *_ = samples()
    tagged = [dataclasses.replace(one, tags=(("distortion", "frame_drops"),)), two]
    said = ["frame drops, poor", "stutter, poor", "frame drops, poor", "stutter, poor"]
    texts = [f"<think>{text}</think><answer>2.00</answer>" for text in said]
    table = judged(table_of(("regression", "reasoning")), tagged, texts, None)
    nan = math.nan
    expected = torch.tensor([1, 0, nan, nan])
    torch.testing.assert_close(table.rewards[:, 1], expected, equal_nan=True)


def test_a_reward_sees_the_rows_of_its_tasks_only_and_is_not_called_without_any():
    seen = []

    class Choosy:
        name, needs_perturbed, tasks = "choosy", False, ("choice",)

        def __call__(self, completions, sample_id, target, **columns):
            seen.append({"completions": completions, "sample_id": sample_id, **columns})
            return [1.0] * len(completions)

    table = RewardTable(
        [WeightedReward(reward=Choosy())],
        num_generations=2,
        accelerator=SimpleNamespace(device=torch.device("cpu"), process_index=0),
        note=lambda name, value: None,
        told_all=lambda rows: None,
    )
    examples = [samples()[0], *choices([1])]
    found = judged(table, examples, ["<answer>3.00</answer>"] * 2 + ["B", "A"], None)
    assert found.rewards.isnan().flatten().tolist() == [True, True, False, False]
    (call,) = seen
    assert call["completions"] == ["B", "A"] and call["sample_id"] == ["demo/1"] * 2
    assert call["task"] == ["choice"] * 2 and call["options"] == [("blur", "noise")] * 2
    assert [reference.answer for reference in call["reference"]] == ["B", "B"]
    judged(table, samples()[:2], ["<answer>3.00</answer>"] * 4, None)
    assert len(seen) == 1


def test_shares_of_valid_answers_by_task_and_the_mean_of_scores_only():
    notes = {}
    texts = [answer(2.0), "no tags", "B", "A or B", "A", "A"]
    judged(table_of(["choice"], notes), [samples()[0], *choices([1, 2])], texts, None)
    assert notes["answers/valid_share"] == 4 / 6 and notes["answers/mean"] == 2.0
    assert notes["answers/score/valid_share"] == 1 / 2
    assert notes["answers/choice/valid_share"] == 3 / 4
    notes = {}
    judged(table_of(["format"], notes), samples()[:1], texts[:2], None)
    names = {"distinct", "commonest_share", "commonest_8_share", "valid_share", "mean"}
    assert set(notes) == {*(f"answers/{name}" for name in names), "rewards/format/non_finite"}


def test_a_mixed_run_learns_from_both_and_writes_both(tmp_path):
    """Group 0 is a score, of which the second rollout is right; groups 1 to 3 are choices."""
    said = {0: [answer(3.0), answer(1.0)], 1: ["A", "B"], 2: ["B", "B"], 3: ["A or B", "B"]}
    trainer = make_trainer(
        tmp_path,
        reward_list=rewards("regression", "choice"),
        rollout=scripted(own=lambda i, j: said[i][j]),
        examples=[samples()[0], *choices([1, 2, 3])],
        **ONE_BATCH,
    )
    before = snapshot(trainer.core)
    trainer.train()
    rows = read_jsonl(tmp_path / "run" / "rollouts.jsonl")
    assert [row["sample_id"] for row in rows] == [f"demo/{i}" for i in range(4) for _ in range(2)]
    assert [row["task"] for row in rows] == ["score"] * 2 + ["choice"] * 6
    assert [row["answer"] for row in rows] == [3.0, 1.0, "A", "B", "B", "B", None, "B"]
    assert [row["score"] for row in rows] == [3.0, 1.0, *[None] * 6]
    assert [row["invalid"] for row in rows] == [*[None] * 6, "several_options", None]
    # An answer that names two options earns nothing, lest it be better than a wrong one.
    assert [row["rewards"]["choice"] for row in rows] == [None, None, 0, 1, 1, 1, 0, 1]
    assert [row["rewards"]["regression"] is None for row in rows] == [False] * 2 + [True] * 6
    advantages = [row["advantage"] for row in rows]
    assert advantages[1] > 0 > advantages[0] and advantages[3] > 0 > advantages[2]
    assert advantages[4:6] == [0.0] * 2  # equal rewards
    assert advantages[7] > 0 > advantages[6]
    after = snapshot(trainer.core)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_task_that_no_reward_judges_ends_the_run_before_it_starts(tmp_path):
    reason = (
        r"task 'choice', which none of the rewards judges: regression \(score\) and ranking "
        r"\(score\); add one \(choice\), or take"
    )
    with pytest.raises(ValueError, match=reason):
        make_trainer(
            tmp_path,
            reward_list=rewards("regression", "ranking"),
            examples=[samples()[0], *choices([1, 2, 3])],
        )
    check_tasks([build_reward("format")], ["score", "level", "choice"])
    with pytest.raises(ValueError, match="a class of your own that names the task"):
        check_tasks([build_reward("format"), Given(None)], ["open"])
