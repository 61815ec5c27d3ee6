"""What of lmms-eval's side can be tested without it, with stand-ins for the two classes of its that
we use. `run_scripts/test_peers.sh` runs lmms-eval itself."""

import importlib
import json
import math
import runpy
import sys
import tomllib
import types
from dataclasses import dataclass, field

import pytest
import yaml
from PIL import Image

from tests.helpers.bench_files import VIDEO_FILE, write_media
from tests.helpers.places import REPO
from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.eval.summary import load_summary
from thinker.peers.lmms_eval import TASKS_FOLDER, answers, manifest
from thinker.peers.lmms_eval.messages import turns_of
from thinker.rollout.base import Completion
from thinker.score.prediction import Prediction

NAMES = ("a.mp4", "b.mp4", "c.mp4", "gone.mp4", "words.mp4")
TEXTS = ("<think>Crisp.</think> Yes", "B) Noise", "The answer is B.", "Neither.")


class Model:
    """Stands in for lmms-eval's `lmms`."""

    def __init__(self):
        self.task_dict = {}


@dataclass
class Manifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None


@dataclass
class Request:
    """An `Instance` of lmms-eval."""

    args: tuple


@dataclass
class Documents:
    """A data set of lmms-eval's, of which we use two names."""

    config_name: str
    rows: list = field(default_factory=list)

    @classmethod
    def from_list(cls, rows):
        return cls("", rows)


class _Loader(yaml.SafeLoader):
    """Reads what a YAML names by `!function` as lmms-eval does."""


def _named(loader, node):
    module, _, name = loader.construct_scalar(node).rpartition(".")
    return getattr(importlib.import_module(module), name)


_Loader.add_constructor("!function", _named)


def load_task(path):
    config = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    included = config.pop("include", None)
    return ({} if included is None else load_task(path.parent / included)) | config


@pytest.fixture
def model_class(monkeypatch):
    """Our model on the stand-ins, as the entry point of pyproject.toml leads to it."""
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    stand_ins = {"api.model": {"lmms": Model}, "models.registry_v2": {"ModelManifest": Manifest}}
    for name, of in stand_ins.items():
        module = types.ModuleType(f"lmms_eval.{name}")
        vars(module).update(of)
        monkeypatch.setitem(sys.modules, f"lmms_eval.{name}", module)
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["lmms_eval.models"]["thinker"].partition(":")
    made = getattr(importlib.import_module(module), name)()
    assert (made.model_id, made.chat_class_path) == ("thinker", manifest.MODEL)
    module, _, name = made.chat_class_path.rpartition(".")
    monkeypatch.delitem(sys.modules, module, raising=False)
    found = getattr(importlib.import_module(module), name)
    yield found
    del sys.modules[module]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """$THINKER_DATA with a part of KoNViD-1k and the miniature Q-Bench-Video."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("meta", "videos/konvid_1k", "videos/q_bench_video"):
        (folder / name).mkdir(parents=True)
    videos = folder / "videos" / "konvid_1k"
    for number, name in enumerate(NAMES[:3]):
        write_video(videos / name, num_frames=10 + 5 * number)
    (videos / "words.mp4").write_text("no video")
    annotations = [
        {"image_id": name, "ann_type": "score", "score": str(20 + 10 * number)}
        for number, name in enumerate(NAMES)
    ]
    meta = folder / "meta" / "Konvid-1k_total_ds_score.json"
    meta.write_text(json.dumps({"annotations": annotations}))
    (folder / "meta" / "Q_Bench_Video_dev.json").write_bytes(VIDEO_FILE.read_bytes())
    write_media(folder / "videos" / "q_bench_video")
    return folder


@pytest.fixture
def in_data(data, monkeypatch):
    monkeypatch.setenv("THINKER_DATA", str(data))
    answers.loaded_set.cache_clear()
    yield data
    answers.loaded_set.cache_clear()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    small_policy("internvl3").save(folder)
    return folder


def figures(model, key):
    """What lmms-eval computes of a task: documents, requests, texts, figures."""
    (path,) = TASKS_FOLDER.glob(f"{key}.yaml")
    task = load_task(path)
    documents = task["process_docs"](Documents(task["dataset_name"])).rows
    model.task_dict[task["task"]] = {"test": documents}
    requests = [
        Request(("", None, task["generation_kwargs"], place, task["task"], "test"))
        for place in range(len(documents))
    ]
    texts = model.generate_until(requests)
    items = [
        task["process_results"](document, [text.strip()])
        for document, text in zip(documents, texts, strict=True)
    ]
    return {
        one["metric"]: one["aggregation"]([item[one["metric"]] for item in items])
        for one in task["metric_list"]
    }


# the tasks


def test_every_set_has_its_task_and_every_task_its_functions():
    tasks = {path.stem: load_task(path) for path in TASKS_FOLDER.glob("*.yaml")}
    keys = {path.stem for path in (REPO / "data_configs" / "eval").glob("*.yaml")}
    assert len(keys) == 10 and tasks.keys() == keys | {answers.Q_BENCH_VIDEO}
    document = {"thinker_set": "", "place": 0}
    for key, task in tasks.items():
        assert (task["task"], task["dataset_name"]) == (f"thinker_{key}", key)
        assert task.get("tag") == ("thinker_mos" if key in keys else None)
        metrics = [one["metric"] for one in task["metric_list"]]
        assert list(task["process_results"](document, ["text"])) == metrics
        assert all(callable(one["aggregation"]) for one in task["metric_list"])
        (placeholder,) = task["dataset_kwargs"]["data_files"].values()
        assert placeholder == str(TASKS_FOLDER / "placeholder.jsonl")


def test_the_folder_of_tasks_is_printed(capsys):
    runpy.run_module("thinker.peers", run_name="__main__")
    assert capsys.readouterr().out == f"{TASKS_FOLDER}\n"


def test_documents_say_what_any_model_needs(in_data):
    scores = answers.documents(Documents("konvid_1k")).rows
    videos = in_data.resolve() / "videos"
    assert [one["answer"] for one in scores] == ["20.0", "30.0", "40.0", "50.0", "60.0"]
    assert answers.doc_to_visual(scores[3]) == [str(videos / "konvid_1k" / "gone.mp4")]
    assert "between 1 and 5" in answers.doc_to_text(scores[0])
    choices = answers.documents(Documents(answers.Q_BENCH_VIDEO)).rows
    assert [answers.doc_to_target(one) for one in choices] == ["A", "B", "B", "B", "B"]
    shown = answers.doc_to_visual(choices[3])
    assert shown == [str(videos / "q_bench_video" / name) for name in ("sharp.mp4", "dark.mp4")]
    text = answers.doc_to_text(choices[1])
    assert text.startswith("Which distortion is the strongest?\nA. Blur\nB. Noise\n")


def test_data_that_are_not_there_are_told(monkeypatch):
    answers.loaded_set.cache_clear()
    monkeypatch.delenv("THINKER_DATA", raising=False)
    for key in ("konvid_1k", answers.Q_BENCH_VIDEO):
        with pytest.raises(ValueError, match="THINKER_DATA"):
            answers.loaded_set(key)
    with pytest.raises(ValueError, match="set 'koniq': expected one of cgvds, konvid_1k"):
        answers.loaded_set("koniq")


# our policy


@pytest.mark.parametrize("mode", ["level", "expected"])
def test_scores_are_those_of_thinker_eval(model_class, in_data, saved, tmp_path, mode):
    model = model_class(str(saved), mode=mode, num_workers=0, max_new_tokens=8)
    found = figures(model, "konvid_1k")
    config = REPO / "data_configs" / "eval" / "konvid_1k.yaml"
    command = ["eval", "--config", config, "--model", saved, "--mode", mode, "--num-workers", "0"]
    command += ["--max-new-tokens", "8", "--output-dir", tmp_path]
    assert main([str(part) for part in command]) == 0
    one = load_summary(tmp_path)["sets"]["konvid_1k"]
    scored, expected = one["report"]["n_scored"], dict.fromkeys(("srcc", "plcc"), math.nan)
    if mode == "level":
        assert one["statuses"] == {"ok": 3, "missing": 1, "not_a_video": 1}
        expected = {name: one["report"][name]["value"] for name in expected}
    assert found == pytest.approx(expected | {"answered": scored / 5}, rel=0, nan_ok=True)


class ByLength(ScriptedTexts):
    """Writes each question a text of its own, whatever it is answered together with."""

    def generate(self, requests, num_generations, sampling, seed):
        texts = [self.texts[len(request.token_ids) % len(self.texts)] for request in requests]
        return [[Completion(token_ids=self.tokenizer(text)["input_ids"])] for text in texts]


def test_choices_are_those_of_thinker_bench(model_class, in_data, saved, tmp_path, monkeypatch):
    """A question whose video is missing included."""

    def scripted(policy, backend, **settings):
        return ByLength(policy, TEXTS)

    monkeypatch.setattr("thinker.score.scorer.scoring_rollout", scripted)
    found = figures(model_class(str(saved), num_workers=0), answers.Q_BENCH_VIDEO)
    command = ["bench", "q-bench-video", "--data", in_data / "meta" / "Q_Bench_Video_dev.json"]
    command += ["--video-root", in_data / "videos" / "q_bench_video", "--num-workers", "0"]
    command += ["--model", saved, "--output-dir", tmp_path]
    assert main([str(part) for part in command]) == 0
    one = load_summary(tmp_path)["sets"]["q_bench_video_dev_choice"]
    assert one["statuses"]["missing"] == 1 and one["report"]["n_answered"] == 4
    assert found["accuracy"] == one["report"]["figures"]["accuracy"]["value"]
    assert found["answered"] == one["report"]["n_valid"] / 5
    tables = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["tables"]
    (everything,) = [line for line in tables[0]["lines"] if line[0] == "all"]
    rules = ("accuracy", "accuracy_official", "accuracy_vlmevalkit")
    shares = [found[name] for name in rules]
    assert [f"{100 * share:.2f}" for share in shares] == [
        cell.split()[0] for cell in everything[2:]
    ]
    assert len(set(shares)) > 1  # the rules differ on these texts


# other tasks


def test_any_task_is_asked(model_class, saved, data):
    model = model_class(str(saved), mode="level", num_workers=0, max_new_tokens=4)
    model.scorer._given_rollout = ScriptedTexts(
        model.scorer.policy, ["<think>It is sharp.</think><answer>Yes.</answer>"]
    )
    videos = data / "videos" / "konvid_1k"
    shown = [
        [{"type": "video", "url": str(videos / "a.mp4")}, {"type": "text", "text": "Sharp?"}],
        [{"type": "image", "url": Image.new("RGB", (64, 48))}, {"type": "text", "text": "Sharp?"}],
        [{"type": "video", "url": str(videos / "gone.mp4")}, {"type": "text", "text": "Sharp?"}],
        [{"type": "audio", "url": {}}],
    ]
    model.task_dict["theirs"] = {"test": [{"shown": one} for one in shown]}

    def messages(document):
        return [{"role": "user", "content": document["shown"]}]

    requests = [Request(("Sharp?", messages, {}, n, "theirs", "test")) for n in range(4)]
    assert model.generate_until(requests[:3]) == ["Yes.", "Yes.", "[no answer: missing]"]
    with pytest.raises(ValueError, match="document 3 of theirs: the content 'audio'"):
        model.generate_until(requests)
    with pytest.raises(NotImplementedError, match="generate_until, not loglikelihood"):
        model.loglikelihood(requests)


def test_places_that_a_text_marks_itself_are_left_out():
    content = [
        {"type": "text", "text": "<image>\nIs <image 1> "},
        {"type": "image", "url": "a.png"},
    ]
    turns = turns_of([{"role": "system", "content": []}, {"role": "user", "content": content}])
    assert [turn.text for turn in turns] == ["", "Is <image 1> <image>\n"]


# texts


@pytest.mark.parametrize("score", [1.0, 5.0, 3.0000000000000004, 10 / 3])
def test_a_score_survives_the_way_through_text(in_data, score):
    example = answers.loaded_set("konvid_1k").examples[0]
    row = Prediction(
        path=None, score=score, answer=score, status="ok", mode="sample", reasoning="It is blur."
    )
    assert answers.read(example, answers.said(row)).score == score


def test_a_mean_that_rounds_beyond_the_scale_stays_on_it(in_data):
    example = answers.loaded_set("konvid_1k").examples[0]
    row = Prediction(path=None, score=5.0000002, answer=5.0000002, status="ok", mode="level")
    assert answers.read(example, answers.said(row)).score == 5.0


def test_only_our_own_statuses_stand_for_no_answer(in_data):
    example = answers.loaded_set("konvid_1k").examples[0]
    found = [answers.read(example, f"[no answer: {name}]").status for name in ("missing", "idle")]
    assert found == ["missing", "invalid_answer"]
