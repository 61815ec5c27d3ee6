"""One-step-off rollouts: which weights draw which batch, the correction for it, and restarts."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler
from transformers import TrainerCallback
from trl import GRPOConfig

from tests.helpers.fault_jobs import Lengths
from tests.helpers.logged_rollout import LoggedRollout, digest
from tests.helpers.policy_factory import small_policy
from tests.helpers.trainer_runs import GROUP, make_trainer, read_jsonl, scripted, snapshot
from thinker.policies import load_policy
from thinker.rollout.base import Completion
from thinker.train.checkpoint import CheckpointError
from thinker.train.grpo.batch import BatchContext
from thinker.train.grpo.one_step_off import AheadOrder, OneStepOff, check_one_step_off
from thinker.train.grpo.rewards import WeightedReward
from thinker.train.resume import EpochOrder

# The order of the data

ORDER = {"mini_repeat_count": 2, "batch_size": 3, "repeat_count": 2, "seed": 1}
"""7 samples in batches of 3: 2 batches an epoch, each 2 x 3 x 2 = 12 numbers long."""


def epochs(kind, count):
    order = kind(range(7), **ORDER)
    numbers = []
    for order.epoch in range(count):
        numbers += list(order)
    return numbers


def test_the_order_is_the_usual_one_a_batch_ahead():
    usual, ahead = epochs(EpochOrder, 4), epochs(AheadOrder, 3)
    assert ahead == usual[12 : 12 + 3 * 24]
    late = AheadOrder(range(7), **ORDER)
    late.epoch = 2  # as after a restart
    assert list(late) == usual[12 + 2 * 24 : 12 + 3 * 24]
    assert late.epoch == 2
    unshuffled = AheadOrder(range(7), **(ORDER | {"shuffle": False}))
    assert list(unshuffled) == 2 * [3, 3, 4, 4, 5, 5] + 2 * [0, 0, 1, 1, 2, 2]


def test_the_first_batch_is_shared_out_as_the_data_loader_does():
    """Two processes with 6 rows a generation batch each: no row of the run's first batch is lost,
    and none is in the share of both."""
    order = AheadOrder(range(12), mini_repeat_count=2, batch_size=6, repeat_count=2, seed=1)
    usual = EpochOrder(range(12), mini_repeat_count=2, batch_size=6, repeat_count=2, seed=1)
    for process in range(2):
        shard = BatchSamplerShard(
            BatchSampler(usual, 6, False), num_processes=2, process_index=process
        )
        assert order.first(6, process) == next(iter(shard))


# Which weights draw which batch


class Weights(TrainerCallback):
    """Digests of the weights at the beginning of each update."""

    def __init__(self, trainer):
        self.model, self.seen = trainer.core, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.seen.append(digest(self.model))


def run(tmp_path, *, one_step_off=True, resume=None, **given):
    """2 batches of 2 videos an epoch; returns the trainer and its back end."""
    values = {
        "per_device_train_batch_size": 2 * GROUP, "max_steps": 5, "shuffle_dataset": True,
        "learning_rate": 3e-3, "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate", **given,
    }  # fmt: skip
    if not (tmp_path / "start").exists():
        small_policy("internvl3", amplify=1.0).save(tmp_path / "start")
    backends = []

    def rollout(model):
        backends.append(LoggedRollout(small_policy("internvl3"), model))
        return backends[0]

    trainer = make_trainer(
        tmp_path, reward_list=[WeightedReward(reward=Lengths())], rollout=rollout,
        save_start=False, one_step_off=one_step_off, **values,
    )  # fmt: skip
    trainer.weights = Weights(trainer)
    trainer.add_callback(trainer.weights)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, backends[0]


def differences(trainer):
    return [
        log["sampling/sampling_logp_difference/max"]
        for log in trainer.state.log_history
        if "sampling/sampling_logp_difference/max" in log
    ]


def test_each_batch_is_drawn_with_the_weights_before_the_batch_before_it(tmp_path):
    """Batches 0 and 1 with W_0, batch k with W_(k-1); over the end of an epoch, too. Samples and
    their order are those of a usual run."""
    trainer, backend = run(tmp_path / "ahead")
    w = trainer.weights.seen
    assert len(set(w)) == 5
    assert backend.weights == [w[0], w[0], w[1], w[2], w[3]]  # 5 batches, none drawn in vain
    usual, usual_backend = run(tmp_path / "usual", one_step_off=False)
    assert usual_backend.weights == usual.weights.seen
    lines = [read_jsonl(tmp_path / name / "run" / "rollouts.jsonl") for name in ("ahead", "usual")]
    assert [(x["step"], x["sample_id"]) for x in lines[0]] == [
        (x["step"], x["sample_id"]) for x in lines[1]
    ]
    for step in range(5):
        own = [x["completion"] for x in lines[0] if x["step"] == step + 1]
        assert own == backend.texts[step]
    assert backend.texts[0] == usual_backend.texts[0]
    # TRL corrects by what the update of the batch before has changed: nothing for the first one.
    ahead, none = differences(trainer), differences(usual)
    assert max(none) < 1e-4 and ahead[0] < 1e-4
    assert min(ahead[1:]) > 1e-3


TWICE = {"num_iterations": 2, "max_steps": 6, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that uses each batch for two updates; its folder, trainer and back end."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *run(folder, **TWICE)


def test_updates_of_one_batch_share_its_rollouts(whole):
    """Batch k + 1 is drawn before both updates on batch k."""
    _, trainer, backend = whole
    w = trainer.weights.seen
    assert backend.weights == [w[0], w[0], w[2]]


@pytest.mark.parametrize("saved", [1, 2])
def test_a_resumed_run_ends_bit_identical(whole, tmp_path, saved):
    """From a checkpoint in mid-batch (1) and one between batches (2): what was drawn ahead is in
    it, so no completion is drawn a second time."""
    folder, trainer, _ = whole
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for step in range(saved + 1, 7):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    again, backend = run(tmp_path, resume=True, **TWICE)
    assert backend.weights == [digest_of(folder, 2)]  # the third batch, with the second one at hand
    end = snapshot(again.core)
    for name, tensor in snapshot(trainer.core).items():
        assert torch.equal(tensor, end[name]), name
    files = [(place / "run" / "rollouts.jsonl").read_bytes() for place in (folder, tmp_path)]
    assert files[0] == files[1]


def digest_of(folder, step):
    return digest(load_policy(folder / "run" / f"checkpoint-{step}").model)


# What cannot be


class Rows:
    """A data set of three samples, of which `lost` cannot be read any more: the next one is."""

    def __init__(self, lost=None):
        self.lost = lost

    def __getitems__(self, numbers):
        return [{"sample_id": f"s{n + 1 if n == self.lost else n}"} for n in numbers]


def one_step_off(lost=None, num_processes=1):
    accelerator = SimpleNamespace(process_index=0, num_processes=num_processes, device="cpu")
    return OneStepOff(Rows(lost), ["s0", "s1", "s2"], accelerator)


def draw(context, is_ahead):
    context.perturbed_texts = [None] * len(context.rows)
    return [
        Completion(token_ids=[int(row["sample_id"][1:]), int(is_ahead)], logprobs=[-0.5, None])
        for row in context.rows
    ]


def after_first_batch():
    order = AheadOrder(range(3), mini_repeat_count=1, shuffle=False)
    first = one_step_off()
    rows = first.rows(Rows().__getitems__([1]), is_due=True, order=order)
    assert rows == [{"sample_id": "s0"}]
    [completion] = first.completions(BatchContext(rows=rows), draw, is_last=False)
    assert completion.token_ids == [0, 0]
    return first, order


def test_what_was_drawn_ahead_comes_back_or_is_drawn_anew_where_its_media_are_lost(caplog):
    first, order = after_first_batch()
    state = first.state()
    for lost, expected in ((None, ("s1", [1, 1])), (1, ("s2", [2, 0]))):
        resumed = one_step_off(lost)
        resumed.restore(state, None)
        rows = resumed.rows(Rows().__getitems__([2]), is_due=True, order=order)
        [completion] = resumed.completions(BatchContext(rows=rows), draw, is_last=True)
        assert (rows[0]["sample_id"], completion.token_ids) == expected
        assert resumed.state()["drawn"] is None
    assert "drawn anew: their media have changed" in caplog.text


def test_a_checkpoint_of_other_processes_or_without_rollouts_is_refused():
    first, order = after_first_batch()
    with pytest.raises(CheckpointError, match=r"that 1 processes drew ahead .* among 2; resume"):
        one_step_off(num_processes=2).restore(first.state(), None)
    resumed = one_step_off()
    resumed.restore(None, None)
    with pytest.raises(CheckpointError, match="holds no rollouts that were drawn ahead"):
        resumed.rows(Rows().__getitems__([2]), is_due=True, order=order)


def test_what_one_step_off_needs_is_said(tmp_path):
    settings = {"output_dir": str(tmp_path), "per_device_train_batch_size": 8, "use_cpu": True,
                "bf16": False, "report_to": []}  # fmt: skip
    with pytest.raises(ValueError, match="importance_sampling_correction is false: rollouts of ol"):
        check_one_step_off(GRPOConfig(vllm_importance_sampling_correction=False, **settings))
    args = GRPOConfig(gradient_accumulation_steps=4, steps_per_generation=2, **settings)
    with pytest.raises(ValueError, match="is 2, expected a multiple of gradient_accumulation"):
        check_one_step_off(args)
    with pytest.raises(ValueError, match=r"does not report; use rollout.backend=vllm"):
        make_trainer(tmp_path, rollout=scripted(), one_step_off=True)
