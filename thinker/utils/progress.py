"""How far a long job is, on standard error, and output that does not cut through it.

In a terminal it is a bar (tqdm). Elsewhere, in a file or under a scheduler, a bar would be
thousands of half lines: there a whole line is written every `LINE_SECONDS`, and one at the end.
"""

import logging
import sys
import time
from typing import Any

LINE_SECONDS = 30.0


class Progress:
    """Counts up to `total`; a context manager.

    name: what is worked on, may be empty. unit: what is counted, in the singular. shown: whether
    anything is told of it.
    """

    def __init__(self, total: int, *, unit: str, name: str = "", shown: bool = True):
        self.total, self.unit, self.name, self.shown = total, unit, name, shown
        self.count = 0
        self._began = self._told = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self.shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=self.name or None, unit=self.unit)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.shown and self.total:
            self._tell()

    def update(self) -> None:
        """One more is done."""
        self.count += 1
        if self._bar is not None:
            self._bar.update()
        elif self.shown and time.monotonic() - self._told >= LINE_SECONDS:
            self._tell()

    def write(self, text: str) -> None:
        """A result, on standard output, above the bar."""
        if self._bar is not None:
            self._bar.write(text)
            sys.stdout.flush()
        else:
            print(text, flush=True)

    def _tell(self) -> None:
        """Example: `lsvq_test: 64 of 200 videos, 35 s`."""
        self._told = time.monotonic()
        name = f"{self.name}: " if self.name else ""
        seconds = self._told - self._began
        line = f"{name}{self.count} of {self.total} {self.unit}s, {seconds:.0f} s"
        print(line, file=sys.stderr, flush=True)


class LinesAboveBars(logging.StreamHandler):
    """Writes log lines to standard error, above whatever bar stands there, also transformers'."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")
        if tqdm is None:
            super().emit(record)
            return
        try:
            tqdm.tqdm.write(self.format(record), file=self.stream)
        except Exception:  # as logging's own handlers: a line that cannot be told ends nothing
            self.handleError(record)
