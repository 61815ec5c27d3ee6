"""Benchmarks' own records: fields, pairs, references, bad records; prompts as published."""

import json

import pytest

from tests.helpers.bench_files import FIXTURES, SIXTEEN, video_bench
from thinker.data.bad_lines import BadLinesError
from thinker.data.examples import parsed_reference
from thinker.eval.bench.asking import LETTER_WISH, TIME_MARKS
from thinker.eval.bench.load import Protocol, load_bench
from thinker.eval.bench.times import agrees, seconds_of


def by_question(data):
    return {data.questions[e.id]: e for one in data.sets for e in one.examples}


def test_published_fields_become_examples_of_two_tasks(tmp_path):
    data = video_bench(tmp_path)
    choice, opened = data.sets
    assert [(s.key, s.task, len(s.examples)) for s in data.sets] == [
        ("q_bench_video_dev_choice", "choice", 5), ("q_bench_video_dev_open", "open", 3),
    ]  # fmt: skip
    assert [parsed_reference(e).answer for e in choice.examples] == list("ABBBB")
    assert [e.reference for e in opened.examples] == [
        "They are crisp.", "At 2 seconds.", "Contrast.",
    ]  # fmt: skip
    pair = choice.examples[3]
    assert [m.path.name for m in pair.media] == ["sharp.mp4", "dark.mp4"]
    assert pair.content == "sharp.mp4 + dark.mp4"
    assert dict(pair.tags) == {
        "media": "pair", "context": "Compare-Coarse", "video_type": "natural",
        "type": "what/how", "concern": "Aesthetic",
    }  # fmt: skip
    # The context says what a pair is, not the mark within a name.
    cat = choice.examples[2]
    assert [m.path.name for m in cat.media] == ["my_cat_sleeps.mp4"]
    assert dict(cat.tags)["time"] == "yes"
    assert data.questions[opened.examples[0].id] == "How would you describe the {edges}?"


def test_the_protocol_without_pairs_leaves_them_out_and_says_so(tmp_path):
    data = video_bench(tmp_path, media="single")
    assert [(s.key, len(s.examples)) for s in data.sets] == [
        ("q_bench_video_dev_single_choice", 4), ("q_bench_video_dev_single_open", 2),
    ]  # fmt: skip
    assert data.num_left_out == 2
    assert all(len(e.media) == 1 for one in data.sets for e in one.examples)


def test_images_and_image_pairs_go_by_the_same_code(tmp_path):
    protocol = Protocol(bench="q-bench", prompt="official")
    files = [FIXTURES / "q_bench_dev.json", FIXTURES / "q_bench2_dev.jsonl"]
    (one,) = load_bench(protocol, files, tmp_path, SIXTEEN).sets
    blurred, sky, clarity = one.examples
    assert [parsed_reference(e).answer for e in one.examples] == ["B", "B", "B"]
    assert dict(sky.tags) == {
        "media": "single", "type": "how", "concern": "in-context other",
    }  # fmt: skip
    assert [m.path.name for m in clarity.media] == ["plain.png", "other.png"]
    assert {m.kind for e in one.examples for m in e.media} == {"image"}
    assert blurred.turns[0].text == (
        "<image>\nIs this image blurred?\nChoose between one of the options as follows:\n"
        "A. Yes\nB. No\n"
    )


GOOD = {
    "video_name": "a.mp4", "question": "Is it?", "answers": ["Yes", "No"],
    "question_type": "yes-or-no", "quality_concern": "Technical", "context": "Global",
    "correct_choice": "A",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"video_name": None}, "video_name"),
        ({"video_name": "../a.mp4"}, "below the media root"),
        ({"context": "Joint"}, "is asked of a pair; expected two names"),
        ({"context": "Joint", "video_name": "a_cat_b_cat_c.mp4.mp4"}, "expected two names"),
        ({"correct_choice": "C"}, "expected one of the letters of 2 options"),
        ({"correct_choice": "B", "correct_ans": "Yes"}, "expected the same"),
        ({"answers": "Yes"}, "expected the list of options"),
        ({"answers": ["Yes", "Yes"]}, "are the same"),
        ({"question": " "}, "question is empty"),
        ({"question_type": "open_ended", "answers": ["a", "b"]}, "answers of an open question"),
    ],
)
def test_a_bad_record_is_named_with_its_reason(tmp_path, changes, reason):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([GOOD, GOOD | changes]))
    with pytest.raises(BadLinesError) as caught:
        load_bench(Protocol(bench="q-bench-video"), [path], tmp_path, SIXTEEN)
    (bad,) = caught.value.bad_lines
    assert reason in bad.reason and bad.reason.startswith("[1]: ")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"media": "both"}, "protocol is 'both', expected one of pairs, single"),
        ({"prompt": "vlm"}, "prompt is 'vlm', expected one of own, official, vqa2"),
        ({"frames": "all"}, "frames is 'all', expected one of own, official, vlmevalkit"),
        ({"split": "train"}, "split is 'train', expected one of dev, test, all"),
    ],
)
def test_a_protocol_that_there_is_not(given, reason):
    with pytest.raises(ValueError, match=reason):
        Protocol(bench="q-bench-video", **given)


# prompts


def test_the_official_prompt_is_the_published_text(tmp_path):
    """Of Q-Future/Q-Bench-Video's GPT_test.py, joined, a medium in the place of its frames."""
    asked = by_question(video_bench(tmp_path, prompt="official", frames="official"))
    assert asked["Is this video sharp?"].turns[0].text == (
        "You will receive 16 distinct frames that have been uniformly sampled from a video "
        "sequence, arranged in the same temporal order as they appear in the video. Please analyze "
        "these frames and answer the questions based on your observations.\n"
        "The video frames:<video>Is this video sharp?\nA. Yes\nB. No\n"
        "Please answer the question in the following format: the uppercase letter of the correct "
        "answer option itself +'.'. Please do not add any other answers beyond this."
    )
    assert asked["What do both videos lack?"].turns[0].text == (
        "You will receive 16 distinct frames in total. The first 8 frames and 9-16 frames are "
        "uniformly sampled from the first and the second video sequence, arranged in the same "
        "temporal order as they appear in the videos. Please analyze these frames and answer the "
        "questions based on your observations.\n"
        "The first video frames:<video>The second video frames:<video>What do both videos lack?\n"
    )
    pair = asked["What do both videos lack?"]
    assert [m.num_keyframes for m in pair.media] == [8, 8]
    assert asked["Is this video sharp?"].media[0].num_keyframes is None


def test_the_prompt_of_vqa2_is_the_published_text(tmp_path):
    asked = by_question(video_bench(tmp_path, prompt="vqa2"))
    assert asked["How would you describe the {edges}?"].turns[0].text == (
        "You will receive 16 distinct frames that have been uniformly sampled in each second from "
        "a video sequence, arranged in the same temporal order as they appear in the video. In "
        "addition, you will also obtain motion features extracted from all 64 frames of the the "
        "first video.  Please analyze these images and answer the questions based on your "
        "observations.\nThe video frames:<video>\n"
        "How would you describe the {edges}?Please directly answer the question."
    )
    pair = asked["Compared with the first video, how bright is the second?"].turns[0].text
    assert "The first 8 frames and 9-16frames are" in pair and "second video'+'. The" in pair
    assert pair.endswith(f"A. Brighter\nB. Darker\nC. About the same\n{LETTER_WISH}")


def test_the_own_prompt_is_the_one_of_every_choice_and_says_what_time_marks_mean(tmp_path):
    asked = by_question(video_bench(tmp_path))
    assert asked["Is this video sharp?"].turns[0].text == (
        "Is this video sharp?\nA. Yes\nB. No\n"
        "Answer with the option's letter from the given choices directly."
    )
    text = asked["At which time does it stall?"].turns[0].text
    assert text.startswith(f"{TIME_MARKS}\nAt which time does it stall?\nA. 1 second\n")
    assert asked["How would you describe the {edges}?"].turns[0].text == (
        "How would you describe the {edges}?"
    )


def test_seconds_that_a_text_names():
    assert seconds_of("from 2-4 s, the 6th second, second 9") == (2.0, 4.0, 6.0, 9.0)
    assert seconds_of("the second video has 30 frames") == ()
    assert agrees("at 4 seconds", "3 seconds") is True
    assert agrees("at 5 seconds", "3 seconds") is False
    assert agrees("at 3 and 4 seconds", "3 seconds") is False
    assert agrees("at 3 seconds", "at the end") is None
