"""Labels → records: golden records of every kind, levels, cuts, stalls, bad labels, the command."""

import json
import re

import pytest

from rewards.answer import parse_answer
from tests.helpers.builder_sets import LABELS, SOURCES, plan, write_media
from thinker.cli.main import main
from thinker.data.bad_lines import BadLinesError
from thinker.data.builders.build import KINDS, Plan, build_records
from thinker.data.builders.draft import Style
from thinker.data.builders.facts import LevelRule
from thinker.data.builders.pairs import Pairing
from thinker.data.builders.sources import Sources, read_facts
from thinker.data.builders.stage1 import Cut
from thinker.data.builders.vida import ROLES
from thinker.data.examples import lesson_turns
from thinker.data.paths import media_rules
from thinker.data.published import VIDEO_KEY
from thinker.data.read import read_records
from thinker.prompts import count_placeholders
from thinker.tasks.level import LEVELS

GOLDEN = json.loads((LABELS / "golden.json").read_text(encoding="utf-8"))
"""By form and kind: the records of the set in the fixtures, read and approved by eye."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.mark.parametrize("form", ["short", "published"])
@pytest.mark.parametrize("kind", KINDS)
def test_golden_records(kind: str, form: str, root) -> None:
    built = build_records(plan(kind, root, is_published=form == "published"))
    assert built.records == GOLDEN[form][kind]
    assert (built.num_media, built.failed) == (2 if kind in ROLES else 5, [])


def test_every_record_is_read_with_its_task_and_teaches_its_answer(root, tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    records = [record for form in GOLDEN for kind in KINDS for record in GOLDEN[form][kind]]
    lines = [json.dumps(r | {"id": number}) + "\n" for number, r in enumerate(records)]
    path.write_text("".join(lines))
    examples = read_records([path], root, require_answers=True).examples
    assert len(examples) == len(records)
    for example, record in zip(examples, records, strict=True):
        assert example.task == record["task"]
        assert count_placeholders(example.turns) == len(example.media)
        assert lesson_turns(example)[-1].text == record["conversations"][-1]["value"]


def test_published_videos_have_two_places_and_short_ones_one() -> None:
    for form, per_video in (("published", 2), ("short", 1)):
        for kind in KINDS:
            for record in GOLDEN[form][kind]:
                paths = record.get("image", record.get("video"))
                paths = paths if isinstance(paths, list) else [paths]
                is_video = paths[0].endswith(".mp4")
                asked = record["conversations"][0]["value"]
                num_places = asked.count("<image>") + asked.count("<video>")
                assert num_places == len(paths) * (per_video if is_video else 1)
                assert (VIDEO_KEY in record) == (is_video and form == "published")


def named(*mos: float) -> dict[str, float]:
    return {str(place): one for place, one in enumerate(mos)}


def test_levels_of_a_declared_range_and_of_a_set() -> None:
    """Declared 0..100: 20 begins the second bin, 100 is in the fifth. Over the set 20..80: 32 is a
    share of .2, 80 the maximum."""
    declared = LevelRule(range=(0.0, 100.0))
    shares = declared.shares(named(0, 19.9, 20, 60, 100)).values()
    assert [declared.word(s) for s in shares] == ["bad", "bad", "poor", "good", "excellent"]
    own = LevelRule(range=None, words=("low", "poor", "fair", "good", "high"))
    shares = own.shares(named(20, 32, 80)).values()
    assert [own.word(s) for s in shares] == ["low", "poor", "high"]
    tenths = LevelRule(range=(0.1, 1.1))  # .3 - .1 is .19999999999999998, the edge all the same
    assert tenths.word(tenths.shares(named(0.3))["0"]) == "poor"
    with pytest.raises(
        ValueError, match=r"1 MOS are outside the declared range 0:100 .*: 0 has 101"
    ):
        declared.shares(named(101))
    with pytest.raises(ValueError, match="all MOS of the set are 3; declare"):
        own.shares(named(3, 3))
    with pytest.raises(ValueError, match="five different words"):
        LevelRule(range=None, words=("bad", "good"))


def test_clips_are_cut_in_time_and_space_and_read_back(root, tmp_path) -> None:
    """Two clips of .5 s and 32 x 32 of each video; pictures are cut in space only; the 30 rows of a
    picture hold no 32."""
    cut = Cut(num_clips=2, seconds=0.5, crop_px=32)
    records = build_records(plan("distortion", root, cut=cut)).records
    assert build_records(plan("distortion", root, cut=cut)).records == records
    videos = [record for record in records if "video" in record]
    assert len(videos) == 6 and len(records) == 8
    for record in videos:
        left, top, right, bottom = record["crop"]
        assert record["end"] - record["start"] == pytest.approx(0.5) and record["end"] <= 2.0
        assert (right - left, bottom - top) == (32, 32) and right <= 64 and bottom <= 48
    assert not any("crop" in record or "start" in record for record in records[6:])
    path = tmp_path / "cut.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    first = read_records([path], root).examples[0].media[0]
    assert first.start_seconds == records[0]["start"] and first.crop.width == 32


def test_a_published_clip_is_introduced_as_long_as_it_is(root) -> None:
    cut = Cut(seconds=0.5)
    (record, *_) = build_records(plan("distortion", root, is_published=True, cut=cut)).records
    said = record["conversations"][0]["value"]
    assert "is 0.5 seconds long" in said and "all 5 frames" in said


def test_digits_say_each_frame(root) -> None:
    style = Style(words=LEVELS, stall_form="digits")
    records = build_records(plan("streaming", root, style=style)).records
    assert ": 11000000001111000000\n" in records[0]["conversations"][0]["value"]


def test_severities_are_asked_and_said(root) -> None:
    style = Style(words=LEVELS, is_published=False, with_severity=True)
    records = build_records(plan("distortion", root, style=style)).records
    answers = [record["conversations"][1]["value"] for record in records]
    assert answers == [
        "It is none.",
        "It is severe frame drops.",
        "It is moderate noise.",
        "It is mild gaussian noise.",
        "It is slight blur.",
    ]
    assert all("sever" in record["conversations"][0]["value"] for record in records)


def test_pairs_are_first_second_and_equal_in_both_orders(root) -> None:
    """Of the three videos 80, 20, 52 there are three pairs; of the two pictures, 64 and 41, one."""
    pairing = Pairing(num_pairs=10, equal_below=0.3)
    records = build_records(plan("pair", root, pairing=pairing)).records
    mos = {"a.mp4": 80, "b.mp4": 20, "c.mp4": 52, "d.png": 64, "e.png": 41}
    assert len(records) == 4
    for record in records:
        first, second = (mos[path] for path in record.get("video", record.get("image")))
        right = "C" if abs(first - second) < 30 else "A" if first > second else "B"
        assert record["conversations"][1]["value"] == right


def test_no_answers_are_as_frequent_as_yes(tmp_path) -> None:
    names = ["blur", "noise", "shake"]
    lines = [{"path": f"{i}.mp4", "distortion": names[i % 3]} for i in range(300)]
    for line in lines:  # the short form looks only whether they are there
        (tmp_path / line["path"]).write_bytes(b"-")
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    built = build_records(plan("binary", tmp_path, sources=Sources(distortions=path)))
    said = [record["conversations"][1]["value"] for record in built.records]
    assert 120 < said.count("Yes") < 180 and len(said) == 300
    style = Style(seed=1, is_published=False)
    other = build_records(plan("binary", tmp_path, sources=Sources(distortions=path), style=style))
    assert other.records != built.records
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[::3]))
    with pytest.raises(ValueError, match="at least two to choose from"):  # all would be yes
        build_records(plan("binary", tmp_path, sources=Sources(distortions=path)))


def facts_of(path, text: str, key: str = "distortions", **more):
    path.write_text(text)
    files = {key: (path,) if key == "mos" else path}
    media = media_rules(path.parent, None, require_files=False)
    return read_facts(Sources(**files, **more), media, LevelRule(range=(1.0, 5.0)))


def test_a_split_leaves_mos_of_others_out_too(tmp_path) -> None:
    lines = [
        {"video": f"{name}.mp4", "mos": 3, "split": split}
        for name, split in ("at", "be", "ct")
        for split in ({"t": "train", "e": "eval"}[split],)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path = tmp_path / "mos.jsonl"
    assert [f.path for f in facts_of(path, text, "mos", split="train")] == ["a.mp4", "c.mp4"]
    with pytest.raises(ValueError, match=r"mos\.jsonl: no entry of split 'test'"):
        facts_of(path, text, "mos", split="test")
    with pytest.raises(ValueError, match=r"a\.mp4 is rated in part"):
        facts_of(path, '{"video": "a.mp4", "mos": 3, "start": 0, "end": 1}', "mos")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", '{"a.mp4": {"distortion": "noise", "path": "b.mp4"}}', "a path of its own"),
        ("x.csv", "path,distortion,distortion\na.mp4,blur,noise\n", "each once"),
        ("x.csv", "a.mp4;noise\n", "the header is a.mp4;noise; expected path"),
        ("x.csv", "path,distortion\na.mp4,noise,0.9\n", ":2: 3 cells under 2 columns"),
        ("x.csv", "path,distortion\na.mp4,noise\n./a.mp4,blur\n", "is given twice"),
        ("x.csv", "path,distortion\n", r"x\.csv: no entry"),
    ],
)
def test_labels_that_could_be_taken_for_others_are_refused(tmp_path, name, text, message) -> None:
    with pytest.raises(ValueError, match=message):
        facts_of(tmp_path / name, text)


def test_pictures_have_no_times_and_videos_none_behind_their_end(root, tmp_path) -> None:
    path = tmp_path / "times.jsonl"
    with pytest.raises(BadLinesError, match="stalls are of videos, this is an image"):
        facts_of(path, '{"path": "d.png", "stalls": [[0, 1]]}', "stalls")
    with pytest.raises(BadLinesError, match="with a time is of a video"):
        facts_of(path, '{"path": "d.png", "text": "Soft.", "time": [0, 1]}', "depictions")
    path.write_text('{"path": "a.mp4", "stalls": [[0.5, 1], [50, 60]]}\n')
    sources = Sources(mos=SOURCES.mos, stalls=path)
    with pytest.raises(ValueError, match=r"a\.mp4 lasts 2\.000 s, 60 s is named"):
        build_records(plan("streaming", root, is_published=True, sources=sources))


def test_the_short_form_leaves_out_what_is_not_there(root, tmp_path) -> None:
    path = tmp_path / "two.jsonl"
    lines = [{"path": name, "distortion": "noise"} for name in ("a.mp4", "lost.mp4")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    built = build_records(plan("open", root, sources=Sources(distortions=path)))
    assert len(built.records) == 1 and [error.reason for error in built.failed] == ["missing"]


def test_distortions_of_csv_and_severity_in_words(tmp_path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("path,distortion,severity\na.mp4,Low_Contrast,0.34\nb.mp4,noise,Strong\n")
    rules = media_rules(tmp_path, None, require_files=False)
    facts = read_facts(Sources(distortions=path), rules, None)
    found = [(f.distortion, f.severity, f.concern) for f in facts]
    assert found == [("low contrast", "moderate", "spatial"), ("noise", "strong", "spatial")]


def test_a_quote_that_a_csv_never_closes_drops_no_line(tmp_path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('path,distortion\na.mp4,"noise\nb.mp4,blur\n')
    media = media_rules(tmp_path, None, require_files=False)
    with pytest.raises(BadLinesError, match="a quote that line 2 or a later one opens"):
        read_facts(Sources(distortions=path), media, None)


def test_all_bad_lines_of_all_files_are_told(tmp_path) -> None:
    bad = {
        "distortions": ['{"path": "a", "distortion": "noise", "severity": 2}',
                        '{"path": "../a", "distortion": "noise"}', "{", '{"path": "a"}'],
        "stalls": ['{"path": "a", "stalls": [[1, 1]]}',
                   '{"path": "a", "stalls": [[1, 2], [1.5, 3]]}',
                   '{"path": "a", "stalls": "none"}'],
        "depictions": ['{"path": "a", "attribute": "sharpness"}',
                       '{"path": "a", "text": "x", "time": [1, NaN]}'],
    }  # fmt: skip
    files = {}
    for name, lines in bad.items():
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("\n".join(lines) + "\n")
    rules = media_rules(tmp_path, None, require_files=False)
    with pytest.raises(BadLinesError) as caught:
        read_facts(Sources(**files), rules, None)
    assert [(line.file.stem, line.line) for line in caught.value.bad_lines] == [
        (name, number) for name, lines in bad.items() for number in range(1, len(lines) + 1)
    ]
    told = str(caught.value)
    for reason in ("severity is 2, expected a number from 0 to 1", "without ..", "broken JSON",
                   "missing field 'distortion'", "a stall is [1, 1]", "before the one before it",
                   "expected a list of [start, end]", "expected an attribute with"):  # fmt: skip
        assert reason in told


def test_facts_given_twice_and_mos_without_a_range(tmp_path) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text('{"path": "a.mp4", "distortion": "noise"}\n' * 2)
    rules = media_rules(tmp_path, None, require_files=False)
    with pytest.raises(BadLinesError, match=r":2: the distortion of this path is given twice"):
        read_facts(Sources(distortions=path), rules, None)
    with pytest.raises(ValueError, match="MOS need the range that they are on"):
        read_facts(SOURCES, rules, None)
    with pytest.raises(ValueError, match="give at least one of --mos"):
        Sources()


def test_reasoning_draws_a_number_inside_its_level_and_teaches_no_mos(root) -> None:
    """Each level has a fifth of 1..5: the number of "poor" lies from 1.8 to 2.6. Over seeds it
    takes all of that, and the words stay."""
    drawn: dict[str, list[float]] = {}
    for seed in range(40):
        style = Style(seed=seed, words=LEVELS, is_published=False)
        for record in build_records(plan("reasoning", root, style=style)).records:
            answer = record["conversations"][-1]["value"]
            level = re.search(r", (\w+) quality</think>", answer)[1]
            drawn.setdefault(level, []).append(parse_answer(answer).value)
    assert len(drawn) >= 3
    for level, numbers in drawn.items():
        low = 1 + 0.8 * LEVELS.index(level)
        assert low <= min(numbers) < low + 0.2 and low + 0.6 < max(numbers) <= low + 0.8


def test_a_share_of_the_records_is_drawn_by_the_seed(root) -> None:
    whole = build_records(plan("reasoning", root)).records
    taught = {r["conversations"][-1]["value"] for r in whole}
    part = build_records(plan("reasoning", root, share=0.5)).records
    assert len(part) == round(0.5 * len(whole))
    assert {r["conversations"][-1]["value"] for r in part} < taught
    assert part == build_records(plan("reasoning", root, share=0.5)).records
    assert len(build_records(plan("reasoning", root, share=1e-6)).records) == 1
    levels = build_records(plan("ugc", root, share=0.5)).records
    assert {r["video"] for r in part if "video" in r} <= {r.get("video") for r in levels}
    with pytest.raises(ValueError, match=r"share is 1\.5, expected more than 0 and at most 1"):
        plan("reasoning", root, share=1.5)


def test_what_makes_no_record_says_what_is_needed(root) -> None:
    for kind in KINDS:
        if kind in ("distortion", "binary", "multiple-choice", "open"):
            continue
        sources = Sources(distortions=LABELS / "distortions.json")
        with pytest.raises(ValueError, match=f"no record of kind {kind}, which needs"):
            build_records(plan(kind, root, sources=sources))
    with pytest.raises(ValueError, match="kind 'essay': expected one of distortion, ugc"):
        Plan(kind="essay", sources=SOURCES, media_root=root)
    with pytest.raises(ValueError, match="clips are cut for kind distortion, not for ugc"):
        plan("ugc", root, cut=Cut(seconds=1.0))


def command(root, tmp_path, *more: str) -> list[str]:
    return ["records", *more, "--media-root", str(root), "--output", str(tmp_path / "out.jsonl")]


def test_the_command_leaves_out_what_cannot_be_read_and_says_so(tmp_path, capsys) -> None:
    write_media(tmp_path)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    labels = ["--mos", str(LABELS / "mos.json"), "--scale", "0:100"]
    assert main(command(tmp_path, tmp_path, "ugc", *labels)) == 0
    told = capsys.readouterr().out
    assert "1 of 5 media cannot be read, left out:" in told and "b.mp4" in told
    assert "4 records, 4 different answers" in told
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == ["a.mp4", "c.mp4", "d.png", "e.png"]
    assert main(command(tmp_path, tmp_path, "ugc", *labels)) == 2
    assert "out.jsonl is there; delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["ugc", "--mos", "no.json", "--scale", "0:100"], "cannot read no.json"),
        (["ugc", "--mos", "no.json", "--scale", "100"], "scale '100': expected min:max"),
        (["ugc"], "give at least one of --mos"),
        (["essay", "--mos", "x"], "kind 'essay'"),
        (["ugc", "--mos", "x", "--endpoint", "http://127.0.0.1:9/v1"], "--endpoint-model together"),
        (["ugc", "--mos", "x", "--stall-form", "prose"], "stall form 'prose'"),
        (["ugc", "--mos", "x", "--scale", "1:5", "--level-words", "a,b,c,d,e"], "level words a, b"),
        (["distortion", "--distortions", "x", "--clip-seconds", "nan"], "clip seconds is nan"),
    ],
)
def test_what_the_command_refuses(more: list[str], message: str, root, tmp_path, capsys) -> None:
    assert main(command(root, tmp_path, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
