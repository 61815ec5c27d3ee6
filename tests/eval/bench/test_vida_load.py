"""ViDA's test release: what is asked of which file, and what is said of bad records."""

import json
import shutil

import pytest

from tests.helpers.vida_release import edit, load, make_release
from thinker.data.bad_lines import BadLinesError
from thinker.eval.bench.vida.load import CHOICE_WISH
from thinker.eval.bench.vida.marks import published_form, said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("vida"))


@pytest.fixture
def release(made, tmp_path):
    """A copy that may be changed; its pictures lie beside it."""
    shutil.copytree(made, tmp_path / "bench")
    (tmp_path / "pictures").symlink_to(made.parent / "pictures")
    return tmp_path / "bench"


def asked(data, part, number=0):
    example = data.sets[part].examples[number]
    return [turn.role for turn in example.turns], example.turns[-1].text


def test_every_file_is_asked_in_the_published_words(made):
    data = load(made)
    counts = {part: len(one.examples) for part, one in data.sets.items()}
    assert counts["detection"] == counts["description"] == counts["score"] == 8
    assert counts["region"] == len(json.loads((made / "reg-p_bench.json").read_text()))
    assert list(counts) == [
        "detection", "region", "referring", "choice", "description", "score"
    ]  # fmt: skip
    assert [one.task for one in data.sets.values()] == [
        "boxes", "boxes", "boxes", "choice", "describe", "level"
    ]  # fmt: skip
    roles, text = asked(data, "region")
    assert roles == ["system", "user"] and text.startswith("What distortion affects this region <|")
    roles, text = asked(data, "choice")
    assert roles == ["user"] and "\nB. " in text
    assert text.splitlines()[-1] == CHOICE_WISH and data.sets["choice"].examples[0].options
    assert data.sets["score"].examples[0].mos == data.truth.pictures["eval_0000.png"].mos
    assert dict(data.sets["choice"].examples[0].tags)["concern"] == "position"


def test_a_policy_can_be_asked_as_the_short_records_teach_it(made):
    data = load(made, prompt="own")
    assert "<|" not in asked(data, "region")[1]
    roles, text = asked(data, "choice")
    assert roles == ["system", "user"] and CHOICE_WISH not in text and "\nA. " in text
    with pytest.raises(ValueError, match="prompt is 'vqa2', expected one of official, own"):
        load(made, prompt="vqa2")
    assert list(load(made, only_scores=True).sets) == ["score"]


def test_what_has_no_truth_is_asked_without_references(release):
    for name in ("bench_metadata.json", "reg-p_bench.json"):
        (release / name).unlink()
    edit(release / "mcq.json", lambda every: [{**one, "correct_ans": None} for one in every])
    data = load(release)
    for part in ("detection", "region", "choice", "description", "score"):
        assert {example.reference for example in data.sets[part].examples} == {None}, part
    for name in ("mcq.json", "ref-g.json", "reg-p_ques.json"):
        (release / name).unlink()
    assert list(load(release).sets) == ["detection", "description", "score"]
    (release / "benchmark.json").unlink()
    with pytest.raises(ValueError, match="holds nothing to ask; expected one of benchmark"):
        load(release)


def test_every_bad_record_is_named_once_with_its_place(release):
    def spoil(records):
        records[1]["width"] = 0
        records[3]["id"] = records[2]["id"]
        return records

    edit(release / "benchmark.json", spoil)
    edit(release / "mcq.json", lambda every: [every[0] | {"candidates": "one"}, *every[1:]])
    edit(release / "bench_metadata.json", lambda every: [every[0] | {"mos": 7}, *every[1:]])
    edit(release / "reg-p_bench.json", lambda every: every[1:])
    with pytest.raises(BadLinesError) as caught:
        load(release)
    bad = [(one.file.name, one.reason) for one in caught.value.bad_lines]
    assert len(bad) == len(set(bad))
    text = str(caught.value)
    for reason in (
        "[1]: width and height are [0, 48], expected pixels",
        "bench_metadata.json:1: mos is 7, expected 1 to 5",
        "bench_metadata.json says nothing of picture 'eval_0000.png'",
        "duplicate id '2'",
        "reg-p_bench.json says nothing of region 0 of its image",
        "candidates is 'one', expected a list of at least two",
    ):
        assert reason in text, text
    assert load(release, skip_bad_lines=True).num_bad == len(bad)


# marks


REF, BOX = "<|object_ref_start|>{}<|object_ref_end|>", "<|box_start|>({}),({})<|box_end|>"


def test_answers_without_marks_get_them_and_others_stay():
    marked = "Noise:\n" + REF.format("Severe noise") + BOX.format("1,2", "3,4")
    assert published_form(marked, "boxes") == marked
    two = "Noise: severe noise (1,2),(3,4), minor noise (5,6),(7,8)\nOverexposure: (1,2),(3,4)"
    assert published_form(two, "boxes") == (
        "Noise: " + REF.format("Severe noise") + BOX.format("1,2", "3,4")
        + REF.format("Minor noise") + BOX.format("5,6", "7,8")
        + "\nOverexposure: " + REF.format("Overexposure") + BOX.format("1,2", "3,4") + "."
    )  # fmt: skip
    assert published_form("No distortion affects this region.", "boxes") == (
        "No distortion affects this region."
    )
    told = "A.\nThere is one <ref>severe motion blur</ref><box>[[1, 2, 3, 4]]</box> here.\n"
    assert published_form(told, "describe") == (
        "A.\nThere is one " + REF.format("severe motion blur") + BOX.format("1,2", "3,4")
        + " here.\n"
    )  # fmt: skip


def test_a_completion_without_tags_counts_as_a_whole():
    assert said("A.\n<|im_end|>") == "A.\n"
    assert said("<think>Sharp.</think> B") == "B"
    assert said("<think>It never ends") == "<think>It never ends"
