"""The wheel works alone: built, installed without the checkout in reach, used on two known sets.

Nothing here reaches a network: the build backend is a development dependency, and the dependencies
are those of the environment that runs the tests.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import REPO
from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import write_video

# Both sets are known by the file names of their metas; scale, domain and the rule that finds the
# content in a file name are then those of the YAML inside the wheel.
SETS = {
    "Konvid-1k_total_ds_score.json": ("1.mp4", "2.mp4", "3.mp4"),
    "CGVDS_total_score.json": tuple(
        f"{game}_30_640x480_30_{rate}_h264_nvenc.mp4"
        for game, rate in (("GameA", 500), ("GameA", 900), ("GameB", 500))
    ),
}
WHERE = """
import json, sys, rewards, thinker
from thinker.config.shipped import DATA_CONFIGS
print(json.dumps([sys.path, [thinker.__file__, rewards.__file__, str(DATA_CONFIGS)]]))
"""


def run(*command: object, cwd: Path) -> str:
    """Output of a command that must succeed, in an environment that does not name the checkout."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key not in hidden},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment that holds the wheel, and sees the packages of this one beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=REPO)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder that a .pth file names is searched, but its own .pth files are not read: what makes
    # an editable install of this project visible stays out, and the others are repeated here.
    lines = []
    for parent in (Path(entry) for entry in sys.path if entry.endswith("site-packages")):
        lines.append(str(parent))
        others = [path for path in parent.glob("*.pth") if "vqa_thinker" not in path.name]
        lines += [path.read_text() for path in others]
    (site / "parent.pth").write_text("\n".join(lines))
    return python.parent


def test_import_finds_the_wheel_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    path, places = json.loads(run(installed / "python", "-c", WHERE, cwd=tmp_path))
    assert all(Path(place).is_relative_to(installed.parent) for place in places), places
    assert all(Path(place).exists() for place in places), places
    assert REPO not in [Path(entry).resolve() for entry in path if entry]
    package = Path(places[0]).parent
    for name in (
        "py.typed",
        "eval/report/page.html.j2",
        "train/inspect/inspect.html.j2",
        "policies/public_configs.yaml",
    ):
        assert (package / name).is_file(), name


def test_two_known_sets_are_evaluated_and_reported(installed: Path, tmp_path: Path) -> None:
    small_policy("internvl3").save(tmp_path / "model")
    (tmp_path / "videos").mkdir()
    for meta, names in SETS.items():
        for number, name in enumerate(names):
            write_video(tmp_path / "videos" / name, num_frames=10 + 5 * number)
        annotations = [
            {"image_id": name, "ann_type": "score", "score": str(2 + number)}
            for number, name in enumerate(names)
        ]
        (tmp_path / meta).write_text(json.dumps({"annotations": annotations}))
    thinker = installed / "thinker"
    run(
        thinker, "eval", "--model", tmp_path / "model", "--mode", "level", "--meta", *SETS,
        "--video-root", "videos", "--num-workers", "0", "--output-dir", "results", cwd=tmp_path,
    )  # fmt: skip
    sets = json.loads((tmp_path / "results" / "summary.json").read_text())["sets"]
    konvid, cgvds = sets["konvid_1k"], sets["cgvds"]
    assert konvid["statuses"] == cgvds["statuses"] == {"ok": 3}
    assert (konvid["domain"], konvid["mos_scale"]["max"]) == ("in", 100)
    assert (cgvds["domain"], cgvds["mos_scale"]["max"]) == ("out", 7)
    assert (konvid["report"]["num_contents"], cgvds["report"]["num_contents"]) == (3, 2)

    run(thinker, "report", "results", cwd=tmp_path)
    page = (tmp_path / "results" / "report.html").read_text()
    assert "<h2>KoNViD-1k</h2>" in page and "<h2>CGVDS</h2>" in page
    assert page.count("data:image/png;base64,") == 10  # two plots and three worst cases a set
    assert "0.881 / 0.884" in page  # VQAThinker on KoNViD-1k, from published.yaml in the wheel
