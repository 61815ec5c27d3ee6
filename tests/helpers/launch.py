"""Launchers of several processes, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.places import REPO


def launch(command: list[str], folder: Path) -> None:
    """`python -m command` in a folder, with this checkout; its errors are shown where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr[-3000:]
