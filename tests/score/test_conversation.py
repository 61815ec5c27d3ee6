"""Conversations: media are encoded once, what was said is forwarded once, and the answers are those
of the whole conversation in one prompt."""

import threading

import numpy as np
import pytest
import torch

from tests.helpers.counted import watched
from tests.helpers.policy_factory import BACKBONES, random_clip, random_still, small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import cut_file, write_video
from thinker.policies.encode import encode_prompts
from thinker.policies.inputs import Prompt
from thinker.prompts import Turn, ask
from thinker.rollout.base import Sampling
from thinker.rollout.hf import hf_rollout
from thinker.score.scorer import QualityScorer
from thinker.tasks.level import LEVELS
from thinker.video import VideoError, medium

QUESTIONS = ("Is it sharp?", "Why do you say so?", "And the colours?")


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "a.mp4", num_frames=20, fps=10)


def scorer(policy, **settings):
    return QualityScorer(policy, **({"max_new_tokens": 12} | settings))


def in_one_prompt(policy, clips, turns, max_new_tokens=12):
    """The answer by `generate`, from pixels and nothing kept."""
    (request,) = encode_prompts(policy, [Prompt(clips=tuple(clips), turns=turns)])
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
    ((completion,),) = hf_rollout(policy).generate([request], 1, sampling, seed=0)
    return policy.processor.decode(completion.token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_answer_is_that_of_the_whole_conversation_in_one_prompt(backbone):
    """In float32; a video and a still, places marked, a system turn. Frames are encoded once, and
    the second and third prompts are not forwarded from their beginning."""
    policy = small_policy(backbone)
    clips = [random_clip(policy, 1), random_still(policy, 2)]
    talk = scorer(policy).conversation(clips, system="Be short.")
    counters = watched(policy)
    motion_calls = []
    policy.model.model.motion.slowfast.register_forward_hook(lambda *_: motion_calls.append(1))
    turns = (Turn(role="system", text="Be short."),)
    lengths = []
    for question in (
        "Does <image> come from <video>?".replace("<image>", "<video>", 1),
        *QUESTIONS,
    ):
        row = talk.ask(question)
        turns = (*turns, *ask(question))
        lengths.append(len(policy.inputs.prompt_ids(Prompt(clips=tuple(clips), turns=turns))))
        taken = counters.take()
        first = question.startswith("Does")
        assert (taken["frames/no_grad"] > 0) == first == bool(motion_calls)
        expected = in_one_prompt(policy, clips, turns)
        counters.take()
        motion_calls.clear()
        assert row.completion == expected
        turns = (*turns, Turn(role="assistant", text=expected))
    assert talk.turns == turns
    # The first prompt as a whole; of a later one the tokens behind what was said before.
    assert talk._session.num_forwarded < lengths[0] + (lengths[-1] - lengths[0]) + 8
    assert talk._session.num_forwarded < sum(lengths) / 2


def test_logits_of_a_follow_up_equal_those_of_a_fresh_forward(policy):
    """Closer than the likeliest token can tell."""
    clip = random_clip(policy, 3)
    talk = scorer(policy).conversation(clip)
    talk.ask("Is it sharp?")
    turns = (*talk.turns, *ask("Why?"))
    (request,) = encode_prompts(policy, [Prompt(clips=(clip,), turns=turns)])
    session = talk._session
    before = session.num_forwarded
    kept = session._forward_prompt(request)
    assert session.num_forwarded - before < len(request.token_ids) / 2
    session.clear()
    with torch.no_grad():
        fresh = session._forward_prompt(request)
    torch.testing.assert_close(kept.detach(), fresh, atol=2e-5, rtol=0)


def test_pieces_make_the_text_and_one_that_is_stopped_leaves_no_trace(policy):
    clip = random_clip(policy, 4)
    talk = scorer(policy).conversation(clip)
    pieces = list(talk.stream("Is it sharp?"))
    assert len(pieces) > 1 and "".join(pieces) == talk.last.completion
    turns = talk.turns
    stopped = talk.stream("Why?")
    next(stopped)
    stopped.close()
    assert talk.turns == turns
    asked = (*turns, *ask("And now?"))
    assert talk.ask("And now?").completion == in_one_prompt(policy, [clip], asked)


def test_a_newer_question_stops_the_one_that_is_being_answered(policy):
    talk = scorer(policy).conversation(random_clip(policy, 9))
    first = talk.stream("Is it sharp?")
    next(first)
    second = talk.ask("Does it stall?")
    assert list(first) == []
    assert [turn.text for turn in talk.turns] == ["Does it stall?", second.completion]
    assert talk.last == second


def test_characters_are_not_cut(policy):
    """Byte by byte: a piece ends where a character does."""
    text = "Schärfe: gut 👍."
    rollout = ScriptedTexts(policy, [text])
    talk = QualityScorer(policy, rollout).conversation(random_clip(policy, 5))
    pieces = list(talk.stream("Is it sharp?"))
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
    assert "ä" in "".join(pieces) and talk.last.answer == text


def test_score_and_levels_use_the_same_embeddings(policy, video):
    judge = scorer(policy)
    talk = judge.conversation(video)
    counters = watched(policy)
    talk.ask("Is it sharp?")
    assert counters.take()["frames/no_grad"] > 0
    row = talk.score()
    assert counters.take()["frames/no_grad"] == 0
    assert row.score == judge.score(video, mode="level").score
    assert len(row.distribution) == len(LEVELS)
    assert judge.encode is None  # the scorer itself keeps nothing
    assert len(talk.turns) == 2  # a score is no turn
    with pytest.raises(ValueError, match="task score is asked of 1 video or image, 2 are given"):
        judge.conversation([video, video]).score()


def test_a_score_is_written_as_it_comes_and_is_no_turn(policy, video):
    judge = scorer(policy)
    talk = judge.conversation(video)
    talk.ask("Is it sharp?")
    turns = talk.turns
    counters = watched(policy)
    pieces = list(talk.score_stream())
    expected = judge.score(video, mode="reason")
    assert len(pieces) > 1 and "".join(pieces) == expected.completion
    assert (talk.last.task, talk.last.status) == ("score", expected.status)
    assert talk.turns == turns
    counters.take()
    other = talk.anew(system="Be short.")
    row = other.ask("Is it sharp?")
    assert counters.take()["frames/no_grad"] == 0 and talk.turns == turns
    assert row.completion == judge.ask(video, "Is it sharp?", system="Be short.").completion
    with pytest.raises(ValueError, match="task score is asked of 1 video or image, 2 are given"):
        judge.conversation([video, video]).score_stream()


def test_frames_are_what_the_policy_saw(policy, video):
    talk = scorer(policy).conversation([video, random_still(policy, 6)])
    seen = talk.frames
    # K = 2 of 20 frames at 10 fps: 4 and 14; then the still's tiles
    assert [(f.medium, f.index, f.seconds) for f in seen[:2]] == [(0, 4, 0.4), (0, 14, 1.4)]
    assert [f.medium for f in seen[2:]] == [1, 1, 1]
    px = policy.inputs.clip_spec.keyframe_px
    assert all(f.picture_HWC.shape == (px, px, 3) for f in seen)
    assert all(f.picture_HWC.dtype == np.uint8 for f in seen)
    assert np.array_equal(seen[0].picture_HWC.transpose(2, 0, 1), talk.clips[0].keyframes_KCHW[0])


def test_conversations_side_by_side_do_not_mix(policy):
    clips = [random_clip(policy, 7), random_clip(policy, 8)]
    judge = scorer(policy)
    alone = [[judge.conversation(c).ask(QUESTIONS[0]).completion] for c in clips]
    talks = [judge.conversation(clip) for clip in clips]
    streams = [talk.stream(QUESTIONS[0]) for talk in talks]
    texts = ["", ""]
    for _ in range(20):
        for place, stream in enumerate(streams):
            texts[place] += next(stream, "")
    assert [[text] for text in texts] == alone
    results = {}
    threads = [
        threading.Thread(target=lambda t=talk, p=place: results.update({p: t.ask(QUESTIONS[1])}))
        for place, talk in enumerate(talks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, (clip, talk) in enumerate(zip(clips, talks, strict=True)):
        assert results[place].completion == in_one_prompt(policy, [clip], talk.turns[:-1])


# what cannot be asked


def test_bad_questions_are_refused_and_leave_the_conversation_as_it_was(policy):
    talk = scorer(policy).conversation(random_clip(policy, 9))
    bad = {
        "": "the question is empty",
        "  \n": "the question is empty",
        "What is <|im_start|>?": "a token by which this policy marks turns",
        "Is <video> like <video>?": "marks places for 2 media",
        "caf\udce9?": "holds what is no text",
    }
    for question, message in bad.items():
        with pytest.raises(ValueError, match=message):
            talk.ask(question)
        with pytest.raises(ValueError, match=message):
            talk.stream(question)  # before the first piece
    talk.ask("Is <video> sharp?")
    with pytest.raises(ValueError, match="marked in the first question"):
        talk.ask("Is <video> sharp?")
    assert len(talk.turns) == 2
    with pytest.raises(ValueError, match="no video or image is given"):
        scorer(policy).conversation([])
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a number from 0"):
            scorer(policy).conversation(random_clip(policy, 9), temperature=temperature)


def test_a_question_longer_than_the_context_is_a_row_and_a_shorter_one_is_answered(policy):
    talk = scorer(policy).conversation(random_clip(policy, 10))
    row = talk.ask("blur " * 5000)
    assert (row.status, row.answer) == ("prompt_too_long", None)
    assert "the model's context 4096" in row.error
    assert talk.turns == () and list(talk.stream("blur " * 5000)) == []
    assert talk.ask("Is it sharp?").status in ("ok", "invalid_answer")


def test_no_memory_is_a_row(policy):
    rollout = ScriptedTexts(policy, ["yes"], max_rows=0)
    talk = QualityScorer(policy, rollout).conversation(random_clip(policy, 11))
    row = talk.ask("Is it sharp?")
    assert row.status == "out_of_memory" and talk.turns == ()
    rollout.max_rows = None
    assert talk.ask("Is it sharp?").answer == "yes"


def test_a_medium_without_a_readable_frame(policy, video, tmp_path):
    broken = cut_file(video, tmp_path / "cut.mp4", 0.5)
    judge = scorer(policy)
    with pytest.raises(VideoError, match="truncated"):
        judge.conversation([video, broken])
    row = judge.ask([video, broken], "Which one is sharper?")
    assert (row.status, row.task, row.path) == ("truncated", "open", broken)
    assert judge.ask(medium(video, start=9.0), "Is it sharp?").status == "empty_range"


# one question


def test_ask_equals_the_first_turn_of_a_conversation(policy, video):
    judge = scorer(policy)
    one = judge.ask(video, "Is it sharp?", system="Be short.")
    talk = judge.conversation(video, system="Be short.")
    assert one.completion == talk.ask("Is it sharp?").completion
    two = judge.ask([video, video], "Which is sharper, <video> or <video>?")
    assert two.task == "open" and two.completion is not None


def test_ask_reads_answers_as_the_task_says(policy, video):
    judge = QualityScorer(policy, ScriptedTexts(policy, ["<answer>B</answer>"]))
    question = "Which one?\nA. the first\nB. the second"
    assert judge.ask([video, video], question, task="choice").answer == "B"
    for bad in ({"task": "score"}, {"task": "level"}):
        with pytest.raises(ValueError, match="is asked of 1 video or image, 2 are given"):
            judge.ask([video, video], "How good is it?", **bad)
    with pytest.raises(ValueError, match="'colour', expected one of"):
        judge.ask(video, "How good is it?", task="colour")
    with pytest.raises(ValueError, match="mode level is for the tasks"):
        judge.ask(video, "How good is it?", mode="level")
