"""`benchmarks/gpu_all.sh`: every part leaves its record, whatever the others do, and in time.

The parts run here at tiny sizes on a CPU; an interpreter that forks saves their imports. What the
script does with parts that fail or hang is seen with programs in the place of `python`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.launch import environment
from tests.helpers.places import REPO

SCRIPT = REPO / "benchmarks" / "gpu_all.sh"
PARTS = ("step", "sharded", "memory", "rates", "four_bit", "attention")


def run(out: Path, python: Path | str, *parts: str, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), str(out), *parts],
        env=environment(PYTHON=str(python), **more),
        capture_output=True,
        text=True,
        timeout=280,
    )


def summary(out: Path) -> dict[str, dict]:
    lines = (out / "summary.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["part"]: line for line in map(json.loads, lines)}


def rows(out: Path, part: str) -> list[dict]:
    return json.loads((out / f"gpu_{part}.json").read_text(encoding="utf-8"))["rows"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder that the script leaves when all of it runs on a CPU."""
    folder = tmp_path_factory.mktemp("smoke")
    command = folder / "python"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.forking_python", str(folder / "socket"), command],
        env=environment(),
        stdout=subprocess.PIPE,
        cwd=REPO,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        ended = run(folder / "out", command, SMOKE="1")
    finally:
        server.kill()
        server.wait()
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return folder / "out"


@pytest.mark.slow
def test_all_parts_run_at_tiny_sizes(smoke):
    assert list(summary(smoke)) == list(PARTS)
    assert all(line["status"] == 0 for line in summary(smoke).values())
    for part in PARTS:
        record = json.loads((smoke / f"gpu_{part}.json").read_text(encoding="utf-8"))
        assert record["versions"]["torch"] != "not installed" and record["rows"]


@pytest.mark.slow
def test_shared_rows_are_measured_against_plain_ones(smoke):
    step = rows(smoke, "step")
    assert [row["model"] for row in step] == ["tiny-qwen2_5_vl"]
    for row in step:
        assert row["max_logp_difference"] < 1e-4
        assert row["above_floor"] > 0 and row["shared"]["milliseconds"] > 0
    memory = rows(smoke, "memory")
    assert [(row["side"], row["largest_group"]) for row in memory] == [("shared", 4), ("plain", 4)]
    assert all(row["peak_bytes"] == {"2": None, "4": None} for row in memory)  # no GPU, no figure


@pytest.mark.slow
def test_sharded_steps_are_recorded_one_by_one(smoke):
    *steps, whole, compared = rows(smoke, "sharded")
    assert [(row["sharding"], row["step"], row["finite"]) for row in steps] == [
        ("plain", number, True) for number in (1, 2, 3)
    ]
    assert (whole["way"], whole["weights"]) == ("NO", "torch.bfloat16")
    assert min(whole["grad_norms"]) > 0  # answers of one video have other rewards
    assert compared["over_plain"]["plain"]["seconds"] == 1


@pytest.mark.slow
def test_rates_and_kernels_are_recorded(smoke):
    rates = {row["rate"]: row for row in rows(smoke, "rates")}
    assert list(rates) == ["vision", "motion", "encode", "generate", "decode"]
    assert rates["vision"]["frames_per_second"] > 0 and rates["decode"]["clips_per_second"] > 0
    for row in rows(smoke, "attention"):
        assert row["equal"] and row["forward_backward_ms"] > 0
        assert all(error < 1e-5 for error in row["relative_error"].values())
    kinds = {row["weights"]: row for row in rows(smoke, "four_bit")}
    assert kinds["bfloat16"]["finite"] and kinds["bfloat16"]["four_bit_layers"] == 0
    nf4 = kinds["nf4"]
    assert "skipped" in nf4 or (nf4["finite"] and nf4["only_language_model"])


# What the script does with its parts

FAKE = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then exec {python} "$@"; fi
while [[ $# -gt 1 && $1 != --output ]]; do shift; done
case $2 in
    *step*)
        echo '{{"rows": [{{"a": 1}}]}}' >"$2"
        echo begun
        echo "Error: it \\"fell\\"" >&2
        exit 3 ;;
    *memory*) echo '{{"rows": [{{"b": 1}}]}}' >"$2"; sleep 60 ;;
    *rates*) echo "No module named 'trl'" >&2; exit 1 ;;
    *) echo '{{"rows": [{{"c": 1}}]}}' >"$2" ;;
esac
"""


@pytest.fixture
def fake(tmp_path):
    """In the place of `python`: parts that fail, hang and succeed."""
    path = tmp_path / "python"
    path.write_text(FAKE.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_part_that_fails_keeps_its_rows_and_the_others_run(tmp_path, fake):
    ended = run(tmp_path / "out", fake, "step", "rates", "attention")
    out = tmp_path / "out"
    lines = summary(out)
    assert {name: line["status"] for name, line in lines.items()} == {
        "step": 3, "rates": 1, "attention": 0,
    }  # fmt: skip
    assert lines["step"]["said"] == 'Error: it "fell"'
    assert "said" not in lines["attention"]
    assert rows(out, "step") == [{"a": 1}] and rows(out, "attention") == [{"c": 1}]
    assert rows(out, "rates") == [{"skipped": "No module named 'trl'"}]
    assert ended.returncode == 1


def test_the_limit_ends_a_part_that_hangs_and_those_behind_it(tmp_path, fake):
    began = time.monotonic()
    ended = run(tmp_path / "out", fake, "memory", "attention", LIMIT="13")
    assert time.monotonic() - began < 13
    lines = summary(tmp_path / "out")
    assert lines["memory"]["status"] == 124 and rows(tmp_path / "out", "memory") == [{"b": 1}]
    assert "not begun" in lines["attention"]["said"]
    assert ended.returncode == 125


def test_an_unknown_part_is_refused_before_anything_runs(tmp_path, fake):
    ended = run(tmp_path / "out", fake, "step", "steps")
    assert ended.returncode == 2 and "unknown part steps" in ended.stderr
    assert not (tmp_path / "out" / "summary.jsonl").exists()
