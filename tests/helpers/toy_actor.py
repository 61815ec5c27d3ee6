"""A toy scorer on Ray, which needs no model and dies where it is told to. A module of its own,
because Ray's workers import it.

What it does stands in the names of files: `…/die…` ends its process whenever it is scored,
`…/once…` the first time, `…/gone…` gives a row `missing` until `<output>/_run/mended` is there, and
`…/slow…` takes a tenth of a second. Every actor leaves its process in `<output>/_run/pids`; where
`<output>/_run/load_once` is, the second one dies while it loads.
"""

import os
import time
from pathlib import Path

from thinker.score.archive.actor import ScoreActor
from thinker.score.prediction import Prediction, failed
from thinker.video import VideoError

AHEAD = 20  # names that are taken before the first row is given, as reading ahead does


class ToyActor(ScoreActor):
    def load(self):
        self.note("pids", str(os.getpid()))
        run = self.job.run_folder
        if (run / "load_once").exists() and len((run / "pids").read_text().split()) > 1:
            os._exit(1)

    def note(self, name, text):
        with open(self.job.run_folder / name, "a") as file:
            file.write(text + "\n")

    def rows(self, names):
        waiting = []
        for name in names:
            waiting.append(name)
            if len(waiting) > AHEAD:
                yield self.row(waiting.pop(0))
        yield from map(self.row, waiting)

    def row(self, name):
        last = os.path.basename(name)
        if last.startswith("die"):
            os._exit(1)
        mark = self.job.run_folder / "died_once"
        if last.startswith("once") and not mark.exists():
            mark.touch()
            os._exit(1)
        if last.startswith("slow"):
            time.sleep(0.1)
        if last.startswith("gone") and not (self.job.run_folder / "mended").exists():
            return self.failed(VideoError(name, "missing")).to_row()
        return Prediction(path=Path(name), score=3.0, status="ok").to_row()

    def failed(self, error):
        return failed(error)
