"""Seeded damage to every kind of input: 500 videos, 2,000 texts. Each outcome is a typed error or
a result that an independent reader confirms."""

import collections
import dataclasses
import json
import math
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from rewards import Answer, parse_answer
from tests.helpers.fuzz_tasks import FORMATS, judge, mutate
from tests.helpers.video_checks import SPEC
from tests.helpers.video_factory import write_video
from thinker.config.run import RunConfig, load_run_config
from thinker.data.datasets import load_dataset_config
from thinker.data.read import line_rules, scan_meta_json, scan_train_jsonl
from thinker.data.records import dataset_key
from thinker.data.scale import MosScale
from thinker.utils.worker_pool import Limits, map_in_workers
from thinker.video import REASONS

SEED = 7
VIDEO_KINDS = {"cut": 25, "flip": 30, "span": 15, "lie": 30}  # of each of the five codecs
NUM_TEXTS = 500  # of each of the four kinds
LIMITS = Limits(seconds=60, memory_bytes=2**30)


# --- videos ---


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> list[tuple[str, str, object]]:
    """(codec, kind of damage, what the judge said) of 500 videos, read in worker processes."""
    folder = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(SEED)
    cases = []
    for codec, suffix in FORMATS.items():
        good = write_video(folder / f"good-{codec}.{suffix}", codec=codec, num_frames=30, gop=10)
        content = good.read_bytes()
        for kind, number in VIDEO_KINDS.items():
            for count in range(number):
                path = folder / f"{codec}-{kind}-{count}.{suffix}"
                path.write_bytes(mutate(content, kind, rng))
                cases.append((codec, kind, path))
    paths = [path for _, _, path in cases]
    answers = list(map_in_workers(partial(judge, SPEC), paths, num_workers=2, limits=LIMITS))
    return [
        (codec, kind, json.loads(answer) if isinstance(answer, bytes) else answer)
        for (codec, kind, _), answer in zip(cases, answers, strict=True)
    ]


@pytest.mark.slow
def test_every_damaged_video_is_an_error_or_right(verdicts):
    assert len(verdicts) == 500
    ended = [verdict for verdict in verdicts if not isinstance(verdict[2], dict)]
    assert not ended, "a reader process was ended"
    reasons = collections.Counter(v["reason"] for _, _, v in verdicts if "reason" in v)
    assert set(reasons) <= set(REASONS)
    read = [(codec, kind, v) for codec, kind, v in verdicts if "reason" not in v]
    wrong = [(codec, kind, v["problems"]) for codec, kind, v in read if v["problems"]]
    assert not wrong
    num_frames = sum(len(v["ids"]) for *_, v in read)
    num_confirmed = sum(v["confirmed"] for *_, v in read)
    print(f"\nerrors {dict(reasons)}, read {len(read)}, frames {num_frames}, {num_confirmed=}")
    # Both kinds of outcome occur, and every frame has a witness.
    assert sum(reasons.values()) > 150 and len(read) > 100
    assert num_confirmed == num_frames


@pytest.mark.slow
def test_no_cut_video_shows_another_frame(verdicts):
    """What a cut leaves is undamaged, so every frame must carry its own number."""
    for codec, kind, verdict in verdicts:
        if kind == "cut" and "reason" not in verdict:
            assert all(index == number for index, number in verdict["ids"]), codec


# --- texts ---

TOKENS = (
    b"NaN", b"1e999", b"-1", b"1_0", b".85", b"3.50", b"null", b"true", b'"', b"{", b"}", b"[",
    b"]", b",", b":", b"\n", b"\r", b"\0", b"\xff", "٣.٥".encode(), b"9" * 400, b"[" * 2000,
    b"../", b"&a ", b"*a", b"!!python/object:os.system ", b"!!bool x", b"\t", b"- ", b"#",
    b"\xe2\x80\xa8", b"\\u0000", b"<answer>", b"</answer>", b"<think>", b" ", b"'", b"|",
    b"2001-99-99", b"0x", b"5", b".nan", b"~",
)  # fmt: skip


def mutate_text(good: bytes, rng: np.random.Generator) -> bytes:
    content = good
    for _ in range(int(rng.integers(1, 4))):
        at, to = sorted(int(i) for i in rng.integers(0, len(content) + 1, 2))
        token = TOKENS[int(rng.integers(len(TOKENS)))]
        kind = int(rng.integers(6))
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = content[:at] + content[min(to, at + 12) :]
        elif kind == 2:
            content = content[:to] + content[at:]
        elif kind == 3:
            content = content[:at] + token + content[at:]
        elif kind == 4:
            content = content[:at] + token + content[at + len(token) :]
        elif content:
            place = at % len(content)
            flipped = content[place] ^ 1 << int(rng.integers(8))
            content = content[:place] + bytes([flipped]) + content[place + 1 :]
    return content


def fuzz_texts(good: bytes, salt: int, check: Callable[[bytes], bool]) -> None:
    """Each text within a second of CPU; `check` says whether it was taken, or a part of it."""
    rng = np.random.default_rng([SEED, salt])
    num_taken = 0
    for _ in range(NUM_TEXTS):
        began = time.process_time()
        num_taken += check(mutate_text(good, rng))
        assert time.process_time() - began < 1
    assert 10 < num_taken < NUM_TEXTS - 50, num_taken  # both outcomes occur


def strict_number(value: object) -> float:
    """What a label may be, written without the product's code."""
    if isinstance(value, str):
        text = value.strip(" \t\r\n")
        assert re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text), value
        value = float(text)
    assert isinstance(value, int | float) and not isinstance(value, bool)
    assert 0 <= value <= 100
    return float(value)


@pytest.fixture
def rules(tmp_path):
    return lambda: line_rules(tmp_path, MosScale(min=0, max=100, mapping="linear"), None,
                              require_files=False)  # fmt: skip


def check_sample(sample, video: str, value: object, root: Path) -> None:
    mos = strict_number(value)
    assert sample.mos == mos and sample.target == pytest.approx(1 + 4 * mos / 100)
    assert sample.media[0].path == root / video and ".." not in video and not video.startswith("/")
    assert sample.media[0].path.resolve().is_relative_to(root.resolve())


def test_jsonl(tmp_path, rules):
    lines = [
        {"id": i, "dataset_name": "LSVQ", "image": [f"a/{i}.mp4"], "conversations": [
            {"from": "human", "value": "Q"}, {"from": "gpt", "value": value}]}
        for i, value in enumerate([67.75, "50", "<answer>3.5</answer>", 0])
    ]  # fmt: skip
    path = tmp_path / "train.jsonl"

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        loaded = scan_train_jsonl(path, rules())
        stripped = content.rstrip(b"\r\n")
        raws = stripped.split(b"\n") if stripped else []
        bad = {line.line for line in loaded.bad_lines}
        good = [raw for number, raw in enumerate(raws, start=1) if number not in bad]
        assert len(good) == len(loaded.examples) and len(bad) == len(loaded.bad_lines)
        for raw, sample in zip(good, loaded.examples, strict=True):
            line = json.loads(raw.decode())
            video = line["image"][0] if isinstance(line["image"], list) else line["image"]
            value = line["conversations"][1]["value"]
            if isinstance(value, str):
                value = re.sub(r"(?s)^\s*<answer>(.*)</answer>\s*$", r"\1", value)
            check_sample(sample, video, value, tmp_path)
            assert sample.id == f"{dataset_key(line['dataset_name'])}/{line['id']}"
        return bool(good)

    fuzz_texts("\n".join(map(json.dumps, lines)).encode(), 1, check)


def test_meta_json(tmp_path, rules):
    meta = {"annotations": [{"image_id": f"a/{i}.mp4", "ann_type": "score", "score": score}
                            for i, score in enumerate(["67.75", 50, "3e1"])]}  # fmt: skip
    path = tmp_path / "meta.json"

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        loaded = scan_meta_json(path, rules(), "set")
        if not loaded.examples:
            assert loaded.bad_lines and all(line.reason for line in loaded.bad_lines)
            return False
        annotations = json.loads(content.decode())["annotations"]
        assert len(annotations) == len(loaded.examples) + len(loaded.bad_lines)
        bad = {int(re.match(r"annotations\[(\d+)\]", b.reason)[1]) for b in loaded.bad_lines}
        good = [a for index, a in enumerate(annotations) if index not in bad]
        for annotation, sample in zip(good, loaded.examples, strict=True):
            check_sample(sample, annotation["image_id"], annotation["score"], tmp_path)
        return bool(good)

    fuzz_texts(json.dumps(meta).encode(), 2, check)


RUN = b"""seed: 3
output_dir: runs/x
model: {path: tiny, dtype: float32}
data: {cache: runs/cache, num_workers: 1, max_failed_share: 0.25, variables: {A: b}}
stages:
  - name: grpo
    kind: grpo
    data: [{config: x.yaml, weight: 2.0}]
    train: {lora: 2.0e-4}
    lora: {r: 8, dropout: 0.5}
    rewards:
      - name: regression
      - {name: format, weight: 0.2, config: {a: 1}}
    trainer: {num_generations: 8}
"""


def check_settings(settings: object, given: dict) -> None:
    """Every key as given, every other at its default; nothing bent."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in given:
            default = field.default
            if default is dataclasses.MISSING:
                assert field.default_factory is not dataclasses.MISSING, field.name
                default = field.default_factory()
            assert value == default
        elif dataclasses.is_dataclass(value):
            check_settings(value, given[field.name])
        elif isinstance(value, tuple):
            assert len(value) == len(given[field.name])
            for entry, given_entry in zip(value, given[field.name], strict=True):
                if dataclasses.is_dataclass(entry):
                    check_settings(entry, given_entry)
                else:
                    assert entry == given_entry
        else:
            assert value == given[field.name] and str(value) != "nan"
    assert set(given) <= {field.name for field in dataclasses.fields(settings)}


def test_run_yaml(tmp_path):
    path = tmp_path / "run.yaml"

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            config = load_run_config(path)
        except ValueError as error:
            assert len(str(error)) < 5000
            return False
        assert isinstance(config, RunConfig)
        check_settings(config, yaml.safe_load(content))
        return True

    fuzz_texts(RUN, 3, check)


SET = b"""name: Set
train:
  - jsonl: train.jsonl
    video_root: videos
    mos_scale: {min: 0, max: 100, mapping: linear}
eval:
  - {name: E, key: e, meta: m.json, video_root: v, mos_scale: {min: 1, max: 5, mapping: identity},
     domain: in, num_videos: 10}
source: someone
"""


def test_dataset_yaml(tmp_path):
    path = tmp_path / "set.yaml"

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            config = load_dataset_config(path)
        except ValueError as error:
            assert str(path) in str(error)
            return False
        given = yaml.safe_load(content)
        if "meta" in given:
            given = {"name": given["name"], "eval": [given], "source": given.get("source")}
        assert config.name == given["name"] and config.source == given.get("source")
        for name in ("train", "eval"):
            entries = given.get(name) or []
            for part, entry in zip(getattr(config, name), entries, strict=True):
                assert part.video_root == tmp_path / entry["video_root"]
                scale = entry["mos_scale"]
                assert dataclasses.asdict(part.mos_scale) == scale
                assert math.isfinite(part.mos_scale.min + part.mos_scale.max)
                assert getattr(part, "num_videos", None) == entry.get("num_videos")
        return True

    fuzz_texts(SET, 4, check)


# --- answers ---


def plain_answer(text: str) -> float | None:
    """The value of a completion by other means than the parser's."""
    opened = [match.start() for match in re.finditer(re.escape("<answer>"), text)]
    closed = [match.start() for match in re.finditer(re.escape("</answer>"), text)]
    if len(opened) != 1 or len(closed) != 1 or closed[0] < opened[0]:
        return None
    whole, point, part = text[opened[0] + 8 : closed[0]].strip(" \t\n\r\f\v").partition(".")
    digits = set("0123456789")
    if not whole or set(whole) - digits or set(part) - digits or (point and not part):
        return None
    value = float(f"{whole}.{part or 0}")
    return value if 1 <= value <= 5 else None


CORPUS = {
    "": None,
    "3.5": None,
    "<answer>3.50</answer>": 3.5,
    "<answer>3</answer>": 3.0,
    "<answer>.85</answer>": None,
    "<answer>1e999</answer>": None,
    "<answer>NaN</answer>": None,
    "<answer>inf</answer>": None,
    "<answer>1_0</answer>": None,
    "<answer>٣.٥</answer>": None,
    "<answer>" + "9" * 400 + "</answer>": None,
    "<answer>2." + "0" * 400 + "</answer>": 2.0,
    "<answer>5.01</answer>": None,
    "<answer>0.99</answer>": None,
    "<answer>-3</answer>": None,
    "<answer><answer>3</answer></answer>": None,
    "<answer>3</answer><answer>4</answer>": None,
    "</answer>3<answer>": None,
    "<answer>3": None,
    "<answer>3</answer": None,
    "<think>" + "a" * 2**20 + "</think><answer>4.25</answer>": 4.25,
}


@pytest.mark.parametrize("text", CORPUS, ids=lambda text: repr(text[:40]))
def test_answer_corpus(text):
    answer = parse_answer(text)
    assert (answer.value if isinstance(answer, Answer) else None) == CORPUS[text]
    assert plain_answer(text) == CORPUS[text]


def test_answers():
    def check(content: bytes) -> bool:
        text = content.decode(errors="surrogateescape")
        answer = parse_answer(text)
        assert (answer.value if isinstance(answer, Answer) else None) == plain_answer(text)
        if isinstance(answer, Answer):
            pattern = r"(?s)<think>.*?</think>\s*<answer>.*?</answer>"
            assert answer.well_formed == bool(re.fullmatch(pattern, text))
        return isinstance(answer, Answer)

    fuzz_texts(b"<think>a bit of noise, else sharp</think>\n<answer>3.50</answer>", 5, check)


@pytest.mark.parametrize(
    "unit",
    ["<answer>", "</answer>", "<think>", "</think>", "<", "9", " ", "<answer>3</answer>", "é"],
)
def test_a_megabyte_takes_linear_time(unit):
    """Four times the text takes about four times as long; quadratic would be sixteen times."""

    def seconds(num_bytes: int) -> float:
        text = "<think>" + unit * (num_bytes // len(unit)) + "</think><answer>" + unit + "</answer>"
        times = []
        for _ in range(3):
            began = time.process_time()
            parse_answer(text)
            times.append(time.process_time() - began)
        return min(times)

    small, large = seconds(2**20), seconds(2**22)
    assert large < 12 * small + 0.01
