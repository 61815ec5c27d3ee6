"""Which option a completion names, row by row; the reward; time."""

import random
import time

import pytest

from rewards.answer import Answer, InvalidAnswer
from rewards.choice import YES_NO, ChoiceReference, ChoiceReward, option_key, parse_choice

SHOWN = ChoiceReference(options=("blur", "motion blur", "noise", "low contrast"), answer="B")
YES = ChoiceReference(options=YES_NO, answer="yes", lettered=False)
NONE, TWO = "no_option", "several_options"
BEYOND, CONFLICT = "unknown_option", "letter_and_text"

# fmt: off
LETTERED = [
    # a letter, however it is written
    ("A", "A"), ("b", "B"), ("C.", "C"), ("(D)", "D"), ("a)", "A"), ("**B**", "B"), ("__C__", "C"),
    ("[D]", "D"), ('"B"', "B"), ("B!", "B"), (r"\boxed{C}", "C"), ("  D\n", "D"), ("B.\n\n", "B"),
    # in a sentence
    ("The answer is A", "A"), ("The answer is A.", "A"), ("Answer: B", "B"), ("answer: c.", "C"),
    ("The best option is (D).", "D"), ("Option B", "B"), ("I think B", "B"), ("I'd say C", "C"),
    ("The answer is A because it is soft", "A"), ("B is correct", "B"),
    ("so it is (b), I think", "B"), ("option b it is", "B"),
    ("C: because of the X axis", "C"), ("Definitely not as sharp as before, so: B", "B"),
    # the text of an option
    ("blur", "A"), ("Motion Blur.", "B"), ("  MOTION   BLUR ", "B"), ("(noise)", "C"),
    ("The distortion is motion blur.", "B"), ("It is a blur.", "A"), ("low-contrast", NONE),
    # letter and text
    ("A. blur", "A"), ("B) motion blur", "B"), ("B: Motion blur.", "B"), ("A blur", "A"),
    ("D - low contrast", "D"), ("B.motion blur", "B"), ("B\nmotion blur", "B"),
    ("A. noise", CONFLICT), ("B\nnoise", CONFLICT), ("C) blur", CONFLICT), ("A noise", CONFLICT),
    # two options
    ("A and B", TWO), ("A or C", TWO), ("A/B", TWO), ("A B", TWO), ("blur, noise", TWO),
    ("Both A and C", TWO), ("A. blur\nB. motion blur\nC. noise\nD. low contrast", TWO),
    ("blur and noise", TWO), ("Answer: A. Answer: B.", TWO),
    # beyond the options
    ("E", BEYOND), ("(E)", BEYOND), ("Answer: F", BEYOND), ("e)", BEYOND), ("Option Z", BEYOND),
    # negated
    ("not B", NONE), ("The answer is not B", NONE), ("It isn't option B", NONE),
    ("B, not A", NONE), ("Never A.", NONE),
    # looks like a letter and is none
    ("A blurry video", NONE), ("A man is walking. It is sharp.", NONE), ("I", NONE), ("(I)", NONE),
    ("I cannot tell", NONE), ("The answer is A blurry one", NONE), ("A-roll", NONE),
    ("B-frames are blocky", NONE), ("e.g. noisy", NONE), ("a U.S. video", NONE), ("H.264", NONE),
    ("Α", NONE), ("Ⓐ", NONE), ("ſ", NONE), ("AB", NONE), ("A1", NONE), ("blur-free", NONE),
    # names an option without choosing it
    ("There is noise in the video", NONE), ("blurry", NONE), ("no blur", NONE), ("Neither", NONE),
    ("?", NONE), ("…", NONE), ("\x00", NONE),
    # tags and reasoning
    ("<answer>B</answer>", "B"), ("<answer> (b) </answer>", "B"), ("<answer></answer>", NONE),
    ("<think>A or B?</think>C", "C"), ("<think>A</think><answer>C</answer> A", "C"),
    ("<answer>A</answer><answer>B</answer>", TWO), ("<answer>A</answer><answer>A</answer>", "A"),
    ("<answer>B", "B"), ("B</answer>", "B"), ("<think>A or B", "broken_tags"),
    ("<think>A</think>", "no_answer"), ("", "no_answer"), (" \n", "no_answer"),
]
BARE = [
    ("Yes", "yes"), ("no.", "no"), ("**YES**", "yes"), ("Yes, it is blurry.", "yes"),
    ("Yes there is no blur", "yes"), ("No, it is sharp", "no"), ("No it isn't", "no"),
    ("The answer is no", "no"), ("<think>no</think><answer>Yes</answer>", "yes"),
    ("yes and no", TWO), ("yes no", TWO), ("Yes or no?", TWO), ("No blur is visible", NONE),
    ("not yes", NONE), ("A", NONE), ("Maybe", NONE), ("Nope", NONE), ("noyes", NONE),
]
# fmt: on


def outcome(completion: str, reference: ChoiceReference) -> str:
    answer = parse_choice(completion, reference)
    return answer.value if isinstance(answer, Answer) else answer.reason


@pytest.mark.parametrize(("completion", "expected"), LETTERED)
def test_options_with_letters(completion: str, expected: str) -> None:
    assert outcome(completion, SHOWN) == expected


@pytest.mark.parametrize(("completion", "expected"), BARE)
def test_a_bare_yes_or_no(completion: str, expected: str) -> None:
    assert outcome(completion, YES) == expected


def test_yes_and_no_with_letters() -> None:
    shown = ChoiceReference(options=("Yes", "No"), answer="A")
    table = {"A": "A", "Yes": "A", "B. No": "B", "A. No": CONFLICT, "No, A": CONFLICT, "yes.": "A"}
    assert {text: outcome(text, shown) for text in table} == table


def test_more_options_than_eight_make_i_a_letter() -> None:
    """Only where it stands alone or enclosed: "I think" is the pronoun all the same."""
    shown = ChoiceReference(options=tuple(f"number {n}" for n in range(10)), answer="I")
    table = {"I": "I", "(I)": "I", "I.": "I", "I think so": NONE, "I choose B": "B", "K": BEYOND}
    assert {text: outcome(text, shown) for text in table} == table


def test_odd_option_texts() -> None:
    """Letters as texts, numbers with signs, texts inside of others, separators inside of texts."""
    swapped = ChoiceReference(options=("B", "A", "Y"), answer="A")
    table = {"A": "A", "B": "B", "Y": "C", "C": "C"}
    assert {text: outcome(text, swapped) for text in table} == table
    numbers = ChoiceReference(options=("-1.5", "1.5", "1.5 and 2"), answer="A")
    table = {"-1.5": "A", "1.5": "B", "1.5 and 2": "C", "1.5, 2": "B", "B. 1.5": "B"}
    assert {text: outcome(text, numbers) for text in table} == table


def test_an_answer_keeps_its_words_and_its_form() -> None:
    whole = parse_choice("<think>It smears.</think> <answer> **B** </answer>", SHOWN)
    assert whole == Answer(value="B", text="**B**", reasoning="It smears.", well_formed=True)
    bare = parse_choice("<think>It smears.</think> B", SHOWN)
    assert bare == Answer(value="B", text="B", reasoning="It smears.", well_formed=False)
    assert parse_choice("<answer>A. noise</answer>", SHOWN) == InvalidAnswer(
        reason=CONFLICT, detail="'A. noise': letter and text name A and C"
    )


@pytest.mark.parametrize(
    ("options", "answer", "reason"),
    [
        (("a",), None, "1 options, expected 2 to 26"),
        (tuple(map(str, range(27))), None, "27 options"),
        (("a", " "), None, "option B is empty"),
        (
            ("Blur", "noise", "**blur.**"),
            None,
            "options 'Blur' and '\\*\\*blur.\\*\\*' are the same",
        ),
        (("a", "b"), "C", "answer 'C' is none of the 2 options' A, B"),
    ],
)
def test_references_that_are_no_choice(options, answer, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        ChoiceReference(options=options, answer=answer)


def test_two_spellings_of_one_option() -> None:
    assert option_key(" **Motion\tBlur** .") == option_key("motion blur")
    assert option_key("-1") != option_key("1")


def test_the_reward_of_a_batch() -> None:
    completions = ["B", "motion blur.", "A", "A or B", "<think>B", "<answer>B</answer>"]
    got = ChoiceReward()(completions, list("abcdef"), [None] * 6, reference=[SHOWN] * 6)
    assert got == [1.0, 1.0, 0.0, None, None, 1.0]


def test_the_reward_needs_an_answer_to_compare_with() -> None:
    unknown = ChoiceReference(options=("a", "b"), answer=None)
    for reference in (unknown, None, "B"):
        with pytest.raises(ValueError, match=r"sample 'x'\); expected a ChoiceReference with an"):
            ChoiceReward()(["B"], ["x"], [None], reference=[reference])  # type: ignore[list-item]


def test_any_text_has_an_outcome() -> None:
    draw = random.Random(0)
    pieces = [
        "A",
        "b",
        "(",
        ")",
        ".",
        "*",
        "blur",
        "noise",
        " ",
        "\n",
        "<answer>",
        "</answer>",
        "not",
    ]
    pieces += ["</think>", "\ud800", "I", "answer", "is", "'", "ß", "İ", "_", "—"]
    for _ in range(3000):
        text = "".join(draw.choice(pieces) for _ in range(draw.randint(0, 12)))
        answer = parse_choice(text, SHOWN)
        assert isinstance(answer, InvalidAnswer) or answer.value in SHOWN.values


@pytest.mark.parametrize(
    "piece",
    ["A ", "(", "A.", "not ", "motion ", "blur ", "blur,", "<think>", "</think>", "'a", "**"],
)
def test_time_is_linear(piece: str) -> None:
    """Ten times the text takes about ten times as long; 100 times would be quadratic."""

    def seconds(count: int) -> float:
        begin = time.process_time()
        parse_choice(piece * count, SHOWN)
        return time.process_time() - begin

    short, long = (min(seconds(count) for _ in range(3)) for count in (2_000, 20_000))
    assert long < 40 * max(short, 2e-3)
