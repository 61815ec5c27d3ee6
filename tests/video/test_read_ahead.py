"""Videos read and checked in other processes: the same clips, a fault costs its own video."""

import json
from functools import partial

import pytest

from tests.helpers.launch import launch
from tests.helpers.places import REPO
from tests.helpers.video_checks import SPEC, assert_equal_clips
from tests.helpers.video_factory import write_video
from tests.helpers.worker_tasks import read_or_fail
from thinker.utils.worker_pool import Limits
from thinker.video import FrameCache, VideoError, check_videos, read_clip
from thinker.video.read_ahead import Reading, read_ahead


def test_reading_ahead_gives_the_clips_that_reading_here_gives(tmp_path):
    paths = [write_video(tmp_path / f"{i}.mp4", num_frames=8 + i) for i in range(5)]
    paths.insert(2, tmp_path / "none.mp4")
    read = partial(read_clip, spec=SPEC)
    here = list(read_ahead(paths, read, Reading(num_workers=0)))
    there = list(read_ahead(paths, read, Reading(num_workers=2)))
    for path, a, b in zip(paths, here, there, strict=True):
        assert a.path == b.path == path
        if isinstance(a, VideoError):
            assert (a.reason, a.detail) == (b.reason, b.detail) and a.reason == "missing"
        else:
            assert_equal_clips(a, b)


def test_reading_ahead_over_faults(tmp_path):
    good = write_video(tmp_path / "good.mp4")
    paths = [tmp_path / name for name in ("hang.mp4", "refuse.mp4", "segv.mp4")] + [good]
    read = partial(read_or_fail, SPEC)
    *failed, last = read_ahead(paths, read, Reading(timeout_seconds=10))
    assert [error.reason for error in failed] == ["timeout", "decode_error", "crashed"]
    assert [error.path for error in failed] == paths[:3]
    assert_equal_clips(last, read_clip(good, SPEC))
    (bug,) = read_ahead([tmp_path / "bug.mp4"], read, Reading(num_workers=1))
    assert (bug.reason, bug.detail) == ("unexpected", "RuntimeError: a bug")
    with pytest.raises(ValueError, match="num_workers is -1"):
        Reading(num_workers=-1)


def test_checking_a_data_set_under_a_memory_limit(tmp_path):
    """A real video whose pictures do not fit, between two that do."""
    small = [write_video(tmp_path / f"{i}.mp4", num_frames=3 + i) for i in range(2)]
    large = write_video(tmp_path / "large.mp4", width=4096, height=4096, num_frames=2)
    paths = [small[0], large, small[1]]
    limits = Limits(memory_bytes=100 * 2**20)
    cache = FrameCache(tmp_path / "cache")
    failures = check_videos(paths, SPEC, cache, max_failed_share=0.5, num_workers=1, limits=limits)
    assert {failed.path: error.reason for failed, error in failures.items()} == {large: "memory"}, (
        failures
    )
    assert len(list(cache.folder.iterdir())) == 2
    assert not any(was_decoded for _, was_decoded in (cache.fetch(path, SPEC) for path in small))
    assert check_videos(paths, SPEC, None, max_failed_share=0, num_workers=1) == {}


def test_processes_share_the_check_of_the_videos(tmp_path):
    """Each reads a part; all know all failures, and all refuse where they are too many."""
    (tmp_path / "videos").mkdir()
    for number in range(4):
        write_video(tmp_path / "videos" / f"{number}.mp4", num_frames=4 + number)
    (tmp_path / "videos" / "4.mp4").touch()
    (tmp_path / "videos" / "5.mp4").write_text("no video")
    launch(
        [
            "torch.distributed.run", "--nnodes=1", "--nproc_per_node=2",
            "--master_addr=127.0.0.1", "--master_port=29611",
            str(REPO / "tests" / "helpers" / "check_worker.py"), str(tmp_path),
        ],
        tmp_path,
    )  # fmt: skip
    results = [json.loads((tmp_path / f"result{rank}.json").read_text()) for rank in range(2)]
    for result in results:
        assert result["failures"] == {"4.mp4": "empty", "5.mp4": "not_a_video"}
        assert result["refused"] == 2
    assert sorted(result["read"] for result in results) == [2, 2]
