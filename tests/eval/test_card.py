"""Figures in a model card."""

import json
from dataclasses import asdict

import pytest
import yaml

from tests.helpers.policy_factory import small_policy
from thinker.cli.main import main
from thinker.eval.metrics.agreement import MetricResult, ScoreReport

NONE = MetricResult(value=None, n=3, reason="all labels are equal")


def evaluation(folder, srcc):
    """What `thinker eval` writes, as far as a card reads it."""
    folder.mkdir()
    figure = MetricResult(value=srcc, n=290, ci_low=srcc - 0.03, ci_high=srcc + 0.02)
    report = ScoreReport(
        srcc=figure, krcc=NONE, plcc=MetricResult(value=-0.25, n=290), plcc_mapped=NONE,
        rmse_mapped=NONE, n_scored=290, n_total=300, num_contents=60,
    )  # fmt: skip
    share = {"figures": {"accuracy": asdict(figure)}, "n_answered": 7, "n_total": 7}
    sets = {
        "demo": {"name": "Demo", "task": "score", "report": asdict(report)},
        "words": {"name": "Words", "task": "distortion", "report": share},
    }
    (folder / "summary.json").write_text(json.dumps({"sets": sets}))
    return folder


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
        given = evaluation(tmp_path / str(srcc), srcc)
        assert main(["card", str(saved), "--evaluation", str(given)]) == 0
    text = card.read_text()
    assert "| Demo | score | 290 of 300 | SRCC .812 (.782 to .832), PLCC -.250 |" in text
    assert "| Words | distortion | 7 of 7 | accuracy .812 (.782 to .832) |" in text
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
    given = evaluation(tmp_path / "e", 0.5)
    (given / "summary.json").write_text('{"sets": {}}')
    assert main(["card", str(saved), "--evaluation", str(given)]) == 2
    assert "nothing to write" in capsys.readouterr().err
    given = evaluation(tmp_path / "f", 0.5)
    assert main(["card", str(tmp_path / "no" / "such"), "--evaluation", str(given)]) == 2
