"""Examples of any task through the scorer: rows, modes, several media, failures."""

import shutil
from functools import partial

import pytest
from PIL import Image

from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import frame_pattern, write_video
from thinker.data.examples import Example
from thinker.prompts import Turn, ask
from thinker.score.prediction import score_of
from thinker.score.question import read_questions
from thinker.score.scorer import QualityScorer
from thinker.video import read_clip
from thinker.video.medium import Medium, medium
from thinker.video.read_ahead import Reading

OPTIONS = ("blur", "noise", "flicker")
QUESTION = "Which distortion?\nA. blur\nB. noise\nC. flicker"


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "a.mp4", num_frames=20)
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    (folder / "words.mp4").write_text("only words\n" * 50)
    Image.fromarray(frame_pattern(5, 64, 48)).save(folder / "c.png")
    return folder


def scorer(policy, *texts, **settings):
    return QualityScorer(policy, ScriptedTexts(policy, list(texts)), **settings)


def choice(folder, *names, **fields):
    values = {
        "id": f"set/{'+'.join(names)}",
        "dataset": "set",
        "task": "choice",
        "media": tuple(medium(folder / name) for name in names),
        "turns": ask(QUESTION),
        "options": OPTIONS,
        "reference": "B",
        "content": "x",
    }
    return Example(**values | fields)


def test_a_question_beyond_the_context_is_a_row_with_both_lengths(policy, folder):
    """20,000 words of two tokens and more; the tiny model's context is 4096."""
    long = choice(folder, "a.mp4", turns=ask("word " * 20_000 + QUESTION))
    rows = scorer(policy, "B", "B").predict([long, choice(folder, "a.mp4")])
    assert [row.status for row in rows] == ["prompt_too_long", "ok"]
    assert rows[0].error.startswith("the prompt has ") and rows[0].error.endswith("context 4096")
    assert int(rows[0].error.split()[3]) > 20_000 and rows[0].answer is None


def test_a_choice_is_a_row_with_the_letter_that_its_task_reads(policy, folder):
    text = "<think>It is grainy.</think>The answer is **B**."
    (row,) = scorer(policy, text).predict([choice(folder, "a.mp4")])
    assert (row.task, row.answer, row.status, row.score) == ("choice", "B", "ok", None)
    assert row.reasoning and row.completion == text and row.path == folder / "a.mp4"
    plain = row.to_row()
    assert plain["answer"] == "B" and plain["path"] == str(folder / "a.mp4")


def test_an_answer_that_names_two_options_is_a_row_without_one(policy, folder):
    (row,) = scorer(policy, "A or C").predict([choice(folder, "a.mp4")])
    assert (row.answer, row.status) == (None, "invalid_answer")
    assert row.error.startswith("several_options") and row.completion == "A or C"


def test_media_are_read_together_and_one_that_fails_makes_the_row_a_failure(policy, folder):
    ours = scorer(policy, "C", batch_size=8)
    examples = [
        choice(folder, "a.mp4", "c.png"),
        choice(folder, "a.mp4", "gone.png", "words.mp4"),
        choice(folder),  # asked about nothing
        choice(folder, "b.mp4"),
    ]
    rows = ours.predict(examples)
    assert [row.status for row in rows] == ["ok", "missing", "ok", "ok"]
    assert [row.answer for row in rows] == ["C", None, "C", "C"]
    assert "gone.png" in rows[1].error
    assert (rows[1].path, rows[1].task) == (folder / "a.mp4", "choice")
    assert rows[2].path is None and rows[2].to_row()["path"] is None
    assert ours.rollout.batches == [3]
    ahead = list(ours.predict_stream(examples, Reading(num_workers=2)))
    assert [row.status for row in ahead] == [row.status for row in rows]


def test_batches_are_sorted_by_the_length_of_whole_prompts(policy, folder):
    seen = []

    class Seen(ScriptedTexts):
        def generate(self, requests, *arguments, **settings):
            seen.append([len(request.token_ids) for request in requests])
            return super().generate(requests, *arguments, **settings)

    ours = QualityScorer(policy, Seen(policy, ["A"]), batch_size=2)
    turns = [ask(QUESTION + " Why?" * count) for count in (9, 0, 5, 1)]
    examples = [choice(folder, "a.mp4", turns=turn) for turn in turns]
    examples[1] = choice(folder, "a.mp4", "c.png", turns=turns[1])
    items = list(read_questions(examples, reader(ours), Reading(num_workers=0)))
    # one "Why?", five, none but two media, nine
    assert [place for place, _ in ours.answer_as_done(items)] == [3, 2, 1, 0]
    (shortest, middle), (long, longest) = seen
    assert shortest < middle < long < longest


def reader(ours):
    return partial(read_clip, spec=ours.clip_spec)


def test_sample_mode_of_choices_is_the_majority_with_the_share_of_votes(policy, folder):
    ours = scorer(policy, "C", "B", "B first", "(B)", "A or B", mode="sample", num_samples=5)
    # "B first" begins with the letter of no option alone: whatever it is, votes count valid ones
    (row,) = ours.predict([choice(folder, "a.mp4")])
    assert row.answer == "B" and row.status == "ok"
    shares = dict(row.distribution)
    assert sum(shares.values()) == pytest.approx(1.0) and shares["B"] > shares["C"] > 0
    assert row.spread is None and row.answer_range is None
    tie = scorer(policy, "C", "A", mode="sample", num_samples=2)
    (row,) = tie.predict([choice(folder, "a.mp4")])
    assert (row.answer, row.distribution) == ("C", (("A", 0.5), ("C", 0.5)))  # the first drawn
    few = scorer(policy, "C", "no", "no", mode="sample", num_samples=3)
    (row,) = few.predict([choice(folder, "a.mp4")])
    assert (row.answer, row.status) == (None, "invalid_answer")
    assert "1 of 3 rollouts are valid" in row.error


def test_levels_are_words_with_a_place_on_the_answer_scale(policy, folder):
    example = choice(folder, "a.mp4", task="level", options=(), reference="good", turns=())
    texts = [f"The quality of the video is {word}." for word in ("good", "fair", "good", "bad")]
    (row,) = scorer(policy, *texts, mode="sample", num_samples=4).predict([example])
    # 4, 3, 4, 1: mean 3, and the word drawn most often
    assert (row.answer, row.score, row.task) == ("good", 3.0, "level")
    assert row.distribution == ((1.0, 0.25), (3.0, 0.25), (4.0, 0.5))
    (row,) = scorer(policy, texts[0], mode="level").predict([example])
    likeliest = max(row.distribution, key=lambda pair: pair[1])[0]
    assert score_of("level", row.answer) == likeliest and row.score != likeliest
    assert row.completion is None and row.mode == "level"


def test_a_level_example_asks_its_own_question_in_mode_level(policy, folder):
    own = choice(
        folder, "a.mp4", task="level", options=(), reference=None, turns=ask("How sharp is it?")
    )
    plain = choice(folder, "a.mp4", task="level", options=(), reference=None, turns=())
    ours = scorer(policy, "unused", mode="level")
    (first,), (second,) = ours.predict([own]), ours.predict([plain])
    assert first.distribution != second.distribution
    assert second.distribution == ours.score(folder / "a.mp4").distribution


def test_mode_level_is_refused_for_choices(policy, folder):
    with pytest.raises(ValueError, match="mode level is for the tasks score, level, not for 'cho"):
        scorer(policy, "A", mode="level").predict([choice(folder, "a.mp4")])


def test_open_questions_and_scores_with_turns(policy, folder):
    told = choice(folder, "a.mp4", task="open", options=(), reference=None, turns=ask("Why?"))
    (row,) = scorer(policy, "It is dark.").predict([told])
    assert (row.answer, row.score, row.status) == ("It is dark.", None, "ok")
    turns = (
        Turn(role="system", text="You judge."),
        Turn(role="user", text="<video>\nIs it sharp?"),
        Turn(role="assistant", text="Yes."),
        Turn(role="user", text="Then rate it."),
    )
    scored = choice(folder, "a.mp4", task="score", options=(), reference=None, turns=turns)
    (row,) = scorer(policy, "<answer>4.5</answer>").predict([scored])
    assert (row.answer, row.score, row.task) == (4.5, 4.5, "score")


def test_a_part_of_a_medium_is_what_is_read(policy, folder):
    part = Medium(path=folder / "a.mp4", kind="video", start_seconds=0.4, end_seconds=0.9)
    (row,) = scorer(policy, "A").predict([choice(folder, media=(part,))])
    # 10 fps: frames 4..8, as score(start=0.4, end=0.9) reads them
    assert row.frame_indices == (5, 7)


def test_a_caller_may_keep_clips(policy, folder):
    ours, read = scorer(policy, "A"), []

    def noted(wanted):
        read.append(wanted)
        return reader(ours)(wanted)

    ours.predict([choice(folder, "a.mp4", "c.png")], read=noted)
    assert read == [medium(folder / "a.mp4"), medium(folder / "c.png")]


def test_one_question_that_does_not_fit_is_a_row_of_its_task(policy, folder):
    ours = QualityScorer(policy, ScriptedTexts(policy, ["A"], max_rows=0))
    (row,) = ours.predict([choice(folder, "a.mp4")])
    assert (row.status, row.task, row.answer) == ("out_of_memory", "choice", None)


def test_an_engine_is_sized_by_the_longest_prompt_and_started_anew_if_too_small(
    policy, folder, monkeypatch
):
    started = []

    class Engine(ScriptedTexts):
        closed = False

        def close(self):
            self.closed = True

    def start(policy, backend, *, max_new_tokens, max_prompt_tokens):
        started.append((backend, max_prompt_tokens, Engine(policy, ["A"])))
        return started[-1][2]

    monkeypatch.setattr("thinker.score.scorer.scoring_rollout", start)
    ours = QualityScorer(policy, backend="vllm")
    assert ours.score(folder / "a.mp4").status == "invalid_answer"
    example = choice(folder, "a.mp4", "b.mp4")
    for _ in range(2):
        ours.predict([example])
    (_, default, first), (_, sized, second) = started
    assert default is None and first.closed and not second.closed
    assert sized == policy.inputs.max_tokens_of([(("video", "video"), example.turns)])
    ours.predict([choice(folder, "a.mp4"), choice(folder, "a.mp4", turns=())])  # fit
    assert len(started) == 2
