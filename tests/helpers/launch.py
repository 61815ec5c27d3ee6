"""Launchers of several processes, as a user starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.helpers.places import REPO


def environment(**more: str) -> dict[str, str]:
    """Of a process that uses this checkout, with one thread."""
    return {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **more}


def launch(command: list[str], folder: Path, **more: str) -> None:
    """`python -m command` in a folder, with this checkout; its errors are shown where it fails.
    more: of its environment."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env=environment(**more),
        cwd=folder,
    )
    if result.returncode != 0:
        # What a launcher says of its processes hides what they said themselves.
        said = [line for line in result.stderr.splitlines() if line.startswith("[rank")]
        raise AssertionError("\n".join([result.stdout[-3000:], result.stderr[-3000:], *said[-60:]]))


def ddp_launcher(num_processes: int) -> list[str]:
    """torchrun on this machine, behind `python -m`."""
    return [
        "torch.distributed.run", "--nnodes=1", f"--nproc_per_node={num_processes}",
        "--master_addr=127.0.0.1", f"--master_port={free_port()}", "-m",
    ]  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
