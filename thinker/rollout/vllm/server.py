"""vLLM on other GPUs or nodes: generation over HTTP, weights through a folder or NCCL.

Generation uses vLLM's token-in-token-out endpoint (`vllm serve --enable-scale-out`): token ids,
placeholder ranges and embedding items in, token ids and logprobs out; the server tokenizes nothing.
docs/rollouts.md has the commands. Several trainer processes may use one server; rank 0 pushes.
"""

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from thinker.config.run import RolloutSettings
from thinker.rollout.base import Completion, RolloutError, RolloutStartError
from thinker.rollout.vllm.engine import EngineRequest, EngineResult, encode_item, item_names
from thinker.rollout.vllm.folder import WEIGHTS_FILE

CONNECTIONS = 64
"""Requests in flight a trainer process: more wait in the client instead of the server's queue."""
NCCL_PORT = 51216
"""Of the trainer, where the server joins to receive weights."""
CONTROL_SECONDS = 30.0
"""For an answer that takes the server no work."""
RETRY_SECONDS = 2.0
"""Between two looks for a server that is started again."""
NEEDED_FLAGS = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve … --enable-scale-out --enable-mm-embeds "
    "--logprobs-mode processed_logprobs (docs/rollouts.md)"
)


class ServerEngine:
    """A running `vllm serve`, as an `Engine`."""

    def __init__(self, settings: RolloutSettings):
        assert settings.server_url is not None
        self.url = settings.server_url.rstrip("/")
        self.timeout_seconds = settings.timeout_seconds
        self.sync_folder = settings.sync_folder
        self._nccl = NcclSender(self._post, self._get) if settings.push == "nccl" else None
        self._pushes = 0
        self.max_model_len = self._check_server()

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """See `Engine.run`; the deadline holds for all requests together."""
        if not requests:
            return []
        deadline = time.monotonic() + self.timeout_seconds
        with ThreadPoolExecutor(min(CONNECTIONS, len(requests))) as pool:
            answers = [pool.submit(self._generate, request, deadline) for request in requests]
            try:
                return [answer.result() for answer in answers]
            except BaseException:
                for answer in answers:
                    answer.cancel()
                raise

    def push(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See `Engine.push`. Every process iterates (gathering is collective), rank 0 sends."""
        distributed = torch.distributed.is_initialized()
        if distributed and torch.distributed.get_rank() != 0:
            for _ in weights:
                pass
        elif self._nccl is not None:
            self._nccl.send(weights)
            self._drop_caches()
        else:
            self._push_through_folder(weights)
            self._drop_caches()
        if distributed:
            torch.distributed.barrier()

    def restart(self) -> None:
        """Wait until the server answers again: what started it must start it anew."""
        deadline = time.monotonic() + self.timeout_seconds
        if self._nccl is not None:
            self._nccl = NcclSender(self._post, self._get)
        while True:
            try:
                self.max_model_len = self._check_server()
                return
            except RolloutStartError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """The server belongs to whoever started it."""

    def _push_through_folder(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        assert self.sync_folder is not None
        self._pushes += 1
        folder = Path(self.sync_folder).resolve() / f"push-{self._pushes}"
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in weights}
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        try:
            self._rpc("reload_weights", {"weights_path": str(folder)})
        finally:
            shutil.rmtree(folder)

    def _rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        self._post("/collective_rpc", {"method": method, "kwargs": kwargs})

    def _drop_caches(self) -> None:
        self._post("/reset_encoder_cache", {})
        answer = self._post("/reset_prefix_cache", {})
        if answer is not None and answer.get("success") is False:
            raise RolloutError(f"{self.url} refused to drop its prefix cache after a weight push")

    def _generate(self, request: EngineRequest, deadline: float) -> EngineResult:
        left = deadline - time.monotonic()
        if left <= 0:
            raise RolloutError(f"{self.url} took more than {self.timeout_seconds:g} s")
        answer = self._post("/inference/v1/generate", generate_body(request), timeout=left)
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        completions = [
            Completion(
                token_ids=choice["token_ids"],
                logprobs=[entry["logprob"] for entry in choice["logprobs"]["content"]],
            )
            for choice in choices
        ]
        return EngineResult(prompt_token_ids=answer["prompt_token_ids"], completions=completions)

    def _check_server(self) -> int:
        """The server's context length; RolloutStartError when it is not there or not ours."""
        try:
            [model] = self._get("/v1/models")["data"]
            info = self._get("/server_info?config_format=json")
        except RolloutError as error:
            raise RolloutStartError(
                f"no usable vLLM server: {error}; start it with {NEEDED_FLAGS}"
            ) from error
        mode = info["vllm_config"]["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise RolloutStartError(
                f"the vLLM server at {self.url} reports {mode}, expected processed_logprobs; "
                f"start it with {NEEDED_FLAGS}"
            )
        return model["max_model_len"]

    def _get(self, path: str) -> Any:
        return self._request("GET", path, None, timeout=CONTROL_SECONDS)

    def _post(self, path: str, body: dict[str, Any], timeout: float | None = None) -> Any:
        return self._request("POST", path, body, timeout=timeout or self.timeout_seconds)

    def _request(self, method: str, path: str, body: dict | None, *, timeout: float) -> Any:
        """The JSON answer, None where there is no body; RolloutError for everything else."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")[:500]
            raise RolloutError(f"{self.url}{path} answered {error.code}: {reason}") from error
        except (OSError, HTTPException) as error:  # refused, reset, late
            raise RolloutError(
                f"{self.url}{path} did not answer ({type(error).__name__}: {error})"
            ) from error
        return json.loads(text) if text else None


def generate_body(request: EngineRequest) -> dict[str, Any]:
    """A request in the form of `/inference/v1/generate`."""
    body: dict[str, Any] = {
        "token_ids": request.token_ids,
        "sampling_params": request.params,
        "return_token_ids": True,
    }
    if request.items:
        body["features"] = {
            "mm_hashes": {"image": item_names(request.items)},
            "mm_placeholders": {
                "image": [{"offset": i.offset, "length": len(i.embeds)} for i in request.items]
            },
            "kwargs_data": {"image": [encode_item(item) for item in request.items]},
        }
    return body


class NcclSender:
    """Weights to a vLLM server over NCCL, by vLLM's own weight-transfer engine.

    Needs a GPU on both sides; not run on the machines this was written on. The server is started
    with `--weight-transfer-config '{"backend": "nccl"}'` and joins as ranks 1…; the trainer is 0.
    """

    def __init__(self, post: Callable[[str, dict], Any], get: Callable[[str], Any]):
        self._post, self._get = post, get
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
            "master_port": NCCL_PORT,
            "rank_offset": 1,
            "world_size": self._get("/get_world_size")["world_size"] + 1,
            "packed": True,
        }
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self._post, "/init_weight_transfer_engine", {"init_info": info})
            group = trainer_init(info)
            answer.result()
        return group
