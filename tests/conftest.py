"""Environment of every test: no network, no telemetry, few threads, no writes to the repository.

The variables are set before torch, transformers or vLLM is first imported.
"""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.helpers.places import REPO

_NUM_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_NUM_THREADS = str(max(1, min(2, os.cpu_count() or 1) // _NUM_WORKERS))

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="disabled",
    TRACKIO_MODE="disabled",
    VLLM_NO_USAGE_STATS="1",
    DO_NOT_TRACK="1",
    MPLBACKEND="Agg",
    # Tiny models gain nothing from more threads, and CI has two cores.
    OMP_NUM_THREADS=_NUM_THREADS,
    MKL_NUM_THREADS=_NUM_THREADS,
)
# In-process vLLM on a CPU starts in seconds, and a tiny model needs no larger cache (GiB).
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _git_state() -> str | None:
    """Changed tracked files and files git does not ignore; None outside a git checkout."""
    command = "git status --porcelain && git diff HEAD"
    result = subprocess.run(command, shell=True, cwd=REPO, capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else None


@pytest.fixture(scope="session", autouse=True)
def _repository_unchanged() -> Iterator[None]:
    """Fails a session whose tests wrote into the repository (CI only: elsewhere people edit)."""
    if os.environ.get("CI") != "true":
        yield
        return
    before = _git_state()
    yield
    assert _git_state() == before, "a test changed or added files of the repository"


@pytest.fixture(scope="session")
def zygote():
    """Forks real processes cheaply; see zygote.py."""
    from tests.helpers.zygote import Zygote

    zygote = Zygote()
    yield zygote
    zygote.close()
