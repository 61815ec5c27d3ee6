"""Label files as spreadsheets write them: byte order marks, CRLF, UTF-16, in every reader."""

import json

import pytest

from thinker.config.yaml_file import read_settings
from thinker.data.read import line_rules, read_meta_json, read_records, scan_train_jsonl
from thinker.data.scale import MosScale
from thinker.eval.sets import read_subset
from thinker.utils.text import plain_utf8

SCALE = MosScale(min=0, max=100, mapping="linear")


@pytest.fixture
def root(tmp_path):
    for name in ("ä.mp4", "b.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def train(number, name):
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": 50}]
    return {"id": number, "dataset_name": "d", "image": [name], "conversations": turns}


def question(name):
    return {"video": name, "question": "Why?", "answer": "It stalls."}


def annotation(name):
    return {"image_id": name, "ann_type": "score", "score": "50"}


NAMES = ("ä.mp4", "b.mp4")


def dumped(value, **options):
    return json.dumps(value, ensure_ascii=False, **options)


TEXTS = {
    "train.jsonl": "".join(f"{dumped(train(i, n))}\n" for i, n in enumerate(NAMES)),
    "meta.json": dumped({"annotations": [annotation(n) for n in NAMES]}, indent=1),
    "records.jsonl": "".join(f"{dumped(question(n))}\n" for n in NAMES),
    "records.json": dumped([question(n) for n in NAMES]),
    "subset.txt": "ä.mp4\nb.mp4\n",
    "set.yaml": "names:\n- ä.mp4\n- b.mp4\n",
}


def names_read(path, root):
    if path.name == "subset.txt":
        return read_subset(path).names
    if path.name == "set.yaml":
        return set(read_settings(path)["names"])
    if path.name == "train.jsonl":
        loaded = scan_train_jsonl(path, line_rules(root, SCALE, None, require_files=True))
    elif path.name == "meta.json":
        loaded = read_meta_json(path, root, SCALE, dataset="d", require_files=True)
    else:
        loaded = read_records([path], root)
    assert not loaded.bad_lines
    return {example.media[0].path.name for example in loaded.examples}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_reader_takes_marks_and_crlf(root, name, encoding):
    path = root / name
    path.write_bytes(TEXTS[name].replace("\n", "\r\n").encode(encoding))
    assert names_read(path, root) == set(NAMES)


def test_marks_of_the_docstring_and_what_only_looks_like_one():
    assert (
        plain_utf8(b"\xef\xbb\xbfa") == plain_utf8("a".encode("utf-16")) == plain_utf8(b"a") == b"a"
    )
    assert plain_utf8("ä".encode("utf-32")) == "ä".encode()
    assert plain_utf8(b"\xff\xfe\x00\xd8") == b"\xff\xfe\x00\xd8"  # half a pair: not UTF-16
