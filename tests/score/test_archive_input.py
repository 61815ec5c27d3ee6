"""Folders and tables as numbered chunks: what a walk adds, and which rows a chunk has."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinker.score.archive import listing, table
from thinker.score.archive.listing import open_listing, update_listing
from thinker.score.archive.table import PathFile, PathTable, TableReader


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(listing, "_BLOCK", 2)
    monkeypatch.setattr(table, "MIN_CHUNK", 3)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).touch()


def chunks(folder):
    paths = open_listing(folder)
    reader = TableReader(paths)
    return [reader.names(chunk) for chunk in range(paths.num_chunks)]


def test_a_walk_adds_what_is_new_and_keeps_the_chunks_that_are_there(tmp_path):
    videos, there = tmp_path / "videos", tmp_path / "listing"
    touch(videos, "a.mp4", "a/b.mp4", "c/d.mp4", "e.mp4", os.fsdecode(b"f\xff\n.mp4"))
    names = [str(videos), f"{videos}/**/*.mp4", f"{videos}/e.mp4", str(tmp_path / "gone.mp4")]
    update_listing(names, there)  # each file once, also one that is not there
    first = [f"{videos}/a/b.mp4", f"{videos}/a.mp4", f"{videos}/c/d.mp4", f"{videos}/e.mp4"]
    first = [str(tmp_path / "gone.mp4"), *first, os.fsdecode(bytes(videos) + b"/f\xff\n.mp4")]
    assert chunks(there) == [first[:3], first[3:]]
    update_listing(names, there)
    assert chunks(there) == [first[:3], first[3:]]

    # What comes later has chunks of its own, also before what is there; what is gone stays.
    touch(videos, "0.mp4", "c/e.mp4", "z/1.mp4", "z/2.mp4")
    (videos / "e.mp4").unlink()
    update_listing(names, there)
    later = [f"{videos}/{name}" for name in ("0.mp4", "c/e.mp4", "z/1.mp4", "z/2.mp4")]
    assert chunks(there) == [first[:3], first[3:], later[:3], later[3:]]
    touch(videos, "b.mp4")
    update_listing([str(videos)], there)
    assert chunks(there)[4:] == [[f"{videos}/b.mp4"]]
    assert open_listing(there).num_rows == 11


def test_names_that_give_nothing_are_errors_and_leave_no_listing(tmp_path):
    with pytest.raises(ValueError, match="none of the files exists"):
        update_listing([str(tmp_path / "a.mp4")], tmp_path / "listing")
    with pytest.raises(ValueError, match="matches no file"):
        update_listing([f"{tmp_path}/*.mp4"], tmp_path / "listing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no video"):
        update_listing([str(tmp_path / "empty")], tmp_path / "listing")
    assert not list((tmp_path / "listing").iterdir())


def test_a_folder_of_an_object_store_is_walked_as_one_of_this_machine(tmp_path):
    touch(tmp_path / "videos", "a/b.mp4", "a.mp4", "note.txt", "c/.d.mp4", "c/e.mov")
    url = f"file://{tmp_path}/videos"
    update_listing([url], tmp_path / "one")
    names = [f"{url}/{name}" for name in ("a/b.mp4", "a.mp4", "c/.d.mp4", "c/e.mov")]
    assert [n for chunk in chunks(tmp_path / "one") for n in chunk] == names
    update_listing([f"{url}/**/*.mp4", f"{url}/a.mp4"], tmp_path / "two")
    assert [n for chunk in chunks(tmp_path / "two") for n in chunk] == names[:2]


@pytest.mark.parametrize("group", [1, 4, 7, 100])
def test_a_chunk_has_its_rows_however_the_table_is_stored(tmp_path, group):
    """Three files of 10, 0 and 7 rows in chunks of 3: 4 + 0 + 3 chunks, none spans two files."""
    files, values = [], [f"/{row}.mp4" for row in range(17)]
    for name, part in (("a", values[:10]), ("b", []), ("c", values[10:])):
        path = tmp_path / f"{name}.parquet"
        column = pa.array(part, pa.string()).dictionary_encode()
        pq.write_table(pa.table({"x": part, "path": column}), path, row_group_size=group)
        files.append(PathFile(name=str(path), num_rows=len(part), chunk_rows=3))
    paths = PathTable(files=tuple(files), column="path")
    assert (paths.num_rows, paths.num_chunks) == (17, 7)
    reader = TableReader(paths)
    starts = [(0, 3), (3, 6), (6, 9), (9, 10), (10, 13), (13, 16), (16, 17)]
    for chunk in (0, 6, 3, 4, 2, 5, 1):  # in any order
        first, stop = starts[chunk]
        assert reader.names(chunk) == values[first:stop]
