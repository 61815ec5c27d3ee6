"""Published forms: two places for one video, lists of files with sampling strategies."""

import json

import pytest

from thinker.data.bad_lines import BadLinesError
from thinker.data.datasets import load_dataset_config, load_train_examples
from thinker.data.published import one_place_a_video
from thinker.data.read import read_records
from thinker.data.records import BadValueError
from thinker.data.sampling import parse_sampling
from thinker.prompts import count_placeholders

STAGE_3 = (
    "Now you will receive one video. This video is 8.0 seconds long, and you will see a sequence "
    "of images: <image>. In addition, you will also obtain motion features extracted from all 220 "
    "frames of the video: <image>. Please watch this video carefully. Is it sharp?"
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (STAGE_3, "Now you will receive one video. This video is 8.0 seconds long, and you will see"
         " a sequence of images: <image>. Please watch this video carefully. Is it sharp?"),
        ("The key frames of this video are:\n<image>. And the motion feature of the video is\n"
         "<image>. How good is it?", "The key frames of this video are:\n<image>. How good is it?"),
        ("The key frames are: <image>, and the motion features are: <image>. Answer:",
         "The key frames are: <image>. Answer:"),
        ("<image><image>", "<image>"), ("<image>\n<image>\nGood?", "<image>\nGood?"),
        ("<image>\nGood?", "<image>\nGood?"), ("Good?", "Good?"),
    ],
)  # fmt: skip
def test_the_second_place_of_a_video_goes_with_its_words(given: str, expected: str) -> None:
    assert one_place_a_video(given, 1) == expected


def test_two_videos_keep_one_place_each() -> None:
    pair = "First: <image>, its motion: <image>. Second: <image>, its motion: <image>. Which?"
    assert one_place_a_video(pair, 2) == "First: <image>. Second: <image>. Which?"


def test_words_that_do_not_speak_of_motion_stay_an_error() -> None:
    with pytest.raises(BadValueError, match=r"are ' and this ', *|mark one place"):
        one_place_a_video("Is <image> and this <image> one video?", 1)


def record(number: int, **fields) -> dict:
    turns = [{"from": "human", "value": STAGE_3}, {"from": "gpt", "value": "Yes"}]
    return {"id": number, "image": "a.mp4", "conversations": turns} | fields


def test_a_published_record_is_read_with_one_medium_at_one_place(tmp_path) -> None:
    (tmp_path / "a.mp4").touch()
    path = tmp_path / "stage3.json"
    path.write_text(json.dumps([record(0, **{"frames per sec": 27})]))
    (example,) = read_records([path], tmp_path).examples
    assert [medium.kind for medium in example.media] == ["video"]
    assert count_placeholders(example.turns) == 1 and "motion" not in example.turns[0].text
    path.write_text(json.dumps([record(0)]))  # without the key it may be anything
    with pytest.raises(BadLinesError, match="2 placeholders <image> or <video> for 1 media"):
        read_records([path], tmp_path)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("all", "abcde"), ("first:2", "ab"), ("end:2", "de"), ("first:30%", "ab"),
        ("end:100%", "abcde"), ("first:0.1%", "a"), ("random:3", "ade"),
    ],
)  # fmt: skip
def test_strategies(text: str, taken: str) -> None:
    """30 % of 5 is 1.5 and so 2; random keeps the order of the file."""
    assert "".join(parse_sampling(text).pick("abcde")) == taken


def test_random_depends_on_the_seed_alone() -> None:
    items = list(range(100))
    drawn = [parse_sampling("random:10%", seed).pick(items) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(one)) == 10 and one == sorted(one) for one in drawn)


@pytest.mark.parametrize(
    "text",
    ["", "half", "first", "first:0", "first:1.5", "end:101%", "random:-1", "first:0%", "ALL"],
)
def test_what_is_no_strategy(text: str) -> None:
    with pytest.raises(ValueError, match="expected all, or first:N"):
        parse_sampling(text)


def write_lists(folder, **keys) -> None:
    (folder / "media").mkdir()
    (folder / "media" / "a.mp4").touch()
    for name in ("one", "two"):
        records = [record(i, dataset_name=name, **{"frames per sec": 27}) for i in range(10)]
        (folder / f"{name}.json").write_text(json.dumps(records))


LISTED = """\
media_root: media
datasets:
  - json_path: one.json
    sampling_strategy: "end:20%"
  - json_path: two.json
    sampling_strategy: first:1
"""


def test_a_list_of_files_as_llava_publishes_it(tmp_path) -> None:
    write_lists(tmp_path)
    path = tmp_path / "stage3.yaml"
    path.write_text(LISTED)
    config = load_dataset_config(path)
    examples = load_train_examples(config).examples
    assert config.name == "stage3"
    assert [example.id for example in examples] == ["one/8", "one/9", "two/0"]
    moved = load_dataset_config(
        path, overrides={"datasets.1.json_path": str(tmp_path / "one.json")}
    )
    assert [e.id for e in load_train_examples(moved, skip_bad_lines=True).examples][-1] == "one/0"


def test_a_source_of_records_takes_a_strategy_and_a_seed(tmp_path) -> None:
    write_lists(tmp_path)
    path = tmp_path / "set.yaml"
    text = "name: x\ntrain:\n  - {records: [one.json, two.json], media_root: media, "
    path.write_text(text + 'sampling_strategy: "random:2", sampling_seed: 3}\n')
    examples = load_train_examples(load_dataset_config(path)).examples
    assert [example.id.split("/")[0] for example in examples] == ["one"] * 2 + ["two"] * 2
    path.write_text(text + "sampling_strategy: half}\n")
    with pytest.raises(ValueError, match="sampling_strategy 'half'"):
        load_dataset_config(path)
    path.write_text(text + 'sampling_strategy: "first:11"}\n')
    with pytest.raises(ValueError, match=r"one\.json: sampling_strategy first:11 of 10 record"):
        load_train_examples(load_dataset_config(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [{json_path: one.json}]", "needs media_root beside it"),
        ("media_root: media\ndatasets: []", "expected a list of files"),
        ("media_root: media\ndatasets: [{path: one.json}]", "datasets.0 is .*expected json_path"),
        ("media_root: media\neval: []\ndatasets: [{json_path: one.json}]", "keys .'eval'. beside"),
        ("media_root: media\ndatasets: [{json_path: one.json, sampling_strategy: some}]", "'some'"),
    ],
)
def test_lists_that_are_none(tmp_path, text: str, message: str) -> None:
    write_lists(tmp_path)
    (tmp_path / "set.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_dataset_config(tmp_path / "set.yaml")
