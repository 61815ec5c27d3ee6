"""Rollouts by transformers' `generate` against plain forwards, both backbones."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from tests.helpers.policy_factory import (
    BACKBONES,
    FRAME_POLICIES,
    conversations,
    keeps_aspect,
    one_clip,
    random_clip,
)
from tests.helpers.rollout_oracle import engine_policy, logprobs_of, plain_logprobs, prompts_of
from thinker.policies import Prompt
from thinker.policies.encode import EncodedPrompt, encode_prompts
from thinker.prompts import ask
from thinker.rollout.base import Sampling
from thinker.rollout.hf import HfRollout, hf_rollout
from thinker.rollout.vllm.rollout import media_items

GREEDY = Sampling(max_new_tokens=10, temperature=0.0)


def endless(policy):
    """A back end without an end token: every completion has max_new_tokens."""
    return HfRollout(policy.model, policy.tokenizer.pad_token_id, [])


def ragged(policy):
    """Prompts of three lengths (and, for Qwen2.5-VL, frame sizes) and conversations, left-padded
    in one batch."""
    questions = ("Why?", "What is the main distortion in this video, and where?", "So?")
    prompts = [
        replace(prompt, turns=ask(question))
        for prompt, question in zip(prompts_of(policy, 3), questions, strict=True)
    ]
    requests = encode_prompts(policy, [*prompts, *conversations(policy)])
    assert len({len(request.token_ids) for request in requests}) > 3
    return requests


@pytest.mark.parametrize("backbone", [*BACKBONES, *FRAME_POLICIES])
def test_greedy_is_the_argmax_of_the_plain_forward(backbone):
    policy = engine_policy(backbone)
    prompts = [*prompts_of(policy, 3), *conversations(policy)]
    groups = endless(policy).generate(encode_prompts(policy, prompts), 1, GREEDY, seed=0)
    for prompt, [completion] in zip(prompts, groups, strict=True):
        assert len(completion.token_ids) == 10
        table = plain_logprobs(policy, prompt, completion.token_ids)
        assert table.argmax(-1).tolist() == completion.token_ids


@pytest.mark.parametrize("backbone", BACKBONES)
def test_ragged_prompts_in_one_batch_equal_one_by_one(backbone):
    policy = engine_policy(backbone)
    requests = ragged(policy)
    rollout = endless(policy)
    together = rollout.generate(requests, 2, GREEDY, seed=0)
    alone = [rollout.generate([request], 1, GREEDY, seed=0)[0][0] for request in requests]
    for group, single in zip(together, alone, strict=True):
        assert [c.token_ids for c in group] == [single.token_ids] * 2
    assert len({tuple(c.token_ids) for c in alone}) == len(requests)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_samples_follow_the_plain_forwards_distribution(backbone):
    """4000 first tokens: the frequency of each of the likeliest ones is within five standard
    errors of its probability; and their mean log-likelihood is minus the entropy."""
    policy = engine_policy(backbone, amplify=1.5)
    prompt = prompts_of(policy, 1)[0]
    num = 4000
    one = Sampling(max_new_tokens=1)
    [group] = endless(policy).generate(encode_prompts(policy, [prompt]), num, one, seed=3)
    drawn = torch.tensor([c.token_ids[0] for c in group])
    logps = plain_logprobs(policy, prompt, [0])[0]
    probabilities = logps.exp()
    for token in probabilities.topk(5).indices.tolist():
        p = probabilities[token].item()
        assert (drawn == token).double().mean().item() == pytest.approx(
            p, abs=5 * (p * (1 - p) / num) ** 0.5
        )
    entropy = -(probabilities * logps).sum().item()
    spread = (probabilities * (logps + entropy) ** 2).sum().sqrt().item()
    assert logps[drawn].mean().item() == pytest.approx(-entropy, abs=5 * spread / num**0.5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_temperature_sharpens_later_tokens_too(backbone):
    """At temperature 0.5 completions are likelier under that distribution than those drawn at 2."""
    policy = engine_policy(backbone, amplify=1.5)
    prompt = prompts_of(policy, 1)[0]
    requests = encode_prompts(policy, [prompt])
    mean = {}
    for temperature in (0.5, 2.0):
        sampling = Sampling(max_new_tokens=6, temperature=temperature)
        [group] = endless(policy).generate(requests, 16, sampling, seed=1)
        values = [logprobs_of(policy, prompt, c.token_ids).mean() for c in group]
        mean[temperature] = torch.stack(values).mean().item()
    assert mean[0.5] > mean[2.0] + 0.2


@pytest.mark.parametrize("backbone", BACKBONES)
def test_completions_say_how_likely_they_were_drawn(backbone):
    """Of prompts of several lengths, at temperature .7 and greedy, ended ones and cut ones."""
    policy = engine_policy(backbone, amplify=1.5)
    prompts = [*prompts_of(policy, 2), *conversations(policy)[:2]]
    some_end = HfRollout(policy.model, policy.tokenizer.pad_token_id, list(range(0, 400, 7)))
    lengths = set()
    for temperature in (0.7, 0.0):
        sampling = Sampling(max_new_tokens=5, temperature=temperature)
        groups = some_end.generate(encode_prompts(policy, prompts), 3, sampling, seed=1)
        for prompt, group in zip(prompts, groups, strict=True):
            for one in group:
                lengths.add(len(one.token_ids))
                table = plain_logprobs(policy, prompt, one.token_ids) / (temperature or 1.0)
                own = table.log_softmax(-1).gather(1, torch.tensor(one.token_ids)[:, None])[:, 0]
                assert one.logprobs == pytest.approx(own.tolist(), abs=1e-4)
    assert len(lengths) > 1
    part = Sampling(max_new_tokens=2, top_k=3)  # whose logits are those of a part
    assert some_end.generate(encode_prompts(policy, prompts[:1]), 1, part, 0)[0][0].logprobs is None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_seed_decides_and_the_global_stream_is_left_alone(backbone):
    policy = engine_policy(backbone)
    requests = encode_prompts(policy, prompts_of(policy))
    sampling = Sampling(max_new_tokens=6)
    before = torch.random.get_rng_state()
    first = endless(policy).generate(requests, 3, sampling, seed=5)
    torch.rand(7)  # whatever else drew in between
    again = endless(policy).generate(requests, 3, sampling, seed=5)
    other = endless(policy).generate(requests, 3, sampling, seed=6)
    assert first == again != other
    torch.random.set_rng_state(before)
    endless(policy).generate(requests, 3, sampling, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_prompt_gets_its_number_of_generations(monkeypatch):
    policy = engine_policy("internvl3")
    requests = encode_prompts(policy, prompts_of(policy, 3))
    monkeypatch.setattr("thinker.rollout.hf.ROWS_AT_ONCE", 4)  # two batches
    groups = endless(policy).generate(requests, 2, Sampling(max_new_tokens=3), seed=0)
    assert [[len(c.token_ids) for c in group] for group in groups] == [[3, 3]] * 3
    assert hf_rollout(policy).generate([], 2, Sampling(), seed=0) == []


def test_completions_end_with_the_end_token():
    policy = engine_policy("internvl3")
    requests = encode_prompts(policy, prompts_of(policy, 1))
    [[whole]] = endless(policy).generate(requests, 1, GREEDY, seed=0)
    stop = whole.token_ids[4]
    stopping = HfRollout(policy.model, policy.tokenizer.pad_token_id, [stop])
    [[cut]] = stopping.generate(requests, 1, GREEDY, seed=0)
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]


def test_the_model_is_back_in_training_mode_afterwards():
    policy = engine_policy("internvl3")
    policy.model.train()
    hf_rollout(policy).generate(
        encode_prompts(policy, prompts_of(policy, 1)), 1, Sampling(max_new_tokens=2), seed=0
    )
    assert policy.model.training


# What an engine gets


def test_media_items_are_the_runs_of_placeholders():
    """The example of the docstring, with the rows' numbers as embeddings."""
    request = EncodedPrompt(
        token_ids=[7, 9, 9, 7, 9],
        embeds=torch.tensor([[0.0], [1.0], [2.0]]),
        positions=torch.arange(5),
        next_position=5,
    )
    items = media_items(request, placeholder_id=9)
    assert [item.offset for item in items] == [1, 4]
    assert [item.embeds.tolist() for item in items] == [[[0.0], [1.0]], [[2.0]]]
    text = dataclasses.replace(request, token_ids=[7, 7], embeds=torch.zeros(0, 1))
    assert media_items(text, placeholder_id=9) == []


def test_item_grids_belong_to_the_items_of_each_video():
    """Qwen2.5-VL, frames of 40 x 40 and 20 x 60 with patches of 10: a frame pair and its motion
    tokens (2 keyframes · 2 tokens = 4 → grid (1, 2, 8)) per video."""
    policy = engine_policy("qwen2_5_vl")
    first, second = encode_prompts(policy, prompts_of(policy))
    assert first.item_grids.tolist() == [[1, 4, 4], [1, 2, 8]]
    assert second.item_grids.tolist() == [[1, 2, 6], [1, 2, 8]]
    for request in (first, second):
        items = media_items(request, policy.model.config.image_token_id)
        assert [len(item.embeds) for item in items] == (request.item_grids.prod(-1) // 4).tolist()
    [plain] = encode_prompts(engine_policy("internvl3"), prompts_of(engine_policy("internvl3"), 1))
    assert plain.item_grids is None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_prompt_is_longer_than_the_bound(backbone):
    policy = engine_policy(backbone)
    inputs = policy.inputs
    largest = random_clip(policy, 0, height=40, width=40)  # 1600 px, the limit
    [prompt] = one_clip([largest])
    assert len(inputs.prompt_ids(prompt)) == inputs.max_prompt_tokens()
    if keeps_aspect(backbone):
        [small] = one_clip([random_clip(policy, 0, height=20, width=20)])
        assert len(inputs.prompt_ids(small)) < inputs.max_prompt_tokens()
    several = Prompt(clips=(largest, largest), turns=ask("Which is better, and why?"))
    longest = inputs.max_prompt_tokens(("video", "video"), several.turns)
    assert len(inputs.prompt_ids(several)) == longest
