"""The figures of a finished benchmark: rules on the same answers, the judge, published tables."""

import csv
import json

import pytest

from tests.helpers.bench_files import VIDEO_FILE, video_bench, write_media
from tests.helpers.chat_server import chat_server
from tests.helpers.policy_factory import small_policy
from thinker.cli.main import main
from thinker.eval.bench.finish import finish_bench
from thinker.eval.bench.judge import Graded, Judge, parse_score, verdict
from thinker.eval.bench.published import load_tables
from thinker.eval.bench.rules import verdicts
from thinker.eval.bench.tables import Point, mean
from thinker.eval.report.page import write_report
from thinker.eval.summary import load_summary, write_results
from thinker.score.prediction import Prediction, judged
from thinker.score.question import question_of
from thinker.utils.chat_client import ChatClient

CHOICES = ["<think>Crisp.</think> Yes", "B) Noise", "", "The answer is B.", None]
OPEN = ["Crisp edges.", "In the 3rd second.", "Nothing {at} all."]


def prediction(example, text):
    blank = Prediction(
        path=example.media[0].path, score=None, status="invalid_answer", task=example.task
    )
    if text is None:
        return Prediction(path=blank.path, score=None, status="missing", task=example.task)
    return judged(blank, text, 3, question_of(example, ()).reference)


def write_answers(folder, data, texts=(CHOICES, OPEN)):
    """A finished evaluation with these completions."""
    folder.mkdir(exist_ok=True)
    sets = [
        (one, [
            {"id": example.id, **prediction(example, text).to_row()}
            for example, text in zip(one.examples, said, strict=True)
        ])
        for one, said in zip(data.sets, texts, strict=True)
    ]  # fmt: skip
    write_results(folder, sets, {"mode": "reason", "model": "m", "version": "0"})


def cells(text, first):
    """The cells of the line of a printed table that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(first))
    return [cell.strip() for cell in line[len(first) :].split("  ") if cell.strip()]


def client(url, **settings):
    return ChatClient(url, "tiny", **{"wait_seconds": 0.01, "timeout": 5.0} | settings)


# choices


@pytest.mark.parametrize(
    ("text", "robust", "official", "vlmevalkit"),
    [
        ("B", True, True, True),
        ("B. Noise", True, True, True),
        ("Noise", True, False, True),
        ("Blocks", False, True, False),  # begins with the letter of another option
        ("A. or B.", False, False, True),
        ("The answer is (B)", True, False, False),
        ("<think>A.</think><answer>B</answer>", True, True, True),
        ("", False, False, False),
        ("   ", False, False, False),
        ("<think>It never ends", False, False, False),
    ],
)
def test_three_rules_on_one_answer(tmp_path, text, robust, official, vlmevalkit):
    which = video_bench(tmp_path).sets[0].examples[1]  # Blur, Noise, Blocks, None; B is right
    assert verdicts(which, text) == {
        "robust": robust, "official": official, "vlmevalkit": vlmevalkit,
    }  # fmt: skip


def test_the_table_of_rules_counts_what_could_be_asked(tmp_path):
    """Four questions answered, gone.mp4 not. Robust: Yes, B) and B. are right, the empty one is
    not; official: only B); VLMEvalKit: the option Yes itself, and "B." within the sentence."""
    data = video_bench(tmp_path)
    write_answers(tmp_path / "out", data)
    text = finish_bench(tmp_path / "out", data, None)
    counts, *shares = [cell.split(" [")[0] for cell in cells(text, "all ")]
    assert (counts, shares) == ("4", ["75.00", "25.00", "50.00"])
    assert cells(text, "concern=Temporal")[0] == "1"
    assert "4/5 questions answered; 1 without an answer" in text
    assert "the rules differ on 3 of them" in text
    assert "Open questions\nnot measured: no judge" in text
    (by_rule,) = [cells(text, "measured (choices: official")]
    assert by_rule.count("not measured") == 5  # open, three concerns, all; not the choices' types


def test_a_mean_over_videos_is_resampled_by_video():
    points = [Point(value=v, content=c) for v, c in ((1, "a"), (1, "a"), (0, "b"), (0.5, "c"))]
    result = mean(points)
    assert (result.value, result.n) == (0.625, 4)
    assert result.ci_low == 0.0 and result.ci_high == 1.0
    assert mean(points[3:]).ci_low is None and mean([]).value is None
    # Wilson's of one success in one: 1 / (1 + 1.95996²) = .2065.
    assert round(mean(points[:1]).ci_low, 4) == 0.2065


# the judge


def test_replies_and_their_majority():
    assert [parse_score(t) for t in ("Score: 2", "score: **1**", "0.", "2.0", "Score:'0'")] == [
        2, 1, 0, 2, 0,
    ]  # fmt: skip
    prose = ("", "It matches.", "-1", "Score: 3", "1.5", "1/2", "Score: 1\nScore: 2", "12")
    assert [parse_score(t) for t in prose] == [None] * len(prose)
    tied = verdict(["2", "2", "1", "1", "0"])
    assert (tied.status, tied.score, tied.mean) == ("judged", 1, 1.2)
    assert verdict(["2", "2", "well", "0", "2"]).score == 2
    lost = verdict(["2", "2", "so", "well", "good"])
    assert (lost.status, lost.score, lost.num_invalid) == ("no_verdict", None, 3)
    few = verdict(["2", "2", "2", "2"], reason="gone")
    assert few.status == "not_judged" and few.reason == "4 of 5 replies are there: gone"


def grade_by_answer(body):
    """Crisp is right, the third second is prose, nothing at all is graded 1, 1, 0, 0, 2."""
    text = body["messages"][1]["content"]
    if "Crisp edges." in text:
        return "Score: 2"
    if "3rd second" in text:
        return "A good answer."
    grades.append(("1", "1", "0", "0", "2")[len(grades) % 5])
    return f"Score: {grades[-1]}"


grades: list[str] = []


def test_open_answers_are_judged_once_and_every_reply_is_kept(tmp_path):
    data = video_bench(tmp_path, split="all")
    out = tmp_path / "out"
    write_answers(out, data)
    with chat_server(grade_by_answer) as server:
        text = finish_bench(out, data, Judge(client(server.url)))
        assert len(server.requests) == 15
        assert server.requests[0]["temperature"] == 1.0
        asked = [body["messages"][1]["content"] for body in server.requests]
        assert any("question How would you describe the {edges}?, evaluate" in one for one in asked)
        assert any("response Nothing {at} all. completely" in one for one in asked)
        again = finish_bench(out, data, Judge(client(server.url)))
        assert again == text and len(server.requests) == 15  # nothing is paid twice
    with open(out / "q_bench_video_dev_open.judged.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["status"], r["score"], r["mean"], r["num_invalid"]) for r in rows] == [
        ("judged", "2", "2.0000", "0"), ("no_verdict", "", "", "5"), ("judged", "0", "0.8000", "0"),
    ]  # fmt: skip
    assert json.loads(rows[1]["replies"]) == ["A good answer."] * 5
    assert "1 no_verdict" in text and "5 of 15 replies are no score" in text
    # (2/2 + 0/2) / 2 by majority, (2/2 + .8/2) / 2 by means; not all are judged, so no whole.
    shares = [cell.split(" [")[0] for cell in cells(text.split("Open questions:")[1], "all ")]
    assert shares == ["2", "50.00", "70.00"]
    assert "not measured" in text and "GPT-4o (published, not measured)" in text
    figures = load_summary(out)["sets"]["q_bench_video_dev_open"]["report"]["figures"]
    assert figures["judge, majority"]["value"] == 0.5
    page = write_report(out).read_text()
    assert "accuracy by three rules on the same answers" in page and "judge, majority 0.500" in page
    # Another judge may not take these replies for its own, and a changed answer is asked again.
    with pytest.raises(ValueError, match="model was 'tiny', is 'other'"):
        finish_bench(out, data, Judge(ChatClient(server.url, "other")))
    write_answers(out, data, (CHOICES, ["Soft edges.", *OPEN[1:]]))
    with chat_server(lambda body: "2") as server:
        finish_bench(out, data, Judge(client(server.url)))
        assert len(server.requests) == 5


def test_a_whole_benchmark_stands_beside_the_published_ones_of_its_protocol_only(tmp_path):
    data = video_bench(tmp_path, split="dev", media="single")
    write_answers(tmp_path / "out", data, (["A", "B", "B", "B"], OPEN[:2]))
    with chat_server(lambda body: "Score: 1") as server:
        text = finish_bench(tmp_path / "out", data, Judge(client(server.url)))
    measured = cells(text, "measured (choices: official, open: mean)")
    shares = [cell.split(" [")[0] for cell in measured]
    # yes-or-no, what/how, open, Technical, Temporal, other, all: open answers count a half. All
    # four choices are right: (4 + 2 · .5) / 6, technical (2 + .5) / 3, temporal (2 + .5) / 3.
    assert shares == ["100.00", "100.00", "50.00", "83.33", "83.33", "–", "83.33"]
    assert "VQA² Assistant (published, not measured)" in text and "56.50" in text
    assert "56.78" not in text and "mPLUG" not in text  # the test split, and the one with pairs
    assert "2 questions about pairs are left out" in text
    unsaid = finish_bench(tmp_path / "out", video_bench(tmp_path, media="single"), None)
    assert "published, not measured" not in unsaid and "no published figures" in unsaid


def test_published_figures_are_read_with_their_protocol(tmp_path):
    tables = {(t.media, t.split): t for t in load_tables()}
    assert tables["single", "dev"].systems["VQA² Assistant"][-1] == 56.50
    assert tables["pairs", "all"].systems["human"][-1] == 81.56
    path = tmp_path / "own.yaml"
    path.write_text(
        "note: n\nsources: {s: t}\ntables:\n- {bench: q-bench, media: single, split: dev, "
        "source: s, columns: [all], systems: {a: [101]}}\n"
    )
    with pytest.raises(ValueError, match="expected per cent"):
        load_tables(path)


def test_a_judge_that_is_lost_leaves_rows_that_are_not_judged(tmp_path):
    """The endpoint fails from the third call on; what it said is kept, and a second try asks for
    the rest only."""
    data = video_bench(tmp_path)
    out = tmp_path / "out"
    write_answers(out, data)
    state = {"up": 3}

    def failing(body):
        state["up"] -= 1
        return "Score: 2" if state["up"] >= 0 else (500, {}, b"out of order")

    with chat_server(failing) as server:
        text = finish_bench(out, data, Judge(client(server.url, retries=0)))
        assert len(server.requests) <= 3 + 3 + 3  # it gives up, with at most one more a thread
        assert "3 not_judged" in text and "out of order" in text
    with chat_server(lambda body: "Score: 2") as server:
        text = finish_bench(out, data, Judge(client(server.url)))
        assert len(server.requests) == 12 and "3 judged" in text


def test_a_cost_cap_stops_the_judge_and_is_named(tmp_path):
    data = video_bench(tmp_path)
    write_answers(tmp_path / "out", data)
    with chat_server(lambda body: "Score: 2") as server:
        text = finish_bench(tmp_path / "out", data, Judge(client(server.url, max_calls=7)))
        assert len(server.requests) == 7
    assert "not_judged" in text and "7 calls that were allowed" in text


def test_a_judge_that_does_not_answer_is_an_error_at_the_start(tmp_path, capsys):
    with pytest.raises(ValueError, match="the judge 'tiny' does not answer"):
        Judge(client("http://127.0.0.1:9/v1", retries=0)).probe()
    with chat_server(lambda body: "2") as server:
        Judge(client(server.url)).probe()
        assert len(server.requests) == 1
    model = tmp_path / "model"
    model.mkdir()
    command = ["bench", "q-bench-video", "--data", str(VIDEO_FILE), "--video-root", str(tmp_path)]
    command += ["--model", str(model), "--output-dir", str(tmp_path / "out")]
    assert main([*command, "--judge-url", "http://127.0.0.1:9/v1"]) == 2
    assert "--judge-url and --judge-model; give both or neither" in capsys.readouterr().err
    (model / "config.json").write_text("{}")
    assert main([*command, "--prompt", "mine"]) == 2
    assert "prompt is 'mine', expected one of own, official, vqa2" in capsys.readouterr().err


def test_an_answer_that_holds_braces_is_sent_as_it_is():
    one = Graded(place=0, question="{answer}?", answer="{reference}", reference="{x}")
    assert (
        "question {answer}?, evaluate whether the response {reference} completely"
        in (one.messages[1]["content"])
    )


# from the command to the page


def test_the_command_asks_judges_and_goes_on(tmp_path, capsys):
    """A tiny policy writes noise, which is counted as invalid answers and judged as it is."""
    root = write_media(tmp_path)
    small_policy("internvl3").save(tmp_path / "model")
    with chat_server(lambda body: "Score: 0") as server:
        command = [
            "bench", "q-bench-video", "--data", str(VIDEO_FILE), "--video-root", str(root),
            "--model", str(tmp_path / "model"), "--output-dir", str(tmp_path / "out"),
            "--max-new-tokens", "6", "--num-workers", "0", "--judge-url", server.url,
            "--judge-model", "tiny", "--split", "all", "--prompt", "vqa2",
        ]  # fmt: skip
        assert main(command) == 0
        first, num_calls = capsys.readouterr().out, len(server.requests)
        assert main(command) == 0  # rows and replies are there: one probe, nothing else
        assert capsys.readouterr().out == first[first.index("set  ") :]  # a library may greet once
        assert len(server.requests) == num_calls + 1
        command[command.index("vqa2")] = "official"
        assert main(command) == 2
        assert "another model or configuration" in capsys.readouterr().err
    assert "4/5" in first and "1 missing" in first
    assert "with pairs, all split; frames: own, prompt: vqa2" in first
    with open(tmp_path / "out" / "q_bench_video_dev_choice.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows][4] == "missing"
    assert "You will receive 2 distinct frames" in rows[0]["question"]
    assert "The first 2 frames and 3-4frames" in rows[3]["question"]
    assert json.loads(rows[3]["media"]) == ["sharp.mp4", "dark.mp4"]
    main(["report", str(tmp_path / "out")])
    assert "Q-Bench-Video, %" in (tmp_path / "out" / "report.html").read_text()
