"""Files in, predictions out: order, failures, and what is scored together."""

import shutil

import pytest

from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import write_video
from thinker.data.examples import Example
from thinker.score.scorer import QualityScorer
from thinker.score.stream import predictions, window_predictions
from thinker.video.medium import medium
from thinker.video.read_ahead import Reading

HERE = Reading(num_workers=0)


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Seven names: the third is missing and the fifth is no video."""
    folder = tmp_path_factory.mktemp("videos")
    names = [folder / f"{i}.mp4" for i in range(7)]
    first = write_video(names[0], num_frames=10)
    for path in names[1:]:
        shutil.copy(first, path)
    names[2].unlink()
    names[4].write_text("only words\n" * 50)
    return names


def scorer(policy, batch_size):
    rollout = ScriptedTexts(policy, ["<think>It is blur.</think><answer>2.50</answer>"])
    return QualityScorer(policy, rollout, batch_size=batch_size)


def scoring_example(path):
    return Example(id=f"x/{path.name}", dataset="x", media=(medium(path),), content=path.name)


STATUSES = ["ok", "ok", "missing", "ok", "not_a_video", "ok", "ok"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_path_has_its_prediction_in_order(policy, paths, num_workers):
    ours = scorer(policy, batch_size=3)
    scored = list(predictions(ours, paths, Reading(num_workers=num_workers)))
    assert [p.path for p in scored] == paths
    assert [p.status for p in scored] == STATUSES
    assert all(p.mode == "reason" and p.version for p in scored)
    # 0 1 (2 fails) | 3 (4 fails) 5 | 6: a failure takes its place in a batch
    assert ours.rollout.batches == [2, 2, 1]


def test_start_and_end_hold_for_every_path(policy, paths):
    # 10 fps: frames 4..8, N = 5, seg 2: int(1) and int(1 + 2) of the range
    media = [medium(path, start=0.4, end=0.9) for path in paths[:2]]
    scored = list(predictions(scorer(policy, 3), media, HERE))
    assert [p.frame_indices for p in scored] == [(5, 7), (5, 7)]


def test_windows_are_scored_each_by_itself_failures_first(policy, paths):
    ours = scorer(policy, batch_size=8)
    windows = [range(0, 3), range(6, 7), range(3, 6)]
    examples = [scoring_example(path) for path in paths]
    scored = list(window_predictions(ours, examples, windows, HERE))
    assert [index for index, _ in scored] == [2, 0, 1, 6, 4, 3, 5]
    by_index = dict(scored)
    assert [by_index[index].path for index in range(7)] == paths
    assert [by_index[index].status for index in range(7)] == STATUSES
    assert ours.rollout.batches == [2, 1, 2]  # a batch never reaches into the next window
    assert list(window_predictions(ours, examples, [], HERE)) == []


def test_settings_that_make_no_sense_are_refused():
    nan = float("nan")
    for settings in ({"num_workers": -1}, {"timeout_seconds": 0}, {"timeout_seconds": nan}):
        with pytest.raises(ValueError, match="expected at least 0 and above 0"):
            Reading(**settings)
