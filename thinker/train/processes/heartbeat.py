"""A process of a run that dies or stops ends the others, and they say which one it was.

A collective waits half an hour for a process that does not answer, and then names nobody. Here a
thread of every process counts up in a store every few seconds, and looks whether the others' counts
move. One that does not for `DEADLINE` seconds is named, with its host, and this process ends; the
launcher then ends the rest. Checkpoints appear whole or not at all, so the last one is intact.

What this does not see is a process whose threads run while its main one hangs, for example in a
file system: that is left to `ddp_timeout` of the trainer.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.distributed import TCPStore

logger = logging.getLogger(__name__)

DEADLINE = 60.0
"""Seconds without a sign of a process."""
EXIT_CODE = 75
"""Of a process that ends because another one did (EX_TEMPFAIL: the run can be resumed)."""
LEFT = "left"
"""What a process leaves in the place of its count when its work is done."""


@contextmanager
def watched_processes(deadline: float = DEADLINE) -> Iterator[None]:
    """Within, a process that dies or stops ends all others after `deadline` seconds.

    All processes have to enter together, when `torch.distributed` has started. Does nothing where
    there is one process.
    """
    state = PartialState()
    if state.num_processes == 1:
        yield
        return
    watch = Watch(_store(state, deadline), state.process_index, state.num_processes, deadline)
    watch.start()
    state.wait_for_everyone()  # before anyone looks for the others' counts
    try:
        yield
        state.wait_for_everyone()
    finally:
        watch.stop()


class Watch:
    """The thread of one process. store: shared by all. lost: called with a sentence when another
    process does not answer; ends this process, unless a test says otherwise."""

    def __init__(
        self,
        store: TCPStore,
        process: int,
        num_processes: int,
        deadline: float,
        lost: Callable[[str], None] | None = None,
    ):
        self.store, self.process, self.deadline = store, process, deadline
        self.others = [n for n in range(num_processes) if n != process]
        self.lost = lost or end_process
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Leave this process's name, and begin."""
        self.store.set(f"name/{self.process}", f"{socket.gethostname()}, pid {os.getpid()}")
        self._beat(0)
        self._thread.start()

    def stop(self) -> None:
        """The work is done, or this process ends anyway."""
        self._stopped.set()
        self._thread.join()
        with suppress(RuntimeError):  # where the first process, which keeps the store, has gone
            self.store.set(f"count/{self.process}", LEFT)

    def _beat(self, count: int) -> None:
        self.store.set(f"count/{self.process}", str(count))

    def _run(self) -> None:
        count, last = 0, time.monotonic()
        seen: dict[int, tuple[bytes, float]] = {}
        while not self._stopped.wait(self.deadline / 6):
            count += 1
            if time.monotonic() - last > self.deadline / 2:  # all were stopped, and go on
                seen = {}
            last = time.monotonic()
            try:
                self._beat(count)
                counts = {other: self.store.get(f"count/{other}") for other in self.others}
            except RuntimeError as error:
                if not self._stopped.is_set():
                    self._tell(0, f"the store that it keeps does not answer ({error})")
                return
            now = time.monotonic()
            for other, value in counts.items():
                if other not in seen or seen[other][0] != value:
                    seen[other] = (value, now)
                elif value != LEFT.encode() and now - seen[other][1] > self.deadline:
                    self._tell(other, f"it gave no sign for {now - seen[other][1]:.0f} seconds")
                    return

    def _tell(self, other: int, what: str) -> None:
        self.lost(
            f"process {other}{self._name(other)} is lost: {what}; this process ends, too. Run the "
            "same command again to resume from the last checkpoint"
        )

    def _name(self, other: int) -> str:
        if other == 0:  # it keeps the store
            return ""
        try:
            return f" ({self.store.get(f'name/{other}').decode()})"
        except RuntimeError:
            return ""


def end_process(sentence: str) -> None:
    """At once: the main thread waits in a collective, which no exception reaches."""
    logger.error(sentence)
    logging.shutdown()
    os._exit(EXIT_CODE)


def _store(state: PartialState, deadline: float) -> TCPStore:
    """A store of our own, kept by the first process, which listens where the launcher said that the
    processes meet."""
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    connect = partial(TCPStore, host, wait_for_workers=False, timeout=timedelta(seconds=deadline))
    if not state.is_main_process:
        return connect(broadcast_object_list([0])[0], is_master=False)
    listener = socket.create_server((host, 0))  # of itself the store would listen everywhere
    port = listener.getsockname()[1]
    store = connect(port, is_master=True, master_listen_fd=listener.detach())
    broadcast_object_list([port])
    return store
