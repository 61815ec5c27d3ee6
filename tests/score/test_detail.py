"""Boxes and descriptions of pictures and of frames of videos."""

import json

import pytest
from PIL import Image

from tests.helpers.locating_files import pixels, write_files
from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from thinker.score.detail import description, grounding
from thinker.score.scorer import QualityScorer
from thinker.tasks.boxes import DETECTION, EXPERT
from thinker.tasks.describe import BRIEF, DESCRIBER, ONE_KIND

NOISE = "Noise: severe noise (100,250),(500,1000)."
FULL = (
    "A wall.\nThere is one severe noise (100,250),(500,1000).\n"
    "The key distortion is severe noise (100,250),(500,1000).\nThus, the quality of the image is "
    "poor.\n"
)


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = write_files(tmp_path_factory.mktemp("detail"))
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned: 48 wide and 64 high as displayed
    Image.fromarray(pixels()).save(folder / "turned.jpg", exif=exif)
    return folder


class Noted(ScriptedTexts):
    """Keeps what is asked."""

    def generate(self, requests, *args, **kwargs):
        self.asked = [self.tokenizer.decode(request.token_ids) for request in requests]
        return super().generate(requests, *args, **kwargs)


def scorer(policy, text=NOISE):
    return QualityScorer(policy, Noted(policy, [text]))


def test_a_picture_is_asked_for_its_distortions(policy, files):
    judge = scorer(policy)
    found = judge.ground(files / "a.png")
    (asked,) = judge.rollout.asked
    assert DETECTION in asked and EXPERT in asked
    (box,) = found.prediction.boxes
    assert (box.name, box.severity, box.box) == ("noise", "severe", (100, 250, 500, 1000))
    assert 0 < box.confidence <= 1
    # 64 x 48 pixels: 6.4, 12, 32, 48
    assert found.boxes_px == ((6, 12, 32, 48),)
    row = json.loads(json.dumps(found.to_row()))
    assert row["boxes"][0]["box_px"] == [6, 12, 32, 48] and (row["width"], row["height"]) == (
        64,
        48,
    )
    assert row["at_seconds"] is None and row["frame"] is None and "parts" not in row
    assert found.drawn().size == (512, 384)


def test_boxes_follow_the_picture_as_displayed(policy, files):
    """Turned by its EXIF orientation: 48 wide, 64 high, so .1 · 48, .25 · 64, .5 · 48, 64."""
    found = scorer(policy).ground(files / "turned.jpg")
    assert found.picture_HWC.shape == (64, 48, 3)
    assert found.boxes_px == ((5, 16, 24, 64),)


def test_a_question_of_ones_own(policy, files):
    judge = scorer(policy)
    judge.ground(files / "a.png", question="Where is noise?")
    assert "Where is noise?" in judge.rollout.asked[0] and DETECTION not in judge.rollout.asked[0]
    with pytest.raises(ValueError, match="question is empty"):
        judge.ground(files / "a.png", question=" ")


def test_frames_of_a_video_are_rows_of_their_own(policy, files):
    found = scorer(policy).ground(files / "a.mp4", at=(1.55, 0.0, 7.0))
    assert [(one.seconds, one.frame) for one in found] == [(1.5, 15), (0.0, 0), (7.0, None)]
    assert [one.prediction.status for one in found] == ["ok", "ok", "empty_range"]
    assert found[0].prediction.frame_indices == (15,) * len(found[0].prediction.frame_indices)
    assert found[2].prediction.task == "boxes" and found[2].boxes_px == ()
    assert found[0].to_row()["at_seconds"] == 1.5
    with pytest.raises(ValueError, match="nothing to draw on"):
        found[2].drawn()
    assert len(scorer(policy).ground(files / "a.mp4")) == 4


def test_a_frame_is_answered_as_a_picture_of_the_same_pixels(policy, files, tmp_path):
    judge = scorer(policy)
    (frame,) = judge.ground(files / "a.mp4", at=[1.0])
    asked = judge.rollout.asked
    Image.fromarray(frame.picture_HWC).save(tmp_path / "frame.png")
    picture = judge.ground(tmp_path / "frame.png")
    assert judge.rollout.asked == asked
    assert picture.prediction.boxes == frame.prediction.boxes  # their confidences, too


def test_what_is_asked_for_must_make_sense(policy, files):
    judge = scorer(policy)
    for wrong, words in (
        ({"at": [1.0], "frames": 2}, "not by both"), ({"at": []}, "no time"),
        ({"at": [-1.0]}, "0 or more"), ({"frames": 0}, "at least 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            judge.ground(files / "a.mp4", **wrong)
    with pytest.raises(ValueError, match="is an image"):
        judge.ground(files / "a.png", at=[1.0])
    with pytest.raises(ValueError, match="is a video"):
        judge.describe(files / "a.mp4")
    with pytest.raises(ValueError, match="leave out one"):
        description(brief=True, distortion="noise")
    with pytest.raises(ValueError, match="no name"):
        description(distortion=" ")


@pytest.mark.parametrize(("name", "status"), [("no.png", "missing"), ("cut.png", "truncated")])
def test_a_picture_that_cannot_be_read_is_a_row(policy, files, name, status):
    for found in (scorer(policy).ground(files / name), scorer(policy).describe(files / name)):
        assert (found.prediction.status, found.picture_HWC) == (status, None)
        assert json.loads(json.dumps(found.to_row()))["boxes"] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Noise: (1,2),(3000,4)", "outside"), ("Noise: (-5,2),(30,40)", "outside"),
        ("Noise: (30,40),(1,2)", "swapped"), ("Noise: (nan,2),(30,40)", "not_finite"),
        ("Cat: (1,2),(30,40)", "unknown_class"), ("(1,2),(30,40)", "no_class"),
        ("Noise: (1,2),(30,", "cut_off"), ("It is grainy.", "no_box"), ("", "no_answer"),
    ],
)  # fmt: skip
def test_boxes_that_cannot_be_used(policy, files, text, reason):
    """Alone the row has no answer, and says why; beside one that can be used it has a note."""
    row = scorer(policy, text).ground(files / "a.png").prediction
    assert (row.status, row.boxes) == ("invalid_answer", ())
    assert row.error.startswith(f"{reason}: ")
    if reason in ("no_box", "no_answer"):
        return
    row = scorer(policy, f"{NOISE}\n{text}").ground(files / "a.png").prediction
    assert row.status == "ok" and len(row.boxes) == 1
    assert row.note.startswith(f"{reason}: ")


def test_nothing_is_there(policy, files):
    found = scorer(policy, "There is no distortion in the image.").ground(files / "a.png")
    assert (found.prediction.status, found.prediction.boxes, found.prediction.note) == (
        "ok", (), None
    )  # fmt: skip


def test_a_description_has_parts(policy, files):
    judge = scorer(policy, FULL)
    found = judge.describe(files / "a.png")
    assert DESCRIBER in judge.rollout.asked[0]
    assert found.prediction.note is None and found.parts.level == "poor"
    assert len(found.prediction.boxes) == 2 and found.boxes_px[0] == (6, 12, 32, 48)
    row = json.loads(json.dumps(found.to_row()))
    assert row["parts"]["content"] == "A wall." and row["parts"]["missing"] == []
    assert row["parts"]["key"]["boxes"][0]["name"] == "noise"


def test_a_description_with_half_of_its_parts_says_which_are_missing(policy, files):
    found = scorer(policy, FULL.partition("The key")[0]).describe(files / "a.png")
    assert found.prediction.status == "ok"
    assert found.prediction.note == "missing_key; missing_level"
    assert found.to_row()["parts"]["missing"] == ("missing_key", "missing_level")


def test_brief_descriptions_and_those_of_one_kind(policy, files):
    judge = scorer(policy, "There is no noise in this image.")
    for wish, system in (({"brief": True}, BRIEF), ({"distortion": "noise"}, ONE_KIND)):
        found = judge.describe(files / "a.png", **wish)
        assert system in judge.rollout.asked[0]
        assert found.parts is None and found.prediction.note is None
    assert "Analyse the noise of this image." in judge.rollout.asked[0]


def test_wishes_are_those_of_training():
    assert grounding().question == DETECTION and description().system == DESCRIBER
