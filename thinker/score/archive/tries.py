"""What has begun and did not end, on disk: how a file that ends its process is found.

Before an actor begins a range of a chunk it adds a line to the chunk's file, and deletes the file
when the part is written. So a line that is there when another actor comes stands for a process that
died meanwhile (by this chunk, or with its machine or its driver). Rows of a chunk that is divided
are kept in a journal until the part is whole.
"""

from pathlib import Path

from thinker.score.archive.parts import CHUNKS_A_FOLDER
from thinker.utils.journal import RowJournal

CHUNK_TRIES = 3
"""So often a chunk is begun as a whole. A machine that is switched off costs an innocent chunk one
try; what comes then is slower, and no less right."""
FILE_TRIES = 3
"""So often a file is begun alone before its row says `crashed`."""


class Tries:
    """The counts of one output folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, chunk: int, first: int, stop: int) -> None:
        """Count one more try of the rows first ≤ row < stop of a chunk."""
        path = self._path(chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="ascii") as file:  # the kernel has it when it is closed
            file.write(f"{first} {stop}\n")

    def count(self, chunk: int, first: int, stop: int) -> int:
        """How often these very rows were begun."""
        return self._lines(chunk).count(f"{first} {stop}")

    def any(self, chunk: int) -> bool:
        """Whether something of this chunk was begun and did not end."""
        return bool(self._lines(chunk))

    def journal(self, chunk: int) -> RowJournal:
        """The rows of a chunk that is divided, by their place in it."""
        return RowJournal(self._path(chunk).with_suffix(".rows"))

    def forget(self, chunk: int) -> None:
        """The chunk is done."""
        for path in (self._path(chunk).with_suffix(".rows"), self._path(chunk)):
            path.unlink(missing_ok=True)

    def _lines(self, chunk: int) -> list[str]:
        try:
            return self._path(chunk).read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return []

    def _path(self, chunk: int) -> Path:
        return self._folder / f"{chunk // CHUNKS_A_FOLDER:06d}" / f"{chunk:09d}.begun"


class Starts:
    """How often an actor began to load its model since one last did: a model that ends its process
    would be started for ever."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._path, self._limit = folder / "starts", limit

    def begin(self) -> None:
        """Raises RuntimeError where it was tried often enough."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="ascii") as file:
            file.write("start\n")
        count = len(self._path.read_text(encoding="ascii").splitlines())
        if count > self._limit:
            raise RuntimeError(
                f"{count - 1} times an actor died or failed while it loaded the model; the logs of "
                "Ray (/tmp/ray/session_latest/logs) say why. Often memory is out: use fewer actors"
            )

    def forget(self) -> None:
        """One was loaded, or a new run begins."""
        self._path.unlink(missing_ok=True)
