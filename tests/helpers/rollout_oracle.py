"""The oracle of the rollout tests: one plain forward a completion, from pixels, no cache."""

import dataclasses

import torch

from tests.helpers.policy_factory import SIZE, one_clip, random_clip, small_policy
from thinker.config.run import RolloutSettings
from thinker.policies import Policy, Prompt
from thinker.rollout.base import Sampling

# vLLM's attention on a CPU needs heads of 32 or more.
ENGINE_SIZE = dataclasses.replace(SIZE, width=64)
GATE, EXACT = 1e-3, 1e-4
"""Largest difference of a logprob that counts as equal. Measured 1e-6 to 2e-5, but 2e-4 with one
pooled motion token, whose amplified embedding is ill-conditioned: there the plain float32 forward
differs from a float64 one by 1.8e-4, and vLLM's by 1.6e-4. So GATE over the variants, else EXACT.
"""
SAMPLING = Sampling(max_new_tokens=8)
SETTINGS = RolloutSettings(backend="vllm", timeout_seconds=300.0)


def engine_policy(backbone: str, *, amplify: float = 3.0, **changes) -> Policy:
    """A tiny amplified policy that vLLM can run on a CPU; `changes` are fields of TinySize."""
    size = dataclasses.replace(ENGINE_SIZE, **changes)
    policy = small_policy(backbone, amplify=amplify, size=size)
    policy.model.eval()
    return policy


def clips_of(policy: Policy, count: int = 2, *, seed: int = 0) -> list:
    """Clips of noise; Qwen2.5-VL's differ in frame size."""
    sizes = [(40, 40)] * count
    if policy.inputs.resize == "smart":
        sizes = [(40, 40), (20, 60), (40, 20), (20, 20)][:count]
    return [
        random_clip(policy, seed + i, height=height, width=width)
        for i, (height, width) in enumerate(sizes)
    ]


def prompts_of(policy: Policy, count: int = 2, *, seed: int = 0) -> list[Prompt]:
    """The policy's own question about each of `clips_of`."""
    return one_clip(clips_of(policy, count, seed=seed))


@torch.no_grad()
def plain_logprobs(
    policy: Policy, prompt: Prompt, completion_ids: list[int], temperature: float = 1.0
):
    """Logprobs (C, V) of every next token after the prompt and each completion prefix."""
    backbone = policy.model.model
    prompt_ids = torch.tensor([policy.inputs.prompt_ids(prompt)])
    media, rows = policy.inputs.media_inputs(prompt.clips), [tuple(range(len(prompt.clips)))]
    mask = torch.ones_like(prompt_ids)
    positions = backbone.prompt_positions(prompt_ids, mask, media, rows)
    tail = positions.next.unsqueeze(1) + torch.arange(len(completion_ids))
    if positions.ids.dim() == 3:
        tail = tail.expand(3, -1, -1)
    ids = torch.cat([prompt_ids, torch.tensor([completion_ids], dtype=torch.long)], dim=1)
    output = policy.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.cat([positions.ids, tail], dim=-1),
        media_inputs=media,
        media_rows=rows,
        use_cache=False,
    )
    return (output.logits[0, prompt_ids.shape[1] - 1 : -1] / temperature).log_softmax(-1)


def logprobs_of(
    policy: Policy, prompt: Prompt, completion_ids: list[int], temperature: float = 1.0
):
    """Logprob of each token of one completion."""
    table = plain_logprobs(policy, prompt, completion_ids, temperature)
    return table.gather(-1, torch.tensor(completion_ids).unsqueeze(-1)).squeeze(-1)


def largest_difference(policy: Policy, prompts: list[Prompt], groups: list) -> float:
    """Between the logprobs that completions came with and the oracle's."""
    return max(
        (torch.tensor(c.logprobs) - logprobs_of(policy, prompt, c.token_ids)).abs().max().item()
        for prompt, group in zip(prompts, groups, strict=True)
        for c in group
    )


class Engines:
    """One real engine a backbone. It holds any policy with the same language model's shape, so the
    variants of a test module share it; each pushes its own weights."""

    def __init__(self):
        self._started = {}

    def __call__(self, backbone: str):
        from thinker.rollout.vllm.colocate import ColocatedEngine

        if backbone not in self._started:
            policy = engine_policy(backbone)
            self._started[backbone] = ColocatedEngine(policy, SETTINGS, max_model_len=2048)
        return self._started[backbone]

    def close(self) -> None:
        for engine in self._started.values():
            engine.close()


def synced(policy: Policy, engine):
    """A back end whose engine has the policy's weights."""
    from thinker.rollout.vllm.rollout import VllmRollout

    rollout = VllmRollout(policy, engine)
    rollout.sync(step=0)
    return rollout


def optimise(policy, parts, steps=3):
    """A few steps on the named parts, on the likelihood of fixed tokens: every weight moves."""
    parameters = [p for part in parts for p in policy.model.parts()[part].parameters()]
    if "language_model" in parts:
        parameters += list(policy.model.lm_head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    [asked] = prompts_of(policy, 1, seed=9)
    prompt = torch.tensor([policy.inputs.prompt_ids(asked)])
    media = policy.inputs.media_inputs(asked.clips)
    positions = policy.model.model.prompt_positions(prompt, torch.ones_like(prompt), media)
    for step in range(steps):
        optimizer.zero_grad()
        output = policy.model(
            input_ids=prompt, position_ids=positions.ids, media_inputs=media, use_cache=False
        )
        output.logits[0, -1].log_softmax(-1)[20 + step].neg().backward()
        optimizer.step()
