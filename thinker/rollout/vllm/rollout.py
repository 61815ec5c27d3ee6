"""Rollouts by vLLM, as the trainer sees them.

Flow: the policy has encoded a video once (`EncodedPrompt`) → token ids as the trainer has them, and
one *embedding item* a run of placeholders → a tower-less engine (`engine.py`) → G completions with
the logprobs they were drawn with. The engine knows neither the vision tower nor the motion branch.

`VllmRollout` adds sampling parameters, seeds, weight pushes, after every push a probe that compares
engine and trainer, and restarts of an engine that fails.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from thinker import prompts
from thinker.config.run import RolloutSettings
from thinker.policies import Policy
from thinker.policies.backbone import FORBIDDEN_LOGIT_BIAS
from thinker.policies.encode import EncodedPrompt, eos_token_ids
from thinker.rollout.base import (
    Completion,
    RolloutError,
    RolloutStartError,
    Sampling,
    StaleWeightsError,
)
from thinker.rollout.vllm.engine import (
    Engine,
    EngineRequest,
    EngineResult,
    check_installed,
    media_items,
)
from thinker.rollout.vllm.folder import language_weights, trains_language
from thinker.utils.seeds import derive_seed
from thinker.utils.tensors import largest_of_all_processes

logger = logging.getLogger(__name__)
T = TypeVar("T")

PROBE_PROMPT_TOKENS, PROBE_TOKENS = 48, 8
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of a logprob between engine and trainer. float32: measured 1e-6 to 1e-5, a
stale engine 0.01 to 0.4. In half precision two kernels differ by up to 0.1. So the probe finds a
push that never arrived, not one that is a single small step late."""
PROMPT_MARGIN = 256
"""Tokens that another question about one video may be longer than the policy's own."""


class VllmRollout:
    """The vLLM back end for a policy (`Rollout`).

    max_restarts: of an engine that fails in one call; the call is then done again from its
    beginning, with the weights pushed and probed anew, so that it returns what it would have
    returned. In a distributed run every process must make the same calls: they agree on each one's
    outcome, and a failure in one of them restarts its engine and repeats the call everywhere.
    """

    name = "vllm"
    reports_logprobs = True

    def __init__(
        self,
        policy: Policy,
        engine: Engine,
        *,
        max_restarts: int = 0,
        eos: list[int] | None = None,
    ):
        self.policy = policy
        self.engine = engine
        self.eos_token_ids = eos_token_ids(policy) if eos is None else eos
        self._max_restarts = max_restarts
        self._engine_failed = False
        self._synced_step: int | None = None

    @classmethod
    def start(
        cls,
        policy: Policy,
        settings: RolloutSettings,
        *,
        max_new_tokens: int,
        max_prompt_tokens: int | None = None,
    ) -> "VllmRollout":
        """Start (or connect to) the engine; RolloutStartError says in a sentence why it cannot."""
        check_installed()
        if max_prompt_tokens is None:
            max_prompt_tokens = policy.inputs.max_prompt_tokens() + PROMPT_MARGIN
        max_model_len = min(max_prompt_tokens + max_new_tokens, policy.context_tokens)
        if settings.mode == "server":
            from thinker.rollout.vllm.pool import ServerPool

            engine: Engine = ServerPool(settings)
        else:
            from thinker.rollout.vllm.colocate import ColocatedEngine

            engine = ColocatedEngine(policy, settings, max_model_len=max_model_len)
        rollout = cls(policy, engine, max_restarts=settings.max_restarts)
        try:
            engine.probe(rollout._probe_request())
        except RolloutError as error:
            rollout.close()
            raise RolloutStartError(f"the vLLM engine cannot generate here: {error}") from error
        return rollout

    def generate(
        self,
        requests: list[EncodedPrompt],
        num_generations: int,
        sampling: Sampling,
        seed: int,
    ) -> list[list[Completion]]:
        """See `Rollout.generate`; one continuous batch."""
        prepared = [
            self._engine_request(request, num_generations, sampling, derive_seed(seed, i, bits=48))
            for i, request in enumerate(requests)
        ]
        results = self._surviving(lambda: self._run(prepared))
        return [result.completions for result in results]

    def sync(self, step: int) -> dict[str, float]:
        """Push the language model's weights and compare; once a step, and not at all after the
        first time where the language model is frozen."""
        pushed = self._synced_step is not None
        if step == self._synced_step or (pushed and not trains_language(self.policy.model)):
            return {}
        self._synced_step = step
        return self._surviving(lambda: self._push(step))

    def close(self) -> None:
        """See `Rollout.close`; a stuck engine is left behind with a warning."""
        try:
            self.engine.close()
        except RolloutError as error:
            logger.warning("%s", error)

    # Requests

    def _run(self, prepared: list[EngineRequest]) -> list[EngineResult]:
        results = self.engine.run(prepared) if prepared else []
        for request, result in zip(prepared, results, strict=True):
            if result.prompt_token_ids != request.token_ids:
                raise StaleWeightsError(
                    f"the engine's prompt of {len(result.prompt_token_ids)} tokens differs from "
                    f"the trainer's of {len(request.token_ids)}"
                )
        return results

    def _engine_request(self, request: EncodedPrompt, num_generations, sampling, seed):
        longest = len(request.token_ids) + sampling.max_new_tokens
        if longest > self.engine.max_model_len:
            raise ValueError(
                f"a prompt of {len(request.token_ids)} tokens and {sampling.max_new_tokens} new "
                f"ones make {longest}, more than the engine's {self.engine.max_model_len}; build "
                "the back end with a larger max_prompt_tokens or max_new_tokens, or start the "
                "server with a larger --max-model-len"
            )
        placeholder = self.policy.model.config.image_token_id
        return EngineRequest(
            token_ids=request.token_ids,
            items=media_items(request, placeholder),
            params=self._params(num_generations, sampling, seed),
        )

    def _params(self, num_generations: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        """Fields of SamplingParams; stop rules and the placeholder ban are the policy's own."""
        return {
            "n": num_generations,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": seed,
            "logprobs": 0,  # of the drawn token
            "logit_bias": dict.fromkeys(self.policy.model.placeholder_ids(), FORBIDDEN_LOGIT_BIAS),
            "ignore_eos": True,  # the engine's idea of it; ours are the stop tokens
            "stop_token_ids": self.eos_token_ids,
            "detokenize": False,
        }

    # Weights

    def _push(self, step: int) -> dict[str, float]:
        """Push and probe; the figures of both."""
        began = time.perf_counter()
        sent = self.engine.push(language_weights(self.policy.model))
        seconds = time.perf_counter() - began
        difference = self._probe(step)
        return {
            "sync_seconds": seconds,
            "probe_logp_difference": difference,
            "pushed_bytes": float(sent),
        }

    def _probe_request(self) -> EngineRequest:
        text_ids = self.policy.tokenizer(prompts.SCORING)["input_ids"][:PROBE_PROMPT_TOKENS]
        params = self._params(1, Sampling(max_new_tokens=PROBE_TOKENS), seed=0)
        params["stop_token_ids"] = []
        return EngineRequest(token_ids=text_ids, items=[], params=params)

    def _probe(self, step: int) -> float:
        """Largest logprob difference over a few drawn tokens. A part of the engine beyond the
        tolerance is refused; StaleWeightsError where none is left."""
        request, differences = self._probe_request(), []
        tolerance = PROBE_TOLERANCE[self.policy.model.dtype]
        for name, result in self.engine.probe(request).items():
            difference = self._probe_difference(request, result)
            if difference <= tolerance:  # NaN is not
                differences.append(difference)
                continue
            error = StaleWeightsError(
                f"step {step}: after the weight push the logprobs of {name or 'the engine'} differ "
                f"from the trainer's by {difference:.3g}, more than {tolerance:.3g}; rollouts "
                "would come from other weights"
            )
            self.engine.refuse(name, error)
        return max(differences)

    def _probe_difference(self, request: EngineRequest, result: EngineResult) -> float:
        [completion] = result.completions
        expected = text_logprobs(self.policy.model, request.token_ids, completion.token_ids)
        assert completion.logprobs is not None
        return max(abs(a - b) for a, b in zip(expected, completion.logprobs, strict=True))

    # Failures

    def _surviving(self, work: Callable[[], T]) -> T:
        """The work's result, done again from its beginning after each restart of the engine;
        RolloutError after `max_restarts` of them. Weights that differ are never tried again."""
        tries = 1 + self._max_restarts
        for attempt in range(tries):
            try:
                if attempt:
                    self._recover()
                return self._together(work)
            except RolloutError as error:
                if isinstance(error, StaleWeightsError) or tries == 1:
                    raise
                last = error
                logger.warning("rollouts: try %d of %d failed: %s", attempt + 1, tries, error)
        raise RolloutError(f"rollouts failed {tries} times in a row, lastly: {last}") from last

    def _recover(self) -> None:
        """A new engine where this process's failed, with the weights of the step at hand."""
        self._together(self._restart_engine)
        step = self._synced_step
        if step is not None:
            self._together(lambda: self._push(step))

    def _restart_engine(self) -> None:
        if self._engine_failed:
            self.engine.restart()
            self._engine_failed = False

    def _together(self, work: Callable[[], T]) -> T:
        """The work's result if it succeeded in every process, else the worst RolloutError."""
        error: RolloutError | None = None
        try:
            result = work()
        except RolloutError as caught:
            error = caught
            self._engine_failed = True
        worst = largest_of_all_processes(_severity(error), self.policy.model.device)
        if error is not None and worst <= _severity(error):
            raise error
        if worst:
            kind = StaleWeightsError if worst == 2 else RolloutError
            raise kind("the engine of another process failed; its log says why")
        return result


def _severity(error: RolloutError | None) -> int:
    """0 without an error, 1 for one that a restart may cure, 2 for one that it must not hide."""
    if error is None:
        return 0
    return 2 if isinstance(error, StaleWeightsError) else 1


@torch.no_grad()
def text_logprobs(model, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
    """Logprobs of a completion of a prompt without video, by a plain forward in eval mode."""
    training = model.training
    model.eval()
    try:
        ids = torch.tensor([prompt_ids + completion_ids], device=model.device)
        positions = torch.arange(ids.shape[1], device=model.device).unsqueeze(0)
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    finally:
        model.train(training)
    logps = logits[len(prompt_ids) - 1 : -1].float().log_softmax(-1)
    return logps.gather(-1, ids[0, len(prompt_ids) :, None]).squeeze(-1).tolist()
