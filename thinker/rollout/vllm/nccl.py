"""Weights to a vLLM server over NCCL, by vLLM's own weight-transfer engine.

Needs a GPU on both sides; not run on the machines this was written on. A server is started with
`--weight-transfer-config '{"backend": "nccl"}'` and joins as ranks 1…; the trainer is 0. Each
server is a group of its own with the trainer, so that one that is lost does not break the others'.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from thinker.rollout.base import RolloutError
from thinker.rollout.vllm.server import Server

NCCL_PORT = 51216
"""Of the trainer, where the first server joins to receive weights; the next one at the next."""


class NcclSender:
    """Sends weights to one server, the `number`-th of the run."""

    def __init__(self, server: Server, number: int):
        self.server, self.port = server, NCCL_PORT + number
        self._group: Any = None

    def forget(self) -> None:
        """Join anew at the next push, as after a failure."""
        self._group = None

    def send(self, tensors: Sequence[tuple[str, torch.Tensor]], timeout: float) -> None:
        """Announce names, types and shapes, then broadcast the tensors in the same order."""
        try:
            self._send(tensors, timeout)
        except RolloutError:
            self.forget()
            raise

    def _send(self, tensors: Sequence[tuple[str, torch.Tensor]], timeout: float) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        if self._group is None:
            self._group = self._connect(timeout)
        announced = {
            "names": [name for name, _ in tensors],
            "dtype_names": [str(t.dtype).removeprefix("torch.") for _, t in tensors],
            "shapes": [list(t.shape) for _, t in tensors],
        }
        post = self.server.post
        post("/start_weight_update", {}, timeout)
        # The server answers only when it has received everything, so it is asked from a thread.
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(post, "/update_weights", {"update_info": announced}, timeout)
            packed_nccl_broadcast_producer(
                iterator=iter(tensors),
                group=self._group,
                src=0,
                post_iter_func=lambda item: item[1],
            )
            answer.result()
        post("/finish_weight_update", {}, timeout)

    def _connect(self, timeout: float) -> Any:
        from vllm.distributed.weight_transfer.nccl_common import trainer_init
        from vllm.utils.network_utils import get_ip

        if not torch.cuda.is_available():
            raise RolloutError("rollout.push is nccl, which needs a GPU; use push=disk")
        info = {
            "master_address": get_ip(),
            "master_port": self.port,
            "rank_offset": 1,
            "world_size": self.server.get("/get_world_size")["world_size"] + 1,
            "packed": True,
        }
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(
                self.server.post, "/init_weight_transfer_engine", {"init_info": info}, timeout
            )
            group = trainer_init(info)
            answer.result()
        return group
