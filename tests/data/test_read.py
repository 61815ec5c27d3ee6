"""Readers: every family of bad lines with file and line, scale, contents, mutated lines."""

import json
import logging
import math
import os
import pickle
import random
import time
from pathlib import Path

import pytest

from tests.helpers.label_files import read_train
from thinker.data.bad_lines import BadLine, BadLinesError, Loaded
from thinker.data.examples import Example
from thinker.data.paths import compile_content_pattern
from thinker.data.read import read_meta_json
from thinker.data.records import BadValueError, dataset_key, meta_annotations, parse_mos
from thinker.data.scale import MosScale
from thinker.video.medium import medium

IDENTITY = MosScale(min=0, max=5, mapping="identity")
HUNDRED = MosScale(min=0, max=100, mapping="linear")
QUESTION = "What is your overall rating on the quality of this video?"


def record(**changes: object) -> dict:
    """A line in the reference form; a change to `mos` is the gpt value, None removes a field."""
    mos = changes.pop("mos", 3.418571)
    line = {
        "id": 0,
        "dataset_name": "LSVQ",
        "image": ["a/1.mp4"],
        "conversations": [
            {"from": "human", "value": QUESTION},
            {"from": "gpt", "value": mos},
        ],
    }
    line.update(changes)
    return {key: value for key, value in line.items() if value is not ...}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    for name in ("a/1.mp4", "a/2.mp4", "b.jpg", "x.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(folder: Path, *lines: object, name: str = "train.jsonl") -> Path:
    """A jsonl of records (dumped), strings and bytes (as they are)."""
    texts = [line if isinstance(line, str | bytes) else json.dumps(line) for line in lines]
    raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
    path = folder / name
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def read(path: Path, root: Path, **options: object) -> Loaded:
    return read_train([path], root, IDENTITY, **options)


# --- scale


def test_linear_scale_of_the_docstring() -> None:
    # 1 + 4 * 67.75 / 100 = 1 + 2.71
    assert HUNDRED.to_answer(67.75) == pytest.approx(3.71, abs=1e-12)
    assert HUNDRED.from_answer(3.71) == pytest.approx(67.75, abs=1e-12)
    assert (HUNDRED.to_answer(0), HUNDRED.to_answer(100)) == (1.0, 5.0)


@pytest.mark.parametrize(("low", "high"), [(0, 100), (1, 5), (1, 7), (-3.5, 0.25)])
def test_scale_round_trip(low: float, high: float) -> None:
    scale = MosScale(min=low, max=high, mapping="linear")
    for step in range(101):
        mos = low + (high - low) * step / 100
        assert scale.from_answer(scale.to_answer(mos)) == pytest.approx(mos, abs=1e-12)
        assert 1.0 <= scale.to_answer(mos) <= 5.0
    # Not clipped: one answer point beyond the ends is a quarter of the range beyond them.
    assert scale.from_answer(6.0) == pytest.approx(high + (high - low) / 4)
    assert scale.from_answer(0.0) == pytest.approx(low - (high - low) / 4)


def test_identity_keeps_labels_below_one() -> None:
    assert IDENTITY.to_answer(0.42) == 0.42
    assert IDENTITY.from_answer(0.42) == 0.42


@pytest.mark.parametrize("mos", [-0.001, 100.001, math.nan, math.inf, -math.inf])
def test_scale_refuses_what_is_out_of_range(mos: float) -> None:
    with pytest.raises(ValueError, match=r"outside the declared range 0\.\.100"):
        HUNDRED.to_answer(mos)


@pytest.mark.parametrize(
    ("low", "high", "mapping", "reason"),
    [
        (5, 1, "linear", "expected min < max"),
        (1, 1, "linear", "expected min < max"),
        (0, math.inf, "linear", "expected finite numbers"),
        (math.nan, 5, "linear", "expected finite numbers"),
        (True, 5, "linear", "expected finite numbers"),
        ("0", 5, "linear", "expected finite numbers"),
        (0, 5, "log", "one of linear, identity"),
        (0, 100, "identity", "use mapping linear"),
    ],
)
def test_bad_scales(low: float, high: float, mapping: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MosScale(min=low, max=high, mapping=mapping)


# --- good lines


def test_reference_line(tmp_path: Path, root: Path) -> None:
    line = (
        '{"id": 0, "dataset_name": "LSVQ", "image": ["a/1.mp4"], "conversations": '
        '[{"from": "human", "value": "Q"}, {"from": "gpt", "value": 3.418571}]}'
    )
    loaded = read(write(tmp_path, line), root)
    assert loaded.bad_lines == []
    assert loaded.examples == [
        Example(
            id="lsvq/0",
            dataset="lsvq",
            media=(medium(root.resolve() / "a/1.mp4"),),
            mos=3.418571,
            target=3.418571,
            content="a/1.mp4",
        )
    ]


@pytest.mark.parametrize(
    ("value", "mos"),
    [
        (3.418571, 3.418571),
        (3, 3.0),
        ("3.418571", 3.418571),
        (" 3.5\n", 3.5),
        ("<answer>3.5</answer>", 3.5),
        (" <answer> 3.5 </answer>\n", 3.5),
        ("1e-1", 0.1),
        (0.25, 0.25),
        (0, 0.0),
        ("5", 5.0),
    ],
)
def test_forms_of_the_label(tmp_path: Path, root: Path, value: object, mos: float) -> None:
    (sample,) = read(write(tmp_path, record(mos=value)), root).examples
    assert sample.mos == sample.target == mos
    assert isinstance(sample.mos, float)


def test_a_line_may_have_tags(tmp_path: Path, root: Path) -> None:
    path = write(tmp_path, record(tags={"distortion": "noise"}), record(id=1, image="b.jpg"))
    assert [one.tags for one in read(path, root).examples] == [(("distortion", "noise"),), ()]
    with pytest.raises(BadLinesError, match=r"train.jsonl:1: tags is \['noise'\], expected"):
        read(write(tmp_path, record(tags=["noise"])), root)


@pytest.mark.parametrize("image", ["b.jpg", ["b.jpg"]])
def test_image_may_be_a_string_and_a_picture(tmp_path: Path, root: Path, image: object) -> None:
    (sample,) = read(write(tmp_path, record(image=image, id="v-7")), root).examples
    assert (sample.media[0].path.name, sample.id) == ("b.jpg", "lsvq/v-7")


def test_windows_line_ends_and_empty_lines_at_the_end(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(record()).encode() + b"\r\n\r\n\n")
    assert len(read(path, root).examples) == 1


def test_linked_root_and_links_inside_it(tmp_path: Path, root: Path) -> None:
    (tmp_path / "linked").symlink_to(root)
    (root / "same.mp4").symlink_to(root / "a/1.mp4")
    (sample,) = read(write(tmp_path, record(image="same.mp4")), tmp_path / "linked").examples
    assert sample.media[0].path == root.resolve() / "same.mp4"


def test_dataset_keys() -> None:
    assert dataset_key("KoNViD-1k") == "konvid_1k"
    assert dataset_key("LIVE-YT-HFR") == "live_yt_hfr"
    assert dataset_key("--") == ""


# --- bad lines

LONG_INT = "9" * 5000
TURN = {"from": "gpt", "value": 3.5}
BAD_LINES = {
    "no id": (record(id=...), "missing field 'id'"),
    "no dataset_name": (record(dataset_name=...), "missing field 'dataset_name'"),
    "no image": (record(image=...), "missing field 'image'"),
    "no conversations": (record(conversations=...), "missing field 'conversations'"),
    "no value": (record(conversations=[{"from": "human"}, TURN]), "missing field 'value'"),
    "no from": (record(conversations=[{"value": "Q"}, TURN]), "missing field 'from'"),
    "cut off": (json.dumps(record())[:-9], "broken JSON: "),
    "empty line": ("", "broken JSON: Expecting value at column 1"),
    "two values": (json.dumps(record()) * 2, "broken JSON: Extra data"),
    "deep": ("[" * 100_000, "broken JSON: nested too deeply"),
    "key twice": (json.dumps(record())[:-1] + ', "id": 1}', "key 'id' is given twice"),
    "long int": (json.dumps(record(mos="@")).replace('"@"', LONG_INT), "broken JSON: Exceeds"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(record()).encode(), "broken JSON: "),
    "not UTF-8": (json.dumps(record()).encode().replace(b"LSVQ", b"\xff"), "not UTF-8"),
    "line is a list": ([record()], "the line is [{"),
    "line is null": (None, "the line is None, expected a JSON object"),
    "id is null": (record(id=None), "id is None, expected a string"),
    "id is true": (record(id=True), "id is True, expected a string"),
    "id is a float": (record(id=1.5), "id is 1.5, expected a string"),
    "id is empty": (record(id=" "), "id is empty"),
    "id has a line break": (record(id="a\nb"), "not printable"),
    "dataset_name is a number": (record(dataset_name=3), "dataset_name is 3, expected a string"),
    "dataset_name of signs": (record(dataset_name="--"), "holds no letter or digit"),
    "conversations is a string": (record(conversations="3"), "conversations is '3', expected a"),
    "conversations is an object": (record(conversations={}), "conversations is {}, expected a"),
    "one turn": (record(conversations=[TURN]), "expected a list of a human and a gpt turn"),
    "turn is a string": (record(conversations=["Q", TURN]), "the human turn is 'Q', expected"),
    "turns swapped": (
        record(conversations=[TURN, {"from": "human", "value": "Q"}]),
        "turn is from 'gpt', expected 'human'",
    ),
    "question is a number": (
        record(conversations=[{"from": "human", "value": 1}, TURN]),
        "the human value is 1, expected a string",
    ),
    "mos NaN": (record(mos=math.nan), "mos nan is not finite"),
    "mos Infinity": (record(mos=-math.inf), "mos -inf is not finite"),
    "mos 1e999": (json.dumps(record(mos="@")).replace('"@"', "1e999"), "mos inf is not finite"),
    "mos huge int": (record(mos=10**400), "is not finite"),
    "mos 'NaN'": (record(mos="NaN"), "mos 'NaN' is not a decimal number"),
    "mos 'inf'": (record(mos="inf"), "mos 'inf' is not a decimal number"),
    "mos '1e999'": (record(mos="1e999"), "mos '1e999' is not finite"),
    "mos 400 digits": (record(mos="9" * 400), "is not finite"),
    "mos '1_0'": (record(mos="1_0"), "mos '1_0' is not a decimal number"),
    "mos non-ASCII digits": (record(mos="٣.٥"), "mos '٣.٥' is not a decimal number"),
    "mos words": (record(mos="good"), "mos 'good' is not a decimal number"),
    "mos empty": (record(mos=""), "mos '' is not a decimal number"),
    "mos with a unit": (record(mos="3.5/5"), "mos '3.5/5' is not a decimal number"),
    "mos true": (record(mos=True), "mos is True, expected a number"),
    "mos null": (record(mos=None), "mos is None, expected a number"),
    "mos a list": (record(mos=[3.5]), "mos is [3.5], expected a number"),
    "open tag": (record(mos="<answer>3.51234567890"), "mos '<answer>3.51234567890' is not a"),
    "empty tags": (record(mos="<answer></answer>"), "mos '' is not a decimal number"),
    "mos above the range": (record(mos=5.01), "mos 5.01 is outside the declared range 0..5"),
    "mos below the range": (record(mos="-0.1"), "mos -0.1 is outside the declared range 0..5"),
    "no path": (record(image=[]), "image is a list of 0 paths, expected exactly one"),
    "two paths": (record(image=["b.jpg", "x.mp4"]), "image is a list of 2 paths, expected"),
    "image is a number": (record(image=7), "image is 7, expected a string"),
    "image holds null": (record(image=[None]), "image is None, expected a string"),
    "path empty": (record(image=""), "image is empty"),
    "path is the root": (record(image="."), "must name a file below the video root"),
    "path goes up": (record(image="../secret.mp4"), "must name a file below the video root"),
    "path goes up and back": (record(image="a/../x.mp4"), "must name a file below the video root"),
    "path absolute": (record(image="/etc/passwd"), "must name a file below the video root"),
    "path with NUL": (record(image="a\0.mp4"), "not printable"),
    "path with half a surrogate": (record(image="\ud800.mp4"), "not printable"),
    "path too long": (record(image="a" * 256), "has a part of more than 255 bytes"),
    "path missing": (record(image="a/9.mp4"), "a/9.mp4 does not exist"),
    "path below a file": (record(image="x.mp4/1.mp4"), "x.mp4/1.mp4 does not exist"),
    "path is a folder": (record(image="a"), "a is not a regular file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line(name: str, tmp_path: Path, root: Path) -> None:
    line, reason = BAD_LINES[name]
    path = write(tmp_path, record(id=100), line, record(id=101))
    with pytest.raises(BadLinesError) as caught:
        read(path, root)
    (bad,) = caught.value.bad_lines
    assert (bad.file, bad.line) == (path, 2)
    assert reason in bad.reason
    assert f"{path}:2: {bad.reason}" in str(caught.value)
    assert len(bad.reason) < 700  # one readable line, whatever was given
    assert "\n" not in bad.reason

    kept = read(path, root, skip_bad_lines=True)
    assert [sample.id for sample in kept.examples] == ["lsvq/100", "lsvq/101"]
    assert kept.bad_lines == [bad]


def test_symbolic_links_that_leave_the_root(tmp_path: Path, root: Path) -> None:
    (tmp_path / "secret.mp4").touch()
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "up").symlink_to(tmp_path)
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    (root / "dangling.mp4").symlink_to(root / "nowhere.mp4")
    names = ["out.mp4", "up/secret.mp4", "loop.mp4", "dangling.mp4"]
    path = write(tmp_path, *(record(id=name, image=name) for name in names))
    with pytest.raises(BadLinesError) as caught:
        read(path, root)
    bad_lines = caught.value.bad_lines
    assert [bad.line for bad in bad_lines] == [1, 2, 3, 4]
    for bad, reason in zip(
        bad_lines,
        ["leaves the video root", "leaves the video root", "cannot be followed", "does not exist"],
        strict=True,
    ):
        assert reason in bad.reason


@pytest.mark.skipif(os.name != "posix", reason="named pipes are POSIX")
def test_a_named_pipe_is_no_video(tmp_path: Path, root: Path) -> None:
    os.mkfifo(root / "pipe.mp4")
    with pytest.raises(BadLinesError, match="not a regular file"):
        read(write(tmp_path, record(image="pipe.mp4")), root)


def test_all_bad_lines_of_all_files_at_once(tmp_path: Path, root: Path) -> None:
    first = write(tmp_path, record(id=1), "{", record(id=2, mos="NaN"), name="1.jsonl")
    second = write(tmp_path, [], record(id=3), record(id=4, image="no.mp4"), name="2.jsonl")
    with pytest.raises(BadLinesError) as caught:
        read_train([first, second], root, IDENTITY)
    places = [(bad.file, bad.line) for bad in caught.value.bad_lines]
    assert places == [(first, 2), (first, 3), (second, 1), (second, 3)]


def test_duplicate_ids_within_a_data_set(tmp_path: Path, root: Path) -> None:
    first = write(
        tmp_path,
        record(id=7),
        record(id="7"),  # the same id: ids are text
        record(id=7, dataset_name="KoNViD-1k"),  # another data set
        name="1.jsonl",
    )
    second = write(tmp_path, record(id=8), record(id=7), name="2.jsonl")
    loaded = read_train([first, second], root, IDENTITY, skip_bad_lines=True)
    assert [sample.id for sample in loaded.examples] == ["lsvq/7", "konvid_1k/7", "lsvq/8"]
    assert [(bad.file, bad.line) for bad in loaded.bad_lines] == [(first, 2), (second, 2)]
    assert f"duplicate id '7' in data set 'lsvq', first used at {first}:1" in str(
        loaded.bad_lines[1]
    )


def test_a_file_given_twice_is_full_of_duplicates(tmp_path: Path, root: Path) -> None:
    path = write(tmp_path, record())
    with pytest.raises(BadLinesError, match="duplicate id '0'"):
        read_train([path, path], root, IDENTITY)


def test_message_is_capped_and_the_attribute_is_not(tmp_path: Path, root: Path) -> None:
    path = write(tmp_path, *["{"] * 53)
    with pytest.raises(BadLinesError) as caught:
        read(path, root)
    message = str(caught.value)
    assert len(caught.value.bad_lines) == 53
    assert message.startswith("53 bad line(s)")
    assert message.count("broken JSON") == 50
    assert message.endswith("… and 3 more")
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_skipping_logs_and_never_returns_nothing(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read(write(tmp_path, record(), "{"), root, skip_bad_lines=True)
    assert "skipped 1 bad line(s), kept 1 example(s)" in caplog.text
    with pytest.raises(BadLinesError):
        read(write(tmp_path, "{"), root, skip_bad_lines=True)


def test_files_and_roots_that_are_not_there(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*no\.jsonl"):
        read(tmp_path / "no.jsonl", root)
    with pytest.raises(ValueError, match=r"video root .*nowhere is not a folder"):
        read(write(tmp_path, record()), tmp_path / "nowhere")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="hold no example"):
        read(tmp_path / "empty.jsonl", root)


# --- meta JSON


def meta(folder: Path, annotations: object, **dump: object) -> Path:
    path = folder / "meta.json"
    path.write_text(json.dumps({"annotations": annotations}, **dump))
    return path


def annotation(image_id: object = "a/1.mp4", score: object = "67.75", **more: object) -> dict:
    return {"image_id": image_id, "ann_type": "score", "score": score, **more}


def test_meta_sample(tmp_path: Path, root: Path) -> None:
    path = meta(tmp_path, [annotation(), annotation("not/here.mp4", 50)])
    first, second = read_meta_json(path, root, HUNDRED, dataset="lsvq_test").examples
    assert first == Example(
        id="lsvq_test/a/1.mp4",
        dataset="lsvq_test",
        media=(medium(root.resolve() / "a/1.mp4"),),
        mos=67.75,
        target=first.target,
        content="a/1.mp4",
    )
    assert first.target == pytest.approx(3.71, abs=1e-12)
    assert (second.target, second.media[0].path.exists()) == (3.0, False)
    with pytest.raises(
        BadLinesError, match=r"annotations\[1\]: file .*not/here.mp4 does not exist"
    ):
        read_meta_json(path, root, HUNDRED, dataset="lsvq_test", require_files=True)


def test_an_annotation_may_have_tags(tmp_path: Path, root: Path) -> None:
    tagged = annotation(tags={"distortion": "noise", "severity": 3})
    path = meta(tmp_path, [tagged, annotation("b.jpg")])
    first, second = read_meta_json(path, root, HUNDRED, dataset="k").examples
    assert first.tags == (("distortion", "noise"), ("severity", "3"))
    assert second.tags == ()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("a/1.mp4", "the annotation is 'a/1.mp4', expected a JSON object"),
        ({"ann_type": "score", "score": "1"}, "missing field 'image_id'"),
        ({"image_id": "a/1.mp4", "score": "1"}, "missing field 'ann_type'"),
        ({"image_id": "a/1.mp4", "ann_type": "score"}, "missing field 'score'"),
        (annotation(ann_type="caption"), "ann_type is 'caption', expected 'score'"),
        (annotation(3), "image_id is 3, expected a string"),
        (annotation(["a/1.mp4"]), "image_id is ['a/1.mp4'], expected a string"),
        (annotation("../x.mp4"), "must name a file below the video root"),
        (annotation("a"), "is not a regular file"),
        (annotation("b.jpg"), "duplicate id 'b.jpg' in data set 'k'"),
        (annotation(score="NaN"), "mos 'NaN' is not a decimal number"),
        (annotation(score=math.nan), "mos nan is not finite"),
        (annotation(score=None), "mos is None"),
        (annotation(score=True), "mos is True"),
        (annotation(score="<answer>50</answer>"), "is not a decimal number"),
        (annotation(score="100.5"), "outside the declared range 0..100"),
        (annotation(tags=["noise"]), "tags is ['noise'], expected"),
        (annotation(tags={"distortion": None}), "tag 'distortion' is None, expected"),
    ],
)
@pytest.mark.parametrize("indent", [None, 4])
def test_bad_annotation(
    entry: object, reason: str, indent: int | None, tmp_path: Path, root: Path
) -> None:
    path = meta(tmp_path, [annotation("b.jpg"), entry, annotation("x.mp4")], indent=indent)
    loaded = read_meta_json(path, root, HUNDRED, dataset="k", skip_bad_lines=True)
    assert [sample.id for sample in loaded.examples] == ["k/b.jpg", "k/x.mp4"]
    (bad,) = loaded.bad_lines
    # indented: lines 1 "{", 2 "annotations", 3 to 7 the first entry, 8 the second one
    assert (bad.file, bad.line) == (path, 1 if indent is None else 8)
    assert bad.reason.startswith("annotations[1]: ")
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("raw", "line", "reason"),
    [
        (b'{"annotations": [\n{"image_id": "a"}\n', 3, "broken JSON"),
        (b'{"annotations": [\n"\xff"]}', 2, "not UTF-8"),
        (b"", 1, "broken JSON"),
        (b"[]", 1, "the file is [], expected a JSON object"),
        (b"{}", 1, "missing field 'annotations'"),
        (b'{"annotations": {}}', 1, "annotations is {}, expected a list with entries"),
        (b'{"annotations": []}', 1, "annotations is [], expected a list with entries"),
        (b'{"annotations": [1], "annotations": [2]}', 1, "key 'annotations' is given twice"),
        (b"[" * 100_000, 1, "nested too deeply"),
    ],
)
def test_bad_meta_file(raw: bytes, line: int, reason: str, tmp_path: Path, root: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_bytes(raw)
    with pytest.raises(BadLinesError) as caught:
        read_meta_json(path, root, HUNDRED, dataset="k")
    (bad,) = caught.value.bad_lines
    assert (bad.file, bad.line) == (path, line)
    assert reason in bad.reason


def test_lines_of_annotations_in_an_unusual_file() -> None:
    text = """
{ "info" : {"annotations": [1, 2], "note": "]}\\n"}
, "annotations"
  : [ {"a": "]"}, [1,
2]

, "x"
] , "after": []}"""
    found = meta_annotations(text.encode())
    assert found == [(4, {"a": "]"}), (4, [1, 2]), (7, "x")]


# --- content


def test_content_pattern_of_the_docstring(tmp_path: Path, root: Path) -> None:
    pattern = r"(?P<content>[A-Za-z0-9]+)_crf_[0-9]+_[0-9]+fps\.mp4"
    path = meta(
        tmp_path,
        [annotation("1Runner_crf_0_24fps.mp4"), annotation("1Runner_crf_0_24fps.mp4.mp4")],
        indent=1,
    )
    loaded = read_meta_json(
        path, root, HUNDRED, dataset="hfr", content_pattern=pattern, skip_bad_lines=True
    )
    assert [sample.content for sample in loaded.examples] == ["1Runner"]
    (bad,) = loaded.bad_lines
    assert bad.line == 8  # 1 "{", 2 "annotations", 3 to 7 the first entry
    assert "does not match content_pattern" in bad.reason


def test_content_pattern_sees_the_whole_path(tmp_path: Path, root: Path) -> None:
    path = write(tmp_path, record())
    (sample,) = read(path, root, content_pattern=r"(?P<content>[a-z]+)/[0-9]\.mp4").examples
    assert sample.content == "a"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?P<content>a", "is not a regular expression"),
        ("a+", "exactly one group"),
        ("(a+)", "exactly one group"),
        ("(?P<scene>a+)", "exactly one group"),
        ("(?P<content>a+)(b)", "exactly one group"),
        ("(?P<content>(?:a+)+)b", "repeats a group"),
        ("(?P<content>(?:[)]+)*)b", "repeats a group"),
        ("(?P<content>a+){2,}b", "repeats a group"),
    ],
)
def test_bad_content_patterns(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compile_content_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(?P<content>a\)+)", "(?P<content>[()]+)b?", "(?P<content>a)?b"]
)
def test_patterns_that_only_look_repeated(pattern: str) -> None:
    assert compile_content_pattern(pattern).pattern == pattern


# --- fuzz

MUTANT_VALUES = [
    None, True, False, 0, -1, 7, 10**400, 1.5, math.nan, math.inf, "", "x", "3.5", "NaN", "1_0",
    "٣.٥", "\ud800", "\0", "../x.mp4", "/x", "x.mp4", "b.jpg", "a", [], [[]], ["a/1.mp4"],
    ["x.mp4", "b.jpg"], {}, {"from": "gpt"}, "<answer>2</answer>", "<answer>",
    [None] * 2, "9" * 5000,
]  # fmt: skip


def mutate_value(rng: random.Random, value: object) -> object:
    """`value` with one part of it, at any depth, replaced or removed."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {other: part for other, part in value.items() if other != key}
        return {**value, key: mutate_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [mutate_value(rng, part) if i == index else part for i, part in enumerate(value)]
    return rng.choice(MUTANT_VALUES)


def mutate_bytes(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw))
    kind = rng.randrange(4)
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw[:at] + raw[at + 1 :]
    insert = (
        bytes([rng.randrange(256)]) if kind == 2 else rng.choice([b'"', b"}", b",", b"[", b"\\"])
    )
    return (raw[:at] + insert + raw[at + 1 :]).replace(b"\n", b" ")


def test_mutated_lines_are_samples_or_bad_lines(tmp_path: Path, root: Path) -> None:
    rng = random.Random(20240)
    raws = []
    for number in range(600):
        if number % 2:
            raw = json.dumps(mutate_value(rng, record(id=number))).encode()
        else:
            raw = mutate_bytes(rng, json.dumps(record(id=number)).encode())
        raws.append(raw)
    raws.append(json.dumps(record(id="last")).encode())
    loaded = read(write(tmp_path, *raws), root, skip_bad_lines=True)

    bad = {line.line for line in loaded.bad_lines}
    assert len(loaded.examples) + len(bad) == len(loaded.examples) + len(loaded.bad_lines) == 601
    assert len(loaded.examples) > 60 and len(bad) > 200  # the mutations reach both ends
    good = [raw for line, raw in enumerate(raws, start=1) if line not in bad]
    for raw, sample in zip(good, loaded.examples, strict=True):
        line = json.loads(raw)
        image = line["image"] if isinstance(line["image"], str) else line["image"][0]
        label = line["conversations"][1]["value"]
        if isinstance(label, str):
            label = label.removeprefix("<answer>").removesuffix("</answer>")
        assert sample.id == f"{dataset_key(line['dataset_name'])}/{line['id']}"
        assert sample.media[0].path == root.resolve() / image and sample.media[0].path.is_file()
        assert sample.mos == sample.target == float(label)
        assert 0 <= sample.mos <= 5


def test_parse_mos_examples_of_the_docstring() -> None:
    assert [parse_mos(value) for value in ("67.75", 67.75, " 1e1\n")] == [67.75, 67.75, 10.0]
    for value in (True, None, "NaN", "1_0", "٣.٥", 10**400):
        with pytest.raises(BadValueError):
            parse_mos(value)


def test_parse_mos_is_linear_in_the_length() -> None:
    start = time.perf_counter()
    with pytest.raises(BadValueError):
        parse_mos("1" * 1_000_000 + "x")
    assert time.perf_counter() - start < 5  # quadratic time would be minutes


def test_types_refuse_what_they_cannot_mean(root: Path) -> None:
    good = {"id": "d/1", "dataset": "d", "mos": 3.0, "target": 3.0, "content": "1"}
    with pytest.raises(ValueError, match="expected absolute"):
        Example(media=(medium("x.mp4"),), **good)
    with pytest.raises(ValueError, match="finite"):
        Example(media=(medium(root),), **{**good, "mos": math.nan})
    assert str(BadLine(file=Path("f.jsonl"), line=3, reason="why")) == "f.jsonl:3: why"
