"""Records that say where a video stalls, and lists of rated files."""

import json
from pathlib import Path

import pytest

from thinker.data.bad_lines import BadLinesError
from thinker.data.examples import Example
from thinker.data.read import read_records
from thinker.data.scale import MosScale
from thinker.prompts import ask
from thinker.video.stalls.intervals import Stalls

HUNDRED = MosScale(min=0, max=100, mapping="linear")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    root.mkdir()
    for name in ("a.mp4", "b.mp4", "p.png"):
        (root / name).touch()
    return root.resolve()


def read(root: Path, *records: dict, **options: object) -> list[Example]:
    path = root.parent / "list.json"
    path.write_text(json.dumps(records))
    return read_records([path], root, **options).examples


def reason(root: Path, record: dict, **options: object) -> str:
    with pytest.raises(BadLinesError) as caught:
        read(root, record, **options)
    return caught.value.bad_lines[0].reason


def stalled(**fields: object) -> dict:
    return {"video": "a.mp4", "question": "Why?", "answer": "It stalls.", **fields}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stalls": [[1.5, 3]]}, Stalls(intervals=((1.5, 3),))),
        ({"stalls": []}, Stalls()),
        ({"stalls": "00110"}, Stalls(intervals=((2, 4),), num_frames=5)),
        (
            {"stalls": [0, 1], "stall_form": "digits"},
            Stalls(intervals=((1, 2),), num_frames=2, form="digits"),
        ),
        ({}, None),
    ],
)
def test_stalls_of_a_record(root: Path, fields: dict, expected: Stalls | None) -> None:
    (example,) = read(root, stalled(**fields))
    assert example.media[0].stalls == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stalls": [[1, 2, 3]]}, "a start and an end"),
        ({"stalls": [[2, 1]]}, "0 <= start < end"),
        ({"stalls": "0120"}, "0 and 1"),
        ({"stalls": 3}, "expected a list of"),
        ({"stalls": [[1, 2]], "stall_form": "song"}, "sentences, digits"),
        ({"stalls": [[1, 2]], "video": "p.png"}, "stalls are for videos"),
        ({"stalls": [[1, 2]], "video": ["a.mp4", "b.mp4"]}, "expected one medium"),
    ],
)
def test_bad_stalls(root: Path, fields: dict, said: str) -> None:
    assert said in reason(root, stalled(**fields))


def test_a_published_streaming_record_keeps_its_words(root: Path) -> None:
    """Its `gt_score` is no second answer, and its stalling text stands in the question."""
    (example,) = read(
        root,
        {
            "image": "a.mp4", "frames per sec": 25, "gt_score": "42.1",
            "conversations": [
                {"from": "human", "value": "<image>\nIt stalls. How is its quality?"},
                {"from": "gpt", "value": "The quality of this video is high."},
            ],
        },
        task="level",
    )  # fmt: skip
    assert example.mos is None and example.media[0].stalls is None
    assert example.reference == "The quality of this video is high."


def test_lists_of_rated_files(root: Path) -> None:
    examples = read(
        root,
        {"img_path": "p.png", "mos": 61.2},
        {"video_path": "a.mp4", "gt_score": "42.1", "content_type": "game"},
        {"image": "b.mp4", "id": "b.mp4->7.5", "stalls": [[0, 1]]},
        scale=HUNDRED,
    )
    assert [example.task for example in examples] == ["score"] * 3
    assert [example.mos for example in examples] == [61.2, 42.1, 7.5]
    assert examples[2].target == pytest.approx(1.3)  # 1 + 4 · .075
    assert [example.turns for example in examples] == [()] * 3  # the policy's own question
    assert examples[1].tags == (("content_type", "game"),)
    assert examples[2].media[0].stalls == Stalls(intervals=((0, 1),))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"video_path": "a.mp4"}, "what is asked"),
        ({"video": "a.mp4", "error": "a.mp4: empty"}, "says an error: a.mp4: empty"),
        ({"video_path": "a.mp4", "mos": 1, "gt_score": 2}, "mos and in gt_score"),
        ({"video_path": "a.mp4", "id": "a->high"}, "not a decimal number"),
        ({"video_path": "a.mp4", "mos": "NaN"}, "not a decimal number"),
    ],
)
def test_bad_entries_of_a_list(root: Path, record: dict, said: str) -> None:
    assert said in reason(root, record, scale=HUNDRED)


def test_a_label_beside_a_question_is_ignored(root: Path) -> None:
    (example,) = read(root, {"video": "a.mp4", "question": "Why?", "mos": 3})
    assert (example.task, example.reference, example.turns) == ("open", None, ask("Why?"))
