"""Decoding ahead of the model, in guarded processes: a video that hangs or kills its decoder costs
only itself.

Flow: paths, in order → `num_workers` processes, each with one video at a time → clips (or the
`VideoError` of a video), in the same order, a bounded number of them waiting. A thread per process
hands out the work and watches the clock; the decoder and the pipes do not hold the GIL.

The processes are forks of a small server process, never of this one, whose threads (torch) a fork
would copy as they happen to be. A worker ends when its pipe closes, so none outlives a killed run.
"""

import multiprocessing
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from thinker.video import Clip, VideoError

Read = Callable[[Path], Clip]  # picklable; raises VideoError
TIMEOUT_SECONDS = 300.0
"""An hour-long 4K file is indexed and read in well under a minute; a stalled mount never."""
AHEAD = 4
"""Clips that wait, for each worker: enough for a steady flow to a consumer of single clips."""


def read_ahead(
    paths: Iterable[Path],
    read: Read,
    *,
    num_workers: int,
    timeout_seconds: float = TIMEOUT_SECONDS,
    ahead: int = 0,
) -> Iterator[Clip | VideoError]:
    """The clip or the error of every path, in order. 0 workers: read here, without guard.

    ahead: how many may be read or wait while the consumer is busy, at least `AHEAD` a worker. For a
    consumer that works on batches, the size of one: the next is then read meanwhile.
    """
    if num_workers < 0 or timeout_seconds <= 0:
        raise ValueError(
            f"num_workers is {num_workers} and timeout_seconds {timeout_seconds}, "
            "expected at least 0 and above 0"
        )
    if num_workers == 0:
        for path in paths:
            yield _attempt(read, path)
        return
    guards = _Guards(read, timeout_seconds)
    pending: deque[Future[Clip | VideoError]] = deque()
    ahead = max(ahead, AHEAD * num_workers)
    with ThreadPoolExecutor(num_workers) as threads:
        try:
            for path in paths:
                pending.append(threads.submit(guards.read, path))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # also where the consumer stops early
            for future in pending:
                future.cancel()
            guards.close()


def _attempt(read: Read, path: Path) -> Clip | VideoError:
    try:
        return read(path)
    except VideoError as error:
        return error


class _Guards:
    """One guarded worker process a thread, started when the thread first needs it."""

    def __init__(self, read: Read, timeout_seconds: float) -> None:
        self._read, self._timeout = read, timeout_seconds
        self._own = threading.local()
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["thinker.video"])
        self._starting = threading.Lock()

    def read(self, path: Path) -> Clip | VideoError:
        worker = getattr(self._own, "worker", None)
        if worker is None or not worker.process.is_alive():
            with self._starting:
                worker = self._own.worker = _Worker(self._context, self._read)
                self._workers.append(worker)
        return worker.read(path, self._timeout)

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()


class _Worker:
    def __init__(self, context: Any, read: Read) -> None:
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, read), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self._pipe.recv_bytes()  # ready: importing does not count as decoding time
        except EOFError:
            raise RuntimeError("a decoding process ended while it started; see its error") from None

    def read(self, path: Path, timeout_seconds: float) -> Clip | VideoError:
        try:
            self._pipe.send(path)
            if not self._pipe.poll(timeout_seconds):
                self.stop()
                return VideoError(path, "timeout", f"more than {timeout_seconds:g} s")
            result = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            self.stop()
            return VideoError(path, "crashed")
        if isinstance(result, Exception) and not isinstance(result, VideoError):
            raise result
        return result

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self._pipe.close()


def _serve(pipe: Connection, read: Read) -> None:
    """A worker's life: paths in, pickled results out, until the pipe closes."""
    pipe.send_bytes(b"ready")
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return
        result: Clip | Exception
        try:
            result = _attempt(read, path)
        except Exception as error:  # a bug: raised again where it can be seen
            result = error
        # Bytes, not torch's shared memory: that costs a file descriptor a tensor.
        pipe.send_bytes(pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL))
