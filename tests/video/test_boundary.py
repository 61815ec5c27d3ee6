"""Whatever one medium raises, wherever, becomes its `VideoError`; nothing else is swallowed."""

import logging
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.medium_faults import watched_calls
from tests.helpers.odd_files import odd_matrix
from tests.helpers.video_checks import SPEC, assert_equal_clips
from tests.helpers.video_factory import frame_pattern, write_video
from thinker.utils.worker_pool import Failure
from thinker.video import (
    REASONS,
    ClipSpec,
    FrameCache,
    TooManyBadVideosError,
    VideoError,
    check_videos,
    read_clip,
)
from thinker.video.boundary import error_from_bytes, guarded
from thinker.video.read_ahead import _from_worker

SMALL = ClipSpec(
    num_keyframes=1, resize="square", keyframe_px=16, min_pixels=0, max_pixels=0, factor=0,
    num_motion_frames=2, motion_px=8, stills="image",
)  # fmt: skip


class InjectedError(Exception):
    """Of no kind that the code could know."""


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """One of each way through the reader: by header, counted, turned, moved on; a picture."""
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(frame_pattern(5, 48, 32)).save(folder / "p.png")
    return [
        write_video(folder / "v.mp4", num_frames=4),
        write_video(folder / "v.avi", codec="mpeg4", num_frames=4),
        write_video(folder / "turned.mp4", num_frames=2, rotation=90),
        write_video(folder / "v.mkv", codec="vp9", num_frames=2),
        folder / "p.png",
    ]


class Caches:
    """A frame cache that is empty for every medium, or holds it."""

    def __init__(self, folder, medium, clip):
        self.folder, self.medium = folder, medium
        self.number = 0
        self.full = FrameCache(folder / "full")
        assert_equal_clips(self.full.get_or_read(medium, SMALL), clip)

    def fetch(self, is_empty):
        self.number += 1
        cache = FrameCache(self.folder / str(self.number)) if is_empty else self.full
        cache._content_hashes.clear()
        return lambda: cache.get_or_read(self.medium, SMALL)


@pytest.mark.parametrize("is_empty", [True, False], ids=["decoded", "cached"])
def test_a_fault_at_any_call_is_the_mediums_own(media, tmp_path, caplog, monkeypatch, is_empty):
    monkeypatch.setattr("thinker.utils.atomic.fsync", lambda path: None)  # speed, not behaviour
    monkeypatch.setattr("os.fsync", lambda handle: None)
    caplog.set_level(logging.CRITICAL, logger="thinker")  # thousands of tracebacks
    done = set()
    with watched_calls() as faults:
        for medium in media:
            clip = read_clip(medium, SMALL)
            caches = Caches(tmp_path / medium.name, medium, clip)
            fetch = caches.fetch(is_empty)
            faults.seen.clear()
            fetch()
            for place in [place for place in faults.seen if place not in done]:
                done.add(place)
                for error, reasons in (
                    (InjectedError("injected"), {"unexpected"}),
                    (OSError(5, "injected"), REASONS),
                    (MemoryError("injected"), {"memory"}),
                    (KeyboardInterrupt(), None),
                ):
                    fetch = caches.fetch(is_empty)
                    faults.place, faults.error = place, error
                    check_outcome(fetch, clip, place, error, reasons)
                    faults.place = None
            assert_equal_clips(caches.fetch(is_empty)(), clip)
    assert len(done) > (150 if is_empty else 30), len(done)


def check_outcome(fetch, clip, place, error, reasons):
    try:
        assert_equal_clips(fetch(), clip)
        # Only the cache may fail without harm: the clip is decoded then, or is not kept.
        assert isinstance(error, OSError) and place.startswith("cache"), (place, error)
    except VideoError as problem:
        assert reasons is not None and problem.reason in reasons, (place, error, problem)
        assert "injected" in problem.detail or isinstance(error, OSError)
        if problem.reason in ("unexpected", "memory"):
            assert problem.__context__ is None  # it would keep the pictures of its frames alive
    except KeyboardInterrupt:
        assert reasons is None, place


def test_an_unknown_error_keeps_its_class_in_the_row_and_its_traceback_in_the_log(tmp_path, caplog):
    def read():
        raise InjectedError("what\nnobody thought of")

    with pytest.raises(VideoError) as caught:
        guarded(tmp_path / "a.mp4", read)
    assert caught.value.reason == "unexpected"
    kind = f"{InjectedError.__module__}.InjectedError"
    assert caught.value.detail == f"{kind}: what\\x0anobody thought of"
    assert "a.mp4" in caplog.text and "in read" in caplog.text and "nobody thought" in caplog.text
    with pytest.raises(SystemExit):
        guarded(tmp_path / "a.mp4", sys.exit)


@pytest.mark.parametrize("answer", [b"", b"c", b"cgarbage", b"e", b"e[1]", b'e["riddle", ""]'])
def test_nonsense_from_a_worker_is_an_error_of_its_medium(tmp_path, answer):
    """A decoder that a file took over may send anything."""
    assert _from_worker(tmp_path / "a.mp4", answer).reason == "unexpected"
    assert error_from_bytes(tmp_path / "a.mp4", answer).reason == "unexpected"
    failure = Failure(reason="timeout", detail="more than 3 s")
    assert _from_worker(tmp_path / "a.mp4", failure).reason == "timeout"


# What FFmpeg cannot convert


@pytest.mark.parametrize(
    ("codec", "code"), [("h264", 8), ("h264", 11), ("h264", 14), ("hevc", 8), ("av1", 14)]
)
def test_a_colour_matrix_that_cannot_be_converted_is_unsupported(tmp_path, codec, code):
    path = odd_matrix(tmp_path / "v.mp4", code, codec)
    with pytest.raises(VideoError, match=f"unsupported: .*matrix code {code}: ") as caught:
        read_clip(path, SPEC)
    assert caught.value.reason == "unsupported"


def test_such_files_count_in_the_share_that_training_allows(tmp_path):
    good = write_video(tmp_path / "good.mp4")
    bad = odd_matrix(tmp_path / "bad.mp4", 8)
    with pytest.raises(TooManyBadVideosError, match="1 of 2 videos cannot be read") as caught:
        check_videos([bad, good], SPEC, None, max_failed_share=0.4, num_workers=1)
    failures = caught.value.failures
    assert {m.path: e.reason for m, e in failures.items()} == {bad: "unsupported"}


def test_a_full_disk_costs_no_clip(tmp_path, monkeypatch, caplog):
    path = write_video(tmp_path / "v.mp4")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("thinker.video.cache.write_atomic", full)
    cache = FrameCache(tmp_path / "cache")
    assert_equal_clips(cache.get_or_read(path, SPEC), read_clip(path, SPEC))
    assert "cannot be cached: [Errno 28]" in caplog.text
    assert np.array_equal(list(cache.folder.iterdir()), [])
