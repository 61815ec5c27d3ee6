"""Held-out figures: any task, each question answered once, sets of several tasks apart."""

from functools import partial
from types import SimpleNamespace

import pytest

from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import write_video
from thinker.data.examples import Example
from thinker.prompts import ask
from thinker.train.held_out import held_out, logged_figures
from thinker.video import read_clip
from thinker.video.medium import medium


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture
def data(policy, tmp_path):
    paths = [write_video(tmp_path / f"{i}.mp4", num_frames=10 + i) for i in range(3)]

    def example(number, **fields):
        values = {"id": f"d/{number}", "dataset": "d", "content": str(number)}
        return Example(media=(medium(paths[number]),), **values | fields)

    scores = [example(i, mos=20.0 + i, target=2.0 + i) for i in range(3)]
    choice = {"task": "choice", "turns": ask("Blur?"), "options": (), "reference": "no"}
    choices = [example(i, **choice) for i in range(2)]
    return SimpleNamespace(
        eval_sets=[
            (SimpleNamespace(key="plain"), scores),
            (SimpleNamespace(key="part"), scores[:2]),
            (SimpleNamespace(key="mixed"), [*choices, scores[0]]),
        ],
        reader=partial(read_clip, spec=policy.inputs.clip_spec),
    )


CONFIG = SimpleNamespace(stages=())


def test_figures_of_every_set_and_task(policy, data):
    rollout = ScriptedTexts(policy, ["<think>No blur.</think><answer>No</answer>"])
    figures = held_out(policy, data, rollout, CONFIG)
    assert list(figures) == ["plain", "part", "mixed_choice", "mixed_score"]
    assert figures["plain"] == {"srcc": None, "plcc": None, "valid_share": 0.0}
    assert figures["mixed_choice"] == {"accuracy": 1.0, "valid_share": 1.0}
    assert rollout.batches == [5]  # three scores and two choices, each asked once
    logged = logged_figures(policy, rollout, data=data, config=CONFIG)
    assert logged["valid_share"] == 0.0 and logged["mixed_choice_accuracy"] == 1.0
    assert "srcc" not in logged  # undefined
