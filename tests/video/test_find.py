"""What a user names as videos: files, folders, globs."""

import shutil

import pytest

from tests.helpers.video_factory import write_video
from thinker.video.find import find_videos


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "deep").mkdir()
    first = write_video(tmp_path / "a.mp4", num_frames=10)
    for name in ("b.MKV", "deep/c.mp4"):
        shutil.copy(first, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no video")
    return tmp_path


def test_files_folders_and_globs(videos):
    a, b, c = videos / "a.mp4", videos / "b.MKV", videos / "deep/c.mp4"
    assert find_videos([videos]) == [a, b, c]
    assert find_videos([f"{videos}/**/*.mp4"]) == [a, c]
    assert find_videos([b, videos, "gone.mp4"]) == [b, a, c, type(a)("gone.mp4")]
    bracket = videos / "x[1].mp4"  # a name that looks like a glob
    shutil.copy(a, bracket)
    assert find_videos([bracket]) == [bracket]
    bracket.unlink()


def test_an_empty_folder_and_an_empty_glob_are_errors(tmp_path):
    with pytest.raises(ValueError, match="holds no video"):
        find_videos([tmp_path])
    with pytest.raises(ValueError, match="matches no file"):
        find_videos([f"{tmp_path}/*.mp4"])


def test_what_cannot_be_looked_at_is_named_as_it_is(videos):
    """A row says what is wrong with it; the others are scored."""
    long, empty = videos / ("n" * 300), videos / "d.mp4"
    empty.mkdir()
    assert find_videos([videos / "a.mp4", long, empty]) == [videos / "a.mp4", long, empty]
    empty.rmdir()
