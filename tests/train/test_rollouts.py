"""Collecting rollouts: one call for prompts and their perturbed copies, texts in their rows."""

import contextlib

import pytest
import torch

from tests.helpers.policy_factory import (
    BACKBONES,
    conversations,
    keeps_aspect,
    random_still,
    small_policy,
)
from tests.helpers.trainer_runs import GROUP
from thinker.policies import Prompt
from thinker.policies.encode import encode_prompts
from thinker.prompts import ask
from thinker.rollout.base import Completion, Sampling
from thinker.train.counters import Counters
from thinker.train.grpo.batch import BatchContext
from thinker.train.grpo.features import VideoFeatureCache
from thinker.train.grpo.rollouts import RolloutCollector


class Numbers:
    """A back end that answers request i, completion j with the digits i and j."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def generate(self, requests, num_generations, sampling, seed):
        self.requests = requests
        return [
            [Completion(token_ids=self.tokenizer(f"{i}{j}")["input_ids"]) for j in range(GROUP)]
            for i in range(len(requests))
        ]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_videos_have_copies_and_stills_do_not(backbone):
    """Rows: two videos, a still and a video, three turns, no media, a still alone, a video that is
    asked for a choice. The first three get a copy, of which the still's embeddings are the same."""
    policy = small_policy(backbone)
    alone = Prompt(clips=(random_still(policy, 7),), turns=ask("What is it?"))
    prompts = [*conversations(policy), alone]
    prompts.append(Prompt(clips=prompts[0].clips[:1], turns=ask("Is it sharp?")))
    backend = Numbers(policy.tokenizer)
    collector = RolloutCollector(
        policy,
        backend,
        features=VideoFeatureCache(policy.inputs, policy.model, None, contextlib.nullcontext),
        keep_features=True,
        counters=Counters(),
        perturbations=("reverse",),
        copied_tasks=["score"],
        run_seed=0,
    )
    rows = [
        {
            "sample_id": str(i),
            "task": "choice" if i == 5 else "score",
            "clips": prompt.clips,
            "turns": prompt.turns,
        }
        for i, prompt in enumerate(prompts)
        for _ in range(GROUP)
    ]
    context = BatchContext(rows=rows)
    completions = collector.collect(context, GROUP, Sampling(), step=0, seed=0)
    texts = [policy.tokenizer.decode(completion.token_ids) for completion in completions]
    assert texts == [f"{i}{j}" for i in range(6) for j in range(GROUP)]
    assert context.perturbed_texts == ["60", "61", "70", "71", "80", "81", *[None] * 6]
    ids = [request.token_ids for request in backend.requests]
    assert ids == [policy.inputs.prompt_ids(prompts[i]) for i in (0, 1, 2, 3, 4, 5, 0, 1, 2)]
    for one, other in zip(backend.requests[:6], encode_prompts(policy, prompts), strict=True):
        torch.testing.assert_close(one.embeds, other.embeds, atol=1e-5, rtol=1e-5)
    own, copy = backend.requests[1].embeds, backend.requests[7].embeds
    still = 3 if keeps_aspect(backbone) else 12  # its tokens come first
    assert torch.equal(own[:still], copy[:still])
    assert (own[still:] - copy[still:]).abs().max() > 1e-3
