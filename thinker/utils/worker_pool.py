"""Work in worker processes: an item that crashes, hangs or eats memory costs only itself.

Items go in, in order; each of `num_workers` processes works on one at a time; the bytes that `task`
gave come out, or a `Failure`, in the same order. One thread for each process hands out the work and
watches the clock. Threads are enough, because neither the decoder nor the pipes hold the GIL.

A worker opens untrusted files and may have been taken over by one. So nothing that a worker sends
is ever unpickled: a result is bytes, which the caller parses. The parent ends a process that passes
its deadline by SIGKILL, and the kernel enforces the memory limit (RLIMIT_DATA). Both also hold
while a worker is inside C code.

The processes are forks of a small server process, never of this one: this one runs threads (those
of torch), and a fork would copy them in whatever state they happen to be. A worker ends with the
run, however that ends.
"""

import functools
import multiprocessing
import os
import resource
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from thinker.utils.tensors import out_of_memory

Item = TypeVar("Item")
Task = Callable[[Item], bytes]  # picklable, as are the items

AHEAD = 4
"""How many results may wait for each worker: enough to fill a batch while one is scored."""
START_SECONDS = 300.0
"""How long a worker may import its modules, on a busy machine. It is not part of an item's time."""
ALARM_MARGIN_SECONDS = 10.0
"""The parent's clock decides. The kernel's alarm, so much later, is for a parent that is gone."""
NUM_TRIES = 2
"""A file on a network mount may fail once. What fails twice, in two fresh processes, is bad."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one item may take."""

    seconds: float = 300.0
    """Wall clock. An hour-long 4K file is indexed and read in well under a minute; a read from a
    stalled mount never ends."""
    memory_bytes: int = 4 * 2**30
    """What a worker may allocate beyond what it has after its start. The sixteen reference pictures
    of the largest frame that the reader takes (2**26 pixels, 10 bit) are 3 GiB."""

    def __post_init__(self) -> None:
        if not self.seconds > 0 or self.memory_bytes < 1:
            raise ValueError(
                f"seconds is {self.seconds} and memory_bytes {self.memory_bytes}, expected "
                "numbers above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An item on which `NUM_TRIES` worker processes failed."""

    reason: str
    """"crashed", "timeout" or "memory"; that of the last try."""
    detail: str
    """The same for a person, such as "more than 300 s"."""


class WorkerError(RuntimeError):
    """The task raised an exception, which is a bug. The text holds the worker's traceback."""


class WorkerStartError(RuntimeError):
    """A worker process could not be started."""


def map_in_workers(
    task: Task[Item],
    items: Iterable[Item],
    *,
    num_workers: int,
    limits: Limits | None = None,
    ahead: int = 0,
) -> Generator[bytes | Failure, None, None]:
    """`task(item)` of every item, in order.

    The workers run ahead of the consumer, by at most `AHEAD` results for each worker, or by `ahead`
    results in all if that is more. An item whose process crashes, passes its deadline or its memory
    limit is tried once more in a fresh process; then it is a `Failure`.

    Raises `WorkerError` where `task` raises, and `WorkerStartError` where a process ends while it
    starts, mostly because a script lacks `if __name__ == "__main__":`.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}, expected at least 1")
    workers = _Workers(task, limits or Limits())
    pending: deque[Future[bytes | Failure]] = deque()
    ahead = max(ahead, AHEAD * num_workers)
    try:
        with ThreadPoolExecutor(num_workers) as threads:
            try:
                for item in items:
                    pending.append(threads.submit(workers.run, item))
                    if len(pending) > ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:  # also where the consumer stops early
                for future in pending:
                    future.cancel()
                workers.kill()
    finally:
        workers.release()


class _Ended(Exception):
    """A worker process is gone; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class _Workers(Generic[Item]):
    """One worker process for each thread, started when the thread first needs it."""

    def __init__(self, task: Task[Item], limits: Limits) -> None:
        self._task, self._limits = task, limits
        self._own = threading.local()
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([_module_of(task)])
        self._lock = threading.Lock()
        self._is_closed = False

    def run(self, item: Item) -> bytes | Failure:
        failure = Failure(reason="crashed", detail="the run was ended")
        for _ in range(NUM_TRIES):
            worker = self._worker()
            if worker is None:
                break
            try:
                return worker.run(item)
            except _Ended as ended:
                failure = ended.failure
                self._own.worker = None
        return failure

    def _worker(self) -> "_Worker | None":
        """This thread's worker, or None once all were killed."""
        with self._lock:
            if self._is_closed:
                return None
            worker = getattr(self._own, "worker", None)
            if worker is None:
                self._workers = [w for w in self._workers if not w.is_released]
                worker = self._own.worker = _Worker(self._context, self._task, self._limits)
                self._workers.append(worker)
        return worker

    def kill(self) -> None:
        """End all processes; their threads notice that the pipes are closed."""
        with self._lock:
            self._is_closed = True
            for worker in self._workers:
                worker.process.kill()

    def release(self) -> None:
        """Close the pipes. To be called once no thread uses a worker any more."""
        for worker in self._workers:
            worker.release()


class _Worker:
    """One process, and this end of the pipe to it."""

    def __init__(self, context: Any, task: Task[Any], limits: Limits) -> None:
        self._limits = limits
        self.is_released = False
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, task, limits), daemon=True)
        self.process.start()
        theirs.close()
        self._await_start()

    def _await_start(self) -> None:
        try:
            if self._pipe.poll(START_SECONDS):
                self._pipe.recv_bytes()
                return
            what = f"did not start within {START_SECONDS:g} s"
        except (EOFError, OSError):
            what = "ended while it started; its own error stands above"
        self.release()
        raise WorkerStartError(
            f"a worker process {what}. A worker imports the script that was started, so the script "
            'must do its work under `if __name__ == "__main__":`'
        )

    def run(self, item: Any) -> bytes:
        """The result of one item. Raises `_Ended` where the process is gone, and `WorkerError`
        where the task raised an exception."""
        try:
            self._pipe.send(item)
            if not self._pipe.poll(self._limits.seconds):
                self.release()
                detail = f"more than {self._limits.seconds:g} s"
                raise _Ended(Failure(reason="timeout", detail=detail))
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise _Ended(Failure(reason="crashed", detail=self._death())) from None
        kind, content = answer[:1], answer[1:]
        if kind == _RESULT:
            return content
        if kind == _MEMORY:
            self.release()  # its heap is full of what did not fit
            detail = f"more than {self._limits.memory_bytes / 2**20:g} MiB"
            raise _Ended(Failure(reason="memory", detail=detail))
        raise WorkerError(content.decode(errors="replace"))

    def _death(self) -> str:
        self.process.join(5)  # its status comes a moment after its pipe closes
        self.release()
        code = self.process.exitcode
        if code is not None and code < 0:
            names = {one.value: one.name for one in signal.Signals}  # not of all real-time ones
            return f"the process was ended by {names.get(-code, f'signal {-code}')}"
        return f"the process ended with exit status {code}"

    def release(self) -> None:
        """End the process and close the pipe. Only the thread that uses the worker may do so."""
        if not self.is_released:
            self.is_released = True
            self.process.kill()
            # Bounded: a process that waits for a stalled mount cannot even be killed.
            self.process.join(5)
            self._pipe.close()


_RESULT, _MEMORY, _ERROR = b"r", b"m", b"e"


def _serve(pipe: Connection, task: Task[Any], limits: Limits) -> None:
    """What a worker process does: it takes items and answers in bytes, until the pipe closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory(limits.memory_bytes)
    torch.set_num_threads(1)  # its own threads would fight over the cores of the other workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is the parent's business
    pipe.send_bytes(b"ready")
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, limits.seconds + ALARM_MARGIN_SECONDS)
        answer = _answer(task, item)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send_bytes(answer)
        except OSError:  # the parent is gone
            return


def _end_with_parent() -> None:
    """End at once when the run is killed, also in the middle of an item. (Where C code holds the
    interpreter's lock, the alarm does it.)"""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(task: Task[Any], item: Any) -> bytes:
    try:
        return _RESULT + task(item)
    except Exception as error:
        if out_of_memory(error):
            return _MEMORY
        # This is a bug: the parent raises it where it can be seen.
        return _ERROR + traceback.format_exc().encode(errors="replace")


def _limit_memory(num_bytes: int) -> None:
    """Let this process allocate so much more than it has now. Linux counts all private writable
    memory as data. Other systems have no such count, and there only the deadline holds."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    now = int(lines["VmData"].split()[0]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = now + num_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _module_of(task: Task) -> str:
    """The module that holds the task's function. The server imports it once, for all workers."""
    while isinstance(task, functools.partial):
        task = task.func
    return task.__module__
