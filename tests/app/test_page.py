"""The app in a real headless browser, two users at once; its server."""

import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.browser import browser, missing
from tests.helpers.policy_factory import small_policy
from tests.helpers.video_factory import cut_file, write_video
from thinker.score.scorer import QualityScorer
from thinker.video.read_ahead import Reading

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

EVIL = "<img src=x onerror=document.title='run'>${1+1}.mp4"


@pytest.fixture(scope="module")
def scorer():
    # float32 on a CPU: answers are the same in every run
    return QualityScorer(small_policy("internvl3"), max_new_tokens=12)


@pytest.fixture(scope="module")
def app(scorer):
    from thinker.app.serve import AppServer
    from thinker.app.session import AppLimits

    limits = AppLimits(max_upload_mb=1)
    with AppServer(scorer, limits=limits, reading=Reading(num_workers=0)) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_video(folder / "a.mp4", num_frames=20, fps=10)
    write_video(folder / "b.mp4", num_frames=30, fps=10, width=128)
    cut_file(folder / "a.mp4", folder / "cut.mp4", 0.5)
    shutil.copy(folder / "a.mp4", folder / EVIL.replace("/", ""))
    (folder / "big.mp4").write_bytes(b"\0" * 2_000_000)
    return folder


def shown_score(card: str) -> str:
    """The number of a card with level words."""
    return card.partition("Level words\n")[2].partition(" ")[0].strip()


def own_files(app) -> set[str]:
    folder = app.assistant.folder
    return {path.name for path in folder.rglob("*") if path.is_file()} | {
        path.name for path in (folder.parent / "uploads").rglob("*") if path.is_file()
    }


def test_upload_score_question_compare_for_two_users_at_once(app, scorer, files):
    question = "Is it sharp?"
    names = ("a.mp4", "b.mp4")
    scores = [scorer.score(files / name, mode="level").score for name in names]
    answers = [scorer.ask(files / name, question).completion for name in names]
    assert answers[0] != answers[1]
    with browser() as one, browser() as two:
        users = (one, two)
        for tab in users:
            tab.open(app.url)
        for tab, name in zip(users, names, strict=True):
            tab.upload("assess", files / name)
        for tab, name in zip(users, names, strict=True):
            assert "2 pictures" in tab.says("#seen-assess", name)
            assert len(tab.all("#seen-assess img")) == 2 and tab.all("#player-assess video")
            tab.click("#score")
        for tab, score in zip(users, scores, strict=True):
            # The tiny policy writes no score: its reasoning ends in a reason, never in a number.
            cards = tab.says("#cards", "no score: invalid answer")
            assert (
                f"{score:.2f}" in cards
                and "excellent" in cards
                and "spread of the answers ±" in cards
            )
        for tab in users:
            tab.ask("assess", question)
        for tab, answer in zip(users, answers, strict=True):
            first_words = " ".join(answer.split())[:12]
            tab.until(
                lambda t=tab, w=first_words: w in " ".join(t.text("#chat-assess").split()), answer
            )
            tab.ask("assess", "Why?")
            tab.says("#chat-assess", "Why?")

        # a broken file, one that is too large, a name with markup
        one.take_away("assess")
        one.until(lambda: not one.all("#seen-assess img"), "an empty place")
        one.upload("assess", files / "cut.mp4")
        said = one.says("#note-assess", "cut.mp4 cannot be read: the file ends before")
        assert "Traceback" not in said and str(app.assistant.folder) not in said
        assert one.text("#chat-assess").find(question) == -1 and not one.all("#cards *")
        one.upload("assess", files / EVIL)
        one.says("#seen-assess", "2 pictures")
        assert one.driver.title == "Thinker"
        two.take_away("assess")
        two.upload("assess", files / "big.mp4")
        two.says("body", "maximum allowed size")
        assert "big.mp4" not in own_files(app)

        two.tab("Compare")
        two.click("#ask-first")
        two.says("#note-compare", "upload the first and the second clip first")
        for place, name in zip(("first", "second"), names, strict=True):
            two.upload(place, files / name)
            two.says(f"#seen-{place}", name)
        better = scorer.ask(
            [files / name for name in names], "Which of the two videos has the better quality?"
        ).completion
        two.ask("first", "Which of the two videos has the better quality?")
        two.until(
            lambda: " ".join(better.split())[:12] in " ".join(two.text("#chat-first").split()),
            better,
        )
        two.click("#score-each")
        for place, score in zip(("first", "second"), scores, strict=True):
            two.says(f"#card-{place}", f"{score:.2f}")

        one.tab("Timeline")
        one.click("#draw")
        one.says("#note-timeline", "upload a video or image first")
        one.upload("long", files / "b.mp4")
        one.until(lambda: one.all("#player-long video"), "the video")
        one.click("#draw")
        one.says("#note-timeline", "2 windows of 2 s")
        assert one.find("#plot img").size["width"] > 300

        for tab in users:
            assert tab.origins() == {app.url.rstrip("/")}
            log = [entry["message"] for entry in tab.driver.get_log("browser")]
            assert not [line for line in log if "Content Security Policy" in line]
        assert len(app.assistant._sessions) == 2 and own_files(app)
    # Both have left.
    one.until(lambda: not app.assistant._sessions and not own_files(app), "an empty folder")


def test_the_server_is_on_loopback_and_hands_out_nothing_else(app, tmp_path):
    assert app.url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(app.url) as page:
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "share" not in page.geturl()
    (tmp_path / "secret.txt").write_text("secret")
    for path in (tmp_path / "secret.txt", "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{app.url}gradio_api/file={path}")
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    config = app._blocks.get_config_file()
    assert config["analytics_enabled"] is False and config["run_history"] is False
    assert all(each["api_visibility"] == "private" for each in config["dependencies"])


def test_a_port_that_is_taken_is_an_error_that_leaves_nothing(app, scorer, tmp_path, monkeypatch):
    from thinker.app.serve import AppServer

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    port = int(app.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1, port {port}"):
        AppServer(scorer, port=port)
    assert not list(Path(tmp_path).iterdir())
