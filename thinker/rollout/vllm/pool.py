"""vLLM on other GPUs or nodes: one engine made of one or more servers.

Generation: each prompt goes, with all of its completions, to the server that has fewest of ours
unanswered. A request carries its seed, so it does not matter which server answers. One that fails
is left out with a warning, and its prompts go to the others. Answers count only if the server still
holds the weights that were pushed when it has given them.

Weights: a push goes to all servers, those that were left out included. A server that takes it, and
then passes the probe (rollout.py), is in again. Several trainer processes may use the same servers;
process 0 pushes and tells the others which servers hold the weights.
"""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from thinker.config.run import RolloutSettings
from thinker.rollout.base import RolloutError, RolloutStartError
from thinker.rollout.vllm.engine import EngineRequest, EngineResult
from thinker.rollout.vllm.folder import WEIGHTS_FILE
from thinker.rollout.vllm.nccl import NcclSender
from thinker.rollout.vllm.server import CONTROL_SECONDS, LOADING, Server

logger = logging.getLogger(__name__)

CONNECTIONS = 64
"""Requests in flight a server and trainer process: more wait here instead of in its queue."""
AWAY_SECONDS = 5.0
"""For the first answer, at a push, of a server that was left out: the others wait for it."""
RETRY_SECONDS = 2.0
"""Between two looks for a server that is started again."""


class ServerPool:
    """One or more running `vllm serve`, as an `Engine`."""

    def __init__(self, settings: RolloutSettings):
        self.timeout_seconds = settings.timeout_seconds
        self.sync_folder = settings.sync_folder
        first = _rank() % len(settings.server_urls)  # several trainers begin with different ones
        urls = settings.server_urls[first:] + settings.server_urls[:first]
        self.servers = [Server(url) for url in urls]
        self._senders = (
            {server: NcclSender(server, number) for number, server in enumerate(self.servers)}
            if settings.push == "nccl"
            else None
        )
        self._lock = threading.Lock()  # of the three that follow
        self._in_flight = dict.fromkeys(self.servers, 0)
        self._away: dict[Server, RolloutError] = {}
        self._told_of: set[Server] = set()  # that they are left out
        self._version: str | None = None  # of the last push
        self._connect()
        self.max_model_len = min(server.max_model_len for server in self._present())

    # Generation

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """See `Engine.run`. `timeout_seconds` hold for each prompt, from when it is sent."""
        results: dict[int, EngineResult] = {}
        while len(results) < len(requests):
            missing = [i for i in range(len(requests)) if i not in results]
            answers = self._answers([requests[i] for i in missing])
            held = {server: self._holds_weights(server) for server in {s for s, _ in answers}}
            for i, (server, result) in zip(missing, answers, strict=True):
                if held[server]:
                    results[i] = result
            self._say_again([server for server in held if held[server]])
        return [results[i] for i in range(len(requests))]

    def probe(self, request: EngineRequest) -> dict[str, EngineResult]:
        """See `Engine.probe`."""
        work = self._each(lambda s: s.generate(request, self.timeout_seconds), self._present())
        self._require_one()
        return {server.url: result for server, result in work.items()}

    def refuse(self, name: str, error: RolloutError) -> None:
        """See `Engine.refuse`; the error is raised only where no other server is left."""
        [server] = [server for server in self.servers if server.url == name]
        self._leave_out(server, error)
        if not self._present():
            raise error

    def _answers(self, requests: Sequence[EngineRequest]) -> list[tuple[Server, EngineResult]]:
        with ThreadPoolExecutor(min(CONNECTIONS * len(self.servers), len(requests))) as pool:
            answers = [pool.submit(self._answer, request) for request in requests]
            try:
                return [answer.result() for answer in answers]
            except BaseException:
                for answer in answers:
                    answer.cancel()
                raise

    def _answer(self, request: EngineRequest) -> tuple[Server, EngineResult]:
        """The answer, and whose it is: of the first server that does not fail."""
        while True:
            server = self._least_loaded()
            try:
                return server, server.generate(request, self.timeout_seconds)
            except RolloutError as error:
                self._leave_out(server, error)
            finally:
                with self._lock:
                    self._in_flight[server] -= 1

    def _least_loaded(self) -> Server:
        """The server with the fewest requests of ours in flight, now one more."""
        with self._lock:
            present = [server for server in self.servers if server not in self._away]
            if present:
                server = min(present, key=lambda s: self._in_flight[s])
                self._in_flight[server] += 1
                return server
        raise self._none_left()

    def _holds_weights(self, server: Server) -> bool:
        """Whether a server that has answered did so from the weights of the last push. A process
        that was started anew in between, or that another run has pushed to, has another version."""
        try:
            version = server.version()
            if self._version not in (None, version):
                raise RolloutError(
                    f"{server.url} holds weights {version!r} in place of those that were pushed; "
                    "it was started anew, or another run uses it"
                )
        except RolloutError as error:
            self._leave_out(server, error)
            return False
        return True

    # Weights

    def push(self, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
        """See `Engine.push`. Every process iterates (gathering is collective), rank 0 sends. What a
        server that failed has taken of it is not counted."""
        version, errors, size = uuid.uuid4().hex, {}, 0

        def measured() -> Iterator[tuple[str, torch.Tensor]]:
            nonlocal size
            for name, tensor in weights:
                size += tensor.nbytes
                yield name, tensor

        if _rank() == 0:
            try:
                errors = self._push_to_all(measured(), version)
            except RolloutError as error:
                errors = {server.url: str(error) for server in self.servers}
        else:
            for _ in weights:
                pass
        self._version, errors = _told((version, errors))
        failed = {s: RolloutError(errors[s.url]) for s in self.servers if s.url in errors}
        with self._lock:
            self._away = failed
        for server, reason in failed.items():
            self._warn(server, reason)
        self._require_one()
        return size * (len(self.servers) - len(failed))

    def _push_to_all(
        self, weights: Iterable[tuple[str, torch.Tensor]], version: str
    ) -> dict[str, str]:
        """By server, why it does not hold the weights now; nothing of those that do."""
        errors: dict[str, str] = {}
        if self._senders is not None:
            tensors = list(weights)
            for server, sender in self._senders.items():  # one group of processes after another
                send = partial(sender.send, tensors, self.timeout_seconds)
                errors |= self._take(server, version, send)
            return errors
        folder = self._written(weights, version)

        def take(server: Server) -> dict[str, str]:
            send = partial(server.load, str(folder), self.timeout_seconds)
            return self._take(server, version, send)

        try:
            with ThreadPoolExecutor(len(self.servers)) as pool:
                for failed in pool.map(take, self.servers):
                    errors |= failed
        finally:
            shutil.rmtree(folder)
        return errors

    def _written(self, weights: Iterable[tuple[str, torch.Tensor]], version: str) -> Path:
        """A folder with the weights, which trainer and servers see under the same path."""
        assert self.sync_folder is not None
        tensors = {name: tensor.cpu().contiguous() for name, tensor in weights}
        folder = Path(self.sync_folder).resolve() / f"push-{version}"
        try:
            folder.mkdir(parents=True)
            save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise RolloutError(f"weights cannot be written to {folder}: {error}") from error
        return folder

    def _take(self, server: Server, version: str, send: Callable[[], None]) -> dict[str, str]:
        """Let one server take the weights; why it does not, if so."""
        try:
            server.check(AWAY_SECONDS if server in self._away else CONTROL_SECONDS)
            if server.max_model_len < self.max_model_len:
                raise RolloutError(
                    f"{server.url} has a context of {server.max_model_len} tokens, the servers "
                    f"that the run began with have {self.max_model_len}"
                )
            server.set_version(LOADING)
            send()
            server.drop_caches(self.timeout_seconds)
            server.set_version(version)
        except RolloutError as error:
            return {server.url: str(error)}
        return {}

    # Which servers are in

    def restart(self) -> None:
        """Wait until a server answers again: what started them must start them anew. Those that
        answer hold old weights, which the push that follows replaces."""
        deadline = time.monotonic() + self.timeout_seconds
        for sender in (self._senders or {}).values():
            sender.forget()
        while True:
            try:
                return self._connect()
            except RolloutStartError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """The servers belong to whoever started them."""

    def _connect(self) -> None:
        """Look which servers are there. RolloutStartError where none is."""
        self._away = {}
        self._each(lambda server: server.check(CONTROL_SECONDS), self.servers)
        if not self._present():
            raise RolloutStartError(str(self._none_left()))

    def _each(self, work: Callable[[Server], object], servers: Sequence[Server]) -> dict:
        """Do the work with each server at the same time; results of those that do not fail."""

        def attempt(server: Server):
            try:
                return {server: work(server)}
            except RolloutError as error:
                self._leave_out(server, error)
                return {}

        with ThreadPoolExecutor(max(1, len(servers))) as pool:
            return {
                key: value for done in pool.map(attempt, servers) for key, value in done.items()
            }

    def _present(self) -> list[Server]:
        with self._lock:
            return [server for server in self.servers if server not in self._away]

    def _leave_out(self, server: Server, error: RolloutError) -> None:
        with self._lock:
            self._away.setdefault(server, error)
        self._warn(server, error)

    def _warn(self, server: Server, error: RolloutError) -> None:
        """Once, until it answers again."""
        with self._lock:
            is_new = server not in self._told_of
            self._told_of.add(server)
        if is_new:
            logger.warning(
                "rollouts: %s is left out until it takes a later push; %d of %d servers go on: %s",
                server.url, len(self._present()), len(self.servers), error,
            )  # fmt: skip

    def _say_again(self, servers: Sequence[Server]) -> None:
        for server in self._told_of.intersection(servers) - self._away.keys():
            self._told_of.discard(server)
            logger.warning("rollouts: %s answers again", server.url)

    def _require_one(self) -> None:
        if not self._present():
            raise self._none_left()

    def _none_left(self) -> RolloutError:
        with self._lock:
            reasons = "; ".join(str(self._away[s]) for s in self.servers if s in self._away)
        return RolloutError(f"no usable vLLM server: {reasons}")


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _told(value):
    """What process 0 says, in every process."""
    if not torch.distributed.is_initialized():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
