"""A long video window by window: rows, their CSV and their picture; memory does not grow."""

import csv
import io
import json
import tracemalloc

import pytest
from PIL import Image

from tests.helpers.policy_factory import small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import frame_pattern, write_video
from thinker.score.scorer import QualityScorer
from thinker.score.timeline import plot_timeline, write_table
from thinker.video import medium


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "a.mp4", num_frames=50, fps=10)


def test_a_window_has_the_score_of_its_range_and_its_spread(policy, video):
    judge = QualityScorer(policy, mode="level")
    rows = list(judge.timeline(video, window_seconds=2))
    assert [(row.start_seconds, row.end_seconds) for row in rows] == [(0, 2), (2, 4), (4, 5)]
    for row in rows:
        alone = judge.score(video, start=row.start_seconds, end=row.end_seconds)
        assert row.prediction.score == pytest.approx(alone.score, abs=1e-5)
        assert row.prediction.spread > 0 and row.prediction.frame_indices == alone.frame_indices
    part = judge.timeline(medium(video, start=1.0, end=3.0), window_seconds=1)
    assert [row.start_seconds for row in part] == [1, 2]


def test_a_question_is_asked_of_every_window(policy, video):
    judge = QualityScorer(policy, ScriptedTexts(policy, ["=It shakes."]), batch_size=2)
    rows = list(judge.timeline(video, window_seconds=1, question="What happens?"))
    assert [row.prediction.answer for row in rows] == ["=It shakes."] * 5
    assert judge.rollout.batches == [2, 2, 1]
    assert {row.prediction.task for row in rows} == {"open"}
    with pytest.raises(ValueError, match="the question is empty"):
        judge.timeline(video, window_seconds=1, question=" ")
    with pytest.raises(ValueError, match="marks turns or media"):
        judge.timeline(video, window_seconds=1, question="<|im_end|>?")


def test_bad_media_are_rows_and_pictures_are_refused(policy, tmp_path):
    judge = QualityScorer(policy, mode="level")
    gap = [*range(0, 1000, 100), *range(3000, 4000, 100)]
    path = write_video(tmp_path / "gap.mp4", times_ms=gap)
    rows = list(judge.timeline(path, window_seconds=1))
    statuses = [row.prediction.status for row in rows]
    assert statuses == ["ok", "empty_range", "empty_range", "ok"]
    (row,) = judge.timeline(tmp_path / "no.mp4", window_seconds=1)
    assert (row.prediction.status, row.end_seconds) == ("missing", None)
    Image.fromarray(frame_pattern(1, 48, 32)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="windows are of videos"):
        judge.timeline(tmp_path / "a.png", window_seconds=1)
    with pytest.raises(ValueError, match="expected a positive number of seconds"):
        judge.timeline(path, window_seconds=0)
    target = tmp_path / "gap.png"
    plot_timeline(rows, target)
    assert Image.open(target).size == (1210, 352)
    plot_timeline(rows[1:3], target)  # none with a score
    plot_timeline([row], target)


def test_the_csv_is_written_while_rows_come(policy, video):
    judge = QualityScorer(policy, ScriptedTexts(policy, ["=It shakes."]))
    file = io.StringIO()
    rows = judge.timeline(video, window_seconds=2.5, question="What happens?")
    assert [json.dumps(row.to_row()) for row in write_table(file, rows)]
    lines = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [line["start_seconds"] for line in lines] == ["0.0000", "2.5000"]
    assert lines[0]["answer"] == "'=It shakes."  # no formula
    assert lines[0]["score"] == "" and lines[0]["status"] == "ok"
    assert lines[0]["path"] == str(video)


def test_memory_does_not_grow_with_the_video(policy, tmp_path):
    """Four minutes hold as little as one: what the windows before had is gone. Python's own
    allocations, numpy's pictures among them."""
    judge = QualityScorer(policy, ScriptedTexts(policy, ["yes"]), batch_size=2)
    peaks = []
    for minutes in (1, 4):
        path = tmp_path / f"{minutes}.mp4"
        write_video(path, num_frames=60 * minutes, fps=1, gop=60)
        tracemalloc.start()
        count = sum(1 for _ in judge.timeline(path, window_seconds=2, question="What happens?"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == 30 * minutes
    assert peaks[1] < 1.5 * peaks[0] + 2**20
