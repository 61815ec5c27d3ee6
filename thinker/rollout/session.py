"""One conversation, token by token, by transformers: what it has in common with what was said
before is not forwarded again.

In: encoded prompts, one after the other. Out: the tokens of each answer, as they are drawn. The
cache of keys and values stays between them. Of the next prompt the tokens that it begins with in
common with the last one and its answer are in the cache; the rest is forwarded. So the answer is
that of the whole prompt, whatever was said before.
"""

from collections.abc import Iterator
from typing import Any

import torch

from thinker.policies.encode import EncodedPrompt
from thinker.policies.releases import CACHE
from thinker.rollout.base import Sampling
from thinker.rollout.hf import HfRollout


class HfSession:
    """The cache of one conversation. Prompts are to show the same clips in the same order: the
    cache knows placeholders by their ids alone.

    The model is used in eval mode and left in it.
    """

    def __init__(self, rollout: HfRollout):
        self._rollout = rollout
        self._ids: list[int] = []
        self._cache: Any = None
        self.num_forwarded = 0
        """Prompt tokens that were forwarded so far; the others were in the cache."""

    def clear(self) -> None:
        """Forget the cache, as after a fault."""
        self._ids, self._cache = [], None

    @torch.no_grad()
    def tokens(self, request: EncodedPrompt, sampling: Sampling, seed: int) -> Iterator[int]:
        """The tokens of an answer, up to and including an end-of-sequence id, or up to
        `sampling.max_new_tokens`. Temperature 0 takes the likeliest; `top_p` and `top_k` are not
        heeded. A consumer may stop early."""
        self._rollout.model.eval()
        draw = torch.Generator(self._rollout.model.device).manual_seed(seed)
        hidden_BLD = self._forward_prompt(request)
        for number in range(sampling.max_new_tokens):
            logits = self._rollout.model.get_output_embeddings()(hidden_BLD[0, -1]).float()
            token = _drawn(logits, sampling.temperature, draw)
            yield token
            if token in self._rollout.eos_token_ids or number + 1 == sampling.max_new_tokens:
                return
            position = request.positions.new_full(
                (*request.positions.shape[:-1], 1), request.next_position + number
            )
            hidden_BLD = self._forward([token], position, [])

    def _forward_prompt(self, request: EncodedPrompt) -> torch.Tensor:
        """Forward what is not in the cache, at least the last token, whose logits are wanted."""
        ids = request.token_ids
        common = 0
        for ours, theirs in zip(self._ids, ids[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        if self._cache is not None:
            self._cache.crop(common - len(self._ids))  # negative: so many tokens go
        self._ids = self._ids[:common]
        rest = ids[common:]
        image_token = self._rollout.model.config.image_token_id
        num_embeds = rest.count(image_token)
        embeds = request.embeds[len(request.embeds) - num_embeds :]
        self.num_forwarded += len(rest)
        return self._forward(rest, request.positions[..., common:], [embeds])

    def _forward(
        self, ids: list[int], positions: torch.Tensor, embeds: list[torch.Tensor]
    ) -> torch.Tensor:
        """Hidden state (1, 1, D) of the last of these tokens, which the cache then holds, too."""
        device = self._rollout.model.device
        total = len(self._ids) + len(ids)
        try:
            output = self._rollout.model.model(
                input_ids=torch.tensor([ids], device=device),
                attention_mask=torch.ones(1, total, dtype=torch.long, device=device),
                position_ids=positions.unsqueeze(-2),
                media_embeds=embeds or None,
                use_cache=True,
                hidden_from=-1,
                **{CACHE: self._cache},
            )
        except BaseException:
            self.clear()  # some layers may hold the tokens, others not
            raise
        self._cache = output[CACHE]
        self._ids += ids
        return output.last_hidden_state


def _drawn(logits: torch.Tensor, temperature: float, draw: torch.Generator) -> int:
    """A token of the distribution of float32 logits (vocabulary,)."""
    if temperature == 0:
        return int(logits.argmax())
    shares = (logits / temperature).softmax(-1)
    return int(torch.multinomial(shares, 1, generator=draw))
