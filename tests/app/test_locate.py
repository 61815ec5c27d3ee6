"""Looking closely in the app: a session without a browser, then the tab in one."""

import pytest
from PIL import Image

from tests.helpers.browser import browser, missing
from tests.helpers.locating_files import write_files
from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import read_frame_id
from thinker.app import shown
from thinker.app.examples import LOCAL, Examples
from thinker.app.session import Assistant
from thinker.score.scorer import QualityScorer
from thinker.video.read_ahead import Reading

NOISE = "Noise: severe noise (0,0),(300,300) (5,5),(2,2)."


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


def session(policy, folder, says=None, **settings):
    rollout = None if says is None else ScriptedTexts(policy, [says])
    scorer = QualityScorer(policy, rollout, max_new_tokens=12, **settings)
    return Assistant(scorer, folder, reading=Reading(num_workers=0)).session("u")


def test_boxes_of_a_picture_and_of_a_frame(policy, files, tmp_path):
    user = session(policy, tmp_path, NOISE)
    with pytest.raises(ValueError, match="upload a video or image first"):
        user.locate("locate", 0.0)
    user.take("locate", files / "a.png")
    one = user.locate("locate", 0.5)  # a picture has no times
    assert (one.seconds, str(one.prediction.path)) == (None, "a.png")
    html = shown.located(one)
    assert "data:image/jpeg;base64," in html and "severe noise · upper left · confidence" in html
    assert "Left out: swapped" in html
    user.take("locate", files / "a.mp4")
    one = user.locate("locate", 1.55)
    assert (one.seconds, one.frame, read_frame_id(one.picture_HWC)) == (1.5, 15, 15)
    assert "1.50 s · frame 15" in shown.located(one)
    with pytest.raises(ValueError, match=r"a\.mp4: empty_range: asked for 9 s") as caught:
        user.locate("locate", 9.0)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ValueError, match="asked for 9 s"):
        user.describe("locate", 9.0)


def test_what_is_no_box_is_told(policy, files, tmp_path):
    user = session(policy, tmp_path, "<b>grainy</b>")
    user.take("locate", files / "a.png")
    html = shown.located(user.locate("locate", None))
    assert "invalid answer: no_box" in html and "<b>grainy" not in html
    user = session(policy, tmp_path, "There is no distortion in the image.")
    user.take("locate", files / "a.png")
    assert "finds no distortion" in shown.located(user.locate("locate", None))


def test_a_description_is_written_piece_by_piece(policy, files, tmp_path):
    user = session(policy, tmp_path)
    user.take("locate", files / "a.mp4")
    *pieces, said = user.describe("locate", 1.0)
    assert len(pieces) > 2 and said.row.completion == said.text
    scorer = QualityScorer(policy, max_new_tokens=12)
    (frame,) = scorer.ground(files / "a.mp4", at=[1.0])
    Image.fromarray(frame.picture_HWC).save(tmp_path / "frame.png")
    assert said.text == scorer.describe(tmp_path / "frame.png").prediction.completion
    *_, kind = user.describe("locate", 1.0, "noise")
    picture = scorer.describe(tmp_path / "frame.png", distortion="noise")
    assert kind.text == picture.prediction.completion
    html = shown.description("<noise>", "<b>", ("missing_key",))
    assert "&lt;b&gt;" in html and "&lt;noise&gt;" in html and "are missing: key" in html


def test_the_example_has_distortions_in_places(policy, tmp_path):
    examples = Examples(tmp_path, QualityScorer(policy).clip_spec)
    path = examples.path(LOCAL[0])
    with Image.open(path) as picture:
        assert picture.width == picture.height and path.suffix == ".png"


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_tab(policy, files):
    from thinker.app.serve import AppServer

    scorer = QualityScorer(policy, ScriptedTexts(policy, [NOISE]), max_new_tokens=12)
    with AppServer(scorer, reading=Reading(num_workers=0)) as app, browser() as tab:
        tab.open(app.url)
        tab.tab("Locate")
        tab.click("#locate")
        tab.says("#note-locate", "upload a video or image first")
        tab.upload("locate", files / "a.mp4")
        tab.until(lambda: tab.all("#at"), "the slider of a video")
        tab.click("button.thinker-example", "local distortions")
        tab.until(lambda: not tab.all("#at"), "no slider of a picture")
        tab.click("#locate")
        assert "severe noise · upper left" in tab.says("#located", "confidence")
        assert tab.find("#located img").size["width"] > 300
        tab.until(lambda: tab.all("#kinds input"), "the kinds that were found")[0].click()
        tab.until(lambda: tab.text("#description").strip(), "what is said of noise")
        tab.click("#describe")
        tab.says("#description", "are missing: content, key, level")
        assert tab.origins() == {app.url.rstrip("/")}
