"""The command line: what it finds, prints and returns. Slow parts run on a tiny saved policy."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.helpers.places import REPO
from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.cli.score import describe
from thinker.rollout.base import RolloutError
from thinker.score.prediction import Prediction
from thinker.train.step_guard import TrainingFault


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_policy("internvl3").save(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    first = write_video(folder / "a.mp4", num_frames=10)
    for name in ("b.MKV", "deep/c.mp4"):
        shutil.copy(first, folder / name)
    (folder / "notes.txt").write_text("no video")
    return folder


def test_help_and_the_parsers_of_the_scripts_need_no_torch():
    code = (
        "import sys\n"
        "from thinker.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        "heavy = {'av', 'numpy', 'scipy', 'torch', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for name in (
        "train", "score", "ask", "ground", "describe", "eval", "report", "compare", "faithfulness",
        "demo-data", "convert", "estimate", "import-labels",
    ):  # fmt: skip
        assert f"\n    {name} " in ended.stdout


@pytest.mark.parametrize("script", ["single_infer.py", "batch_infer.py"])
def test_scripts_take_the_options_of_their_subcommand(script):
    name = {"single_infer.py": "score", "batch_infer.py": "eval"}[script]

    def options(*command):
        ended = subprocess.run(
            [sys.executable, *command, "--help"], cwd=REPO, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout[ended.stdout.index("\noptions:") :]

    assert "--num-workers" in options(script)
    assert options(script) == options("-m", "thinker.cli", name)


@pytest.mark.parametrize("fault", [RolloutError, TrainingFault])
def test_a_run_that_cannot_go_on_ends_with_one_line_and_status_3(monkeypatch, capsys, fault):
    def stopped(config):
        raise fault("the engine is gone; step 1 is saved in runs/x/checkpoint-1")

    monkeypatch.setattr("thinker.train.pipeline.run_training", stopped)
    assert main(["train", "--config", str(REPO / "run_scripts/configs/grpo_demo.yaml")]) == 3
    expected = "stopped: the engine is gone; step 1 is saved in runs/x/checkpoint-1\n"
    assert capsys.readouterr().err == expected


def test_a_prediction_is_readable_in_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = describe(
        Prediction(
            path="v.mp4",
            score=3.0,
            status="ok",
            mode="sample",
            reasoning="word " * 20 + "\x1b[31m",
            spread=0.5,
            answer_range=(2.5, 3.5),
        )
    )
    lines = text.splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[1].startswith("reasoning: word") and lines[2].startswith("           word")
    assert r"\x1b[31m" in text  # a model may write what steers a terminal
    assert "2.50 to 3.50" in " ".join(line.strip() for line in lines)


def test_score_prints_one_json_line_a_video_and_a_bar_for_many(model, videos, capsys):
    arguments = ["score", "--model", str(model), "--mode", "level", "--json", "--num-workers", "1"]
    names = [str(videos), "gone.mp4"]
    assert main([*arguments, "--input", *names]) == 1  # one of them failed
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["missing"]
    assert rows[0]["mode"] == "level" and len(rows[0]["distribution"]) == 5
    assert "4 of 4 videos" in err
    assert main([*arguments, "--video", str(videos / "a.mp4"), "--end", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["frame_indices"] == [1, 3]  # N = 5: seg 2, int(1), int(1 + 2)
    assert not err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "/nowhere"}, "/nowhere"),
        ({"--mode": "fast"}, "'fast'"),
        ({"--video": "/nowhere/*.mp4"}, "matches no file"),
        ({"--end": "-1"}, "finite number of seconds"),
    ],
)
def test_user_errors_are_one_message_and_status_2(model, videos, capsys, change, message):
    options = {"--model": str(model), "--video": str(videos / "a.mp4")} | change
    assert main(["score", *(text for pair in options.items() for text in pair)]) == 2
    assert message in capsys.readouterr().err
