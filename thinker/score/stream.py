"""Files in, predictions out: decode ahead of the model, turn a failure into a row, score the rest.

`thinker score`, the actors of an archive, `thinker eval` and `thinker faithfulness` all read and
score through here. They differ in one thing only, what may be scored together: `predictions` takes
videos as they come, `window_predictions` takes fixed sets of them.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from thinker.score.prediction import Prediction
from thinker.score.scorer import QualityScorer
from thinker.video import Clip, VideoError, medium, read_clip
from thinker.video.read_ahead import Reading, read_ahead


def predictions(
    scorer: QualityScorer,
    paths: Sequence[Path],
    reading: Reading,
    *,
    start: float | None = None,
    end: float | None = None,
) -> Iterator[Prediction]:
    """The prediction of each file, or of its part from `start` to `end` seconds, in order.

    While one batch is scored, the next one is read.
    """
    yield from scorer.score_stream(_read(scorer, paths, reading, scorer.batch_size, start, end))


def window_predictions(
    scorer: QualityScorer, paths: Sequence[Path], windows: Sequence[range], reading: Reading
) -> Iterator[tuple[int, Prediction]]:
    """(index, prediction) of every path whose index lies in one of `windows`, in the order of the
    windows, and within one as soon as its batch is done.

    Videos of different windows are never scored together, so the prediction of a video depends on
    its own window only. While one window is scored, the next one is read: two windows of clips are
    what memory holds.
    """
    todo = [paths[index] for window in windows for index in window]
    items = _read(scorer, todo, reading, ahead=max(map(len, windows), default=0))
    for window in windows:
        for place, prediction in scorer.score_as_done([next(items) for _ in window]):
            yield window[place], prediction


def _read(
    scorer: QualityScorer,
    paths: Sequence[Path],
    reading: Reading,
    ahead: int,
    start: float | None = None,
    end: float | None = None,
) -> Iterator[Clip | Prediction]:
    """The clip of each path, or the row of what cannot be read."""
    media = [medium(path, start=start, end=end) for path in paths]
    items = read_ahead(media, partial(read_clip, spec=scorer.clip_spec), reading, ahead=ahead)
    return (scorer.failed(item) if isinstance(item, VideoError) else item for item in items)
