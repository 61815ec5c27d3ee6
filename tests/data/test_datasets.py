"""Data configurations: the ten shipped sets against excerpts of their metas, schema, loading."""

import dataclasses
import json
import logging
import shutil
import time
from pathlib import Path

import pytest

from tests.helpers.places import FIXTURES, REPO
from thinker.data import datasets as data
from thinker.data.bad_lines import BadLinesError
from thinker.data.datasets import (
    DatasetConfig,
    EvalSet,
    RecordSet,
    RecordSource,
    TrainSource,
    eval_set_from_files,
    load_dataset_config,
    load_eval_examples,
    load_train_examples,
    parse_mos_scale,
)
from thinker.data.examples import parsed_reference
from thinker.data.paths import compile_content_pattern
from thinker.data.read import read_records
from thinker.data.records import dataset_key
from thinker.data.scale import MosScale

EVAL_FILES = sorted((REPO / "data_configs" / "eval").glob("*.yaml"))
METAS = FIXTURES / "meta"
HUNDRED = MosScale(min=0, max=100, mapping="linear")

# key: meta, videos in the whole meta, lowest and highest possible MOS, domain, and the first
# annotation of the meta with its MOS, its target by hand and its content.
SHIPPED = {
    # 1 + 4 * 67.75 / 100
    "lsvq_test": ("LSVQ_whole_test_ds_score.json", 7182, 0, 100, "in",
                  "yfcc-batch1/747.mp4", 67.75, 3.71, "yfcc-batch1/747.mp4"),
    # 1 + 4 * 78.7741935483871 / 100
    "lsvq_1080p": ("LSVQ_whole_test_1080p_ds_score.json", 3573, 0, 100, "in",
                   "yfcc-batch1/722.mp4", 78.7741935483871, 4.150967741935484,
                   "yfcc-batch1/722.mp4"),
    # 1 + 4 * 62.4 / 100
    "konvid_1k": ("Konvid-1k_total_ds_score.json", 1200, 0, 100, "in",
                  "8129160337.mp4", 62.4, 3.496, "8129160337.mp4"),
    # 1 + 4 * 43.497 / 100
    "live_vqc": ("LIVE-VQC_total_ds_score.json", 585, 0, 100, "in",
                 "B155.mp4", 43.497, 2.73988, "B155.mp4"),
    # a scale of 1..5 stays as it is
    "youtube_ugc": ("youtube_ugc_total.json", 1020, 1, 5, "in",
                    "Animation_1080P-05f8_crf_10_ss_00_t_20.0.mp4", 3.901, 3.901,
                    "Animation_1080P-05f8_crf_10_ss_00_t_20.0.mp4"),
    # 1 + 4 * 68.71447486 / 100
    "live_yt_gaming": ("LIVE-YT-Gaming_total_score.json", 600, 0, 100, "out",
                       "ARKSuvivalEvolved-001.mp4", 68.71447486, 3.7485789944,
                       "ARKSuvivalEvolved-001.mp4"),
    # 1 + 4 * (2.09 - 1) / 6
    "cgvds": ("CGVDS_total_score.json", 357, 1, 7, "out",
              "Overwatch_30_30fps_640x480_30_300_h264_nvenc.mp4", 2.09, 1.7266666666666666,
              "Overwatch"),
    # 1 + 4 * 43.02495047 / 100
    "live_yt_hfr": ("live_hfr_total_score.json", 480, 0, 100, "out",
                    "1Runner_crf_0_24fps.mp4", 43.02495047, 2.7209980188, "1Runner"),
    # 1 + 4 * 18.21 / 100
    "waterloo_ivc_4k": ("Waterloo_IVC_4K_total_score.json", 1200, 0, 100, "out",
                        "HEVC_01_960x540_1.mp4", 18.21, 1.7284, "01"),
    # 1 + 4 * 43.9215071773589 / 100
    "vdpve": ("VDPVE_train_score.json", 839, 0, 100, "out",
              "A0023_01.mp4", 43.9215071773589, 2.756860287094356, "A0023"),
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    root.mkdir()
    for name in ("1.mp4", "2.mp4"):
        (root / name).touch()
    return root


def write_yaml(folder: Path, text: str, name: str = "set.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def write_jsonl(folder: Path, *rows: tuple[object, str, object], name: str = "train.jsonl") -> Path:
    """One line per (id, path, label)."""
    path = folder / name
    lines = [
        {
            "id": row_id,
            "dataset_name": "My-Set",
            "image": [image],
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": mos},
            ],
        }
        for row_id, image, mos in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


EVAL_TEXT = """\
name: My-Set
key: my_set
meta: meta.json
video_root: videos
mos_scale: {min: 0, max: 100, mapping: linear}
"""

TRAIN_TEXT = """\
name: both
train:
  - jsonl: 1.jsonl
    video_root: videos
    mos_scale: {min: 0, max: 5, mapping: identity}
  - jsonl: ${DEMO}/2.jsonl
    video_root: ${DEMO}/videos
    mos_scale: {min: 0, max: 100, mapping: linear}
    content_pattern: '(?P<content>[0-9])\\.mp4'
eval:
  - name: Held-out
    key: held_out
    meta: ${DEMO}/meta.json
    video_root: videos
    mos_scale: {min: 1, max: 5, mapping: linear}
"""


# --- the shipped configurations


def test_there_are_ten() -> None:
    assert sorted(path.stem for path in EVAL_FILES) == sorted(SHIPPED)


@pytest.mark.parametrize("path", EVAL_FILES, ids=lambda path: path.stem)
def test_shipped_set_reads_its_meta(path: Path, tmp_path: Path) -> None:
    meta, num_videos, low, high, domain, image_id, mos, target, content = SHIPPED[path.stem]
    config = load_dataset_config(path, variables={"THINKER_DATA": str(tmp_path)})
    (eval_set,) = config.eval
    assert config.train == ()
    assert config.name == eval_set.name
    assert eval_set.key == path.stem == dataset_key(eval_set.name)
    assert eval_set.meta == tmp_path / "meta" / meta
    assert eval_set.mos_scale == MosScale(min=low, max=high, mapping="linear")
    assert (eval_set.num_videos, eval_set.domain) == (num_videos, domain)
    assert eval_set.source

    shutil.copytree(METAS, tmp_path / "meta")
    eval_set.video_root.mkdir(parents=True)
    loaded = load_eval_examples(eval_set)
    assert len(loaded.examples) == 12 and not loaded.bad_lines
    first = loaded.examples[0]
    assert first.id == f"{path.stem}/{image_id}"
    assert (first.dataset, first.mos, first.content) == (path.stem, mos, content)
    assert first.target == pytest.approx(target, abs=1e-12)
    assert first.media[0].path == eval_set.video_root.resolve() / image_id


def test_shipped_sets_of_the_domains() -> None:
    # The published tables: five sets in the domain of LSVQ, five out of it, 17,036 videos.
    assert sum(row[1] for row in SHIPPED.values()) == 17036
    assert [row[4] for row in SHIPPED.values()] == ["in"] * 5 + ["out"] * 5


@pytest.mark.parametrize(
    ("key", "name", "content"),
    [
        ("cgvds", "Overwatch_2_30_1920x1080_60_4000_h264_nvenc.mp4", "Overwatch"),
        ("cgvds", "LoL_TF_30s_1_20_1920x1080_20_300_h264_nvenc.mp4", "LoL_TF"),
        ("cgvds", "Worms_30s_640x480_60_300_h264_nvenc.mp4", "Worms"),
        ("cgvds", "Fifa_30_30_640x480_30_300_h264_nvenc.mp4", "Fifa"),
        ("cgvds", "Fifa_30_640x480_60_300_h265_nvenc.mp4", None),
        ("live_yt_hfr", "watersplashing_crf_63_120fps.mp4", "watersplashing"),
        ("live_yt_hfr", "watersplashing_crf_63.mp4", None),
        ("waterloo_ivc_4k", "AV1_20_3840x2160_4.mp4", "20"),
        ("waterloo_ivc_4k", "AV2_20_3840x2160_4.mp4", None),
        ("vdpve", "C0004_05.mp4", "C0004"),
        ("vdpve", "D0004_05.mp4", None),
    ],
)
def test_content_rules_of_shipped_sets(key: str, name: str, content: str | None) -> None:
    path = REPO / "data_configs" / "eval" / f"{key}.yaml"
    (eval_set,) = load_dataset_config(path, variables={"THINKER_DATA": "/x"}).eval
    assert eval_set.content_pattern is not None
    match = compile_content_pattern(eval_set.content_pattern).fullmatch(name)
    assert (match and match["content"]) == content


def test_content_rules_of_shipped_sets_take_no_time() -> None:
    start = time.perf_counter()
    for path in EVAL_FILES:
        (eval_set,) = load_dataset_config(path, variables={"THINKER_DATA": "/x"}).eval
        if eval_set.content_pattern is not None:
            pattern = compile_content_pattern(eval_set.content_pattern)
            for unit in ("a", "0", "_", "_30", "a_30s", "01_1x1_1_1", "HEVC_01_1x"):
                assert pattern.fullmatch(unit * 4000) is None
    assert time.perf_counter() - start < 5  # linear: milliseconds; exponential: never


def test_shipped_training_set(tmp_path: Path) -> None:
    path = REPO / "data_configs" / "train" / "lsvq.yaml"
    config = load_dataset_config(path, variables={"THINKER_DATA": str(tmp_path)})
    (source,) = config.train
    video = source.video_root / "yfcc-batch16" / "13078.mp4"
    video.parent.mkdir(parents=True)
    video.touch()
    source.jsonl.parent.mkdir()
    write_jsonl(source.jsonl.parent, (0, "yfcc-batch16/13078.mp4", 0.42), name=source.jsonl.name)
    (sample,) = load_train_examples(config).examples
    # MOS/20: kept as it is, also below 1
    assert (sample.mos, sample.target, sample.media[0].path) == (0.42, 0.42, video.resolve())


# --- the schema


def test_keys_are_frozen() -> None:
    keys = {
        cls: {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(cls)}
        for cls in (DatasetConfig, TrainSource, EvalSet, MosScale)
    }  # name → required
    assert keys == {
        DatasetConfig: {"name": True, "train": False, "eval": False, "source": False},
        TrainSource: {
            "jsonl": True, "video_root": True, "mos_scale": True, "content_pattern": False,
        },
        EvalSet: {
            "name": True, "key": True, "meta": True, "video_root": True, "mos_scale": False,
            "label_name": False, "domain": False, "num_videos": False, "content_pattern": False,
            "source": False,
        },
        MosScale: {"min": True, "max": True, "mapping": True},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("name: My-Set", "nmae: My-Set", "unknown key 'nmae'; did you mean 'name'?"),
        ("name: My-Set", "3: My-Set", "the key 3, expected text"),
        ("mapping:", "maping:", "unknown key 'mos_scale.maping'; did you mean 'mapping'?"),
        ("key: my_set\n", "", "key is missing"),
        ("key: my_set", "key: my_set\nlabel_name: ' '", "expected a word, such as MOS or vmaf"),
        ("min: 0, ", "", "mos_scale.min is missing"),
        ("name: My-Set", "name: 7", "name is 7, expected a valid string"),
        ("name: My-Set", "name:", "name is None, expected a valid string"),
        ("meta: meta.json", "meta: 7", "meta is 7, expected a valid string"),
        ("max: 100", "max: '100'", "mos_scale.max is '100', expected a valid number"),
        ("max: 100", "max: true", "mos_scale.max is True, expected a valid number"),
        ("max: 100", "max: .nan", "mos_scale.max is nan, expected a finite number"),
        ("max: 100", f"max: {10**400}", "expected a finite number"),
        ("mapping: linear", "mapping: log", "expected mapping to be one of linear, identity"),
        ("{min: 0, max: 100, mapping: linear}", "linear", "is 'linear', expected a mapping"),
        ("key: my_set", "key: My-Set", "expected lower-case letters"),
        ("key: my_set", "key: ..", "expected lower-case letters"),
        ("key: my_set", "key: a/b", "expected lower-case letters"),
        ("key: my_set", "key: my_set\ndomain: near", "domain 'near': expected one of in, out"),
        ("key: my_set", "key: my_set\nnum_videos: 0", "num_videos 0: expected at least 1"),
        ("key: my_set", "key: my_set\nnum_videos: 1.5", "is 1.5, expected a valid integer"),
        ("key: my_set", "key: my_set\nnum_videos: true", "is True, expected a valid integer"),
        ("key: my_set", "key: my_set\ncontent_pattern: '(a)'", "exactly one group"),
        ("meta: meta.json", "meta: ${NO_SUCH_V}/m.json", "needs the variable NO_SUCH_V, which"),
        ("meta: meta.json", "meta: ${no-name}/m.json", "expected variables in the form ${NAME}"),
        ("name: My-Set", "name: [My-Set", "is not YAML"),
        (EVAL_TEXT, "- 1", "holds [1], expected a mapping of settings"),
        (EVAL_TEXT, "", "holds None, expected a mapping of settings"),
        (EVAL_TEXT, "name: x", "expected entries in train, in eval, or in both"),
        (EVAL_TEXT, "name: x\ntrain: {}", "train is {}, expected a list"),
        (EVAL_TEXT, "name: x\neval: [7]", "eval.0 is 7, expected a mapping"),
    ],
)  # fmt: skip
def test_what_a_yaml_can_get_wrong(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in EVAL_TEXT
    path = write_yaml(tmp_path, EVAL_TEXT.replace(old, new))
    with pytest.raises(ValueError) as caught:
        load_dataset_config(path)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_eval_keys_differ(tmp_path: Path) -> None:
    entry = TRAIN_TEXT[TRAIN_TEXT.index("  - name: Held-out") :]
    path = write_yaml(tmp_path, TRAIN_TEXT + entry)
    with pytest.raises(
        ValueError, match="eval keys held_out, held_out: expected each of them once"
    ):
        load_dataset_config(path, variables={"DEMO": "/x"})


def test_a_yaml_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*no\.yaml"):
        load_dataset_config(tmp_path / "no.yaml")


# --- paths


def test_paths_are_relative_to_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    write_yaml(tmp_path / "configs", EVAL_TEXT)
    monkeypatch.chdir(tmp_path)
    (eval_set,) = load_dataset_config("configs/set.yaml").eval
    assert eval_set.meta == tmp_path / "configs" / "meta.json"


def test_variables_of_the_caller_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_yaml(tmp_path, EVAL_TEXT.replace("meta.json", "${A}/${B}.json"))
    monkeypatch.setenv("A", "/environment")
    monkeypatch.setenv("B", "b")
    assert load_dataset_config(path).eval[0].meta == Path("/environment/b.json")
    given = load_dataset_config(path, variables={"A": "/caller"})
    assert given.eval[0].meta == Path("/caller/b.json")
    monkeypatch.setenv("A", "")  # would be the root of the disk
    with pytest.raises(ValueError, match="needs the variable A, which is not set"):
        load_dataset_config(path)


def test_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_yaml(tmp_path, EVAL_TEXT.replace("videos", "${NO_SUCH_V}/videos"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (eval_set,) = load_dataset_config(path, overrides={"video_root": "here"}).eval
    assert eval_set.video_root == tmp_path / "work" / "here"
    assert eval_set.meta == tmp_path / "meta.json"

    path = write_yaml(tmp_path, TRAIN_TEXT)
    overrides = {
        "train.1.jsonl": "/b.jsonl",
        "train.1.video_root": "/v",
        "eval.0.meta": "/m.json",
    }
    config = load_dataset_config(path, overrides=overrides)
    assert [source.jsonl for source in config.train] == [tmp_path / "1.jsonl", Path("/b.jsonl")]
    for dotted in ("meta", "train.2.jsonl", "train.x.jsonl", "name", "eval.0.key", "name.x.meta"):
        with pytest.raises(ValueError, match="cannot override") as caught:
            load_dataset_config(path, variables={"DEMO": "/x"}, overrides={dotted: "/x"})
        assert repr(dotted) in str(caught.value)


def test_overrides_of_record_files_and_by_variables(tmp_path: Path) -> None:
    text = "name: x\ntrain:\n  - records: [a.jsonl, b.jsonl]\n    media_root: media\nsource: s\n"
    path = write_yaml(tmp_path, text)
    overrides = {"train.0.records.1": "${HERE}/c.jsonl", "train.0.media_root": "${HERE}/media"}
    (source,) = load_dataset_config(path, variables={"HERE": "/h"}, overrides=overrides).train
    assert isinstance(source, RecordSource)
    assert source.records == (tmp_path / "a.jsonl", Path("/h/c.jsonl"))
    assert source.media_root == Path("/h/media")
    for dotted in ("train.0.records", "train.0.records.2", "train.0.records.x", "train.0.0"):
        with pytest.raises(ValueError, match=r"such as train\.0\.records\.0"):
            load_dataset_config(path, overrides={dotted: "/x"})
    with pytest.raises(ValueError, match=r"override 'train\.0\.media_root': .*NO_SUCH_V, which is"):
        load_dataset_config(path, overrides={"train.0.media_root": "${NO_SUCH_V}/x"})


# --- samples


def test_training_and_held_out(tmp_path: Path, root: Path) -> None:
    write_jsonl(tmp_path, (0, "1.mp4", 3.5), name="1.jsonl")
    write_jsonl(tmp_path, (1, "2.mp4", 75), name="2.jsonl")
    entry = {"image_id": "9.mp4", "ann_type": "score", "score": "2.5"}
    (tmp_path / "meta.json").write_text(json.dumps({"annotations": [entry]}))
    config = load_dataset_config(
        write_yaml(tmp_path, TRAIN_TEXT), variables={"DEMO": str(tmp_path)}
    )
    samples = load_train_examples(config).examples
    # 75 of 0..100 is 1 + 4 * 0.75 = 4
    assert [(s.id, s.mos, s.target, s.content) for s in samples] == [
        ("my_set/0", 3.5, 3.5, "1.mp4"),
        ("my_set/1", 75.0, 4.0, "2"),
    ]
    (held_out,) = config.eval
    (sample,) = load_eval_examples(held_out).examples
    assert (sample.id, sample.target) == ("held_out/9.mp4", 2.5)
    with pytest.raises(BadLinesError, match="does not exist"):
        load_eval_examples(held_out, require_files=True)
    with pytest.raises(ValueError, match="has no train sources"):
        load_train_examples(dataclasses.replace(config, train=()))


def test_each_source_has_its_own_root(tmp_path: Path, root: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.mp4").touch()
    write_jsonl(tmp_path, (0, "1.mp4", 3.5), name="1.jsonl")
    write_jsonl(tmp_path, (1, "1.mp4", 75), name="2.jsonl")
    config = load_dataset_config(
        write_yaml(tmp_path, TRAIN_TEXT),
        variables={"DEMO": str(tmp_path)},
        overrides={"train.1.video_root": str(tmp_path / "other")},
    )
    samples = load_train_examples(config).examples
    assert [sample.media[0].path.parent.name for sample in samples] == ["videos", "other"]


def test_bad_lines_of_all_sources_at_once(tmp_path: Path, root: Path) -> None:
    first = write_jsonl(tmp_path, (0, "1.mp4", 3.5), (1, "9.mp4", 3.5), name="1.jsonl")
    second = write_jsonl(tmp_path, (0, "2.mp4", 75), (2, "2.mp4", 101), name="2.jsonl")
    config = load_dataset_config(
        write_yaml(tmp_path, TRAIN_TEXT), variables={"DEMO": str(tmp_path)}
    )
    with pytest.raises(BadLinesError) as caught:
        load_train_examples(config)
    bad_lines = caught.value.bad_lines
    assert [(bad.file, bad.line) for bad in bad_lines] == [(first, 2), (second, 1), (second, 2)]
    assert f"first used at {first}:1" in bad_lines[1].reason  # ids differ across sources
    kept = load_train_examples(config, skip_bad_lines=True)
    assert [sample.id for sample in kept.examples] == ["my_set/0"]
    assert kept.bad_lines == bad_lines


def test_another_number_of_videos_is_a_warning(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meta = METAS / "LIVE-VQC_total_ds_score.json"
    eval_set = EvalSet(name="n", key="n", meta=meta, video_root=root, mos_scale=HUNDRED)
    for num_videos, warned in ((None, False), (12, False), (585, True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_eval_examples(dataclasses.replace(eval_set, num_videos=num_videos))
        assert ("holds 12 usable videos, expected 585" in caplog.text) == warned


# --- records

QUESTION = {"video": "a.mp4", "question": "Which?", "options": ["blur", "noise"], "answer": "B"}


def records_yaml(folder: Path, questions: list[dict], **changes: object) -> Path:
    """A YAML of a record source and a record set over one file and the media a.mp4 and b.mp4."""
    (folder / "media").mkdir(exist_ok=True)
    for name in ("a.mp4", "b.mp4"):
        (folder / "media" / name).touch()
    lines = [json.dumps(question) for question in questions]
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n")
    entry = {"records": ["own.jsonl"], "media_root": "media", **changes}
    config = {"name": "own", "train": [entry], "eval": [{"name": "Own", "key": "own_q", **entry}]}
    path = folder / "own.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def test_sources_and_sets_of_records(tmp_path: Path) -> None:
    records = [QUESTION, {"video": "b.mp4", "question": "Rate it.", "answer": 50}]
    scale = {"min": 0, "max": 100, "mapping": "linear"}
    config = load_dataset_config(records_yaml(tmp_path, records, mos_scale=scale))
    (source,), (held_out,) = config.train, config.eval
    assert isinstance(source, RecordSource) and isinstance(held_out, RecordSet)
    assert source.records == (tmp_path / "own.jsonl",)
    choice, score = load_train_examples(config).examples
    assert (choice.task, choice.id, score.task) == ("choice", "own/own.jsonl:1", "score")
    assert score.target == 3.0  # 1 + 4 · 50 / 100
    assert [e.dataset for e in load_eval_examples(held_out).examples] == ["own_q", "own_q"]


def test_records_beside_mos_in_one_data_set(tmp_path: Path, root: Path) -> None:
    """Bad lines of both forms are told together; ids must differ across sources."""
    path = records_yaml(tmp_path, [{**QUESTION, "answer": "C"}, {**QUESTION, "video": "no.mp4"}])
    config = load_dataset_config(path)
    mos = tmp_path / "mos.jsonl"
    mos.write_text("{}\n")
    mixed = dataclasses.replace(
        config,
        train=(
            TrainSource(jsonl=mos, video_root=root, mos_scale=HUNDRED),
            *config.train,
            *config.train,
        ),
    )
    with pytest.raises(BadLinesError) as caught:
        load_train_examples(mixed)
    reasons = [bad.reason for bad in caught.value.bad_lines]
    assert len(reasons) == 5 and "missing field" in reasons[0] and "beyond" in reasons[1]
    assert "does not exist" in reasons[2] and "duplicate id" in reasons[3]


def test_training_needs_answers_and_an_evaluation_no_files(tmp_path: Path) -> None:
    asked = {name: value for name, value in QUESTION.items() if name != "answer"}
    config = load_dataset_config(records_yaml(tmp_path, [{**asked, "video": "no.mp4"}, asked]))
    with pytest.raises(BadLinesError, match=r"does not exist(.|\n)*has no answer"):
        load_train_examples(config)
    (held_out,) = config.eval
    assert len(load_eval_examples(held_out).examples) == 2
    with pytest.raises(BadLinesError, match="does not exist"):
        load_eval_examples(held_out, require_files=True)


def test_a_yaml_of_one_record_set(tmp_path: Path) -> None:
    records_yaml(tmp_path, [QUESTION])
    path = tmp_path / "set.yaml"
    path.write_text("{name: Own, key: own, records: [own.jsonl], media_root: media, task: choice}")
    (held_out,) = load_dataset_config(path, overrides={"media_root": str(tmp_path)}).eval
    assert isinstance(held_out, RecordSet)
    assert (held_out.task, held_out.media_root) == ("choice", tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"records": []}, r"train\.0: records is empty, expected at least one file"),
        ({"records": "own.jsonl"}, r"train\.0\.records is 'own\.jsonl', expected a list"),
        ({"task": "rank"}, r"train\.0: task 'rank': expected one of score, level, choice, dist"),
        ({"media_rot": "x"}, r"unknown key 'train\.0\.media_rot'; did you mean 'media_root'\?"),
        ({"media_root": 3}, r"train\.0\.media_root is 3, expected"),
        ({"content_pattern": "("}, r"content_pattern '\(' is not a regular expression"),
        ({"mos_scale": {"min": 0}}, r"train\.0\.mos_scale\.max is missing"),
        ({"mos_scale": {"low": 0}}, r"unknown key 'train\.0\.mos_scale\.low'; the keys are min"),
        ({"key": "x"}, r"unknown key 'train\.0\.key'; the keys are records, media_root, task"),
    ],
)
def test_bad_entries_of_records(tmp_path: Path, changes: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load_dataset_config(records_yaml(tmp_path, [QUESTION], **changes))


# --- without YAML


def test_known_meta_without_yaml(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THINKER_DATA", raising=False)
    meta = METAS / "CGVDS_total_score.json"
    known = eval_set_from_files(meta, root)
    assert (known.key, known.meta, known.video_root) == ("cgvds", meta, root)
    assert known.mos_scale == MosScale(min=1, max=7, mapping="linear")
    assert load_eval_examples(known).examples[0].content == "Overwatch"
    assert eval_set_from_files(meta, root, HUNDRED).mos_scale == HUNDRED


def test_a_scale_is_taken_as_given_and_none_for_an_unknown_meta(tmp_path: Path, root: Path) -> None:
    meta = tmp_path / "My-Own.json"
    own = eval_set_from_files(meta, root, parse_mos_scale("0:10:linear"))
    assert own.mos_scale is not None
    assert (own.name, own.key, own.mos_scale.max) == ("My-Own", "my_own", 10)
    assert eval_set_from_files(meta, root).mos_scale is None


def test_labels_without_a_scale_have_no_target(tmp_path: Path, root: Path) -> None:
    """Of evaluation sets and of scores among records; a level needs the scale all the same."""
    meta = tmp_path / "own.json"
    annotation = {"image_id": "a/1.mp4", "ann_type": "score", "score": 700}
    meta.write_text(json.dumps({"annotations": [annotation | {"content": "mine"}]}))
    (example,) = load_eval_examples(eval_set_from_files(meta, root)).examples
    assert (example.mos, example.target, example.content) == (700.0, None, "mine")
    assert parsed_reference(example) is None
    records = tmp_path / "records.jsonl"
    record = {"video": "1.mp4", "question": "Rate it.", "answer": 700, "task": "score"}
    records.write_text(json.dumps(record) + "\n")
    (asked,) = read_records([records], root).examples
    assert (asked.mos, asked.target, parsed_reference(asked)) == (700.0, None, None)
    with pytest.raises(ValueError, match="needs the scale it is on"):
        read_records([records], root, require_answers=True)  # to be trained on
    records.write_text(json.dumps(record | {"task": "level"}) + "\n")
    with pytest.raises(ValueError, match="needs the scale it is on"):
        read_records([records], root)


def test_scale_on_a_command_line() -> None:
    assert parse_mos_scale("0:100:linear") == MosScale(min=0.0, max=100.0, mapping="linear")
    for text in ("0:100", "0:100:linear:x", "a:100:linear", "0:nan:linear", "5:1:linear", ""):
        with pytest.raises(ValueError, match=f"MOS scale '{text}'"):
            parse_mos_scale(text)


def test_the_readme_shows_every_key() -> None:
    text = (REPO / "data_configs" / "README.md").read_text()
    for cls in (DatasetConfig, TrainSource, RecordSource, EvalSet, RecordSet, MosScale):
        for field in dataclasses.fields(cls):
            assert field.name in text
    assert data.EVAL_CONFIGS == REPO / "data_configs" / "eval"
