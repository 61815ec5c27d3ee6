"""How far a job is: a bar in a terminal, whole lines elsewhere; nothing cuts through it."""

import io
import logging

from thinker.utils import progress
from thinker.utils.progress import LinesAboveBars, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def one_terminal(monkeypatch) -> Terminal:
    """Standard output and error that are both one terminal; pytest would take a fixture's away."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


def screen(text: str) -> list[str]:
    """What a terminal shows: a carriage return goes back to the beginning of the line."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_results_and_log_lines_stand_above_the_bar(monkeypatch):
    streams = one_terminal(monkeypatch)
    logger = logging.getLogger("test_progress")
    logger.propagate = False
    handler = LinesAboveBars(streams)
    logger.addHandler(handler)
    try:
        with Progress(3, unit="video", name="set") as bar:
            for number in range(3):
                bar.write(f"result {number}")
                logger.warning("line %d", number)
                bar.update()
    finally:
        logger.removeHandler(handler)
    *lines, last, end = screen(streams.getvalue())
    assert lines == ["result 0", "line 0", "result 1", "line 1", "result 2", "line 2"]
    assert last.startswith("set: 100%") and "3/3" in last and end == ""


def test_elsewhere_there_are_whole_lines_at_intervals(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 10))  # ten seconds between any two looks at it
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress(9, unit="video", name="set") as bar:
        for number in range(9):
            bar.write(str(number))
            bar.update()
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(number) for number in range(9)]
    assert "\r" not in err
    lines = err.splitlines()
    assert lines[0].startswith("set: 3 of 9 videos, ") and lines[0].endswith(" s")
    assert lines[-1].startswith("set: 9 of 9 videos, ") and len(lines) == 4


def test_nothing_is_told_of_what_is_not_shown(monkeypatch):
    streams = one_terminal(monkeypatch)
    with Progress(1, unit="video", shown=False) as bar:
        bar.write("result")
        bar.update()
    assert streams.getvalue() == "result\n"
