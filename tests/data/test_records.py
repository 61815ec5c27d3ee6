"""Records of every published form, whole; every bad line with its place and reason."""

import json
import random
import re
from pathlib import Path

import pytest

from rewards import ChoiceReference
from tests.helpers.places import FIXTURES
from thinker.data.bad_lines import BadLinesError, Loaded
from thinker.data.examples import Example, lesson_turns, parsed_reference
from thinker.data.read import read_records
from thinker.data.scale import MosScale
from thinker.prompts import Turn, ask
from thinker.tasks.choice import INSTRUCTION
from thinker.video.medium import Crop, Medium, medium

RECORDS = FIXTURES / "records"
HUNDRED = MosScale(min=0, max=100, mapping="linear")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    for name in ("clips/a.mp4", "clips/b.mp4", "pictures/p.png", "pictures/q.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root.resolve()


def write(folder: Path, *records: object, name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def one(folder: Path, root: Path, record: dict, **options: object) -> Example:
    (example,) = read_records([write(folder, record)], root, **options).examples
    return example


def flat(**changes: object) -> dict:
    """A question about a video with its answer; None removes a field."""
    record = {"video": "clips/a.mp4", "question": "Why?", "answer": "It stalls.", **changes}
    return {key: value for key, value in record.items() if value is not None}


# --- the published forms


def test_llava(root: Path) -> None:
    first, second = read_records([RECORDS / "llava.json"], root).examples
    assert first == Example(
        id="llava/q/1",
        dataset="llava",
        task="open",
        media=(medium(root / "clips/a.mp4"),),
        turns=ask("<image>\nHow would you rate the quality of this video?"),
        reference="The quality of this video is good.",
        content="clips/a.mp4",
    )
    assert (second.id, second.content) == ("llava/llava.json:2", "pictures/p.png + pictures/q.png")
    assert [one.kind for one in second.media] == ["image", "image"]
    assert [turn.role for turn in second.turns] == ["user", "assistant", "user"]
    assert lesson_turns(second)[-1] == Turn(role="assistant", text="Its edges are clean.")


def test_vida(root: Path) -> None:
    first, second = read_records([RECORDS / "vida.jsonl"], root, dataset="vida").examples
    assert (first.id, first.task) == ("vida/4", "level")
    assert first.turns == (
        Turn(role="system", text="You judge pictures."),
        Turn(role="user", text="<image>\nPlease evaluate the image quality."),
    )
    assert parsed_reference(first).answer == "fair"
    crop = Crop(left=0, top=8, right=16, bottom=24)
    assert second.media == (Medium(path=root / "pictures/q.png", kind="image", crop=crop),)


ROLES = ("describe", "brief", "one kind", "detect", "region", "refer", "choice", "qa", "level")


def test_vida_combined(root: Path) -> None:
    """Two records of each of the nine roles, then a video and plain text, read as they are: what is
    asked and what is taught is verbatim, a record without a system prompt is asked without one, and
    what is answered with boxes has figures and rewards."""
    path = RECORDS / "combined.json"
    given = json.loads(path.read_text())
    examples = read_records([path], root, require_answers=True).examples
    assert len(examples) == len(given) == 2 * len(ROLES) + 2
    for record, example in zip(given, examples, strict=True):
        asked, answer = (turn["value"] for turn in record["conversations"])
        system = record.get("system_prompt")
        before = () if system is None else (Turn(role="system", text=system),)
        assert lesson_turns(example) == (*before, *ask(asked), Turn(role="assistant", text=answer))
    tasks = {role: tuple(e.task for e in examples[2 * n :][:2]) for n, role in enumerate(ROLES)}
    assert {role for role, of in tasks.items() if of == ("boxes",) * 2} == {
        "detect", "region", "refer"
    }  # fmt: skip
    assert tasks["choice"] == ("choice", "choice") and tasks["describe"] == ("open", "open")
    assert [one.task for one in examples[-2:]] == ["open", "open"]  # boxes are of pictures
    found = [parsed_reference(one) for one in examples if one.task == "boxes"]
    assert [len(reference.boxes) for reference in found] == [3, 2, 1, 0, 1, 1]
    assert [reference.names == () for reference in found] == [False] * 4 + [True] * 2


def test_boxes_that_cannot_be_read_are_a_plain_lesson(tmp_path: Path, root: Path) -> None:
    question = "Please provide the bounding box coordinates of all distortions in the image."
    for answer in ("Noise: (300,400),(10,20)", "Noise, everywhere."):
        record = {"image": "pictures/p.png", "question": question, "answer": answer}
        assert one(tmp_path, root, record).task == "open"


def test_the_qwen_port(root: Path) -> None:
    (example,) = read_records([RECORDS / "qwen_port.json"], root).examples
    assert example.turns == ask("<video>\nDoes it stall?")
    assert example.reference == "It does not."


def test_messages_of_several_media_and_of_none(root: Path) -> None:
    first, second = read_records([RECORDS / "messages.jsonl"], root).examples
    assert first.media == (medium(root / "pictures/p.png"), medium(root / "clips/a.mp4"))
    assert [turn.role for turn in first.turns] == ["system", "user"]
    assert second.media == () and second.content == second.id == "messages/messages.jsonl:2"


def test_flat_questions(root: Path) -> None:
    first, second, third = read_records([RECORDS / "benchmark.json"], root).examples
    assert first.turns == ask(f"Which distortion?\nA. noise\nB. motion blur\n{INSTRUCTION}")
    assert (first.task, first.options) == ("choice", ("noise", "motion blur"))
    assert (first.reference, first.tags) == ("motion blur", (("concern", "type"),))
    assert parsed_reference(first) == ChoiceReference(options=first.options, answer="B")
    assert lesson_turns(first)[-1].text == "B"
    assert second.turns == ask("How is it?\nA. sharp\nB. soft")
    assert (second.media[0].start_seconds, second.media[0].end_seconds) == (1.0, 2.5)
    assert second.tags == (("type", "what-how"), ("concern", "Technical"))
    assert parsed_reference(second) == ChoiceReference(options=("sharp", "soft"), answer="B")
    assert (third.options, third.tags) == ((), (("split", "dev"),))
    assert parsed_reference(third).answer == "no"


def test_scores(root: Path) -> None:
    first, second = read_records([RECORDS / "scores.jsonl"], root, scale=HUNDRED).examples
    # 1 + 4 · 75 / 100 = 4; 1 + 4 · 50 / 100 = 3
    assert (first.id, first.task, first.mos, first.target) == ("lsvq/0", "score", 75, 4.0)
    assert first.turns == ask("Rate it from 0 to 100.")
    assert parsed_reference(first) == 4.0
    assert (second.mos, second.target, second.turns) == (50, 3.0, ())  # the policy's own words
    assert lesson_turns(second) == (
        Turn(role="assistant", text="<think>soft</think><answer>50</answer>"),
    )
    with pytest.raises(ValueError, match="no answer in words"):
        lesson_turns(first)


# --- what a record means


@pytest.mark.parametrize(
    ("changes", "task"),
    [
        ({}, "open"),
        ({"options": ["a", "b"], "answer": "b"}, "choice"),
        ({"question": "Which?\nA. blur\nB. noise", "answer": "B"}, "choice"),
        ({"question": "Which?\nA. blur\nB. noise", "answer": "Neither."}, "open"),
        ({"task": None, "tags": None, "dataset_name": None}, "open"),  # null is not given
        ({"question": "Rate it.", "answer": "7"}, "score"),
        ({"question": "What is its score?", "answer": "<answer>7</answer>"}, "score"),
        ({"question": "<video>", "answer": 7}, "score"),
        ({"question": "How many stalls?", "answer": "7"}, "open"),  # a number, but no score
        ({"question": "Rate it.", "answer": "good"}, "open"),
        ({"question": "Rate it.", "answer": None}, "open"),
        ({"task": "level", "question": "Rate it.", "answer": 7}, "level"),
        ({"task": "choice", "answer": "yes"}, "choice"),
    ],
)
def test_the_form_says_the_task(tmp_path: Path, root: Path, changes: dict, task: str) -> None:
    assert one(tmp_path, root, flat(**changes), scale=HUNDRED).task == task


def test_the_file_says_the_task_where_the_record_does_not(tmp_path: Path, root: Path) -> None:
    assert one(tmp_path, root, flat(answer="no"), task="choice").task == "choice"
    named = flat(task="open", answer="no")
    assert one(tmp_path, root, named, task="choice").task == "open"


def test_levels_of_labels_and_their_question(tmp_path: Path, root: Path) -> None:
    record = flat(task="level", question="<video>", answer=70)
    example = one(tmp_path, root, record, scale=HUNDRED)
    # 1 + 4 · 70 / 100 = 3.8, in the bin 3.4 … 4.2
    assert (example.target, parsed_reference(example).answer) == (pytest.approx(3.8), "good")
    assert example.turns[0].text.startswith("<video>\nHow would you rate")


def test_an_unknown_answer_is_an_example_unless_it_is_needed(tmp_path: Path, root: Path) -> None:
    record = flat(answer=None)
    example = one(tmp_path, root, record)
    assert example.reference is None and parsed_reference(example) is None
    with pytest.raises(BadLinesError, match="has no answer; end its conversation"):
        one(tmp_path, root, record, require_answers=True)


def test_contents_by_pattern(tmp_path: Path, root: Path) -> None:
    record = flat(video=["clips/a.mp4", "clips/b.mp4"])
    pattern = r"clips/(?P<content>[a-z])\.mp4"
    assert one(tmp_path, root, record, content_pattern=pattern).content == "a + b"


def test_media_that_are_not_there_are_examples_where_that_is_asked(tmp_path, root) -> None:
    example = one(tmp_path, root, flat(video="clips/no.mp4"), require_files=False)
    assert example.media[0].path == root / "clips/no.mp4"


# --- bad lines

CHAT = {"video": "clips/a.mp4", "image": "pictures/p.png"}


def chat(*turns: tuple[str, object], **fields: object) -> dict:
    spoken = [{"from": role, "value": text} for role, text in turns]
    return {"video": "clips/a.mp4", "conversations": spoken, **fields}


BAD = [
    # media
    (flat(video="clips/no.mp4"), r"file .*clips/no\.mp4 does not exist"),
    (flat(video="../a.mp4"), "must name a file below the media root"),
    (flat(video="/a.mp4"), "must name a file below the media root"),
    (flat(video="clips"), "is not a regular file"),
    (flat(video=["clips/a.mp4", 3]), "video is 3, expected a string"),
    (flat(question="<video><video> Why?"), "hold 2 placeholders <image> or <video> for 1 media"),
    (flat(video=["clips/a.mp4"] * 2, question="<video> Why?"), "hold 1 placeholders .* for 2"),
    (flat(video=None, question="<image> Why?"), "hold 1 placeholders <image> or <video> for 0"),
    (flat(image="pictures/p.png"), "0 placeholders <image> for 1 paths under image"),
    (
        flat(image="pictures/p.png", question="<video><video> Why?"),
        "0 placeholders <image> for 1 paths under image; a record of images and videos",
    ),
    (flat(task="score", answer=3, video=["clips/a.mp4"] * 2), "score is asked of 1 media, got 2"),
    (flat(task="level", answer="good", video=None), "level is asked of 1 media, got 0"),
    # parts of media
    (flat(start=2, end=1), "the end must lie after the start"),
    (flat(start="1"), "start is '1', expected a number of seconds"),
    (flat(end=10**400), "expected a number of seconds"),
    (flat(video="pictures/p.png", end=1), "a range of time is for videos"),
    (flat(video=["clips/a.mp4"] * 2, start=1), "start of a record with 2 media"),
    (flat(crop=[0, 0, 8]), r"crop is \[0, 0, 8\], expected \[left, top, right, bottom\]"),
    (flat(crop=[8, 0, 0, 8]), "a crop needs 0 <= left < right"),
    (flat(crop=[0, 0, 8.5, 8]), "sides of a crop are whole pixels"),
    # what is asked
    ([], r"the record is \[\], expected a JSON object"),
    (flat(question=None), "one of the fields conversations, messages, question, got none"),
    (flat(messages=[]), "got both messages and question"),
    ({"messages": []}, r"messages is \[\], expected a list of turns"),
    (flat(question=""), "the question is empty"),
    (flat(question="<video> "), "the question is empty"),
    (flat(question=3), "the user turn is 3, expected a string"),
    (flat(question="a\x07"), "holds a character that is not printable"),
    (chat(("bot", "Why?")), r"conversations\[0\] is from 'bot', expected one of human, user, gpt"),
    (chat(("gpt", "It."), ("human", "Why?")), "roles of the turns are assistant, user; expected"),
    (chat(("human", "Why?"), ("human", "Why?")), "roles of the turns are user, user"),
    (chat(("human", " "), ("gpt", "It."), ("human", "Why?")), "a user turn is empty"),
    (chat(("human", "Why?"), ("gpt", " ")), "the answer is empty"),
    (chat(("human", "Why?"), ("gpt", ["It."])), r"the answer is \['It.'\], expected a text or a"),
    (chat(("system", "S"), ("human", "Why?"), system_prompt="T"), "turns are system, system, user"),
    ({"messages": [{"role": "user"}]}, r"said in messages\[0\]: expected one of .* got none"),
    ({"messages": [{"content": "Why?"}]}, r"speaks in messages\[0\]: expected one of .* got none"),
    # answers
    (chat(("human", "Why?"), ("gpt", "It."), answer="It."), "a last assistant turn and in answer"),
    (flat(reference="It."), "the answer stands in answer and in reference; expected it once"),
    (flat(answer=""), "the answer is empty"),
    (flat(task="score", answer="good"), "mos 'good' is not a decimal number"),
    (flat(task="score", answer=101), r"mos 101\.0 is outside the declared range 0\.\.100"),
    (flat(task="level", answer="nice"), "reference 'nice' names none of bad, poor"),
    (flat(task="choice", answer="perhaps"), "expected one of 'yes', 'no'"),
    (flat(options=["a", "b"], answer="C"), "'C' in 'C' is beyond the last option, B"),
    (flat(options=["soft", "sharp"], answer="A. sharp"), "letter and text name A and B"),
    (flat(answer=3.5), "reference 3.5: expected a text"),
    # options, tasks, tags, ids
    (flat(options=[], answer="A"), r"options is \[\], expected a list of texts"),
    (flat(options="a"), "options is 'a', expected a list of texts"),
    (flat(options=["<image>", "b"], answer="A"), r"options\[0\] '<image>' marks a place for a"),
    (flat(options=["a", ""], answer="A"), r"options\[1\] is empty"),
    (flat(options=["a", "A."], answer="A"), "options 'a' and 'A.' are the same"),
    (flat(options=["a"], answer="A"), "1 options, expected 2 to 26"),
    (flat(options=["a", "b"], candidates=["a", "b"]), "options and candidates are both given"),
    (flat(options=["a", "b"], task="open"), "task open has no options; name the task choice"),
    (flat(task="rank"), "task is 'rank', expected one of score, level, choice, dist"),
    (flat(task=3), "task is 3, expected a string"),
    (flat(tags={"type": "a"}, question_type="b"), "tag 'type' is given twice"),
    (flat(tags=["a"]), r"tags is \['a'\], expected a JSON object"),
    (flat(id=[1]), r"id is \[1\], expected a string"),
    (flat(dataset_name="!"), "dataset_name '!' holds no letter or digit"),
]


@pytest.mark.parametrize("name", ["own.jsonl", "own.json"])
def test_every_bad_record_is_listed_with_its_place_and_reason(tmp_path, root, name) -> None:
    good, path = flat(), tmp_path / name
    records = [good, *(record for record, _ in BAD), good]
    lines = [json.dumps(record) for record in records]
    is_list = name.endswith(".json")
    path.write_text("[\n" + ",\n".join(lines) + "\n]" if is_list else "\n".join(lines))
    with pytest.raises(BadLinesError) as caught:
        read_records([path], root, scale=HUNDRED)
    bad = caught.value.bad_lines
    first = 3 if is_list else 2  # behind "[" and the good one
    assert [line.line for line in bad] == list(range(first, first + len(BAD)))
    for number, (line, (record, reason)) in enumerate(zip(bad, BAD, strict=True), start=1):
        start = rf"\[{number}\]: .*" if is_list else ".*"
        assert re.match(start + reason, line.reason), (record, line.reason)
    kept = read_records([path], root, scale=HUNDRED, skip_bad_lines=True)
    assert len(kept.examples) == 2 and len(kept.bad_lines) == len(BAD)


def test_a_label_needs_a_scale(tmp_path: Path, root: Path) -> None:
    """A level does; a score where it is to be trained on (test_datasets.py)."""
    with pytest.raises(BadLinesError, match=r"label 3\.0 needs the scale it is on; give"):
        one(tmp_path, root, flat(task="level", answer=3))


def test_a_score_in_a_systems_words_needs_a_question(tmp_path: Path, root: Path) -> None:
    record = flat(task="score", question="<video>", answer=3, system_prompt="S")
    with pytest.raises(BadLinesError, match="the question is empty"):
        one(tmp_path, root, record, scale=HUNDRED)


def test_files_that_are_no_records(tmp_path: Path, root: Path) -> None:
    for name, text, place, reason in (
        ("a.json", "{}", 1, "the file is {}, expected a list with records"),
        ("b.json", "[]", 1, "expected a list with records"),
        ("c.json", '[\n{"a": 1,\n}]', 3, "broken JSON"),
        ("d.jsonl", "{}\nnot json", 2, "broken JSON"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadLinesError) as caught:
            read_records([tmp_path / name], root)
        last = caught.value.bad_lines[-1]
        assert (last.file, last.line) == (tmp_path / name, place) and reason in last.reason


def test_ids_are_unique_over_all_files_of_a_data_set(tmp_path: Path, root: Path) -> None:
    paths = [write(tmp_path, flat(id=1), flat(), name=name) for name in ("a.jsonl", "b.jsonl")]
    assert len(read_records(paths, root).examples) == 4  # each file is a data set of its own
    with pytest.raises(BadLinesError, match=r"duplicate id '1' in data set 'own', first used at"):
        read_records(paths, root, dataset="own")


def test_all_bad_lines_of_all_files_are_told_at_once(tmp_path: Path, root: Path) -> None:
    paths = [write(tmp_path, flat(question=""), name=name) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(BadLinesError) as caught:
        read_records(paths, root)
    assert [bad.file for bad in caught.value.bad_lines] == paths


def mutated(draw: random.Random, value: object) -> object:
    """A JSON value with one thing in it replaced, doubled or left out."""
    odd = [None, "", 0, -1, 2.5, True, [], {}, ["a"], {"a": 1}, "<video>", "x" * 300, "A", "\ud800"]
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: mutated(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        middle = draw.choice([[], [value[place]] * 2, [mutated(draw, value[place])]])
        return [*value[:place], *middle, *value[place + 1 :]]
    return draw.choice(odd)


def test_damaged_records_are_examples_or_bad_lines(tmp_path: Path, root: Path) -> None:
    """Nothing else is raised, and every example that is left can be compared with."""
    draw = random.Random(15)
    sources = [
        {key: value for key, value in record.items() if key != "id"}
        for path in sorted(RECORDS.iterdir())
        for record in (
            json.loads(path.read_text())
            if path.suffix == ".json"
            else map(json.loads, path.read_text().splitlines())
        )
    ]
    records = [mutated(draw, draw.choice(sources)) for _ in range(1500)]
    path = write(tmp_path, *records)
    loaded: Loaded = read_records([path], root, scale=HUNDRED, skip_bad_lines=True)
    assert len(loaded.examples) + len(loaded.bad_lines) == len(records)
    assert len(loaded.examples) > 100 < len(loaded.bad_lines)
    for example in loaded.examples:
        parsed_reference(example)
        if isinstance(example.reference, str):
            assert lesson_turns(example)[-1].role == "assistant"
