"""Rollouts by transformers that come with the log-probabilities they were drawn with."""

import hashlib

import torch

from thinker.rollout.base import Completion
from thinker.rollout.hf import HfRollout


class LoggedRollout(HfRollout):
    """As vLLM does, one plain forward a completion; keeps what each call was drawn with."""

    reports_logprobs = True

    def __init__(self, policy, model):
        super().__init__(model, policy.tokenizer.pad_token_id, [])  # every completion full length
        self.tokenizer = policy.tokenizer
        self.weights: list[str] = []  # a digest of those of each call
        self.texts: list[list[str]] = []  # the completions of each call, in order

    def generate(self, requests, num_generations, sampling, seed):
        groups = super().generate(requests, num_generations, sampling, seed)
        self.weights.append(digest(self.model))
        ids = [completion.token_ids for group in groups for completion in group]
        self.texts.append([self.tokenizer.decode(row, skip_special_tokens=True) for row in ids])
        return [
            [self._logged(request, completion.token_ids) for completion in group]
            for request, group in zip(requests, groups, strict=True)
        ]

    @torch.no_grad()
    def _logged(self, request, completion_ids):
        tail = request.next_position + torch.arange(len(completion_ids))
        tail = tail.expand(*request.positions.shape[:-1], -1)
        ids = torch.tensor([[*request.token_ids, *completion_ids]])
        was_training = self.model.training
        self.model.eval()
        hidden = self.model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.cat([request.positions, tail], dim=-1).unsqueeze(-2),
            media_embeds=[request.embeds],
            use_cache=False,
        ).last_hidden_state[0, len(request.token_ids) - 1 : -1]
        self.model.train(was_training)
        logps = self.model.get_output_embeddings()(hidden).float().log_softmax(-1)
        drawn = logps.gather(-1, torch.tensor(completion_ids)[:, None])[:, 0]
        return Completion(token_ids=completion_ids, logprobs=drawn.tolist())


def digest(model):
    """Of all weights."""
    hashed = hashlib.sha256()
    for parameter in model.parameters():
        hashed.update(parameter.detach().numpy().tobytes())
    return hashed.hexdigest()
