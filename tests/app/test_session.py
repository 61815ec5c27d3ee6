"""One user of the app, without a browser: real files, a tiny real policy."""

import threading
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.counted import watched
from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import cut_file, frame_pattern, write_video
from thinker.app import session as session_module
from thinker.app.examples import LONG, PAIR, SINGLE, Examples
from thinker.app.session import AppLimits, Assistant
from thinker.score.scorer import QualityScorer
from thinker.video import read_clip
from thinker.video.read_ahead import Reading

HERE = Reading(num_workers=0)
PLACE = ("assess",)


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_video(folder / "a.mp4", num_frames=20, fps=10)
    write_video(folder / "b.mp4", num_frames=30, fps=10, width=128)
    cut_file(folder / "a.mp4", folder / "cut.mp4", 0.5)
    Image.fromarray(frame_pattern(1, 48, 32)).save(folder / "a.png")
    return folder


@pytest.fixture
def assistant(policy, tmp_path):
    made = Assistant(QualityScorer(policy, max_new_tokens=12), tmp_path / "app", reading=HERE)
    yield made
    made.close()
    assert not list((tmp_path / "app").glob("*"))


def last(answers):
    *_, said = answers
    return said


def test_a_score_is_that_of_the_scorer_in_every_mode(assistant, files):
    user = assistant.session("u")
    user.take("assess", files / "a.mp4")
    for mode in ("level", "reason", "sample"):
        said = last(user.score("assess", mode))
        expected = assistant.scorer.score(files / "a.mp4", mode=mode)
        assert said.row.mode == mode and said.row.score == expected.score
        assert said.row.completion == expected.completion
        assert said.row.distribution == expected.distribution
    assert len(list(user.score("assess", "reason"))) > 2  # piece by piece


def test_a_follow_up_and_a_new_system_prompt_encode_nothing_again(assistant, files):
    user = assistant.session("u")
    user.take("assess", files / "a.mp4")
    counters = watched(assistant.scorer.policy)
    last(user.score("assess", "level"))
    assert counters.take()["frames/no_grad"] > 0
    said = last(user.ask(PLACE, "Is it sharp?"))
    assert said.text == said.row.completion
    last(user.ask(PLACE, "Why?"))
    assert [turn.role for turn in user.turns(PLACE)] == ["user", "assistant"] * 2
    last(user.ask(PLACE, "Is it sharp?", system="Be short."))
    assert [turn.role for turn in user.turns(PLACE)] == ["system", "user", "assistant"]
    assert counters.take()["frames/no_grad"] == 0
    user.forget(PLACE)
    assert user.turns(PLACE) == ()


def test_two_clips_are_asked_about_together(assistant, files):
    user = assistant.session("u")
    user.take("first", files / "a.mp4")
    with pytest.raises(ValueError, match="upload the second clip first"):
        user.ask(("first", "second"), "Which is better?")
    user.take("second", files / "b.mp4")
    said = last(user.ask(("first", "second"), "Which is better?"))
    paths = [files / "a.mp4", files / "b.mp4"]
    assert said.text == assistant.scorer.ask(paths, "Which is better?").completion
    user.take("second", files / "a.png")  # another medium, another conversation
    assert user.turns(("first", "second")) == ()


def test_users_do_not_mix_and_one_who_leaves_takes_nothing_of_others(policy, files, tmp_path):
    assistant = Assistant(QualityScorer(policy, max_new_tokens=12), tmp_path, reading=HERE)
    names = {"one": "a.mp4", "two": "b.mp4"}
    alone = {
        key: assistant.scorer.ask(files / name, "Is it sharp?").completion
        for key, name in names.items()
    }
    assert alone["one"] != alone["two"]
    texts = {}

    def use(key):
        user = assistant.session(key)
        user.take("assess", files / names[key])
        texts[key] = last(user.ask(PLACE, "Is it sharp?")).text

    threads = [threading.Thread(target=use, args=(key,)) for key in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == alone

    upload = tmp_path / "uploads" / "same.mp4"  # the same bytes, which both uploaded
    upload.parent.mkdir()
    upload.write_bytes((files / "a.mp4").read_bytes())
    for key in names:
        assistant.session(key).take("assess", upload)
        assistant.session(key).owns_upload(upload)
    assistant.end("one")
    assert not upload.exists()
    row = last(assistant.session("two").score("assess", "level")).row
    assert row.score == assistant.scorer.score(files / "a.mp4", mode="level").score
    moments = list(assistant.session("two").timeline("assess", 1.0))
    assert [moment.prediction.status for moment in moments] == ["ok", "ok"]
    assistant.close()


def test_nothing_is_left_of_a_user_who_leaves_while_an_answer_is_written(assistant, files):
    user = assistant.session("u")
    loaded = user.take("assess", files / "a.mp4")
    answers = user.ask(PLACE, "Is it sharp?")
    next(answers)
    assistant.end("u")
    assert list(answers) == [] and not loaded.path.exists() and not user.folder.exists()
    again = assistant.session("u")
    assert again is not user
    with pytest.raises(ValueError, match="upload a video or image first"):
        again.score("assess", "level")
    with pytest.raises(ValueError, match="the session has ended"):
        user.take("assess", files / "a.mp4")
    assert not user.folder.exists()


def test_idle_users_and_too_many_are_forgotten(assistant, files, monkeypatch):
    monkeypatch.setattr(session_module, "MAX_SESSIONS", 2)
    first = assistant.session("1")
    first.take("assess", files / "a.png")
    second = assistant.session("2")
    second.take("assess", files / "a.png")
    assert assistant.session("1") is first and second.folder.exists()
    assistant.session("3")
    assert assistant.session("1") is first and first.folder.exists()
    assert not second.folder.exists()  # it was idle longest
    first.used -= session_module.IDLE_SECONDS + 1
    assistant.session("3")
    assert not first.folder.exists()


def test_a_newer_question_stops_the_older_one(assistant, files):
    user = assistant.session("u")
    user.take("assess", files / "a.mp4")
    older = user.ask(PLACE, "Is it sharp?")
    next(older)
    newer = last(user.ask(PLACE, "Is it noisy?"))
    assert all(said.row is None for said in older)
    assert [turn.text for turn in user.turns(PLACE)] == ["Is it noisy?", newer.text]
    older = user.ask(PLACE, "Why?")
    next(older)
    last(user.score("assess", "level"))
    assert all(said.row is None for said in older) and len(user.turns(PLACE)) == 2


def test_a_policy_that_writes_score_and_reasoning(policy, files, tmp_path):
    text = "<think>sharp, a little noisy</think><answer>3.50</answer>"
    scorer = QualityScorer(policy, ScriptedTexts(policy, [text]))
    user = Assistant(scorer, tmp_path, reading=HERE).session("u")
    user.take("assess", files / "a.mp4")
    row = last(user.score("assess", "reason")).row
    assert (row.score, row.reasoning) == (3.5, "sharp, a little noisy")
    assert user.turns(PLACE) == ()  # a score is no part of the conversation


# what a user can get wrong


def test_a_bad_file_is_a_sentence_with_the_users_own_name_for_it(assistant, files, tmp_path):
    user = assistant.session("u")
    user.take("assess", files / "a.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.png").write_bytes(b"")
    for path, reason in (
        (files / "cut.mp4", "ends before its own header"),
        (tmp_path / "text.mp4", "no video"),
        (tmp_path / "empty.png", "no bytes"),
        (tmp_path / "gone.mp4", "upload it again"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            user.take("assess", path, f"my {path.name}")
        message = str(caught.value)
        assert message.startswith(f"my {path.name}") and str(assistant.folder) not in message
        with pytest.raises(ValueError, match="upload a video or image first"):
            user.score("assess", "level")  # not the medium that stood there before
    assert not list(user.folder.iterdir())


def test_a_file_that_is_too_large_is_not_decoded(policy, files, tmp_path, monkeypatch):
    monkeypatch.setattr(session_module, "read_ahead", None)
    limits = AppLimits(max_upload_mb=1)
    assistant = Assistant(QualityScorer(policy), tmp_path, limits=limits, reading=HERE)
    (tmp_path / "big.mp4").write_bytes(b"\0" * 2_000_000)
    with pytest.raises(ValueError, match=r"big\.mp4 has 2 MB, at most 1 MB are taken"):
        assistant.session("u").take("assess", tmp_path / "big.mp4")
    with pytest.raises(ValueError, match="max_upload_mb is 0"):
        AppLimits(max_upload_mb=0)


def test_questions_that_cannot_be_asked(assistant, files):
    user = assistant.session("u")
    user.take("assess", files / "a.mp4")
    with pytest.raises(ValueError, match="the question is empty"):
        user.ask(PLACE, "  ")
    with pytest.raises(ValueError, match="by which this policy marks turns"):
        user.ask(PLACE, "What is <|im_start|>?")
    row = last(user.ask(PLACE, "blur " * 5000)).row
    assert row.status == "prompt_too_long" and user.turns(PLACE) == ()
    assert last(user.ask(PLACE, "Is it sharp?")).row.error is None


def test_a_timeline_has_the_users_name_and_is_of_a_video(assistant, files, monkeypatch):
    user = assistant.session("u")
    user.take("long", files / "b.mp4", "my holiday.mp4")
    moments = list(user.timeline("long", 1.0))
    assert [moment.start_seconds for moment in moments] == [0.0, 1.0, 2.0]
    expected = assistant.scorer.timeline(files / "b.mp4", window_seconds=1.0, mode="level")
    scores = [moment.prediction.score for moment in moments]
    assert scores == [moment.prediction.score for moment in expected]
    assert {moment.prediction.path for moment in moments} == {Path("my holiday.mp4")}
    with pytest.raises(ValueError, match="positive number of seconds"):
        list(user.timeline("long", 0.0))
    monkeypatch.setattr(session_module, "MAX_WINDOWS", 2)
    with pytest.raises(ValueError, match=r"more than 2; take at least 1\.5 s"):
        user.timeline("long", 1.0)
    user.take("long", files / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is an image; a timeline is of a video"):
        user.timeline("long", 1.0)


def test_examples_are_drawn_when_asked_for_and_can_be_read(policy, tmp_path):
    spec = policy.inputs.clip_spec
    examples = Examples(tmp_path / "examples", spec)
    assert not (tmp_path / "examples").exists()
    assert set(PAIR) <= set(SINGLE)
    for name in (*PAIR, "a blurred image"):
        path = examples.path(name)
        drawn = path.stat().st_mtime_ns
        assert examples.path(name) == path and path.stat().st_mtime_ns == drawn
        clip = read_clip(path, spec)
        assert clip.kind == ("image" if "image" in name else "video")
        assert clip.width == 64  # the policy reads 40, the smallest example has 64
    assert read_clip(examples.path(LONG[0]), spec).num_frames == 5 * 48
    sharp, blurred = (examples.path(name).stat().st_size for name in PAIR)
    assert sharp > 2 * blurred
