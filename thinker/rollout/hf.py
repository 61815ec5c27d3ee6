"""Rollouts by transformers' `generate`: runs wherever the policy runs.

A prompt is forwarded once; its cache is then repeated for the G completions, so generation costs P
+ G·C tokens a video rather than G·(P + C).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from thinker.policies import Policy
from thinker.policies.encode import EncodedPrompt, eos_token_ids, following_positions
from thinker.policies.releases import CACHE
from thinker.rollout.base import Completion, Sampling
from thinker.rollout.tree import Kept
from thinker.utils.tensors import left_pad

ROWS_AT_ONCE = 512
"""Completions generated in one batch; bounds the memory of the key/value cache."""


class _Logprobs(LogitsProcessor):
    """Listens to the logits of every step, which it leaves as they are, for the log-probabilities
    of the tokens that are drawn from them."""

    def __init__(self, sampling: Sampling):
        self.temperature = sampling.temperature or 1.0
        self.is_whole = sampling.top_p == 1 and sampling.top_k == 0
        self._logits: Any = None
        self._taken: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.is_whole:
            self._take(input_ids)
            self._logits = scores
        return scores

    def _take(self, ids: torch.Tensor) -> None:
        """The log-probabilities of the tokens that were drawn last."""
        if self._logits is None:
            return
        logits = self._logits.float() / self.temperature
        drawn = logits.gather(1, ids[:, -1:])[:, 0]
        self._taken.append(drawn - logits.logsumexp(-1))

    def rows(self, ids: torch.Tensor) -> Sequence[list[float] | None]:
        """Those of each row, padding behind its end included; None where tokens were drawn from a
        part of the distribution only, whose logits are not heard."""
        self._take(ids)
        if not self._taken:
            return [None] * len(ids)
        return torch.stack(self._taken, dim=1).tolist()


class HfRollout:
    name = "hf"
    reports_logprobs = False

    def __init__(self, model, pad_token_id: int, eos_token_ids: list[int]):
        self.model = model
        self.pad_token_id = pad_token_id
        self.eos_token_ids = eos_token_ids

    def sync(self, step: int) -> dict[str, float]:
        """Nothing to do: the model generates itself."""
        return {}

    def close(self) -> None:
        """Nothing to give back."""

    def generate(
        self,
        requests: list[EncodedPrompt],
        num_generations: int,
        sampling: Sampling,
        seed: int,
    ) -> list[list[Completion]]:
        """See `Rollout.generate`. Runs in eval mode, without gradient, on its own random stream."""
        at_once = max(1, ROWS_AT_ONCE // num_generations)
        completions: list[list[Completion]] = []
        with self._apart(seed):
            for start in range(0, len(requests), at_once):
                chunk = requests[start : start + at_once]
                completions += self._generate_chunk(chunk, num_generations, sampling)[0]
        return completions

    def generate_kept(
        self, requests: list[EncodedPrompt], sampling: Sampling
    ) -> tuple[list[Completion], Kept]:
        """One greedy completion of each prompt, and the keys and values of both, for what may stand
        in its place from some token on (tree.py). All prompts at once, `ROWS_AT_ONCE` at most."""
        assert sampling.temperature == 0 and len(requests) <= ROWS_AT_ONCE
        with self._apart(0):
            groups, kept = self._generate_chunk(requests, 1, sampling)
        return [completion for (completion,) in groups], kept

    def read_kept(self, requests: list[EncodedPrompt], completions: Sequence[Completion]) -> Kept:
        """The same of completions that another back end wrote, by one forward over both."""
        device = self.model.device
        prompts = [torch.tensor(request.token_ids, device=device) for request in requests]
        said = [torch.tensor(one.token_ids, device=device) for one in completions]
        mask = left_pad([torch.ones_like(row) for row in prompts])
        said_mask = _right_pad(map(torch.ones_like, said))
        ids = torch.cat([left_pad(prompts, self.pad_token_id), _right_pad(said)], dim=1)
        counts = [len(one.token_ids) for one in completions]
        longest, pairs = max(counts), zip(requests, counts, strict=True)
        positions = left_pad(
            [
                torch.nn.functional.pad(following_positions(r, count), (0, longest - count))
                for r, count in pairs
            ]
        )
        with self._apart(0):
            output = self.model.model(
                input_ids=ids,
                attention_mask=torch.cat([mask, said_mask], dim=1),
                position_ids=positions,
                media_embeds=[request.embeds for request in requests],
                use_cache=True,
                hidden_from=-1,
            )
        return Kept(cache=output[CACHE], mask_BP=mask)

    @contextmanager
    def _apart(self, seed: int) -> Iterator[None]:
        """Within, the model is in eval mode and without gradient, and draws from a stream of its
        own."""
        training = self.model.training
        self.model.eval()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                yield
        finally:
            self.model.train(training)

    def _generate_chunk(
        self, requests, num_generations, sampling
    ) -> tuple[list[list[Completion]], Kept]:
        ids, mask, cache = self._prefill(requests)
        cache.batch_repeat_interleave(num_generations)
        ids, mask = (x.repeat_interleave(num_generations, dim=0) for x in (ids, mask))
        offsets = [
            r.next_position - len(r.token_ids) for r in requests for _ in range(num_generations)
        ]
        self.model.model.begin_generation(torch.tensor(offsets, device=ids.device))
        heard = _Logprobs(sampling)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation_config(sampling),
            logits_processor=LogitsProcessorList([heard]),
            **{CACHE: cache},
        )
        new_tokens = [self._cut(row) for row in output[:, ids.shape[1] :].tolist()]
        logprobs = heard.rows(output)
        rows = [
            Completion(token_ids=row, logprobs=None if known is None else known[: len(row)])
            for row, known in zip(new_tokens, logprobs, strict=True)
        ]
        groups = [rows[i : i + num_generations] for i in range(0, len(rows), num_generations)]
        return groups, Kept(cache=cache, mask_BP=mask)

    def _prefill(self, requests: list[EncodedPrompt]):
        """Forward all prompts but their last token once; ids, mask (B, P) and the cache of P -
        1."""
        device = self.model.device
        rows = [torch.tensor(request.token_ids, device=device) for request in requests]
        ids = left_pad(rows, self.pad_token_id)
        mask = left_pad([torch.ones_like(row) for row in rows])
        positions = left_pad([request.positions for request in requests])
        backbone = self.model.model
        output = backbone(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[..., :-1],
            media_embeds=[request.embeds for request in requests],
            use_cache=True,
        )
        return ids, mask, output[CACHE]

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        greedy = sampling.temperature == 0
        drawing = (
            {}
            if greedy
            else {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        )
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=not greedy,
            pad_token_id=self.pad_token_id,
            eos_token_id=self.eos_token_ids,
            disable_compile=True,
            **drawing,
        )

    def _cut(self, row: list[int]) -> list[int]:
        """Tokens up to and including the first end-of-sequence id."""
        for i, token in enumerate(row):
            if token in self.eos_token_ids:
                return row[: i + 1]
        return row


def _right_pad(rows: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def hf_rollout(policy: Policy) -> HfRollout:
    """The transformers back end for a loaded policy."""
    return HfRollout(policy.model, policy.tokenizer.pad_token_id, eos_token_ids(policy))
