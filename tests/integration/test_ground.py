"""The ground: metadata, the install script, CI's entry, launch files, the torchvision remedy.

Nothing here installs anything or reaches a network.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.helpers.places import REPO
from thinker.policies import releases

SHELL_SCRIPTS = ("setup.sh", "run_scripts/test.sh", ".ci/run")
SHIM = REPO / "run_scripts" / "torchvision_cpu_ops.py"


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def tracked_files() -> list[Path]:
    """Tracked files and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip("not a git checkout")
    return [REPO / name for name in result.stdout.split("\0") if name and (REPO / name).is_file()]


def test_metadata_admit_the_torch_that_setup_installs(project: dict) -> None:
    core = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    pinned = re.search(r"^torch=(\S+)", (REPO / "setup.sh").read_text(), re.MULTILINE)
    assert pinned and pinned[1] in core["torch"]


def test_installed_packages_satisfy_the_metadata(project: dict) -> None:
    from importlib.metadata import version

    lines = project["dependencies"] + project["optional-dependencies"]["train"]
    wrong = [
        f"{r} is at {version(r.name)}"
        for r in map(Requirement, lines)
        if not r.specifier.contains(version(r.name), prereleases=True)
    ]
    assert not wrong


def test_the_range_of_transformers_is_that_of_the_metadata(project: dict) -> None:
    core = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert core["transformers"] == SpecifierSet(f">={releases.OLDEST},<{releases.NEXT}")


def test_version_is_defined_once(project: dict) -> None:
    from importlib.metadata import version

    assert version(project["name"]) == project["version"]


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_scripts_are_sound(name: str) -> None:
    script = REPO / name
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def test_ci_runs_the_test_script() -> None:
    assert "run_scripts/test.sh" in (REPO / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp2"])
def test_accelerate_reads_its_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(REPO / "run_scripts" / "configs" / f"{name}.yaml"))
    assert config.mixed_precision == "bf16"
    if name.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
    else:
        assert config.fsdp_config["fsdp_version"] == 2


# A stand-in for torchvision whose import needs the operator, as the real one's does. Its folder
# holds a C++ part that cannot be loaded, like a CUDA-linked one next to a CPU build of torch.
FAKE_TORCHVISION = "import torch\nassert torch.ops.torchvision.nms.default is not None\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(FAKE_TORCHVISION)
    (package / "_C.so").write_bytes(b"not a library")
    shutil.copy(SHIM, tmp_path / "_thinker_torchvision_cpu_ops.py")
    return tmp_path


def run_python(code: str, site: Path) -> subprocess.CompletedProcess:
    # -S: without the site packages' own .pth lines, hence without a finder that setup.sh installed.
    import torch

    folders = [str(site), str(Path(torch.__file__).parent.parent)]
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
    )


INSTALL = "import sys, _thinker_torchvision_cpu_ops as shim; shim.install(); shim.install()\n"


def test_stand_in_fails_without_the_finder(site: Path) -> None:
    result = run_python("import torchvision", site)
    assert result.returncode != 0 and "nms" in result.stderr


def test_finder_defines_the_operators_when_torchvision_is_imported(site: Path) -> None:
    code = INSTALL + (
        "assert sum(type(f).__name__ == 'TorchvisionFinder' for f in sys.meta_path) == 1\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('torchvision').origin.endswith('__init__.py')\n"
        "assert 'torch' not in sys.modules, 'asking for torchvision must not import torch'\n"
        "import torchvision, torch\n"
        "print(torch.ops.torchvision.nms.default._schema)\n"
    )
    result = run_python(code, site)
    assert result.returncode == 0, result.stderr
    assert "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold)" in result.stdout


def test_finder_tells_when_torchvision_is_missing(site: Path) -> None:
    code = INSTALL + (
        "import importlib.util\n"
        "sys.path = []\n"
        "assert importlib.util.find_spec('torchvision') is None\n"
    )
    result = run_python(code, site)
    assert result.returncode == 0, result.stderr


def test_operators_of_a_working_torchvision_are_kept(site: Path) -> None:
    code = (
        "import torch, _thinker_torchvision_cpu_ops as shim, pathlib\n"
        "torch.ops.load_library = lambda path: None   # the C++ part loads\n"
        f"assert shim.define_missing(pathlib.Path({str(site / 'torchvision')!r})) is False\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
    )
    result = run_python(code, site)
    assert result.returncode == 0, result.stderr


def test_real_torchvision_transforms_work() -> None:
    import torch
    from torchvision.transforms.v2 import functional as F

    assert F.resize(torch.rand(3, 8, 6), [4, 3]).shape == (3, 4, 3)


# Written in pieces, so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(?<![\w.~/}-])/(?:wor" r"k|roo" r"t|op" r"t|hom" r"e)/\w")
REGISTRY_HOSTS = re.compile(r"py" r"pi\.org|python" r"hosted\.org|npm" r"js\.org|deb\.deb" r"ian")


def test_no_machine_specific_paths_or_hosts() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line):
                found.append(f"{path.relative_to(REPO)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
