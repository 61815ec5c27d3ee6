"""The Ray Data engine on one machine: parts, restart, tables, actors that die."""

import os
import shutil
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.odd_files import odd_matrix, odd_names
from tests.helpers.places import REPO
from tests.helpers.policy_factory import small_policy
from tests.helpers.toy_actor import ToyActor
from tests.helpers.video_factory import write_video
from thinker.cli.main import main
from thinker.score.archive import RaySettings, format_counts, run, score_archive, table
from thinker.score.archive.actor import Job, ScoreActor
from thinker.score.archive.parts import part_numbers, part_path, read_part
from thinker.utils.names import text_path
from thinker.video.read_ahead import Reading

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster():
    paths = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = paths  # Ray's workers import from here, too
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_policy("internvl3").save(folder)
    return folder


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(table, "MIN_CHUNK", 3)


@pytest.fixture
def toy(cluster, monkeypatch, small_chunks):
    """Scores by the toy: `score(names, output)`."""
    monkeypatch.setattr(run, "ScoreActor", ToyActor)

    def score(names, output, **more):
        settings = RaySettings(min_actors=1, max_actors=more.pop("max_actors", 1))
        return score_archive([str(n) for n in names], output, REPO, {}, settings, **more)

    return score


def command(model, names, output, mode="level"):
    return [
        "score", "--engine", "ray", "--model", str(model), "--mode", mode, "--num-workers", "0",
        "--input", *map(str, names), "--output", str(output),
    ]  # fmt: skip


def write_table(path, names, column="path", **options):
    pq.write_table(pa.table({"number": range(len(names)), column: names}), path, **options)
    return path


def rows_of(output):
    return pq.read_table(output).to_pylist()


def test_an_archive_is_scored_resumed_and_kept_from_another_configuration(
    cluster, model, tmp_path, capsys, caplog, small_chunks
):
    archive = tmp_path / os.fsdecode(b"arch\xefve")
    archive.mkdir()
    odd_names(archive)
    odd_matrix(archive / "matrix.mp4")
    names, output = [f"{archive}/**/*.mp4"], tmp_path / os.fsdecode(b"out\xff")
    assert main(command(model, names, output)) == 1  # one file is not supported
    assert "9 videos: 8 ok, 1 unsupported" in capsys.readouterr().out
    with open(part_path(output, 0), "rb") as file:  # pyarrow takes no such path
        first = pq.read_table(file).to_pylist()
    assert len(first) == 3 and all(len(r["probabilities"]) == 5 for r in first)
    assert all(text_path(row["path"]).exists() for row in first)

    # a lost part and a new file are done, nothing else is touched
    parts = [part_path(output, chunk) for chunk in sorted(part_numbers(output))]
    assert len(parts) == 3
    parts[2].unlink()
    times = {part: part.stat().st_mtime_ns for part in parts[:2]}
    write_video(archive / "new.mp4", num_frames=10)
    assert main(command(model, names, output)) == 1
    assert "10 videos: 9 ok, 1 unsupported" in capsys.readouterr().out
    assert "1 unsupported; add --retry unsupported" in caplog.text
    assert {part: part.stat().st_mtime_ns for part in times} == times

    # what failed is tried again where that is asked for
    shutil.copy(archive / "new.mp4", archive / "matrix.mp4")
    assert main([*command(model, names, output), "--retry", "unsupported"]) == 0
    assert "10 videos: 10 ok" in capsys.readouterr().out

    # another configuration, another kind of input, parts of the older layout are refused
    assert main(command(model, names, output, mode="reason")) == 2
    assert "another model or configuration" in capsys.readouterr().err
    paths = write_table(tmp_path / "t.parquet", ["a.mp4"])
    assert main(command(model, [paths], output)) == 2
    assert "input.table was None" in capsys.readouterr().err
    (tmp_path / "old").mkdir()
    (tmp_path / "old/part-00ab.parquet").touch()
    assert main(command(model, names, tmp_path / "old")) == 2
    assert "older version" in capsys.readouterr().err


def job_of(tmp_path, paths, **more):
    settings = {"model": REPO, "scorer": {}, "reading": Reading(), "retry": (), "max_starts": 1}
    return Job(output=tmp_path / "out", table=paths, **(settings | more))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_files_of_an_object_store_are_fetched_and_deleted(
    model, tmp_path, monkeypatch, request, num_workers
):
    # Short: the sockets of worker processes lie below it, whose paths have 108 characters at most.
    space = Path(tempfile.mkdtemp(prefix="t"))
    request.addfinalizer(lambda: shutil.rmtree(space))
    monkeypatch.setattr(tempfile, "tempdir", str(space))
    left = space / f"thinker-fetched-{os.getuid()}/left.mp4"
    left.parent.mkdir()
    left.touch()  # by a process that was killed
    here = write_video(tmp_path / "a b.mp4", num_frames=10)
    names = [f"file://{here}", str(here), f"file://{tmp_path}/gone.mp4", "a b.mp4", None]
    parquet = write_table(tmp_path / "t.parquet", names, column="video")
    paths, _ = table.open_tables([parquet.as_uri()], "video")
    reading = Reading(num_workers=num_workers)
    actor = ScoreActor(
        job_of(tmp_path, paths, model=model, scorer={"mode": "level"}, reading=reading)
    )
    actor({"data": np.arange(1)})
    rows = read_part(tmp_path / "out", 0)
    # A relative path counts from the folder of the table, and so does it where that is a URL.
    assert [row["path"] for row in rows] == [*names[:3], f"file://{here}", ""]
    assert [row["status"] for row in rows] == ["ok", "ok", "missing", "ok", "unreadable"]
    assert rows[0]["score"] == pytest.approx(rows[1]["score"]) and rows[0]["frame_indices"]
    assert rows[2]["error"].startswith("gone.mp4: missing")
    if num_workers == 0:  # a worker has a temporary folder of its own
        assert not list(left.parent.iterdir())


class Died(BaseException):
    """Stands for the end of the process, where one process plays all actors."""


class PlayedActor(ToyActor):
    def row(self, name):
        if "die" in name:
            raise Died
        return super().row(name)


@pytest.mark.parametrize("num_rows, bad, num_deaths", [
    # 3 with the whole chunk, whose second gives the rows before the bad file; so of 2 and 3 of the
    # division 10 → 2 only 3 is left, which is alone: 3 more
    (10, {3}, 3 + 3),
    (10, {3, 8}, 3 + 3 + (1 + 3)),  # 8 and 9, then 8 alone
    (200, {0, 199}, 3 + (1 + 1 + 3) + (1 + 3)),  # 200 → 25 → 4 → 1, and 25 → 1
    (8, set(range(8)), 3 + 8 * 3),
    (1, {0}, 3),
])  # fmt: skip
def test_a_chunk_that_ends_its_process_is_divided(tmp_path, monkeypatch, num_rows, bad, num_deaths):
    """The chunk is the second of three, whose files nothing happens to."""
    monkeypatch.setattr(table, "MIN_CHUNK", num_rows)
    names = [f"/{place}.mp4" for place in range(3 * num_rows)]
    for place in bad:
        names[num_rows + place] = f"/die{place}.mp4"
    paths, _ = table.open_tables([str(write_table(tmp_path / "t.parquet", names))], "path")
    job = job_of(tmp_path, paths)
    deaths = 0
    while True:
        try:
            counts = PlayedActor(job)({"data": np.arange(3)})
            break
        except Died:
            deaths += 1
            assert deaths < 99
    done = dict(zip(counts["status"], counts["count"], strict=True))
    assert done == {"ok": 3 * num_rows - len(bad), "crashed": len(bad)} and deaths == num_deaths
    rows = [row for chunk in range(3) for row in read_part(job.output, chunk)]
    assert [row["path"] for row in rows] == names
    assert all((row["status"] == "crashed") == ("die" in row["path"]) for row in rows)
    assert not list(job.run_folder.rglob("*.*"))


def test_a_file_that_ends_its_actor_is_a_row_and_another_one_is_scored(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MIN_CHUNK", 1)
    names = ["/a.mp4", "/die.mp4", "/b.mp4"]
    output = tmp_path / "out"
    assert toy([write_table(tmp_path / "t.parquet", names)], output) == {"ok": 2, "crashed": 1}
    rows = rows_of(output)
    assert [row["path"] for row in rows] == names and rows[1]["status"] == "crashed"
    assert "died 3 times while it had this file alone" in rows[1]["error"]
    pids = (output / "_run/pids").read_text().split()
    assert len(set(pids)) == len(pids) == 1 + 3


def test_a_table_of_several_files_and_row_groups_keeps_its_rows(toy, tmp_path):
    """Every row has one row, in order, also of a path that stands in it twice."""
    folder = tmp_path / "t.parquet"
    folder.mkdir()
    names = [f"/gone{place % 15}.mp4" for place in range(23)]
    write_table(folder / "a.parquet", names[:13], "video", row_group_size=5)
    write_table(folder / "b.parquet", [os.fsencode(name) for name in names[13:]], "video")
    output = tmp_path / "out"
    toy = partial(toy, column="video")
    assert toy([folder], output, max_actors=2) == {"missing": 23}
    assert [row["path"] for row in rows_of(output)] == names
    (output / "_run/mended").touch()
    assert toy([folder], output) == {"missing": 23}  # nothing is tried again unasked
    assert toy([folder], output, retry=["missing"]) == {"ok": 23}
    assert [row["path"] for row in rows_of(output)] == names
    write_table(folder / "b.parquet", names[13:], "video")
    with pytest.raises(ValueError, match=r"input.table was"):  # another file, though the same names
        toy([folder], output)


def test_what_cannot_be_a_table_is_refused_before_the_run(tmp_path):
    def refused(names, match):
        with pytest.raises(ValueError, match=match):
            score_archive([str(name) for name in names], tmp_path / "out", REPO, {}, RaySettings())

    plain = write_table(tmp_path / "a.parquet", ["a.mp4"], column="file")
    refused([plain], r"no column 'path'; its columns are number, file\. .*--path-column")
    refused([write_table(tmp_path / "b.parquet", [1.5])], "of type double, expected text")
    refused([write_table(tmp_path / "c.parquet", pa.array([], pa.string()))], "has no row")
    refused([tmp_path / "gone.parquet"], "cannot be read")
    (tmp_path / "d.parquet").write_text("no table\n" * 9)
    refused([tmp_path / "d.parquet"], "cannot be read")
    refused([write_table(tmp_path / "e.parquet", ["nosuch://a.mp4"])], "cannot be opened by fsspec")
    refused([plain, tmp_path / "a.mp4"], "either path tables")
    refused([tmp_path / "gone.mp4"], "none of the files exists")
    assert format_counts({"missing": 1, "ok": 2}) == "3 videos: 2 ok, 1 missing"
    assert [table.chunk_rows(rows) for rows in (5, 10**6, 10**7, 10**9)] == [64, 64, 610, 1024]
    assert Counter(part_path(tmp_path, chunk).parent.name for chunk in range(2001)) == {
        "000000": 1000, "000001": 1000, "000002": 1,
    }  # fmt: skip


def test_options_of_the_other_engine_are_refused(model, tmp_path, capsys):
    arguments = command(model, [tmp_path], tmp_path / "o")
    assert main([*arguments, "--start", "1"]) == 2
    assert "whole files" in capsys.readouterr().err
    assert main([*arguments, "--timeline", "1"]) == 2
    assert "whole files" in capsys.readouterr().err
    assert main(arguments[: arguments.index("--output")]) == 2
    assert "needs it" in capsys.readouterr().err
    assert main([*arguments, "--retry", "missing,mising"]) == 2
    assert "retry 'mising': expected statuses" in capsys.readouterr().err
    for actors in ("0", "3:2", "two"):
        assert main([*arguments, "--num-actors", actors]) == 2
        assert "expected" in capsys.readouterr().err
    local = ["score", "--model", str(model), "--video", "a.mp4", "--retry", "missing"]
    assert main(local) == 2
    assert "--retry is for --engine ray" in capsys.readouterr().err
