"""Work, memory and money of a step, by hand for one backbone."""

from dataclasses import replace

import pytest

from thinker.plan.memory import check_memory, engine_of, memory_of, what_fits
from thinker.plan.rates import load_rates
from thinker.plan.scoring import archive_plan, batch_size
from thinker.plan.simulate import Lengths
from thinker.plan.step import Job, StepPlan
from thinker.plan.training import training_plan
from thinker.policies.card import count_parameters
from thinker.policies.cost import StepSize, meta_policy, video_flops, video_tokens

SIZE = StepSize(num_keyframes=6, num_generations=4, completion_tokens=100, num_videos=2)
JOB = Job(model="InternVL3-1B", size=SIZE, gpus=16, nodes=2)
LENGTHS = Lengths(mean=100, spread=0, longest=2048)
PEAK, HBM = 989.4e12, 3.35e12


def plan_of(**changes):
    return StepPlan(replace(JOB, **changes), load_rates())


def named(stages):
    return {stage.name: stage for stage in stages}


def test_stages_of_a_step():
    plan = plan_of(with_reference=True)
    model = meta_policy("InternVL3-1B", 6)
    flops, tokens = video_flops(model, video_tokens(model), SIZE), video_tokens(model)
    counts = count_parameters(model)
    before, after, last = named(plan.before()), named(plan.after()), named(plan.reduction())
    assert before["encode videos"].seconds == pytest.approx(2 * flops.encode / (PEAK * 0.4))
    full = flops.encode + flops.logprobs
    assert after["training forward and backward"].flops == 2 * 4 * full
    assert after["old log-probabilities"].flops == 2 * flops.logprobs
    assert after["reference log-probabilities"].seconds == pytest.approx(2 * full / (PEAK * 0.4))
    # 15/16 of the weights; all adapters of a node carry 400 GB/s, less than its links' 450
    sent = 2 * counts["total"] * 15 / 16
    assert before["gather weights for rollouts"].sent_bytes == pytest.approx(sent)
    assert before["gather weights for rollouts"].seconds == pytest.approx(sent / (400e9 * 0.7))
    gathered = last["gather weights for log-probabilities"]  # old, reference, forward, backward
    assert gathered.sent_bytes == pytest.approx(4 * sent)
    engine = plan.decoding(free_bytes=1e9)
    language = 2 * (counts["language_model"] + counts["lm_head"])
    assert engine.token_seconds == pytest.approx(0.003 + language / (HBM * 0.6))
    cache = 2 * 24 * 128 * 2  # keys and values, layers, two heads of 64, bytes
    a_token = flops.decode / 400
    assert engine.sequence_seconds == pytest.approx(
        cache * (tokens.prompt + 50) / (HBM * 0.6) + a_token / (PEAK * 0.5)
    )
    assert engine.slots == 1e9 // (cache * (tokens.prompt + 100))
    assert plan.rewards().seconds == pytest.approx(0.194 * (16 * 2 * 4 / 2048) ** 2)


def test_lora_and_ddp_send_and_compute_less():
    full, lora = plan_of(sharding="ddp"), plan_of(sharding="ddp", lora=True)
    flops = full.flops
    assert named(lora.after())["training forward and backward"].flops == 2 * (
        flops.encode + 3 * flops.logprobs
    )
    sums = named(full.reduction())["sum gradients"].sent_bytes
    assert sums == pytest.approx(2 * 15 / 16 * 2 * full.trained)
    assert named(lora.reduction())["sum gradients"].sent_bytes < 0.2 * sums
    assert named(full.before())["gather weights for rollouts"].sent_bytes == 0


def test_pushes_to_servers():
    """disk: written and read at 2 GB/s each; nccl: four servers one after the other at 35 GB/s."""
    disk, nccl = plan_of(server_gpus=4), plan_of(server_gpus=4, push="nccl")
    size = disk.language_bytes
    assert named(disk.before())["push weights"].seconds == pytest.approx(2 * size / 2e9)
    assert named(nccl.before())["push weights"].seconds == pytest.approx(4 * size / 35e9)
    prompts = named(disk.rollouts(engine_of(disk)))["rollouts: prompts"]
    assert prompts.flops == pytest.approx(2 * 12 / 4 * disk.flops.prefill)


def test_memory_of_8b():
    """DDP: 16 bytes a trained parameter. FSDP2 on 64 divides them, but rollouts need all weights
    whole, and the engine's copy."""
    job = Job(model="InternVL3-8B", size=SIZE, gpus=64, nodes=8, sharding="ddp")
    plan = StepPlan(job, load_rates())
    training = memory_of(plan).training
    states = training["weights"] + training["gradients"] + training["optimizer"]
    assert states == pytest.approx(16 * plan.trained, rel=1e-3)
    sharded = memory_of(StepPlan(replace(job, sharding="fsdp2"), load_rates()))
    assert sharded.training["weights"] == pytest.approx(training["weights"] / 64)
    assert sharded.rollouts["weights"] == plan.weight_bytes
    assert sharded.rollouts["engine's language model"] == plan.language_bytes
    assert not memory_of(plan).fits and sharded.fits
    with pytest.raises(ValueError, match=r"InternVL3-8B does not fit a H100-SXM: 129.7 GB in tr"):
        check_memory(job, load_rates())
    alone = replace(job, gpus=1, nodes=1, sharding="fsdp2")
    said = what_fits(alone, load_rates())
    assert "--lora" in said and "--gpus 8 --nodes 1" in said and "--gpu L40S" not in said


def test_a_run_is_its_steps():
    """28 videos, two epochs, 14 trainers with two: one step an epoch. Equal lengths: no waiting."""
    found = training_plan(
        replace(JOB, server_gpus=2), load_rates(), videos=28, epochs=2, lengths=LENGTHS
    )
    assert found.steps == 2
    seconds = 2 * found.outcome.mean_seconds + 28 * 0.29 / (14 * 16)
    assert found.hours == pytest.approx(seconds / 3600)
    assert found.dollars == pytest.approx(found.hours * 16 * 3)
    more = training_plan(
        replace(JOB, server_gpus=2), load_rates(), videos=55, epochs=2, lengths=LENGTHS
    )
    assert more.steps == 2  # TRL drops what is left of an epoch
    own = training_plan(JOB, load_rates(), videos=64, epochs=1, lengths=LENGTHS)
    assert own.outcome.step_seconds == pytest.approx([own.alone_seconds] * 20)
    assert own.outcome.waiting == pytest.approx(0)
    slow = load_rates()
    slow = replace(slow, host=replace(slow.host, storage_bytes_per_second=1e6))
    waits = training_plan(JOB, slow, videos=64, epochs=1, lengths=LENGTHS)
    assert dict(waits.binding())["storage"] > waits.loader_wait_seconds > 1
    assert waits.straggler_seconds == pytest.approx(0, abs=0.06 * waits.loader_wait_seconds)
    with pytest.raises(ValueError, match="a step takes 32 videos"):
        training_plan(JOB, load_rates(), videos=31, epochs=1, lengths=LENGTHS)


def test_an_archive_by_its_slowest_stage():
    plan = plan_of()
    level, reason = (archive_plan(plan, 10**6, mode) for mode in ("level", "reason"))
    rates = {stage.name: stage.videos_per_second for stage in level.stages}
    assert rates["read files"] == pytest.approx(2 * 2e9 / 6e6)
    assert rates["decode"] == pytest.approx(16 * 14 / 0.29)
    assert level.slowest.name == "read files"  # a 1B policy is faster than two nodes read
    assert level.hours == pytest.approx(10**6 / rates["read files"] / 3600)
    assert level.dollars == pytest.approx(level.hours * 16 * 3)
    answering = {stage.name: stage.videos_per_second for stage in reason.stages}
    assert answering["encode and answer"] < rates["encode and answer"]
    assert level.cores_needed == pytest.approx(0.29 * rates["encode and answer"] / 16)
    assert batch_size(plan) == 64
    with pytest.raises(ValueError, match="mode is 'guess', expected one of level, reason"):
        archive_plan(plan, 1, "guess")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 15}, "gpus is 15 and nodes 2"),
        ({"server_gpus": 16}, "server_gpus is 16, expected fewer than all 16"),
        ({"push": "mail"}, "push is 'mail', expected one of disk, nccl"),
        ({"micro_batches": 3}, "micro_batches is 3, expected a divisor of the 2 videos"),
    ],
)
def test_bad_jobs(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(JOB, **changes)
