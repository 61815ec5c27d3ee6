"""Archives under real kills, on a cluster of two nodes on this machine, with a toy scorer.

    python run_scripts/test_archives.py [CASE …]       # all cases: some 15 minutes on two cores

node: one of two nodes is lost in mid-run. actor: actors are killed. driver: the driver is killed
twice and started again. poison: files that end every process that scores them. load: a model that
ends every process that loads it, once it was loaded before. memory: a table of 10^6 paths, and the
memory of the driver. walk: a folder of 10^6 files. Each case checks that every row is there once,
and prints one line of numbers. What was measured stands in docs/log.md.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
os.environ["PYTHONPATH"] = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

NUM_ROWS = 6400  # of the cases with kills: a hundred chunks
DEADLINE_SECONDS = 1200.0
MAX_GROWTH_MB = 300


def drive(table: str, output: str, actors: str) -> None:
    """A driver, in a process of its own: its memory is measured, and it can be killed."""
    from tests.helpers.toy_actor import ToyActor
    from thinker.score.archive import RaySettings, format_counts, run, score_archive

    run.ScoreActor = ToyActor  # type: ignore[misc]
    low, high = map(int, actors.split(":"))
    settings = RaySettings(min_actors=low, max_actors=high)
    print(format_counts(score_archive([table], Path(output), REPO, {}, settings)), flush=True)


class Run:
    """A table of paths, the folder that its rows go to, and a driver."""

    def __init__(self, folder: Path, names: list[str], address: str, actors: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.names, self.address, self.actors = names, address, actors
        self.table, self.output = folder / "table.parquet", folder / "out"
        pq.write_table(pa.table({"path": names}), self.table)
        self.start()

    def start(self) -> None:
        self.began = time.time()
        environment = os.environ | {"RAY_ADDRESS": self.address}
        command = [sys.executable, __file__, "--drive", self.table, self.output, self.actors]
        with open(self.table.with_suffix(".log"), "ab") as log:
            self.driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def wait_for_parts(self, number: int) -> None:
        deadline = time.time() + DEADLINE_SECONDS
        while self.num_parts() < number:
            assert self.driver.poll() is None, self.log()
            assert time.time() < deadline, f"{self.num_parts()} parts\n{self.log()}"
            time.sleep(0.2)

    def num_parts(self) -> int:
        return sum(1 for _ in self.output.glob("0*/part-*.parquet"))

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.output / "_run/pids").read_text().split()]

    def log(self) -> str:
        return self.table.with_suffix(".log").read_text(errors="replace")[-4000:]

    def finish(self) -> dict[str, int]:
        """Wait for the driver; every row is there, once, in order. Returns the statuses."""
        assert self.driver.wait(DEADLINE_SECONDS) == 0, self.log()
        import pyarrow.parquet as pq

        rows = pq.read_table(self.output, columns=["path", "status"]).to_pydict()
        assert rows["path"] == self.names, "rows are lost, twice there, or in another order"
        assert not list((self.output / "_run/tries").rglob("*.*")), "tries are left"
        return dict(Counter(rows["status"]))


def names_of(number: int, special: dict[int, str] | None = None) -> list[str]:
    """Every sixteenth file takes a tenth of a second."""
    names = [
        f"/archive/{'slow' if place % 16 == 0 else 'ok'}{place}.mp4" for place in range(number)
    ]
    for place, kind in (special or {}).items():
        names[place] = f"/archive/{kind}{place}.mp4"
    return names


def told(case: str, run: Run, what: str) -> None:
    print(f"{case}: {what}; {time.time() - run.began:.0f} s", flush=True)


def node(folder, cluster) -> None:
    other = cluster.add_node(num_cpus=2)
    run = Run(folder, names_of(NUM_ROWS), cluster.address, "2:4")
    run.wait_for_parts(25)
    before = run.pids()
    cluster.remove_node(other, allow_graceful=False)
    parts = run.num_parts()
    counts = run.finish()
    assert counts == {"ok": NUM_ROWS}, counts
    after = run.pids()
    lost = before + [pid for pid in after if pid not in before]
    told("node", run, f"{len(before)} actors, node lost at {parts} of 100 parts, "
         f"{len(lost)} actors in all, {counts}")  # fmt: skip


def actor(folder, cluster) -> None:
    """It begins with one actor and ends with two: the pool grows to its upper bound."""
    run = Run(folder, names_of(NUM_ROWS), cluster.address, "1:2")
    killed = 0
    for parts in (15, 35, 55, 75):
        run.wait_for_parts(parts)
        alive = [pid for pid in run.pids() if resident_mb(pid)]
        os.kill(alive[-1], signal.SIGKILL)
        killed += 1
    counts = run.finish()
    assert counts == {"ok": NUM_ROWS}, counts
    assert len(run.pids()) >= 1 + 1 + killed, run.pids()
    told("actor", run, f"{killed} kills, {len(run.pids())} actors in all, {counts}")


def driver(folder, cluster) -> None:
    run = Run(folder, names_of(NUM_ROWS), cluster.address, "2:2")
    seen = []
    for parts in (25, 60):
        run.wait_for_parts(parts)
        run.driver.kill()
        run.driver.wait()
        seen.append(run.num_parts())
        run.start()
    counts = run.finish()
    assert counts == {"ok": NUM_ROWS}, counts
    told("driver", run, f"killed at {seen} of 100 parts, {counts}; since the last start")


def poison(folder, cluster) -> None:
    bad = {100: "die", 101: "die", 1000: "die", 1200: "once"}
    run = Run(folder, names_of(1600, bad), cluster.address, "2:2")
    counts = run.finish()
    assert counts == {"ok": 1597, "crashed": 3}, counts
    told("poison", run, f"3 bad files of 1600, {len(run.pids())} actors in all, {counts}")


def load(folder, cluster) -> None:
    (folder / "out/_run").mkdir(parents=True)
    (folder / "out/_run/load_once").touch()
    run = Run(folder, names_of(100, {50: "die"}), cluster.address, "1:1")
    assert run.driver.wait(DEADLINE_SECONDS) != 0
    assert "4 times an actor died or failed while it loaded the model" in run.log(), run.log()
    told("load", run, "the run ends with its reason")


def memory(folder, cluster) -> None:
    number = 10**6
    run = Run(
        folder, [f"/archive/{place:09d}.mp4" for place in range(number)], cluster.address, "2:2"
    )
    run.wait_for_parts(1)
    first = most = resident_mb(run.driver.pid)
    while run.driver.poll() is None:
        most = max(most, resident_mb(run.driver.pid))
        time.sleep(0.5)
    counts = run.finish()
    told("memory", run, f"{counts}, driver {first} MB at the first part, {most} MB at the most")
    assert counts == {"ok": number} and most - first <= MAX_GROWTH_MB
    run.start()
    assert run.finish() == {"ok": number}
    told("memory", run, "all of it done before")


def resident_mb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024
    except (FileNotFoundError, IndexError):  # it has just ended
        return 0


def walk(folder, cluster) -> None:
    from thinker.score.archive.listing import open_listing, update_listing

    for outer in range(1000):
        (folder / f"videos/{outer:03d}").mkdir(parents=True)
        for inner in range(1000):
            os.close(os.open(folder / f"videos/{outer:03d}/{inner:03d}.mp4", os.O_CREAT))
    for what in ("a new listing", "nothing new"):
        first, began = resident_mb(os.getpid()), time.time()
        update_listing([str(folder / "videos")], folder / "listing")
        table = open_listing(folder / "listing")
        grown, seconds = resident_mb(os.getpid()) - first, time.time() - began
        print(f"walk: {table.num_rows} files, {what}, {grown} MB more, {seconds:.0f} s", flush=True)
        assert table.num_rows == 10**6 and grown <= MAX_GROWTH_MB


CASES = {one.__name__: one for one in (node, actor, driver, poison, load, memory, walk)}


def main(names: list[str]) -> None:
    from ray.cluster_utils import Cluster

    for name in names or CASES:
        cluster = (
            None
            if name == "walk"
            else Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        )
        try:
            with tempfile.TemporaryDirectory(prefix="thinker-archives-") as folder:
                CASES[name](Path(folder), cluster)
        finally:
            if cluster is not None:
                cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        drive(*sys.argv[2:])
    else:
        main(sys.argv[1:])
