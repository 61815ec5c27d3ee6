"""Every benchmark can be imported: what it takes from the package is still there."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.helpers.places import REPO

BENCHMARKS = sorted((REPO / "benchmarks").glob("*.py"))
WITHOUT_MAIN = {
    "brisque": "brisque_features",
    "inference_sides": "measure",
    "gpu_common": "policy_of",
}


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmark_imports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(path.parent)  # as `python benchmarks/...py` does
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    assert callable(getattr(module, WITHOUT_MAIN.get(path.stem, "main")))
