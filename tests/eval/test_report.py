"""The report page and the comparison of two runs, from real files of an evaluation."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.data.datasets import EvalSet
from thinker.data.examples import Example
from thinker.data.scale import MosScale
from thinker.eval.compare import compare_runs, format_comparison
from thinker.eval.metrics import paired_accuracy, paired_bootstrap
from thinker.eval.report import plots
from thinker.eval.report.page import known_sets, result_lines, worst_cases, write_report
from thinker.eval.report.published import MARK, load_published
from thinker.eval.rows import ResultRow, load_rows
from thinker.eval.sets import LoadedSet, record_set
from thinker.eval.summary import load_summary, write_results
from thinker.prompts import ask
from thinker.score.prediction import Prediction
from thinker.video.medium import medium

SCALE = MosScale(min=0, max=100, mapping="linear")
FINGERPRINT = {"mode": "reason", "model": "d1g35t", "version": "0.1.0"}


def row_of(example, **fields):
    path = example.media[0].path
    prediction = Prediction(path=path, **{"score": None, "status": "ok", **fields})
    return {"id": example.id, **prediction.to_row()}


def write_run(folder, root, scores, *, key="konvid_1k", name="KoNViD-1k", scale=SCALE, **given):
    """An evaluation of len(scores) videos with MOS 10, 12, …; None is a missing one."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [
        Example(
            id=f"{key}/v{i}.mp4", dataset=key,
            media=(medium(root / f"v{i}.mp4"),), mos=10.0 + 2 * i,
            target=1.0, content=f"c{i // 2}",
        )
        for i in range(len(scores))
    ]  # fmt: skip
    rows = [
        row_of(
            sample,
            score=score,
            status="missing" if score is None else "ok",
            reasoning=None if score is None else f"<b>{sample.media[0].path.name} & co</b>",
            num_tokens=None if score is None else 20 + score,
            frame_indices=() if score is None else (2, 7),
        )
        for sample, score in zip(samples, scores, strict=True)
    ]
    eval_set = EvalSet(
        name=name, key=key, meta=root / "m.json", video_root=root, mos_scale=scale, domain="in",
        **given,
    )  # fmt: skip
    one = LoadedSet(
        key=key, name=name, task="score", source=eval_set, examples=samples, bad_lines=[]
    )
    write_results(folder, [(one, rows)], FINGERPRINT)
    return folder


QUESTION = "Which distortion is worst?\nA. blur\nB. <b>noise</b>"


def write_choices(folder, root, answers, *, task="choice", key="probe"):
    """An evaluation of questions whose right answer is B; None is an invalid answer, "" a missing
    video. Odd ones have the tag type=how, even ones type=what."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = [
        Example(
            id=f"{key}/q{i}", dataset=key, task=task, media=(medium(root / f"v{i}.mp4"),),
            turns=ask(QUESTION), options=("blur", "<b>noise</b>") if task == "choice" else (),
            reference="B", content=f"c{i // 2}", tags=(("type", ("what", "how")[i % 2]),),
        )
        for i in range(len(answers))
    ]  # fmt: skip
    status = {None: "invalid_answer", "": "missing"}
    rows = [
        row_of(
            example,
            task=task,
            status=status.get(answer, "ok"),
            answer=answer or None,
            error=None if answer else "several_options: 'A or B' names A and B",
            completion=None if answer == "" else f"<i>{answer or 'A or B'}</i>",
            num_tokens=None if answer == "" else 3,
            frame_indices=() if answer == "" else (2, 7),
        )
        for example, answer in zip(examples, answers, strict=True)
    ]
    source = record_set(root / f"{key}.jsonl", root)
    one = LoadedSet(key=key, name=key, task=task, source=source, examples=examples, bad_lines=[])
    write_results(folder, [(one, rows)], FINGERPRINT)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(20):
        if i != 4:  # deleted since the evaluation
            write_video(folder / f"v{i}.mp4", num_frames=10)
    return folder


def noisy(seed, noise):
    draw = np.random.default_rng(seed)
    return [float(np.clip(1.4 + 0.08 * i + noise * draw.normal(), 1, 5)) for i in range(20)]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    scores = noisy(0, 0.05)
    scores[4], scores[9], scores[13] = 5.0, 1.0, None  # two worst cases, one unscored
    return write_run(tmp_path_factory.mktemp("runs") / "a", root, scores)


class Page(HTMLParser):
    """Collects tags and attributes; complains about tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_self_contained_and_well_formed(run):
    assert main(["report", str(run)]) == 0
    text = (run / "report.html").read_text()
    page = Page(text)
    sources = [attrs[a] for _, attrs in page.seen for a in ("src", "href") if a in attrs]
    # scatter, error, lengths, frames of two of the three worst cases (one video is gone)
    assert len(sources) == 5 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert {tag for tag, _ in page.seen}.isdisjoint({"script", "link", "iframe"})
    names = sorted(path.name for path in (run / "report").iterdir())
    assert names[0] == "answer_lengths.png" and "konvid_1k_scatter.png" in names
    for path in (run / "report").iterdir():
        assert Image.open(path).size[0] > 50


def test_page_shows_figures_cases_and_configuration(run):
    text = write_report(run).read_text()
    assert "19/20" in text and "1 missing" in text
    assert "no frames: missing" in text  # v4 was deleted
    assert "&lt;b&gt;v9.mp4 &amp; co&lt;/b&gt;" in text and "<b>v9.mp4 & co" not in text
    assert "d1g35t" in text and "transformers" in text
    tokens = [row.num_tokens for row in load_rows(run, "konvid_1k") if row.num_tokens]
    low, middle, high = np.quantile(tokens, [0.05, 0.5, 0.95])
    assert f"<td>{low:.0f}</td><td>{middle:.0f}</td><td>{high:.0f}</td>" in text


def test_labels_that_were_measured_are_called_by_their_name(root, run, tmp_path, monkeypatch):
    measured = write_run(tmp_path / "measured", root, noisy(0, 0.05), label_name="vmaf")
    assert load_summary(measured)["sets"]["konvid_1k"]["label_name"] == "vmaf"
    seen = []
    drawn = plots.png
    monkeypatch.setattr(plots, "png", lambda figure: seen.append(figure.axes[0]) or drawn(figure))
    page = write_report(measured).read_text()
    named = [(axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) for axis in seen]
    assert ("Prediction and vmaf", "predicted", "vmaf") in named
    assert ("Error by vmaf", "vmaf", "predicted - vmaf") in named
    assert re.search(r"predicted [0-9.]+, vmaf [0-9.]+, error after", page)
    assert not re.search(r", MOS [0-9.]+", page)
    assert re.search(r"predicted [0-9.]+, MOS [0-9.]+, error after", write_report(run).read_text())


def test_published_figures_stand_apart_and_are_marked(run):
    text = write_report(run).read_text()
    assert f"SRCC / PLCC, {MARK}" in text
    assert re.search(r'<td class="published">0\.881 / 0\.884</td>', text)  # VQAThinker on KoNViD
    assert "arXiv 2508.06051" in text
    for name in known_sets().values():
        assert f"<td>{name}</td>" in text  # all ten sets, measured or not


def test_published_data_cover_the_ten_sets():
    published = load_published()
    keys = set(known_sets())
    assert len(keys) == 10
    systems = {system.name: system.results for system in published.systems}
    assert set(systems["VQAThinker"]) == keys == set(systems["DOVER"])
    assert systems["VQAThinker"]["live_yt_hfr"] == (0.528, 0.610)
    assert all(set(results) <= keys for results in systems.values())


def test_figures_of_a_part_stand_in_no_column(run):
    published = load_published()
    (ugc,) = [system for system in published.systems if system.name == "VQA² UGC-Scorer"]
    part = ugc.subsets["lsvq_1080p"]
    assert (part.srcc, part.num_videos, part.of) == (0.782, 2575, 3573)
    assert "lsvq_1080p" not in ugc.results
    lines = result_lines({}, published)
    assert not [line for line in lines if (0.785, 0.830) in line.published]
    text = write_report(run).read_text()
    assert "LSVQ-1080p 0.782 / 0.847 (2575 of 3573 videos)" in text
    assert "LIVE-VQC 0.785 / 0.830 (88 of 585 videos)" in text
    assert '<td class="published">0.782 / 0.847' not in text


@pytest.mark.parametrize(
    ("results", "part"),
    [
        ({"cgvds": [0.5, 0.5]}, {"num_videos": 10, "of": 357}),
        ({}, {"num_videos": 357, "of": 357}),
    ],
)
def test_a_part_that_is_none_is_refused(tmp_path, results, part):
    subsets = {"cgvds": {"srcc": 0.5, "plcc": 0.5, **part}}
    entry = {"name": "X", "source": "s", "results": results, "subsets": subsets}
    path = tmp_path / "published.yaml"
    path.write_text(json.dumps({"note": "", "sources": {"s": "S"}, "systems": [entry]}))
    with pytest.raises(ValueError, match=r"X on cgvds has .* expected a part"):
        load_published(path)


def test_without_a_scale_ranks_stay_and_rmse_goes(root, tmp_path):
    scores = noisy(0, 0.05)
    known = write_run(tmp_path / "known", root, scores)
    unknown = write_run(tmp_path / "unknown", root, scores, scale=None)
    with_scale, without = (load_summary(folder)["sets"]["konvid_1k"] for folder in (known, unknown))
    assert without["mos_scale"] is None
    for name in ("srcc", "krcc", "plcc", "plcc_mapped"):
        assert without["report"][name]["value"] == pytest.approx(
            with_scale["report"][name]["value"]
        )
    assert with_scale["report"]["rmse_mapped"]["value"] is not None
    assert without["report"]["rmse_mapped"]["value"] is None
    assert (unknown / "table.txt").read_text().count("RMSE is left out") == 1
    rows = load_rows(unknown, "konvid_1k")
    assert [row.pred_score for row in rows] == [round(score, 4) for score in scores]
    assert "undefined" in write_report(unknown).read_text()


def test_a_published_figure_that_is_none_is_refused(tmp_path):
    path = tmp_path / "published.yaml"
    entry = {"name": "X", "source": "s", "results": {"cgvds": [8.8, 0.5]}}
    path.write_text(json.dumps({"note": "", "sources": {"s": "S"}, "systems": [entry]}))
    with pytest.raises(ValueError, match=r"X on cgvds is \(8\.8, 0\.5\)"):
        load_published(path)


def test_worst_cases_are_those_off_the_fitted_curve():
    """A common bias is no error: all predictions are 30 above, one is 20 below the line."""
    rows = [
        ResultRow(
            id=f"{i}", pred_score=30.0 + 2 * i - 20 * (i == 7), gt_score=2.0 * i, status="ok",
            error="", reasoning="", content="", num_tokens=None, frame_indices=(),
        )
        for i in range(20)
    ]  # fmt: skip
    assert worst_cases(rows)[0][0].id == "7"


def test_a_run_without_scores_still_has_a_page(root, tmp_path):
    run = write_run(tmp_path / "none", root, [None] * 3)
    text = write_report(run).read_text()
    assert "0 scored videos: nothing to plot" in text
    assert "undefined<br><small>n = 0, at least 3 needed" in text


def test_names_with_html_in_them_stay_text(root, tmp_path):
    name = '<script>"a" & b</script>'
    run = write_run(tmp_path / "named", root, noisy(0, 0.05)[:3], name=name)
    csv = run / "konvid_1k.csv"
    csv.write_text(csv.read_text().replace("v0.mp4", "<img src=x>"))
    text = write_report(run).read_text()
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.seen}
    assert (
        text.count("&lt;script&gt;&#34;a&#34; &amp; b&lt;/script&gt;") == 3
    )  # two tables, a title
    assert "<b>&lt;img src=x&gt;</b>" in text


def test_an_unfinished_folder_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "finished eval" in capsys.readouterr().err


# compare


def test_comparison_is_the_paired_bootstrap_on_common_videos(run, root, tmp_path, capsys):
    other = write_run(tmp_path / "b", root, noisy(1, 1.5))
    (one,) = compare_runs(run, other)
    a, b = (load_rows(folder, "konvid_1k") for folder in (run, other))
    both = [i for i in range(20) if i != 13]
    expected = paired_bootstrap(
        [a[i].pred_score for i in both],
        [b[i].pred_score for i in both],
        [10.0 + 2 * i for i in both],
        [f"c{i // 2}" for i in both],
    )
    assert one.differences == {"SRCC": expected.srcc, "PLCC": expected.plcc}
    assert (one.num_common, one.num_total) == (19, 20)
    assert main(["compare", str(run), str(other)]) == 0
    shown = capsys.readouterr().out
    assert f"{expected.srcc.value:+.3f}" in shown and "19/20" in shown
    assert format_comparison(compare_runs(run, run)).count("+0.000 [+0.000, +0.000]") == 2


def test_runs_of_other_sets_or_labels_are_refused(run, root, tmp_path):
    other = write_run(tmp_path / "x", root, noisy(1, 1.5), key="vdpve", name="VDPVE")
    with pytest.raises(ValueError, match="expected a set that is in both"):
        compare_runs(run, other)
    shorter = write_run(tmp_path / "y", root, noisy(1, 1.5)[:15])
    with pytest.raises(ValueError, match="5 rows are in one run only"):
        compare_runs(run, shorter)


# other tasks

ANSWERS = ["B", "B", "A", "B", None, "B", "", "B", "B", "A"]


@pytest.fixture(scope="module")
def choices(root, tmp_path_factory):
    return write_choices(tmp_path_factory.mktemp("runs") / "choices", root, ANSWERS)


def test_rows_of_choices_survive_the_csv_and_back(choices):
    rows = load_rows(choices, "probe")
    assert [row.correct for row in rows] == [
        True, True, False, True, False, True, None, True, True, False,
    ]  # fmt: skip
    assert (rows[2].answer, rows[2].reference, rows[2].tags) == ("A", "B", "type=what")
    assert (rows[2].media, rows[2].question, rows[2].pred_score) == (("v2.mp4",), QUESTION, None)
    assert (rows[4].answer, rows[4].status, rows[6].status) == ("", "invalid_answer", "missing")
    header = (choices / "probe.csv").read_text().splitlines()[0]
    assert header.startswith("id,answer,reference,correct,status,error,tags")


def test_figures_of_choices_in_summary_and_table(choices):
    entry = load_summary(choices)["sets"]["probe"]
    report = entry["report"]
    # nine were answered, one of them invalidly; B in six of nine
    assert (report["n_valid"], report["n_answered"], report["n_total"]) == (8, 9, 10)
    assert report["figures"]["accuracy"]["value"] == pytest.approx(6 / 9)
    # what: rows 0 2 4 8 (6 is missing), two right; how: 1 3 5 7 9, four right
    by_type = {value: (r["value"], r["n"]) for value, r in report["by_tag"]["type"].items()}
    assert by_type == {"how": (0.8, 5), "what": (0.5, 4)}
    assert entry["statuses"] == {"ok": 8, "invalid_answer": 1, "missing": 1}
    lines = (choices / "table.txt").read_text().splitlines()
    assert lines[0].split() == ["set", "task", "answered", "valid", "accuracy", "[95%]"]
    assert lines[1].split()[:5] == ["probe", "choice", "9/10", "8/9", "0.667"]
    assert lines[2].split()[:3] == ["type=how", "5", "0.800"]
    assert "probe: 10 questions: 1 invalid_answer, 1 missing, 8 ok" in lines


def test_page_of_choices_shows_accuracy_tags_and_wrong_answers(choices):
    text = write_report(choices).read_text()
    page = Page(text)
    assert "i" not in {tag for tag, _ in page.seen} and "published, not measured" not in text
    assert "<td>9/10</td>" in text and "0.667" in text and "0.800" in text
    assert "Wrong answers: 3" in text
    places = [text.index(f"<b>q{i}</b>") for i in (2, 9, 4)]
    assert places == sorted(places)  # wrong ones before the invalid one
    assert "several_options" in text and "&lt;i&gt;A or B&lt;/i&gt;" in text
    assert "no frames: missing" in text  # v4 was deleted
    names = {path.name for path in (choices / "report").iterdir()}
    assert {"probe_by_tag.png", "probe_wrong0_0.png", "answer_lengths.png"} <= names


def test_page_of_a_task_without_figures(root, tmp_path):
    run = write_choices(tmp_path / "open", root, ["It is dark.", None], task="open")
    text = write_report(run).read_text()
    Page(text)
    assert "not measured" in text and "Nothing is measured of task open" in text
    assert "not measured, task open has no figures" in (run / "table.txt").read_text()


def test_comparison_of_choices_is_paired_on_answers_of_both(choices, root, tmp_path, capsys):
    other = ["B", "A", "A", "B", "B", "", "B", "A", "B", "A"]
    run = write_choices(tmp_path / "b", root, other)
    (one,) = compare_runs(choices, run)
    # 5 (missing in b) and 6 (missing in a) are left out; right in a: 0 1 3 7 8, in b: 0 3 4 8
    assert (one.num_common, one.num_total) == (8, 10)
    assert one.differences["accuracy"].value == pytest.approx(5 / 8 - 4 / 8)
    contents = [f"c{i // 2}" for i in (0, 1, 2, 3, 4, 7, 8, 9)]
    a = [i in (0, 1, 3, 7, 8) for i in (0, 1, 2, 3, 4, 7, 8, 9)]
    b = [i in (0, 3, 4, 8) for i in (0, 1, 2, 3, 4, 7, 8, 9)]
    assert one.differences["accuracy"] == paired_accuracy(a, b, contents)
    assert main(["compare", str(choices), str(run)]) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown and "+0.125" in shown and "8/10" in shown
    with pytest.raises(ValueError, match=r"of task choice in .* and of task open in"):
        compare_runs(choices, write_choices(tmp_path / "c", root, other, task="open"))
