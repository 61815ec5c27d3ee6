"""Figures in a model card."""

import json
from dataclasses import asdict

import pytest
import yaml

from tests.helpers.policy_factory import small_policy
from thinker.cli.main import main
from thinker.eval.metrics.agreement import MetricResult, ScoreReport
from thinker.policies import load_policy
from thinker.policies.digest import content_digest, model_digest

NONE = MetricResult(value=None, n=3, reason="all labels are equal")


def evaluation(folder, srcc, policy):
    """What `thinker eval` writes about the policy in a folder, as far as a card reads it."""
    folder.mkdir()
    figure = MetricResult(value=srcc, n=290, ci_low=srcc - 0.03, ci_high=srcc + 0.02)
    report = ScoreReport(
        srcc=figure, krcc=NONE, plcc=MetricResult(value=-0.25, n=290), plcc_mapped=NONE,
        rmse_mapped=NONE, n_scored=290, n_total=300, num_contents=60,
    )  # fmt: skip
    share = {"figures": {"accuracy": asdict(figure)}, "n_valid": 5, "n_answered": 7, "n_total": 7}
    sets = {
        "demo": {"name": "Demo", "task": "score", "report": asdict(report)},
        "words": {"name": "Words", "task": "distortion", "report": share},
    }
    of = {"model": model_digest(str(policy), None), "content": content_digest(str(policy))}
    values = {"sets": sets, "configuration": of}
    (folder / "summary.json").write_text(json.dumps(values))
    return folder


def refused(policy, given, capsys):
    """The one line that `thinker card` says."""
    before = (policy / "README.md").read_bytes()
    assert main(["card", str(policy), "--evaluation", str(given)]) == 2
    assert (policy / "README.md").read_bytes() == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.fixture
def saved(tmp_path):
    small_policy("internvl3").save(tmp_path / "policy")
    return tmp_path / "policy"


def front_matter(text):
    return yaml.safe_load(text.split("---")[1])


def test_figures_stand_in_the_card_and_in_its_front_matter(saved, tmp_path, capsys):
    card = saved / "README.md"
    card.write_text(card.read_text() + "\nA line of mine.\n")
    before = card.read_text()
    for srcc in (0.7, 0.812):  # those of before are replaced
        given = evaluation(tmp_path / str(srcc), srcc, saved)
        assert main(["card", str(saved), "--evaluation", str(given)]) == 0
    text = card.read_text()
    assert "| Demo | score | 290 of 300 | SRCC .812 (.782 to .832), PLCC -.250 |" in text
    assert "| Words | distortion | 5 of 7 | accuracy .812 (.782 to .832) |" in text
    assert ".700" not in text and "KRCC" not in text
    assert text.index("## Figures") < text.index("## How to score")
    [index] = front_matter(text)["model-index"]
    assert index["name"] == "policy"
    [demo, _] = index["results"]
    assert demo["dataset"] == {"name": "Demo", "type": "demo"}
    assert [m["value"] for m in demo["metrics"]] == [0.812, -0.25]
    # All else stays.
    assert front_matter(text)["tags"] == front_matter(before)["tags"]
    assert text.split("# Video quality", 1)[1].endswith(before.split("## How to score", 1)[1])


def test_what_is_no_evaluation_is_refused(saved, tmp_path, capsys):
    assert main(["card", str(saved), "--evaluation", str(tmp_path)]) == 2
    assert "holds no summary.json" in capsys.readouterr().err
    given = evaluation(tmp_path / "e", 0.5, saved)
    (given / "summary.json").write_text('{"sets": {}}')
    assert "nothing to write" in refused(saved, given, capsys)
    given = evaluation(tmp_path / "f", 0.5, saved)
    assert main(["card", str(tmp_path / "no" / "such"), "--evaluation", str(given)]) == 2


def test_an_evaluation_of_another_policy_is_refused(saved, tmp_path, capsys):
    """By what is in the files, not by the folder's name: one that is saved again is the same."""
    given = evaluation(tmp_path / "e", 0.5, saved)
    again, other = tmp_path / "again", tmp_path / "other"
    load_policy(saved).save(again)
    assert main(["card", str(again), "--evaluation", str(given)]) == 0
    policy = load_policy(saved)
    policy.model.config.scoring_question = "How sharp is it?"
    policy.save(other)
    assert content_digest(str(other)) != content_digest(str(saved))
    policy.model.config.scoring_question = None
    policy.model.lm_head.weight.data[0, 0] += 1
    policy.save(other)
    capsys.readouterr()
    said = refused(other, given, capsys)
    assert f"{given} is an evaluation of another policy than that in {other}" in said
    summary = json.loads((given / "summary.json").read_text())
    (given / "summary.json").write_text(json.dumps(summary | {"configuration": {}}))
    said = refused(saved, given, capsys)
    assert f"{given}: summary.json does not say of which policy" in said and str(saved) in said


def result(dataset, metric, value, task="score"):
    return {
        "task": {"type": "video-text-to-text", "name": task},
        "dataset": {"name": dataset, "type": dataset.lower()},
        "metrics": [{"type": metric, "value": value}],
    }


def test_what_others_wrote_into_the_model_index_stays(saved, tmp_path):
    """Under the policy's own name, too; figures of a set that is evaluated no more go."""
    card = saved / "README.md"
    mine = {"name": "mine", "results": [result("Theirs", "mae", 0.25)]}
    own = {"name": "policy", "results": [result("Demo", "mae", 0.5)]}
    head = {"license": "mit", "model-index": [mine, own]}
    text = card.read_text().split("---", 2)[2]
    card.write_text(f"---\n{yaml.safe_dump(head)}---{text}")
    first = evaluation(tmp_path / "first", 0.7, saved)
    assert main(["card", str(saved), "--evaluation", str(first)]) == 0
    second = evaluation(tmp_path / "second", 0.8, saved)
    summary = json.loads((second / "summary.json").read_text())
    del summary["sets"]["words"]
    (second / "summary.json").write_text(json.dumps(summary))
    assert main(["card", str(saved), "--evaluation", str(second)]) == 0
    written = front_matter(card.read_text())
    assert written["license"] == "mit"
    kept, policy = written["model-index"]
    assert kept == mine
    assert policy["results"][0] == own["results"][0]
    [demo] = policy["results"][1:]
    assert [m["value"] for m in demo["metrics"]] == [0.8, -0.25]


BROKEN = {
    "summary.json": [
        b"[]", b"{}", b"{x", b"\xff{}", b'{"sets": []}', b'{"sets": {"demo": []}}',
        b'{"sets": {"demo": {"name": "D", "task": "score"}}}',
        b'{"sets": {"demo": {"name": "D", "task": "score", "report": {}}}}',
    ],
    "README.md": [
        b"---\na: [\n---\n", b"---\n- a\n---\n", b"\xff", b"---\nmodel-index: [3]\n---\n",
        b"<!-- figures of thinker card -->",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, cs in BROKEN.items() for c in cs])
def test_a_broken_file_is_named(saved, tmp_path, capsys, name, content):
    given = evaluation(tmp_path / "e", 0.5, saved)
    path = (given if name == "summary.json" else saved) / name
    path.write_bytes(content)
    assert str(path) in refused(saved, given, capsys)
