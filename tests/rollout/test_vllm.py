"""vLLM rollouts against the policy's own forward: real engines on the CPU, float32, amplified
weights, so that a wrong position, a stale weight or a stale embedding cannot hide."""

import dataclasses
import json
from importlib.util import find_spec

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.helpers.policy_factory import BACKBONES, conversations, keeps_aspect, one_clip
from tests.helpers.rollout_oracle import (
    EXACT,
    GATE,
    SAMPLING,
    Engines,
    clips_of,
    engine_policy,
    largest_difference,
    logprobs_of,
    optimise,
    prompts_of,
    synced,
)
from thinker.policies import load_policy
from thinker.policies.encode import encode_prompts
from thinker.rollout.base import Sampling, StaleWeightsError
from thinker.rollout.hf import hf_rollout
from thinker.rollout.vllm.colocate import CPU_BATCHED_TOKENS
from thinker.rollout.vllm.folder import language_weights
from thinker.rollout.vllm.rollout import VllmRollout
from thinker.rollout.vllm.server import generate_body
from thinker.score.question import Question
from thinker.score.scorer import QualityScorer
from thinker.video.perturb import perturb_clip

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture(scope="module")
def engines():
    started = Engines()
    yield started
    started.close()


SQUARES = [
    {},
    {"num_keyframes": 1},
    {"num_keyframes": 12, "num_motion_frames": 24},
    {"num_keyframes": 6, "motion_mode": "pooled"},
    {"motion_mode": "none"},
]
PAIRS = [
    {},
    {"num_keyframes": 1, "motion_mode": "none"},
    {"num_keyframes": 7, "motion_mode": "pooled"},
    {"num_keyframes": 12, "num_motion_frames": 24},
    {"motion_mode": "none"},
]
FRAMES = [{"num_keyframes": 3, "num_motion_frames": 16, "motion_mode": "frames"}]
VARIANTS = [
    (backbone, changes)
    for backbone in BACKBONES
    for changes in (
        *(PAIRS if keeps_aspect(backbone) else SQUARES),
        *(FRAMES if backbone == "llava_onevision" else ()),
    )
]
DEEP = "qwen3_vl"
"""Its embeddings are wider than its language model, and its engine is a class of ours."""
if DEEP not in BACKBONES:
    VARIANTS.append((DEEP, {}))


@pytest.mark.parametrize(("backbone", "changes"), VARIANTS, ids=str)
def test_logprobs_equal_the_policys_own_forward(engines, backbone, changes):
    """Two videos (of different frame size where the backbone keeps it), their perturbed copies, and
    conversations with several media or none, in one call. InternVL's items then have the lengths of
    a frame with its motion tokens, of a still, and of a pooled motion token."""
    policy = engine_policy(backbone, **changes)
    prompts = prompts_of(policy)
    copies = [perturb_clip(p.clips[0], "reverse", seed) for seed, p in enumerate(prompts)]
    prompts += [*one_clip(copies), *conversations(policy)]
    requests = encode_prompts(policy, prompts)
    groups = synced(policy, engines(backbone)).generate(requests, 3, SAMPLING, seed=1)
    assert [len(group) for group in groups] == [3] * 8
    assert len({tuple(c.token_ids) for group in groups for c in group}) == 24
    assert largest_difference(policy, prompts, groups) < GATE
    if changes != {"num_keyframes": 1, "motion_mode": "none"}:  # one frame has no order
        # and the copies are seen: under the videos' own prompts their completions score differently
        swapped = [*prompts[2:4], *prompts[:2]]
        assert largest_difference(policy, swapped, groups[:4]) > 10 * GATE


def test_a_batch_larger_than_one_forward_of_the_engine(engines):
    """Some prompts wait for the next forward, and none is cut: a cut prompt with a seed would fail
    on a CPU."""
    policy = engine_policy("internvl3", num_keyframes=12, num_motion_frames=24)
    prompts = prompts_of(policy)
    requests = encode_prompts(policy, prompts) * 30
    num_tokens = sum(len(request.token_ids) for request in requests)
    assert num_tokens > 1.2 * CPU_BATCHED_TOKENS
    short = Sampling(max_new_tokens=2)
    groups = synced(policy, engines("internvl3")).generate(requests, 1, short, seed=1)
    assert len({tuple(group[0].token_ids) for group in groups}) > 30
    assert largest_difference(policy, prompts * 30, groups) < EXACT


@pytest.mark.parametrize("backbone", BACKBONES)
def test_greedy_answers_equal_those_of_transformers(engines, backbone):
    policy = engine_policy(backbone)
    requests = encode_prompts(policy, prompts_of(policy))
    greedy = Sampling(max_new_tokens=12, temperature=0.0)
    [*ours] = synced(policy, engines(backbone)).generate(requests, 1, greedy, seed=0)
    theirs = hf_rollout(policy).generate(requests, 1, greedy, seed=0)
    assert [g[0].token_ids for g in ours] == [g[0].token_ids for g in theirs]


def test_temperature_and_top_k_are_those_of_the_reported_distribution(engines):
    policy = engine_policy("qwen2_5_vl")
    prompts = prompts_of(policy)
    rollout = synced(policy, engines("qwen2_5_vl"))
    sampling = Sampling(max_new_tokens=8, temperature=2.0)
    groups = rollout.generate(encode_prompts(policy, prompts), 4, sampling, seed=1)
    for prompt, group in zip(prompts, groups, strict=True):
        for c in group:
            expected = logprobs_of(policy, prompt, c.token_ids, temperature=2.0)
            assert torch.allclose(torch.tensor(c.logprobs), expected, atol=EXACT)
    top = dataclasses.replace(SAMPLING, top_k=1)  # one candidate: probability 1
    groups = rollout.generate(encode_prompts(policy, prompts), 2, top, seed=1)
    assert all(c.logprobs == [0.0] * 8 for group in groups for c in group)


def test_the_seed_decides_the_completions(engines):
    policy = engine_policy("internvl3")
    rollout = synced(policy, engines("internvl3"))
    requests = encode_prompts(policy, prompts_of(policy))
    draw = lambda seed: [  # noqa: E731
        [c.token_ids for c in group] for group in rollout.generate(requests, 3, SAMPLING, seed)
    ]
    first = draw(5)
    assert draw(5) == first
    assert draw(6) != first
    assert len({tuple(ids) for group in first for ids in group}) == 6


def test_placeholders_are_never_drawn_however_likely(engines):
    """Both placeholder ids of Qwen get by far the largest logits; the ban holds, and leaves the
    same distribution on both sides."""
    policy = engine_policy("qwen2_5_vl")
    head = policy.model.lm_head
    with torch.no_grad():
        head.weight[policy.model.placeholder_ids()] = 10 * head.weight.abs().max()
    prompts = prompts_of(policy)
    rollout = synced(policy, engines("qwen2_5_vl"))
    groups = rollout.generate(encode_prompts(policy, prompts), 8, SAMPLING, seed=1)
    drawn = {token for group in groups for c in group for token in c.token_ids}
    assert not drawn & set(policy.model.placeholder_ids())
    assert largest_difference(policy, prompts, groups) < EXACT


def test_completions_end_with_the_end_token(engines):
    policy = engine_policy("internvl3")
    engine = engines("internvl3")
    prompts = prompts_of(policy)
    requests = encode_prompts(policy, prompts)
    free = VllmRollout(policy, engine, eos=[])
    free.sync(step=0)
    [group, _] = free.generate(requests, 4, SAMPLING, seed=1)
    stop = group[0].token_ids[3]
    ended = VllmRollout(policy, engine, eos=[stop]).generate(requests, 4, SAMPLING, seed=1)
    for cut, whole in zip(ended[0], group, strict=True):
        end = whole.token_ids.index(stop) + 1 if stop in whole.token_ids else len(whole.token_ids)
        assert cut.token_ids == whole.token_ids[:end]
        assert len(cut.logprobs) == end
    assert len(ended[0][0].token_ids) <= 4


# Weights


@pytest.mark.parametrize("backbone", dict.fromkeys([*BACKBONES, DEEP]))
def test_exact_after_optimizer_steps_and_a_push_and_not_without(engines, backbone):
    policy = engine_policy(backbone)
    prompts = prompts_of(policy)
    rollout = synced(policy, engines(backbone))
    rollout.generate(encode_prompts(policy, prompts), 2, SAMPLING, seed=1)  # fills the caches
    optimise(policy, list(policy.model.parts()))
    stale = rollout.generate(encode_prompts(policy, prompts), 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, stale) > 100 * EXACT
    figures = rollout.sync(step=3)
    assert figures["probe_logp_difference"] < EXACT
    assert rollout.sync(step=3) == {}  # once a step
    groups = rollout.generate(encode_prompts(policy, prompts), 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, groups) < EXACT


@pytest.mark.parametrize("backbone", BACKBONES)
def test_new_embeddings_after_an_update_of_the_towers(engines, backbone):
    """The same videos, prompts and language weights: what the engine cached under the old
    embeddings must not answer."""
    policy = engine_policy(backbone)
    prompts = prompts_of(policy)
    rollout = synced(policy, engines(backbone))
    old = encode_prompts(policy, prompts)
    rollout.generate(old, 2, SAMPLING, seed=1)
    towers = [name for name in policy.model.parts() if name != "language_model"]
    optimise(policy, towers)
    new = encode_prompts(policy, prompts)
    assert (new[0].embeds - old[0].embeds).abs().max() > 0.01
    policy.model.model.language_model.requires_grad_(False)
    policy.model.lm_head.requires_grad_(False)
    assert rollout.sync(step=3) == {}  # a frozen language model is not pushed again
    groups = rollout.generate(new, 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, groups) < EXACT


def test_a_push_that_did_not_arrive_names_the_step(engines, monkeypatch):
    policy = engine_policy("internvl3")
    rollout = synced(policy, engines("internvl3"))
    optimise(policy, ["language_model"], steps=1)
    monkeypatch.setattr(rollout.engine, "push", lambda weights: None)
    with pytest.raises(StaleWeightsError, match=r"step 17: after the weight push .* differ"):
        rollout.sync(step=17)


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_lora_is_merged_for_the_engine_and_left_alone_in_the_policy(
    engines, tmp_path, quantization
):
    """What the engine holds is whole, also where the policy's language model is in 4 bits."""
    policy = engine_policy("qwen2_5_vl")
    if quantization:
        pytest.importorskip("bitsandbytes")
        policy.save(tmp_path)
        policy = load_policy(tmp_path, quantization=quantization)
        policy.model.eval()
    config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|down_proj)")
    wrapped = get_peft_model(policy.model, config)
    core = wrapped.get_base_model()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter))
    policy = dataclasses.replace(policy, model=core)
    before = {name: tensor.clone() for name, tensor in core.state_dict().items()}
    prompts = prompts_of(policy)
    rollout = synced(policy, engines("qwen2_5_vl"))
    groups = rollout.generate(encode_prompts(policy, prompts), 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, groups) < EXACT
    assert all(torch.equal(before[name], tensor) for name, tensor in core.state_dict().items())
    with wrapped.disable_adapter():  # the adapters mattered
        assert largest_difference(policy, prompts, groups) > 100 * EXACT


def test_only_the_language_model_is_pushed():
    policy = engine_policy("internvl3")
    names = [name for name, _ in language_weights(policy.model)]
    assert "lm_head.weight" in names and "model.language_model.embed_tokens.weight" in names
    assert all(name.startswith(("model.language_model.", "lm_head.")) for name in names)
    assert not any("lora" in name or name.endswith("lm_head.bias") for name in names)


# Scoring, and the form that a server is sent


def test_scoring_through_the_engine_equals_transformers(engines):
    policy = engine_policy("internvl3")
    clips = clips_of(policy)
    rollout = synced(policy, engines("internvl3"))
    ours = QualityScorer(policy, rollout, max_new_tokens=12).score_clips(clips)
    theirs = QualityScorer(policy, max_new_tokens=12).score_clips(clips)
    assert [p.completion for p in ours] == [p.completion for p in theirs]
    # questions about several media, too, about none, and of several turns
    asked = [Question(clips=p.clips, turns=p.turns, task="open") for p in conversations(policy)]
    ours = QualityScorer(policy, rollout, max_new_tokens=12).answer_stream(asked)
    theirs = QualityScorer(policy, max_new_tokens=12).answer_stream(asked)
    assert [p.completion for p in ours] == [p.completion for p in theirs]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_form_sent_to_a_server_gives_the_same_completions(engines, backbone, monkeypatch):
    """`generate_body` as JSON, read back by vLLM's own server code, run by the engine here."""
    policy = engine_policy(backbone)
    requests = encode_prompts(policy, [*prompts_of(policy), *conversations(policy)])
    rollout = synced(policy, engines(backbone))
    direct = rollout.generate(requests, 2, SAMPLING, seed=1)
    monkeypatch.setattr("thinker.rollout.vllm.colocate.engine_input", through_json)
    sent = rollout.generate(requests, 2, SAMPLING, seed=1)
    assert [[c.token_ids for c in group] for group in sent] == [
        [c.token_ids for c in group] for group in direct
    ]


def through_json(request):
    from vllm.entrypoints.scale_out.token_in_token_out.mm_features import mm_kwargs_from_features
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest
    from vllm.inputs import mm_input, tokens_input
    from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

    read = GenerateRequest.model_validate_json(json.dumps(generate_body(request)))
    assert read.sampling_params.logit_bias == request.params["logit_bias"]  # not clipped to -100
    if read.features is None:
        return tokens_input(read.token_ids)
    ranges = [
        PlaceholderRange(offset=place.offset, length=place.length)
        for place in read.features.mm_placeholders["image"]
    ]
    items = MultiModalKwargsItems(mm_kwargs_from_features(read.features))
    return mm_input(read.token_ids, items, read.features.mm_hashes, {"image": ranges})
