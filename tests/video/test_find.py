"""What a user names as videos: files, folders, globs."""

import glob
import shutil
from pathlib import Path

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


@pytest.mark.parametrize("pattern", [
    "*.mp4", "**/*.mp4", "a/**/b/*.mp4", "**", "a/*/*", "[ab]/?.mp4", "*/.h/*.mp4", "**/b/**/*.mp4",
    ".*/*.mp4", "*/b.mp4",
])  # fmt: skip
def test_a_glob_gives_what_the_library_gives_in_order(tmp_path, monkeypatch, pattern):
    for folder in ("", "a", "b", "a/b", "a/c/b", "a/b/b", ".h", "a/.h", "a-b"):
        for name in ("a.mp4", "b.mp4", ".c.mp4"):
            (tmp_path / folder).mkdir(exist_ok=True, parents=True)
            (tmp_path / folder / name).touch()
    (tmp_path / "b/link").symlink_to(tmp_path / "a/b")
    monkeypatch.chdir(tmp_path)
    for given in (pattern, f"{tmp_path}/{pattern}", f"./{pattern}"):
        theirs = {Path(path) for path in glob.glob(given, recursive=True) if Path(path).is_file()}
        assert theirs and find_videos([given]) == sorted(theirs)


def test_a_folder_gives_its_files_in_the_order_of_paths(tmp_path):
    for name in ("a/z.mp4", "a.mp4", "a-b/c.mp4", "a/.h/x.png", "b/y.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "b/up").symlink_to(tmp_path)  # a circle
    assert find_videos([tmp_path]) == sorted(
        [tmp_path / name for name in ("a/z.mp4", "a.mp4", "a-b/c.mp4", "a/.h/x.png")]
    )
