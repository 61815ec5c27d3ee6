"""What each task makes of questions, options and references."""

import pytest

from rewards import REWARDS, ChoiceReference, LevelReference, build_reward
from rewards.answer import Answer
from thinker.prompts import RECOGNITION
from thinker.tasks import TASKS
from thinker.tasks.base import Verdict
from thinker.tasks.choice import INSTRUCTION
from thinker.tasks.level import (
    LEVEL_QUESTION,
    LEVELS,
    VQA2_LEVELS,
    VQA2_WORDS,
    LevelConfig,
    level_word,
)

CHOICE, LEVEL, SCORE, OPEN = (TASKS[name] for name in ("choice", "level", "score", "open"))
DISTORTION, DESCRIBE = TASKS["distortion"], TASKS["describe"]
LISTED = "Which?\n A. blur \n(B) noise\nC) low contrast: grey"


def test_names_and_their_rewards() -> None:
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}
    for task in TASKS.values():
        for reward in task.rewards:
            assert reward in REWARDS and task.name in build_reward(reward).tasks


def test_level_words_of_scores() -> None:
    # bins of width 0.8: [1, 1.8), [1.8, 2.6), [2.6, 3.4), [3.4, 4.2), [4.2, 5]
    table = {1.0: "bad", 1.79: "bad", 1.8: "poor", 2.6: "fair", 3.4: "good", 4.2: "excellent"}
    assert {score: level_word(score) for score in table} == table
    assert level_word(5.0) == "excellent"
    for score in (0.99, 5.01):
        with pytest.raises(ValueError, match="between 1 and 5"):
            level_word(score)


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ("good", "good"), ("The quality of the video is poor.", "poor"), (3, "fair"),
        (2.59, "poor"), (0.2, "bad"), (5.0, "excellent"), (None, None),
    ],
)  # fmt: skip
def test_references_of_levels(raw: object, word: str | None) -> None:
    assert LEVEL.read_reference(raw, ()) == LevelReference(levels=LEVELS, answer=word)


def test_the_sentence_of_a_level_has_the_words_of_the_policy() -> None:
    table = {0.0: "low", 1.79: "low", 2.4: "poor", 2.6: "fair", 5.0: "high"}
    assert {t: VQA2_LEVELS.sentence("image", t).split()[-1] for t in table} == {
        target: f"{word}." for target, word in table.items()
    }
    assert VQA2_LEVELS.sentence("image", 5.0) == "The overall quality of the image is high."
    assert LevelConfig(video_prefix="").sentence("video", 4.0) == "good"


def test_levels_in_the_words_of_vqa2() -> None:
    """Answers are compared by rank: high is what LEVELS call excellent."""
    known = LEVEL.read_reference("The quality of this video is high.", ())
    assert known == LevelReference(levels=VQA2_WORDS, answer="excellent")
    said = {
        "low": "bad", "The quality of the video is low.": "bad", "fair": "fair",
        "Its contrast is high. Hence, the quality of this video is good.": "good",
    }  # fmt: skip
    assert {text: LEVEL.parse(text, known).value for text in said} == said
    for text in ("It has low contrast.", "excellent"):
        assert LEVEL.parse(text, known).reason == "no_option"


def test_what_is_no_level_has_a_reason() -> None:
    for raw, reason in (
        ("nice", "'nice' names none of bad, poor.*or low and high"),
        ("It has low contrast.", "names none of bad, poor"),
        ("fair or good", "names fair and good"),
        (5.1, "not on the answer scale"),
        (True, "expected one of bad, poor"),
    ):
        with pytest.raises(ValueError, match=reason):
            LEVEL.read_reference(raw, ())


@pytest.mark.parametrize(
    ("question", "given", "options"),
    [
        ("Which?", ("blur", "noise"), ("blur", "noise")),
        ("Which?", ("A. blur", "(B) noise"), ("blur", "noise")),  # letters are added when asked
        ("Which?", ("A. blur", "noise"), ("A. blur", "noise")),
        (LISTED, (), ("blur", "noise", "low contrast: grey")),
        ("Is it sharp?", (), ()),
        ("A. is the only one\nWhich?", (), ()),
        ("B. noise\nA. blur", (), ()),  # not in order: words of the question
        ("A. blur\nC. noise", (), ()),
        ("A. I see two.\nWhich is it?\nB. I see one.", (), ("I see two.", "I see one.")),
    ],
)
def test_where_options_are_found(question, given, options) -> None:
    assert CHOICE.options(question, given) == options


def test_options_that_make_no_choice() -> None:
    for given, reason in (
        (("blur",), "1 options"),
        (("blur", "Blur."), "are the same"),
        (("blur", " "), "B is empty"),
    ):
        with pytest.raises(ValueError, match=reason):
            CHOICE.options("Which?", given)
    with pytest.raises(ValueError, match="carry the letters B, A; expected A, B"):
        CHOICE.options("Which?", ("B. noise", "A. blur"))
    with pytest.raises(ValueError, match="in the question and in a list; give them once"):
        CHOICE.options(LISTED, ("blur", "noise"))
    for task in (SCORE, LEVEL, OPEN):
        assert task.options(LISTED, ()) == ()
        with pytest.raises(ValueError, match="no options; name the task choice"):
            task.options("Which?", ("blur", "noise"))


def test_questions_are_asked_word_by_word_but_for_given_options() -> None:
    asked = CHOICE.question("<video>\nWhich?", ("blur", "noise"))
    assert asked == f"<video>\nWhich?\nA. blur\nB. noise\n{INSTRUCTION}"
    assert CHOICE.question(LISTED, ()) == LISTED
    assert LEVEL.question("", ()) == LEVEL_QUESTION
    assert [task.question("How?", ()) for task in TASKS.values()] == ["How?"] * len(TASKS)


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("B", "B"), ("B.", "B"), ("(b)", "B"), ("noise", "B"), ("Noise.", "B"), ("B. noise", "B"),
        ("<think>grain</think><answer>B</answer>", "B"), ("A: blur, strong", "C"), (None, None),
    ],
)  # fmt: skip
def test_references_of_choices(raw, answer) -> None:
    options = ("blur", "noise", "A: blur, strong")
    assert CHOICE.read_reference(raw, options) == ChoiceReference(options=options, answer=answer)


def test_references_of_yes_or_no_questions() -> None:
    for raw, answer in (("Yes", "yes"), ("no.", "no"), (True, "yes"), (False, "no"), (None, None)):
        expected = ChoiceReference(options=("Yes", "No"), answer=answer, lettered=False)
        assert CHOICE.read_reference(raw, ()) == expected


@pytest.mark.parametrize(
    ("raw", "options", "reason"),
    [
        ("D", ("blur", "noise"), "'D' in 'D' is beyond .*; expected one of 'A', 'B', 'blur'"),
        ("haze", ("blur", "noise"), "'haze' names no option"),
        ("A. noise", ("blur", "noise"), "letter and text name A and B"),
        (2, ("blur", "noise"), "reference 2: expected the letter"),
        ("maybe", (), "names no option; expected one of 'yes', 'no'"),
        ("A", (), "names no option"),
    ],
)
def test_what_is_no_choice_has_a_reason(raw, options, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        CHOICE.read_reference(raw, options)


def test_lessons_say_the_letter_that_is_asked_for() -> None:
    options = ("blur", "noise")
    table = {"noise": "B", "Noise.": "B", "B.": "B.", "B. noise": "B. noise"}
    table |= {"<think>x</think><answer>B</answer>": "<think>x</think><answer>B</answer>"}
    assert {raw: CHOICE.lesson(raw, options) for raw in table} == table
    assert CHOICE.lesson("Yes", ()) == "Yes"
    assert [task.lesson("noise", ()) for task in (SCORE, LEVEL, OPEN)] == ["noise"] * 3


def test_references_of_scores_and_texts() -> None:
    assert (SCORE.read_reference(3.4, ()), SCORE.read_reference(None, ())) == (3.4, None)
    assert (OPEN.read_reference("It stalls.", ()), OPEN.read_reference(None, ())) == (
        "It stalls.",
        None,
    )
    for task, raw in ((SCORE, "3.4"), (SCORE, True), (OPEN, 3.4)):
        with pytest.raises(ValueError, match="reference"):
            task.read_reference(raw, ())


def test_every_task_reads_answers_its_own_way() -> None:
    said = {"score": "<answer>3.40</answer>", "level": "fair", "choice": "B", "open": "It stalls."}
    said |= {"distortion": "It is severe noise.", "describe": "It is sharp."}
    said |= {"boxes": "Noise: (10,20),(300,400)"}
    values = {"score": 3.4, "level": "fair", "choice": "B", "open": "It stalls."}
    values |= {"distortion": "severe noise", "describe": "It is sharp."}
    values |= {"boxes": "Noise: (10,20),(300,400)"}
    for name, task in TASKS.items():
        options = ("blur", "noise") if name == "choice" else ()
        answer = task.parse(said[name], task.read_reference(None, options))
        assert isinstance(answer, Answer) and answer.value == values[name]


def test_a_reference_with_boxes_declares_its_classes_and_has_no_fault() -> None:
    boxes = TASKS["boxes"]
    assert boxes.question("", ()).startswith("Please provide the bounding box coordinates")
    assert boxes.read_reference(None, ()).answer is None
    assert boxes.read_reference("No distortion affects this region.", ()).answer == ()
    banding = boxes.read_reference("Banding: (1,2),(30,40)", ())
    assert "banding" in banding.names and "noise" in banding.names
    assert boxes.read_reference("(1,2),(30,40)", ()).names == ()  # a region that is described
    for raw, reason in {"Noise: (30,2),(1,40)": "swapped", "It is noisy.": "no_box"}.items():
        with pytest.raises(ValueError, match=reason):
            boxes.read_reference(raw, ())
    with pytest.raises(ValueError, match="expected a text with boxes"):
        boxes.read_reference([1, 2, 3, 4], ())


def test_an_answer_about_a_distortion_is_compared_by_type_and_by_severity() -> None:
    known = DISTORTION.read_reference("It is severe noise.", ())
    assert (known.answer, DISTORTION.read_reference(None, ()).answer) == ("severe noise", None)
    table = {
        "severe noise": Verdict(
            is_correct=True, named="noise", right="noise", is_severity_correct=True
        ),
        "noise": Verdict(is_correct=True, named="noise", right="noise", is_severity_correct=False),
        "severe blur": Verdict(
            is_correct=False, named="blur", right="noise", is_severity_correct=True
        ),
        None: Verdict(is_correct=False, named=None, right="noise", is_severity_correct=False),
    }
    assert {said: DISTORTION.compare(said, known) for said in table} == table
    bare = DISTORTION.read_reference("noise", ())
    assert DISTORTION.compare("severe noise", bare).is_severity_correct is None
    assert DISTORTION.question("", ()) == RECOGNITION


def test_a_depiction_is_compared_by_the_level_that_it_ends_in() -> None:
    known = DESCRIBE.read_reference("Sharp. Hence, the quality of this video is good.", ())
    assert known.answer == "good"
    table = {"The quality of this video is good.": True, "It is sharp.": False, None: False}
    assert {said: DESCRIBE.compare(said, known).is_correct for said in table} == table
    assert DESCRIBE.read_reference("It is sharp.", ()).answer is None
    for task in (DISTORTION, DESCRIBE):
        with pytest.raises(ValueError, match="reference 3"):
            task.read_reference(3, ())


def test_a_number_as_the_answer_of_an_open_question_gets_a_hint():
    with pytest.raises(ValueError, match=r'reference 3: .* write "3" in quotes .* the task score'):
        TASKS["open"].read_reference(3, ())
