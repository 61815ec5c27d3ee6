"""What a user can get wrong is said before the weights of a policy are loaded, in one message."""

import json
import shutil

import pytest

from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.utils.journal import encode_row

META = {"annotations": [{"image_id": "a.mp4", "ann_type": "score", "score": "3.1"}]}
CHOICE = {
    "question": "Is it sharp?", "media": ["a.mp4"], "answer": "yes", "task": "choice",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy, a video, a picture, a meta, records of choices and a plain file."""
    folder = tmp_path_factory.mktemp("place")
    small_policy("internvl3").save(folder / "model")
    (folder / "videos").mkdir()
    shutil.copy(write_video(folder / "a.mp4", num_frames=10), folder / "videos")
    (folder / "still.png").write_bytes(b"never read")
    (folder / "meta.json").write_text(json.dumps(META))
    (folder / "choices.jsonl").write_text(json.dumps(CHOICE) + "\n")
    (folder / "again").mkdir()
    shutil.copy(folder / "meta.json", folder / "again")
    (folder / "file").write_text("no folder")
    return folder


@pytest.fixture
def no_weights(monkeypatch, place):
    """Weights that are loaded fail the test."""

    def load(*given, **settings):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("thinker.score.scorer.load_policy", load)
    monkeypatch.chdir(place)


SCORE = "score --model model --video a.mp4"
EVAL = "eval --model model --output-dir out"
META_SET = "--meta meta.json --video-root videos --mos-scale 1:5:identity"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("score --model model --video gone.mp4", "none of the files exists: gone.mp4"),
        ("score --model model --video still.png --start 1", "still.png is an image"),
        (f"{SCORE} --start 3 --end 2", "the end must lie after the start"),
        (f"{SCORE} --mode fast", "mode is 'fast', expected one of reason, sample, level"),
        (f"{SCORE} --num-samples 1", "num_samples is 1, expected at least 2"),
        (f"{SCORE} --max-new-tokens 0", "max_new_tokens is 0, expected at least 1"),
        (f"{SCORE} --batch-size 0", "batch_size is 0, expected at least 1"),
        (f"{SCORE} --timeout 0", "timeout_seconds 0.0, expected"),
        ("score --model nowhere/at/all --video a.mp4", "nowhere/at/all: there is no such folder"),
        ("score --model videos/model --video a.mp4", "videos/model: there is no such folder"),
        ("score --model ./m/nope --video a.mp4", "m/nope: there is no such folder"),
        ("score --model model --video no\x1bfile.mp4", "none of the files exists: no\\x1bfile.mp4"),
        ("score --model file --video a.mp4", "file is a file, expected the folder"),
        (f"{SCORE} --engine ray --output file", "cannot be written to file: file is a file"),
        (f"{SCORE} --engine ray --output out --num-actors 0", "--num-actors is 0"),
        (f"{EVAL} choices.jsonl", "--media-root is missing"),
        (f"{EVAL} choices.jsonl --media-root gone", "there is no folder gone"),
        (f"{EVAL} choices.jsonl --media-root videos --mode level", "mode level is for the tasks"),
        (f"{EVAL} gone.jsonl --media-root videos", "gone.jsonl"),
        (f"{EVAL} --meta meta.json", "--video-root is missing"),
        (f"{EVAL} {META_SET.replace('meta.json', 'gone.json')}", "gone.json"),
        (f"{EVAL} {META_SET.replace('videos', 'gone')}", "there is no folder gone"),
        (f"{EVAL} {META_SET.replace('1:5', '5:1')}", "5:1"),
        (f"{EVAL} {META_SET.replace('meta.json', 'meta.json again/meta.json')}", "2 sets have the"),
        (f"{EVAL} {META_SET} --shard 3/2", "shard 3/2"),
        (f"{EVAL} {META_SET} --subset gone.txt", "gone.txt"),
        (f"eval --model model --output-dir file/out {META_SET}", "file is a file"),
        (f"{EVAL} --config gone.yaml", "gone.yaml"),
        ("faithfulness --model model --demo . --output-dir out", "manifest.json"),
        ("demo-data --output file", "file: Not a directory"),
    ],
)
def test_no_weights_are_loaded_for_what_is_wrong(no_weights, capsys, command, message):
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and message in err
    assert "Repo id" not in err and "Traceback" not in err
    assert not out
    with pytest.raises(AssertionError, match="were loaded"):  # the same command, nothing wrong
        main(SCORE.split())


def test_a_folder_of_other_settings_is_refused_before_the_weights(no_weights, place, capsys):
    rows = place / "old" / "rows" / "probe.0-of-1.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_bytes(encode_row(0, {"id": "v0"}))
    (place / "old" / "run.json").write_text(json.dumps({"mode": "sample", "num_shards": 1}))
    assert main(["eval", "--model", "model", "--output-dir", "old", *META_SET.split()]) == 2
    assert "mode was 'sample', is 'reason'" in capsys.readouterr().err


def test_verbose_says_where_an_error_comes_from(no_weights, capsys):
    assert main([*SCORE.split(), "--mode", "fast", "-v"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: mode is 'fast'")


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "out/x.csv"), 2, "out/x.csv: Permission denied"),
    ],
)
def test_what_is_no_error_of_the_code_has_no_traceback(
    no_weights, monkeypatch, capsys, fault, status, message
):
    def interrupted(*given):
        raise fault

    monkeypatch.setattr("thinker.cli.score.run", interrupted)
    assert main(SCORE.split()) == status
    assert message in capsys.readouterr().err
