"""`thinker ground` and `thinker describe` on a tiny policy whose answers are given."""

import json

import pytest
from PIL import Image

from tests.helpers.locating_files import write_files
from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from thinker.cli.main import main
from thinker.score.scorer import QualityScorer

NOISE = "Noise: severe noise (100,250),(500,1000) (5,5),(2,2)."


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("ground"))


@pytest.fixture
def thinker(policy, monkeypatch, capsys):
    """Runs a command on a policy that answers so; gives (exit status, lines, messages)."""

    def run(command, *words, says=NOISE):
        scorer = QualityScorer(policy, ScriptedTexts(policy, [says]))
        for module in ("ground", "describe"):
            monkeypatch.setattr(f"thinker.cli.{module}.load_scorer", lambda args: scorer)
            monkeypatch.setattr(f"thinker.cli.{module}.check_model_options", lambda *args: None)
        status = main([command, "--model", "/no/model", *map(str, words)])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err

    return run


def test_a_line_a_box(thinker, files, tmp_path):
    status, lines, said = thinker("ground", files / "a.png", "--plot", tmp_path / "new" / "a.png")
    assert status == 0 and str(tmp_path / "new" / "a.png") in said
    assert lines[0] == f"{files / 'a.png'} · 64 x 48"
    assert lines[1].startswith("  severe noise  (6, 12), (32, 48)  0.")
    assert lines[2].startswith("  note: swapped: ")
    with Image.open(tmp_path / "new" / "a.png") as drawn:
        assert drawn.size == (512, 384)


def test_json_has_pixels_and_thousandths(thinker, files):
    status, (line,), _ = thinker("ground", files / "a.png", "--json")
    (box,) = json.loads(line)["boxes"]
    assert status == 0 and box["box"] == [100, 250, 500, 1000] and box["box_px"] == [6, 12, 32, 48]


def test_several_files_are_rows_and_those_that_fail_too(thinker, files, tmp_path):
    names = [files / "a.png", files / "cut.png", files / "no.png"]
    status, lines, _ = thinker("ground", *names, "--json", "--plot", tmp_path / "plots")
    assert status == 1
    assert [json.loads(line)["status"] for line in lines] == ["ok", "truncated", "missing"]
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["boxes_1.png"]
    plots = [json.loads(line).get("plot") for line in lines]
    assert plots == [str(tmp_path / "plots" / "boxes_1.png"), None, None]
    status, lines, _ = thinker("ground", files / "a.png", says="It is grainy.")
    assert status == 1 and lines[1].startswith("  invalid_answer: no_box")


def test_frames_of_a_video(thinker, files, tmp_path):
    plot = tmp_path / "frames.png"
    status, lines, _ = thinker("ground", files / "a.mp4", "--at", "1.5,0.2,9", "--plot", plot)
    heads = [line for line in lines if not line.startswith(" ")]
    path = files / "a.mp4"
    assert status == 1 and heads == [
        f"{path} · 64 x 64 · 1.50 s · frame 15", f"{path} · 64 x 64 · 0.20 s · frame 2",
        f"{path} · 9.00 s",
    ]  # fmt: skip
    assert lines[-1].startswith("  empty_range: ")
    with Image.open(plot) as sheet:
        assert sheet.width == 1024  # two pictures of 512
    # seg = 19/3: int(3.17), int(3.17 + round(6.33)), int(3.17 + round(12.67))
    status, lines, _ = thinker("ground", path, "--frames", "3", "--json")
    assert status == 0 and [json.loads(line)["frame"] for line in lines] == [3, 9, 16]


def test_descriptions(thinker, files):
    half = "A wall.\nThere is one severe noise (100,250),(500,1000)."
    status, lines, _ = thinker("describe", files / "a.png", says=half)
    assert status == 0 and lines == [*half.splitlines(), "note: missing_key; missing_level"]
    status, (line,), _ = thinker("describe", files / "a.png", "--json", says=half)
    row = json.loads(line)
    assert row["parts"]["content"] == "A wall." and row["note"] == "missing_key; missing_level"
    assert row["boxes"][0]["box_px"] == [6, 12, 32, 48]
    for wish in (["--brief"], ["--distortion", "noise"]):
        status, (line,), _ = thinker("describe", files / "a.png", *wish, "--json", says="None.")
        assert status == 0 and json.loads(line)["answer"] == "None."
        assert "parts" not in json.loads(line)
    status, lines, _ = thinker("describe", files / "a.png", files / "no.png", says="None.")
    assert status == 1 and lines[-1].startswith("missing: ")


def test_one_file_that_cannot_be_asked_about_is_a_row(thinker, files):
    """A folder may hold pictures and videos; a film cannot be described, a picture has no times."""
    names = [files / "a.mp4", files / "a.png", "--json"]
    status, lines, _ = thinker("describe", *names, says="None.")
    rows = [json.loads(line) for line in lines]
    assert status == 1 and [row["status"] for row in rows] == ["unsupported", "ok"]
    assert rows[0]["task"] == "describe" and "is a video" in rows[0]["error"]
    status, lines, _ = thinker("ground", *names, "--at", "1.5")
    rows = [json.loads(line) for line in lines]
    assert status == 1 and [row["status"] for row in rows] == ["ok", "unsupported"]
    assert rows[0]["frame"] == 15 and "is an image" in rows[1]["error"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ground", "a.png", "--at", "1"], "is an image"),
        (["ground", "a.mp4", "--at", "1;2"], "expected seconds with commas"),
        (["ground", "a.mp4", "--at=-1"], "0 or more"),
        (["ground", "a.mp4", "--at", "1", "--frames", "2"], "not by both"),
        (["ground", "a.mp4", "--frames", "0"], "at least 1"),
        (["ground", "a.png", "--plot", "a.jpg"], "expected the name of a PNG"),
        (["ground", "a.png", "cut.png", "--plot", "a.png"], "is no folder"),
        (["ground", "a.png", "--plot", "cut.png/b.png"], "cannot be written"),
        (["ground", "a.png", "--question", " "], "question is empty"),
        (["ground", "no.png"], "none of the files exists"),
        (["ground", "a.png", "--mode", "level"], "mode level is for the tasks"),
        (["ground", "a.png"], "/no/model"),
        (["describe", "a.mp4"], "is a video"),
        (["describe", "a.mp4", "b.mp4"], "is a video"),
        (["ground", "a.png", "--timeout", "3"], "unrecognized arguments"),
        (["describe", "a.png", "--brief", "--distortion", "noise"], "leave out one"),
        (["describe", "a.png", "--distortion", " "], "has no name"),
        (["describe", "a.png"], "/no/model"),
    ],
)
def test_errors_of_use_come_before_the_model(files, monkeypatch, capsys, words, message):
    monkeypatch.chdir(files)
    command, *rest = words
    try:
        status = main([command, "--model", "/no/model", *rest])
    except SystemExit as error:  # of argparse
        status = error.code
    assert status == 2 and message in capsys.readouterr().err
