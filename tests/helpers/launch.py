"""Launchers of several processes, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.places import REPO


def environment(**more: str) -> dict[str, str]:
    """Of a process that uses this checkout, with one thread."""
    return {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **more}


def launch(command: list[str], folder: Path, **more: str) -> str:
    """`python -m command` in a folder, with this checkout; its errors are shown where it fails.
    Returns what it prints. more: of its environment."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env=environment(**more),
        cwd=folder,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-12000:]}"
    return result.stdout
