"""docs/extending.md, file by file and command by command, outside the checkout."""

import json
import re
import shlex

import pytest

from tests.helpers.places import REPO

DOCUMENT = (REPO / "docs" / "extending.md").read_text(encoding="utf-8")
CHAPTERS = ("A data set", "A reward", "A task", "A backbone")
# "`file`:" before a block makes it a file; a block of bash is run.
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("mkdir mine", "export PYTHONPATH=$PWD")  # what the test does itself


def chapter(title):
    """The blocks of a chapter: (file or "", language, content)."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    return BLOCK.findall(text)


@pytest.fixture(scope="module")
def follow(zygote, tmp_path_factory):
    """Follows a chapter in the folder of the module: writes its files, runs its commands."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine").mkdir()

    def run(title):
        output = ""
        for file, language, content in chapter(title):
            if file:
                (folder / file).write_text(content, encoding="utf-8")
            for line in content.splitlines() if language == "bash" else ():
                outcome = zygote.run("shell", command=shlex.split(line), folder=str(folder))
                assert outcome.codes == [0], f"{line}\n{outcome.log[-3000:]}"
                output += outcome.log
        return folder, output

    return run


def summary(folder, name):
    return json.loads((folder / "runs" / name / "summary.json").read_text(encoding="utf-8"))


def metrics(folder, name):
    lines = (folder / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def test_every_chapter_is_followed():
    assert re.findall(r"^## (.*)$", DOCUMENT, re.MULTILINE) == list(CHAPTERS)
    before, _ = DOCUMENT.split("## A data set", 1)
    ((_, language, content),) = BLOCK.findall(before)
    assert language == "bash" and tuple(content.splitlines()) == SHELL


def test_a_data_set(follow):
    folder, _ = follow("A data set")
    shown = next(text for file, lang, text in chapter("A data set") if lang == "json" and not file)
    assert shown.strip() in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    first = summary(folder, "first")
    assert first["num_train"] == first["num_eval"] == 6
    assert set(first["sets"]) == {"held_out"}


def test_a_reward(follow):
    folder, _ = follow("A reward")
    (stage,) = summary(folder, "brief")["config"]["stages"]
    assert [reward["name"] for reward in stage["rewards"]] == ["format", "mine.brevity.Brevity"]
    assert "rewards/brevity/non_finite" in metrics(folder, "brief")


def test_a_task(follow):
    folder, _ = follow("A task")
    (row,) = summary(folder, "stalls")["sets"].values()
    assert row["task"] == "stalls" and "accuracy" in row["report"]["figures"]
    assert "rewards/count/non_finite" in metrics(folder, "mixed")


def test_a_backbone(follow):
    folder, output = follow("A backbone")
    assert re.search(r"largest difference \d\.\de-1\d", output)
    assert (folder / "runs" / "llava_run" / "final" / "model.safetensors").exists()
    config = json.loads((folder / "runs" / "llava" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "mine_llava"
    assert re.search(r"score: +\d\.\d", output)
