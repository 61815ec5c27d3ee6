"""A long video window by window: a score, or the answer to a question, for each of them.

In: a video and the length of a window. Out: a `Moment` each, in order, while the video is read;
their CSV and their picture. One pass over the file (video/sources/windows.py), one batch of windows
in memory and one that is read ahead.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from thinker.score.prediction import Prediction, failed
from thinker.score.question import Question
from thinker.utils.names import path_text
from thinker.utils.text import safe_cell
from thinker.video import ClipSpec, Medium, VideoError
from thinker.video.read_ahead import Reading, read_ahead
from thinker.video.sources.windows import Windows, check_seconds

COLUMNS = (
    "path", "start_seconds", "end_seconds", "score", "spread", "answer_low", "answer_high",
    "answer", "status", "error", "reasoning", "frame_indices", "mode", "note",
    "interval_low", "interval_high", "likeness",
)  # fmt: skip
"""Of the CSV. Scores are on the answer scale, 1..5; spread and range of the answers are empty
where the mode has none (`reason`), interval and likeness without a calibration."""

Answer = Callable[[Iterable[Question | Prediction]], Iterator[Prediction]]
"""Questions, or rows of what cannot be asked → a row each, in order."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What was answered of one window."""

    start_seconds: float
    """Frames from this time on were shown, counted from the first frame of the video."""
    end_seconds: float | None
    """Frames before this time were shown; None of a file that could not be opened."""
    prediction: Prediction
    """The row of the window."""

    def to_row(self) -> dict[str, object]:
        """Plain values that JSON can hold."""
        times = {"start_seconds": self.start_seconds, "end_seconds": self.end_seconds}
        return times | self.prediction.to_row()

    def to_cells(self) -> dict[str, object]:
        """The line of the CSV: numbers plain, text safe to open in a spreadsheet."""
        row = self.prediction
        span, interval = row.answer_range or (None, None), row.interval or (None, None)
        numbers = {
            "start_seconds": self.start_seconds,
            "end_seconds": self.end_seconds,
            "score": row.score,
            "spread": row.spread,
            "answer_low": span[0],
            "answer_high": span[1],
            "interval_low": interval[0],
            "interval_high": interval[1],
            "likeness": row.likeness,
        }
        texts = {
            "path": None if row.path is None else path_text(row.path),
            "answer": None if row.answer is None else str(row.answer),
            "error": row.error,
            "reasoning": row.reasoning,
            "note": row.note,
        }
        return {
            **{name: "" if value is None else f"{value:.4f}" for name, value in numbers.items()},
            **{name: safe_cell(text or "") for name, text in texts.items()},
            "status": row.status,
            "frame_indices": " ".join(map(str, row.frame_indices)),
            "mode": row.mode,
        }


def moments(
    wanted: Medium,
    seconds: float,
    spec: ClipSpec,
    answer: Answer,
    question: Question,
    reading: Reading,
    *,
    ahead: int,
) -> Iterator[Moment]:
    """The answer of every window, in order.

    question: asked of each window, without clips. ahead: how many windows may be read while others
    are answered. A file that cannot be opened is one row. Raises ValueError for a length that is
    none, and for a picture.
    """
    check_seconds(seconds)
    try:
        windows = Windows(wanted, spec, seconds)
    except VideoError as error:
        (row,) = answer([failed(error, task=question.task)])
        start, end = wanted.start_seconds or 0.0, wanted.end_seconds
        return iter([Moment(start_seconds=start, end_seconds=end, prediction=row)])
    return _answered(windows, answer, question, reading, ahead)


def _answered(
    windows: Windows, answer: Answer, question: Question, reading: Reading, ahead: int
) -> Iterator[Moment]:
    # Two workers would each decode what lies between their windows.
    reading = replace(reading, num_workers=min(reading.num_workers, 1))
    clips = read_ahead(windows.media, windows, reading, ahead=ahead)
    rows = answer(
        failed(clip, task=question.task)
        if isinstance(clip, VideoError)
        else replace(question, clips=(clip,))
        for clip in clips
    )
    for window, row in zip(windows.media, rows, strict=True):
        assert window.start_seconds is not None
        yield Moment(
            start_seconds=window.start_seconds, end_seconds=window.end_seconds, prediction=row
        )


def write_table(file: TextIO, rows: Iterable[Moment]) -> Iterator[Moment]:
    """Write the CSV while moments come, and hand them on."""
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    for moment in rows:
        writer.writerow(moment.to_cells())
        file.flush()
        yield moment


def plot_timeline(rows: Sequence[Moment], path: Path | str) -> None:
    """Draw the score of each window as a step, with its spread, to a PNG; a window without one is a
    cross on the axis. Needs the extra `report`."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install it: pip install 'vqa-thinker[report]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(11, 3.2))
    timed = [row for row in rows if row.end_seconds is not None]
    edges = [row.start_seconds for row in timed]
    edges += [row.end_seconds for row in timed[-1:] if row.end_seconds is not None]
    nothing = float("nan")
    scores = [nothing if r.prediction.score is None else r.prediction.score for r in timed]
    spreads = [r.prediction.spread or 0.0 for r in timed]
    if timed:
        low = [score - spread for score, spread in zip(scores, spreads, strict=True)]
        high = [score + spread for score, spread in zip(scores, spreads, strict=True)]
        axis.stairs(high, edges, baseline=low, fill=True, color="tab:blue", alpha=0.25)
        axis.stairs(scores, edges, baseline=None, color="tab:blue", linewidth=1.6)
    lost = [row.start_seconds for row in timed if row.prediction.score is None]
    if lost:
        axis.plot(lost, [1.0] * len(lost), "x", color="tab:red", label="no score", clip_on=False)
        axis.legend(loc="upper right")
    first = rows[0].prediction.path if rows else None
    name = "" if first is None else path_text(first.name).replace("$", r"\$")  # no formula
    axis.set(title=name, xlabel="seconds", ylabel="score, 1 to 5", ylim=(1, 5))
    axis.grid(alpha=0.3)
    figure.tight_layout()
    # Without the version that matplotlib adds, the same data give the same bytes.
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
