"""Runs jobs in forked children of one process that has imported everything once.

A child that imports torch, transformers and TRL costs eight seconds; a fork of a process that has
done so costs none, and is as much a process: it can be killed, and it shares nothing afterwards.
Several children of one job get the environment that torchrun gives its workers.
"""

import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.launch import free_port
from tests.helpers.places import REPO


@dataclass(frozen=True)
class JobOutcome:
    """codes: exit status of each process, negative for a signal (-9: killed). log: their output."""

    codes: list[int]
    log: str


class Zygote:
    """Client side: starts the process, sends it jobs."""

    def __init__(self):
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, job: str, *, num_processes: int = 1, timeout: float = 250, **arguments):
        """`job` of fault_jobs.py in forked children; waits for them."""
        request = {"job": job, "n": num_processes, "timeout": timeout, "arguments": arguments}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        return JobOutcome(**json.loads(self._process.stdout.readline()))

    def close(self):
        self._process.kill()
        self._process.wait()


def serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print

    import deepspeed  # noqa: F401  (else imported by every child)

    import tests.helpers.fault_jobs  # noqa: F401  (the expensive imports)

    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(f"/tmp/zygote.{os.getpid()}.log")
        folder.write_bytes(b"")
        pids = [start(request, rank, folder) for rank in range(request["n"])]
        codes = wait(pids, request["timeout"])
        reply = {"codes": codes, "log": folder.read_text(errors="replace")[-20000:]}
        folder.unlink()
        print(json.dumps(reply), file=replies, flush=True)


def start(request: dict, rank: int, log: Path) -> int:
    if rank == 0:
        request["port"] = free_port()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        faulthandler.dump_traceback_later(max(request["timeout"] - 2, 1))  # says where it hung
        if request["n"] > 1:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(request["n"]),
                LOCAL_WORLD_SIZE=str(request["n"]),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(request["port"]),
            )
        job = getattr(importlib.import_module("tests.helpers.fault_jobs"), request["job"])
        code = job(**request["arguments"]) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pids: list[int], timeout: float) -> list[int]:
    """Exit codes; as torchrun does, the rest is ended when one process fails or time is up."""
    codes: dict[int, int] = {}
    end = time.monotonic() + timeout
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        if any(codes.values()) or time.monotonic() > end:
            for pid in pids:
                if pid not in codes:
                    os.kill(pid, signal.SIGKILL)
                    codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    serve()
