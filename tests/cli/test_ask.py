"""`thinker ask` and `thinker score --timeline` on a tiny saved policy."""

import csv
import io
import json
import shutil

import pytest
from PIL import Image

from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import frame_pattern, write_video
from thinker.cli.ask import parse_medium
from thinker.cli.main import main

SHORT = ["--max-new-tokens", "6", "--num-workers", "0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_policy("internvl3").save(folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    Image.fromarray(frame_pattern(1, 48, 32)).save(folder / "a.png")
    return write_video(folder / "a.mp4", num_frames=30, fps=10)


def test_a_range_is_read_off_a_name_unless_a_file_has_it(video, tmp_path, monkeypatch):
    def of(name):
        wanted = parse_medium(name)
        return str(wanted.path), wanted.start_seconds, wanted.end_seconds

    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "clip@1-2")
    assert of("no.mp4@3-8.5") == ("no.mp4", 3.0, 8.5)
    assert of("no.mp4@3-") == ("no.mp4", 3.0, None)
    assert of("no.mp4@-8.5") == ("no.mp4", None, 8.5)
    assert of("clip@1-2") == ("clip@1-2", None, None)
    assert of("clip@1-2@0-1") == ("clip@1-2", 0.0, 1.0)
    for plain in ("me@home.mp4", "no.mp4@-", "no.mp4@a-b", "no@3-4.mp4"):
        assert of(plain) == (plain, None, None)
    with pytest.raises(ValueError, match="end must lie after the start"):
        parse_medium("no.mp4@8-3")
    with pytest.raises(ValueError, match="a range of time is for videos"):
        parse_medium("no.png@0-1")


@pytest.mark.parametrize(
    "words, message",
    [
        (["VIDEO"], "name at least one video or image"),
        (["VIDEO", "VIDEO"], "is a file; the question comes last"),
        (["VIDEO", " "], "the question is empty"),
        (["VIDEO", "VIDEO", "How?", "--every", "1"], "--every is for one video, 2 media"),
        (["VIDEO", "How?", "--every", "0"], "expected a positive number of seconds"),
        (["PICTURE", "How?", "--every", "1"], "--every is for a video"),
        (["VIDEO", "--chat", "--every", "1"], "leave out --chat"),
        (["VIDEO", "VIDEO", "How?", "--task", "score"], "2 are given"),
        (["VIDEO", "<video> and <video>?"], "marks places for 2 media"),
        (["VIDEO", "How?", "--csv"], "--csv is for --every"),
        (["VIDEO", "How?", "--mode", "level"], "mode level is for the tasks"),
        (["VIDEO@5-3", "How?"], "end must lie after the start"),
        (["VIDEO", ""], "the question is empty"),
        (["VIDEO", "How good is it? " * 30], "/no/model"),  # too long for a file's name
        (["VIDEO", "How?", "--temperature", "nan"], "temperature is nan"),
        (["VIDEO", "How?", "--timeout", "-5"], "-5"),
    ],
)
def test_errors_of_use_are_one_message_before_anything_is_loaded(video, capsys, words, message):
    """The model is no folder, which would be said when it is looked for."""
    names = {"VIDEO": str(video), "PICTURE": str(video.with_name("a.png"))}
    given = [word.replace("VIDEO", names["VIDEO"]) for word in words]
    given = [names.get(word, word) for word in given]
    # A file of the name that is asked for would be taken as a whole; there is none.
    assert main(["ask", "--model", "/no/model", *given]) == 2
    assert message in capsys.readouterr().err


def test_one_question_and_a_conversation(model, video, capsys, monkeypatch):
    base = ["ask", "--model", str(model), *SHORT]
    status = main([*base, f"{video}@0.5-2", str(video.with_name("a.png")), "Is it sharp?"])
    written = capsys.readouterr().out
    assert status in (0, 1) and written.strip()
    lines = io.StringIO("Is it sharp?\n\nWhat is <|im_start|>?\nWhy?\n")
    monkeypatch.setattr("sys.stdin", lines)
    assert main([*base, str(video), "--chat", "--json", "--system", "Be short."]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["question"] for row in rows] == ["Is it sharp?", "Why?"]
    assert all(row["task"] == "open" and row["completion"] is not None for row in rows)
    assert "a token by which this policy marks turns" in err
    assert main([*base, str(video), "no.mp4", "Is it sharp?"]) == 1
    assert capsys.readouterr().out.startswith("missing: no.mp4: missing")


def test_every_window_and_the_timeline(model, video, tmp_path, capsys):
    base = ["--model", str(model), *SHORT]
    assert main(["ask", *base, str(video), "How?", "--every", "1", "--csv"]) in (0, 1)
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["start_seconds"] for line in lines] == ["0.0000", "1.0000", "2.0000"]
    timeline = ["score", *base, "--mode", "level", "--timeline", "2", "--video", str(video)]
    assert main([*timeline, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["end_seconds"] for row in rows] == [2.0, 3.0]
    assert all(1 <= row["score"] <= 5 and row["spread"] > 0 for row in rows)
    assert main([*timeline, "no.mp4", "--output", str(tmp_path / "out")]) == 1
    assert "± " in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"timeline_{n}.{kind}" for n in (1, 2) for kind in ("csv", "png")]
    with open(tmp_path / "out" / "timeline_2.csv", newline="") as file:
        assert [line["status"] for line in csv.DictReader(file)] == ["missing"]
    assert main([*timeline, "--engine", "ray", "--output", str(tmp_path / "r")]) == 2
    picture = str(video.with_name("a.png"))
    assert main(["score", *base, "--timeline", "2", "--video", picture]) == 2
    assert "--timeline is of videos" in capsys.readouterr().err
