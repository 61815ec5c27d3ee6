"""Rollouts by vLLM: the only file that imports it, and only when an engine is started.

Flow: the policy has encoded a video once (`EncodedPrompt`) → token ids as the trainer has them, and
one *embedding item* a run of placeholders → a tower-less engine → G completions with the logprobs
they were drawn with. The engine knows neither the vision tower nor the motion branch. Requests are
handed over in the engine's own input form (ids, items, placeholder ranges), past vLLM's processors,
so nothing is tokenized or expanded a second time.

Two engines behind one small interface (`Engine`): `ColocatedEngine` here, in the training process,
and `thinker.rollout.server.ServerEngine` over HTTP. `VllmRollout` is what the trainer sees:
sampling parameters, seeds, weight pushes, and after every push a probe that compares engine and
trainer.
"""

import functools
import gc
import logging
import os
import queue
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any, Protocol

import numpy as np
import torch

from thinker import prompts
from thinker.config import RolloutSettings
from thinker.policies import Policy
from thinker.policies.backbone import FORBIDDEN_LOGIT_BIAS
from thinker.rollout.base import (
    Completion,
    EncodedPrompt,
    RolloutError,
    RolloutStartError,
    Sampling,
    eos_token_ids,
)
from thinker.rollout.engine_folder import language_weights, trains_language, write_engine_folder
from thinker.seeds import derive_seed

logger = logging.getLogger(__name__)

SUPPORTED_VLLM = "0.31."
"""Engine inputs and weight reload are not stable between minor releases."""
PROBE_PROMPT_TOKENS, PROBE_TOKENS = 48, 8
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of a logprob between engine and trainer. float32: measured 1e-6 to 1e-5, a
stale engine 0.01 to 0.4. Half precision: rounding of two different kernels, seen up to about 0.1; a
push that was missed altogether shows, a step of a small learning rate does not."""
PROMPT_MARGIN = 256
"""Tokens that a prompt with another question may be longer than the scoring prompt."""
MAX_NUM_SEQS = 256
"""Completions decoded at a time; more wait in the engine's queue."""


@dataclass(frozen=True, kw_only=True)
class MediaItem:
    """One run of placeholders: where it stands, its embeddings (length, D), and its M-RoPE grid."""

    offset: int
    embeds: torch.Tensor
    grid: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """A prompt, its items, and the fields of vLLM's SamplingParams."""

    token_ids: list[int]
    items: list[MediaItem]
    params: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """What came back: the prompt as the engine saw it, and the completions."""

    prompt_token_ids: list[int]
    completions: list[Completion]


class Engine(Protocol):
    """Where completions are computed."""

    max_model_len: int

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """Answer all requests, in order; raises RolloutError when the engine fails or is late."""
        ...

    def push(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace the engine's weights and drop everything it cached under the old ones."""
        ...

    def close(self) -> None: ...


class VllmRollout:
    """The vLLM back end for a policy (`Rollout`)."""

    name = "vllm"
    reports_logprobs = True

    def __init__(self, policy: Policy, engine: Engine, eos: list[int] | None = None):
        self.policy = policy
        self.engine = engine
        self.eos_token_ids = eos_token_ids(policy) if eos is None else eos
        self._synced_step: int | None = None

    @classmethod
    def start(
        cls, policy: Policy, settings: RolloutSettings, *, max_new_tokens: int
    ) -> "VllmRollout":
        """Start (or connect to) the engine; RolloutStartError says in a sentence why it cannot."""
        check_installed()
        max_model_len = policy.inputs.max_prompt_tokens() + PROMPT_MARGIN + max_new_tokens
        if settings.mode == "server":
            from thinker.rollout.server import ServerEngine

            engine: Engine = ServerEngine(settings)
        else:
            engine = ColocatedEngine(policy, settings, max_model_len=max_model_len)
        rollout = cls(policy, engine)
        try:
            engine.run([rollout._probe_request()])
        except RolloutError as error:
            engine.close()
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
        if not requests:
            return []
        prepared = [
            self._engine_request(request, num_generations, sampling, derive_seed(seed, i, bits=48))
            for i, request in enumerate(requests)
        ]
        results = self.engine.run(prepared)
        for request, result in zip(requests, results, strict=True):
            if result.prompt_token_ids != request.token_ids:
                raise RolloutError(
                    f"the engine's prompt of {len(result.prompt_token_ids)} tokens differs from "
                    f"the trainer's of {len(request.token_ids)}"
                )
        return [result.completions for result in results]

    def sync(self, step: int) -> dict[str, float]:
        """Push the language model's weights and compare; once a step, and not at all after the
        first time where the language model is frozen."""
        pushed = self._synced_step is not None
        if step == self._synced_step or (pushed and not trains_language(self.policy.model)):
            return {}
        began = time.perf_counter()
        self.engine.push(language_weights(self.policy.model))
        seconds = time.perf_counter() - began
        difference = self._probe(step)
        self._synced_step = step
        return {"sync_seconds": seconds, "probe_logp_difference": difference}

    def close(self) -> None:
        self.engine.close()

    def _engine_request(self, request: EncodedPrompt, num_generations, sampling, seed):
        longest = len(request.token_ids) + sampling.max_new_tokens
        if longest > self.engine.max_model_len:
            raise ValueError(
                f"a prompt of {len(request.token_ids)} tokens and {sampling.max_new_tokens} new "
                f"ones make {longest}, more than the engine's {self.engine.max_model_len}; build "
                "the back end with a larger max_new_tokens"
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

    def _probe_request(self) -> EngineRequest:
        text_ids = self.policy.tokenizer(prompts.SCORING)["input_ids"][:PROBE_PROMPT_TOKENS]
        params = self._params(1, Sampling(max_new_tokens=PROBE_TOKENS), seed=0)
        params["stop_token_ids"] = []
        return EngineRequest(token_ids=text_ids, items=[], params=params)

    def _probe(self, step: int) -> float:
        """Largest logprob difference over a few drawn tokens; RolloutError beyond the tolerance."""
        request = self._probe_request()
        [result] = self.engine.run([request])
        [completion] = result.completions
        expected = text_logprobs(self.policy.model, request.token_ids, completion.token_ids)
        assert completion.logprobs is not None
        difference = max(abs(a - b) for a, b in zip(expected, completion.logprobs, strict=True))
        tolerance = PROBE_TOLERANCE[self.policy.model.dtype]
        if not difference <= tolerance:  # NaN is a mismatch too
            raise RolloutError(
                f"step {step}: after the weight push the engine's logprobs differ from the "
                f"trainer's by {difference:.3g}, more than {tolerance:.3g}; rollouts would come "
                "from other weights"
            )
        return difference


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


def media_items(request: EncodedPrompt, placeholder_id: int) -> list[MediaItem]:
    """Split a prompt's embeddings by its runs of placeholders.

    Example: ids `[7, 9, 9, 7, 9]` with placeholder 9 hold items of 2 and 1 rows at offsets 1 and 4.
    """
    offsets, lengths, position = [], [], 0
    for is_media, run in groupby(request.token_ids, lambda token: token == placeholder_id):
        length = len(list(run))
        if is_media:
            offsets.append(position)
            lengths.append(length)
        position += length
    parts = request.embeds.detach().cpu().split(lengths) if lengths else ()
    grids = [None] * len(parts) if request.item_grids is None else request.item_grids.cpu()
    return [
        MediaItem(offset=offset, embeds=part.contiguous(), grid=grid)
        for offset, part, grid in zip(offsets, parts, grids, strict=True)
    ]


# vLLM's forms


def check_installed() -> None:
    """RolloutStartError unless the vLLM that this file was written against can be imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
    except Exception as error:  # whatever a broken installation raises
        raise RolloutStartError(
            f"vLLM cannot be imported ({type(error).__name__}: {_first_line(error)})"
        ) from error
    if not vllm.__version__.startswith(SUPPORTED_VLLM):
        raise RolloutStartError(
            f"vLLM {vllm.__version__} is installed, expected {SUPPORTED_VLLM}*; run setup.sh"
        )


def item_fields(item: MediaItem):
    """The item in vLLM's form: a batch of its kind is built from these fields."""
    from vllm.multimodal.inputs import (
        MultiModalBatchedField,
        MultiModalFieldElem,
        MultiModalFlatField,
        MultiModalKwargsItem,
        MultiModalSharedField,
    )

    length = len(item.embeds)
    if item.grid is not None:  # Qwen2.5-VL: rows of all items concatenated, a grid each
        fields = {
            "image_embeds": (item.embeds, MultiModalFlatField(slices=[slice(0, length)])),
            "image_grid_thw": (item.grid, MultiModalBatchedField(keep_on_cpu=True)),
        }
    else:
        # InternVL stacks the items of a batch and rejects unequal lengths (the pooled motion token
        # is an item of one row); items whose shared fields differ are never put into one batch.
        fields = {
            "image_embeds": (item.embeds, MultiModalBatchedField()),
            "item_length": (torch.tensor(length), MultiModalSharedField(batch_size=1)),
        }
    return MultiModalKwargsItem(
        {key: MultiModalFieldElem(data=data, field=field) for key, (data, field) in fields.items()}
    )


def item_names(items: Sequence[MediaItem]) -> list[str]:
    """Cache keys of items: never used twice, so that no cache can answer with old embeddings."""
    return [uuid.uuid4().hex for _ in items]


def encode_item(item: MediaItem) -> str:
    """The item as text, for a server."""
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    return encode_mm_kwargs_item(item_fields(item))


def engine_input(request: EngineRequest):
    """The request in the engine's own input form."""
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

    if not request.items:
        return tokens_input(request.token_ids)
    ranges = [PlaceholderRange(offset=i.offset, length=len(i.embeds)) for i in request.items]
    return mm_input(
        request.token_ids,
        MultiModalKwargsItems({"image": [item_fields(item) for item in request.items]}),
        {"image": item_names(request.items)},
        {"image": ranges},
    )


class ColocatedEngine:
    """vLLM in this process, beside the model that is trained.

    All calls run on one thread of the engine's own, so that one that never returns becomes a
    RolloutError after `timeout_seconds` instead of a hanging training run.
    """

    def __init__(self, policy: Policy, settings: RolloutSettings, *, max_model_len: int):
        self.max_model_len = max_model_len
        self.timeout_seconds = settings.timeout_seconds
        self._sleeps = settings.sleep and policy.model.device.type == "cuda"
        if settings.sleep and not self._sleeps:
            logger.info("rollout.sleep has no effect: vLLM's sleep mode needs a GPU")
        self._names = count()
        self._thread = _EngineThread()
        start = functools.partial(_start_llm, policy, settings, max_model_len, self._sleeps)
        try:
            self._llm = self._thread.call(start, self.timeout_seconds, "starting the engine")
        except Exception as error:
            raise RolloutStartError(
                f"the vLLM engine did not start ({type(error).__name__}: {_first_line(error)})"
            ) from error
        self._asleep = False
        self._thread.call(self._sleep, self.timeout_seconds, "putting the engine to sleep")

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """See `Engine.run`."""
        return self._call(functools.partial(self._run, requests), "generating")

    def push(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See `Engine.push`."""
        self._call(functools.partial(self._push, weights), "the weight push")

    def close(self) -> None:
        """Shut the engine down; harmless when it is dead already."""
        try:
            self._thread.call(self._shut_down, 60.0, "closing the engine")
        except RolloutError as error:
            logger.warning("%s", error)
        self._thread.stop()

    def _call(self, function: Callable[[], Any], what: str) -> Any:
        try:
            return self._thread.call(function, self.timeout_seconds, what)
        except (RolloutError, ValueError):
            raise
        except Exception as error:
            raise RolloutError(
                f"the vLLM engine failed while {what} ({type(error).__name__}: "
                f"{_first_line(error)})"
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
        client = self._llm.llm_engine.engine_core
        client._finalizer.detach()  # else it is that shutdown, at garbage collection
        client.engine_core.model_executor.shutdown()
        client.engine_core.scheduler.shutdown()
        self._llm = None
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

    # It warns at every push that the rotary embedding, which has no weights, got none.
    reload_logger = "vllm.model_executor.model_loader.reload.layerwise"
    logging.getLogger(reload_logger).setLevel(logging.ERROR)
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
            enforce_eager=on_cpu,
            enable_sleep_mode=sleeps,
            # As TRL does: every rank of a torchrun job holds an engine of its own.
            distributed_executor_backend="external_launcher" if _num_processes() > 1 else None,
            seed=0,  # every request brings its own
        )


def _cpu_cache_bytes(config, max_model_len: int, dtype: torch.dtype) -> int:
    """Key/value cache that `MAX_NUM_SEQS` full-length rows fill, at most 4 GiB of host memory."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * width * dtype.itemsize
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

    def stop(self) -> None:
        """End the thread once its calls are done."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, future = call
            try:
                future.set_result(function())
            except BaseException as error:  # handed to the caller, whatever it is
                future.set_exception(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


class NcclSender:
    """Weights to a vLLM server over NCCL, by vLLM's own weight-transfer engine.

    Needs a GPU on both sides; not run on the machines this was written on. The server is started
    with `--weight-transfer-config '{"backend": "nccl"}'` and joins as ranks 1…; the trainer is 0.
    """

    def __init__(self, post: Callable[[str, dict], Any], get: Callable[[str], Any], port=51216):
        self._post, self._get = post, get
        self._port = port
        self._group: Any = None

    def send(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Announce names, types and shapes, then broadcast the tensors in the same order."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        if self._group is None:
            self._group = self._connect()
        tensors = list(weights)
        announced = {
            "names": [name for name, _ in tensors],
            "dtype_names": [str(t.dtype).removeprefix("torch.") for _, t in tensors],
            "shapes": [list(t.shape) for _, t in tensors],
        }
        self._post("/start_weight_update", {})
        # The server answers only when it has received everything, so it is asked from a thread.
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self._post, "/update_weights", {"update_info": announced})
            packed_nccl_broadcast_producer(
                iterator=iter(tensors),
                group=self._group,
                src=0,
                post_iter_func=lambda item: item[1],
            )
            answer.result()
        self._post("/finish_weight_update", {})

    def _connect(self) -> Any:
        from vllm.distributed.weight_transfer.nccl_common import trainer_init
        from vllm.utils.network_utils import get_ip

        if not torch.cuda.is_available():
            raise RolloutError("rollout.push is nccl, which needs a GPU; use push=disk")
        info = {
            "master_address": get_ip(),
            "master_port": self._port,
            "rank_offset": 1,
            "world_size": self._get("/get_world_size")["world_size"] + 1,
            "packed": True,
        }
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self._post, "/init_weight_transfer_engine", {"init_info": info})
            group = trainer_init(info)
            answer.result()
        return group
