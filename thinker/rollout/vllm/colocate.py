"""vLLM in the training process, beside the model that is trained."""

import functools
import gc
import logging
import os
import queue
import random
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import numpy as np
import torch

from thinker.config.run import RolloutSettings
from thinker.policies import Policy
from thinker.policies.cost import cache_bytes_a_token
from thinker.rollout.base import Completion, RolloutError, RolloutStartError
from thinker.rollout.vllm.engine import (
    EngineRequest,
    EngineResult,
    engine_input,
    first_line,
    register_models,
)
from thinker.rollout.vllm.folder import write_engine_folder

logger = logging.getLogger(__name__)

MAX_NUM_SEQS = 256
"""Completions decoded at a time; more wait in the engine's queue."""
CPU_BATCHED_TOKENS = 8192
"""Tokens of one forward on a CPU."""
CPU_BLOCK_SIZE = 32
"""Only whole blocks of a prompt are shared by its completions; 128, vLLM's default on a CPU, is
longer than a tiny policy's prompt."""
NOISY_LOGGERS = (
    # warns at every push that the rotary embedding, which has no weights, got none
    "vllm.model_executor.model_loader.reload.layerwise",
    # prints every embedding of the batch, tens of thousands of lines, when a step fails
    "vllm.logging_utils.dump_input",
)
CLOSE_SECONDS = 60.0
"""For an engine that is closed; one that is late stops at its next step, which takes no longer."""


class ColocatedEngine:
    """vLLM in this process, beside the model that is trained.

    All calls run on one thread of the engine's own, so that one that never returns becomes a
    RolloutError after `timeout_seconds` instead of a hanging training run.
    """

    def __init__(self, policy: Policy, settings: RolloutSettings, *, max_model_len: int):
        self.max_model_len = max_model_len
        self.timeout_seconds = settings.timeout_seconds
        self._sleeps = settings.sleep and policy.model.device.type == "cuda"
        self._start_llm = functools.partial(
            _start_llm, policy, settings, max_model_len, self._sleeps
        )
        self._names = count()
        self._start()

    def _start(self) -> None:
        self._thread = _EngineThread()
        self._closed = self._asleep = False
        try:
            self._llm = self._thread.call(
                self._start_llm, self.timeout_seconds, "starting the engine"
            )
        except Exception as error:
            raise RolloutStartError(
                f"the vLLM engine did not start ({type(error).__name__}: {first_line(error)})"
            ) from error
        self._call(self._sleep, "putting the engine to sleep")

    def restart(self) -> None:
        """See `Engine.restart`. The old engine ends first: two in one process would meet."""
        self.close()
        self._start()

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """See `Engine.run`."""
        return self._call(functools.partial(self._run, requests), "generating")

    def push(self, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
        """See `Engine.push`; the engine is in this process."""
        self._call(functools.partial(self._push, weights), "the weight push")
        return 0

    def probe(self, request: EngineRequest) -> dict[str, EngineResult]:
        """See `Engine.probe`."""
        [result] = self.run([request])
        return {"": result}

    def refuse(self, name: str, error: RolloutError) -> None:
        """See `Engine.refuse`: it is the only part."""
        raise error

    def close(self) -> None:
        """See `Engine.close`. A call that is late gets CLOSE_SECONDS more to return."""
        if not self._closed:
            self._thread.finish(self._shut_down, CLOSE_SECONDS)
            self._closed = True

    def _call(self, function: Callable[[], Any], what: str) -> Any:
        try:
            return self._thread.call(function, self.timeout_seconds, what)
        except (RolloutError, ValueError):
            raise
        except Exception as error:
            raise RolloutError(
                f"the vLLM engine failed while {what} ({type(error).__name__}: {first_line(error)})"
            ) from error

    # On the engine's thread

    def _run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine = self._llm.llm_engine
        self._wake()
        names = [str(next(self._names)) for _ in requests]
        finished: dict[str, Any] = {}
        try:
            for name, request in zip(names, requests, strict=True):
                params = SamplingParams(**request.params, output_kind=RequestOutputKind.FINAL_ONLY)
                engine.add_request(name, engine_input(request), params)
            while engine.has_unfinished_requests():
                if self._thread.late is not None:  # nobody waits for it any more
                    raise RolloutError(self._thread.late)
                for output in engine.step():
                    if output.finished:
                        finished[output.request_id] = output
        except BaseException:
            with suppress(Exception):  # the engine may be beyond that; the first error counts
                engine.abort_request(names)
            raise
        self._sleep()
        missing = [name for name in names if name not in finished]
        if missing:
            raise RolloutError(f"the engine ended without an answer to {len(missing)} requests")
        return [_result(finished[name]) for name in names]

    def _push(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._wake()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self._llm.llm_engine.reset_encoder_cache()
        if not self._llm.reset_prefix_cache():
            raise RolloutError("the engine refused to drop its prefix cache after a weight push")
        self._sleep()

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _sleep(self) -> None:
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)  # weights to host memory, key/value cache dropped
            self._asleep = True

    def _shut_down(self) -> None:
        """Release the engine's workers, not the process groups: vLLM's own shutdown destroys those
        of the whole process, the trainer's and other engines' included."""
        if self._llm is None:
            return
        client, self._llm = self._llm.llm_engine.engine_core, None
        client._finalizer.detach()  # else it is that shutdown, at garbage collection
        try:
            client.engine_core.model_executor.shutdown()
            client.engine_core.scheduler.shutdown()
        except Exception as error:  # it may be dead already
            logger.warning("the vLLM engine did not shut down cleanly (%s)", first_line(error))
        del client
        gc.unfreeze()  # vLLM freezes what it allocated, which would keep the memory
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _result(output) -> EngineResult:
    """vLLM's RequestOutput as ours."""
    completions = []
    for sample in sorted(output.outputs, key=lambda sample: sample.index):
        ids = list(sample.token_ids)
        logprobs = [of[token].logprob for of, token in zip(sample.logprobs, ids, strict=True)]
        completions.append(Completion(token_ids=ids, logprobs=logprobs))
    return EngineResult(prompt_token_ids=list(output.prompt_token_ids), completions=completions)


def _start_llm(policy: Policy, settings: RolloutSettings, max_model_len: int, sleeps: bool):
    """Build the tower-less engine; its weights are random until the first push."""
    # In this process: weights are handed over as tensors, and a CPU engine starts in seconds.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    register_models()
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    on_cpu = policy.model.device.type == "cpu"
    config = policy.model.config.get_text_config()
    with tempfile.TemporaryDirectory() as folder, _global_state_kept():
        write_engine_folder(policy, folder, weights=False)
        return LLM(
            model=folder,
            load_format="dummy",
            dtype=str(policy.model.dtype).removeprefix("torch."),
            # No towers, any number of embedding items.
            enable_mm_embeds=True,
            limit_mm_per_prompt={"image": 0, "video": 0},
            mm_processor_cache_gb=0,
            # Logprobs of the distribution that was sampled from: temperature and bans applied.
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # no sampling defaults but ours
            max_model_len=max_model_len,
            max_num_seqs=MAX_NUM_SEQS,
            gpu_memory_utilization=settings.memory_share,
            kv_cache_memory_bytes=_cpu_cache_bytes(config, max_model_len, policy.model.dtype)
            if on_cpu
            else None,
            **(_cpu_settings(max_model_len) if on_cpu else {}),
            enable_sleep_mode=sleeps,
            # As TRL does: every rank of a torchrun job holds an engine of its own.
            distributed_executor_backend="external_launcher" if _num_processes() > 1 else None,
            seed=0,  # every request brings its own
        )


def _cpu_settings(max_model_len: int) -> dict[str, Any]:
    """What a CPU engine is started with besides.

    Prompts are not cut into chunks: after a chunk that is not a prompt's last, vLLM 0.31 sets a
    seeded request's generator back, which a CPU generator cannot be.
    """
    return {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, max_model_len),
        "block_size": CPU_BLOCK_SIZE,
    }


def _cpu_cache_bytes(config, max_model_len: int, dtype: torch.dtype) -> int:
    """Key/value cache that `MAX_NUM_SEQS` full-length rows fill, at most 4 GiB of host memory."""
    per_token = cache_bytes_a_token(config, dtype.itemsize)
    return min(MAX_NUM_SEQS * max_model_len * per_token + 2**26, 4 * 2**30)


def _num_processes() -> int:
    if not torch.distributed.is_initialized():
        return 1
    return torch.distributed.get_world_size()


@contextmanager
def _global_state_kept() -> Iterator[None]:
    """Undo what starting vLLM does to the whole process: it seeds every random stream, and its CPU
    worker replaces `torch.set_num_threads`."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    set_num_threads = torch.set_num_threads
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
        torch.set_num_threads = set_num_threads


class _EngineThread:
    """Runs calls one after another on a daemon thread; a call that is late poisons it."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self.late: str | None = None
        threading.Thread(target=self._work, name="vllm-engine", daemon=True).start()

    def call(self, function: Callable[[], Any], timeout_seconds: float, what: str) -> Any:
        """The function's result or exception; RolloutError when it takes too long."""
        if self.late is not None:
            raise RolloutError(f"the engine is lost: {self.late}")
        future: Future = Future()
        self._calls.put((function, future))
        try:
            return future.result(timeout_seconds)
        except TimeoutError:
            if future.done():
                raise
            self.late = f"{what} took more than {timeout_seconds:g} s"
            raise RolloutError(f"vLLM: {self.late}") from None

    def finish(self, function: Callable[[], Any], timeout_seconds: float) -> None:
        """A last call, also on a thread that is late; RolloutError when it is stuck for good."""
        future: Future = Future()
        self._calls.put((function, future))
        try:
            future.result(timeout_seconds)
        except TimeoutError:
            raise RolloutError(
                f"vLLM is stuck ({self.late or 'closing it takes too long'}) and cannot be ended "
                "without this process"
            ) from None
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, future = call
            try:
                future.set_result(function())
            except BaseException as error:  # handed to the caller, whatever it is
                future.set_exception(error)
