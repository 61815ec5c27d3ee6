"""One model on Ray: chunk numbers in, parts of the output and counts of statuses out.

An actor may die in any line. What it had begun is then on disk (`tries.py`), Ray starts it again
and gives the same chunks to it or to another one, and each of these goes on where the files say.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker.score.archive.parts import Row, flat_row, read_part, write_part
from thinker.score.archive.table import PathTable, TableReader
from thinker.score.archive.tries import CHUNK_TRIES, FILE_TRIES, Starts, Tries
from thinker.score.prediction import Prediction
from thinker.utils.names import path_text
from thinker.video import VideoError
from thinker.video.read_ahead import Reading
from thinker.video.sources.remote import any_medium, shown_path

FAN = 8
"""Ranges that one which ends its actor is divided into. A death costs loading the model, a range
costs starting the decoding processes: 1,024 files are 128, 16, 2 and 1 within four deaths."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an actor has to know."""

    output: Path
    """The folder of parts."""
    model: Path
    """The folder of the policy."""
    scorer: dict[str, Any]
    """Keyword arguments of `QualityScorer.from_pretrained`."""
    table: PathTable
    """The input."""
    reading: Reading
    """How files are decoded."""
    retry: tuple[str, ...]
    """Statuses of rows that are tried again."""
    max_starts: int
    """So often may loading the model be begun in a row without an actor that has loaded it."""

    @property
    def run_folder(self) -> Path:
        """What this package keeps in the output folder; readers of Parquet pass over it."""
        return self.output / "_run"


@dataclass(kw_only=True)
class Work:
    """A chunk under way."""

    chunk: int
    """Its number."""
    names: list[str]
    """The path or URL of each row."""
    rows: list[Row | None]
    """Each row, flat; None where it is to be scored."""
    todo: deque[int]
    """The places of those, ascending."""
    is_written: bool
    """Its part is there as it should be."""


class ScoreActor:
    """It loads the policy once, then takes numbers of chunks."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.reader, self.tries = TableReader(job.table), Tries(job.run_folder / "tries")
        starts = Starts(job.run_folder / "tries", job.max_starts)
        starts.begin()
        self.load()
        starts.forget()

    def load(self) -> None:
        """Load the model."""
        from thinker.score.scorer import QualityScorer

        self.scorer = QualityScorer.from_pretrained(self.job.model, **self.job.scorer)

    def rows(self, names: Iterable[str]) -> Iterator[Row]:
        """A row (`Prediction.to_row`) of each file, in order; while some are scored, the next ones
        are read."""
        from thinker.score.stream import predictions

        for prediction in predictions(self.scorer, map(any_medium, names), self.job.reading):
            yield prediction.to_row()

    def failed(self, error: VideoError) -> Prediction:
        """The prediction of a file that is not scored."""
        return self.scorer.failed(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray's call. In: numbers of chunks. Out: how often each status occurs in them."""
        counts = Counter[str]()
        suspects: list[int] = []
        fresh: list[int] = []
        for chunk in batch["data"].tolist():
            (suspects if self.tries.any(chunk) else fresh).append(chunk)
        self.score_together(fresh, counts)
        for chunk in suspects:  # last, as they may end this process
            self.score_suspect(chunk, counts)
        return {"status": list(counts), "count": list(counts.values())}

    def open(self, chunk: int) -> Work:
        """What is to be done of a chunk: all of it, or the rows of its part that are to be tried
        again."""
        names = self.reader.names(chunk)
        part: list[Row | None] = [None] * len(names)
        part = list(read_part(self.job.output, chunk) or part)
        assert len(part) == len(names), f"part {chunk} is not of this table"
        rows = [None if row and row["status"] in self.job.retry else row for row in part]
        todo = deque(place for place, row in enumerate(rows) if row is None)
        return Work(chunk=chunk, names=names, rows=rows, todo=todo, is_written=not todo)

    def score_together(self, chunks: list[int], counts: Counter[str]) -> None:
        """Score chunks in one stream, so that the next one is read while one is scored."""
        begun: deque[Work] = deque()

        def names() -> Iterator[str]:
            for chunk in chunks:
                work = self.open(chunk)
                if not work.todo:  # done by an actor that died behind it
                    self.finish(work, counts)
                    continue
                self.tries.begin(chunk, 0, len(work.names))
                begun.append(work)
                yield from [work.names[place] for place in work.todo]

        for row in self.rows(names()):
            self.put(begun[0], row)
            if not begun[0].todo:
                self.finish(begun.popleft(), counts)

    def score_suspect(self, chunk: int, counts: Counter[str]) -> None:
        """Score a chunk that was begun before and did not end, and nothing beside it."""
        work = self.open(chunk)
        for place, row in self.tries.journal(chunk).rows.items():
            # Of another input there may be a journal where a run ended before its first part.
            is_ours = place in work.todo and row["path"] == path_text(work.names[place])
            if is_ours and row["status"] not in self.job.retry:
                work.rows[place] = row
                work.todo.remove(place)
        self.divide(work, 0, len(work.names))
        self.finish(work, counts)

    def divide(self, work: Work, first: int, stop: int) -> None:
        """Score the rows first ≤ row < stop: together, or divided where that did not end before; a
        file that does not end even alone gets its row."""
        places = [place for place in work.todo if first <= place < stop]
        if not places:
            return
        if len(places) == 1:  # the others have their rows, so this one is alone in any range
            first, stop = places[0], places[0] + 1
        num_tries = self.tries.count(work.chunk, first, stop)
        is_whole, is_file = stop - first == len(work.names), stop - first == 1
        if num_tries < (FILE_TRIES if is_file else CHUNK_TRIES if is_whole else 1):
            self.tries.begin(work.chunk, first, stop)
            journal = self.tries.journal(work.chunk)
            scored = self.rows([work.names[place] for place in places])
            for place, row in zip(places, scored, strict=True):
                journal.replace([(place, self.put(work, row))])
        elif is_file:
            detail = f"the scoring process died {num_tries} times while it had this file alone"
            error = VideoError(shown_path(work.names[first]), "crashed", detail)
            self.put(work, self.failed(error).to_row())
        else:
            step = -(-(stop - first) // FAN)
            for start in range(first, stop, step):
                self.divide(work, start, min(start + step, stop))

    def put(self, work: Work, row: Row) -> Row:
        """Take the row of the next place, flat and under the name that the table has."""
        place = work.todo.popleft()
        flat = work.rows[place] = flat_row(row | {"path": path_text(work.names[place])})
        return flat

    def finish(self, work: Work, counts: Counter[str]) -> None:
        """Write the part and forget the tries. A part that is there as it is stays."""
        rows = [row for row in work.rows if row is not None]
        assert len(rows) == len(work.names)
        if not work.is_written:
            write_part(self.job.output, work.chunk, rows)
        self.tries.forget(work.chunk)
        counts.update(str(row["status"]) for row in rows)
