"""Files or examples in, predictions out: decode ahead of the model, turn a failure into a row, and
answer the rest.

`thinker score`, the actors of an archive, `thinker eval` and `thinker faithfulness` all read and
answer through here. They differ in what may be answered together: `predictions` takes files as they
come, `window_predictions` takes fixed sets of examples.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from thinker.data.examples import Example
from thinker.score.prediction import Prediction
from thinker.score.question import Question, read_questions
from thinker.score.scorer import QualityScorer
from thinker.video import VideoError, medium, read_clip
from thinker.video.read_ahead import Reading, read_ahead


def predictions(
    scorer: QualityScorer,
    paths: Sequence[Path],
    reading: Reading,
    *,
    start: float | None = None,
    end: float | None = None,
) -> Iterator[Prediction]:
    """The score of each file, or of its part from `start` to `end` seconds, in order.

    While one batch is scored, the next one is read.
    """
    media = [medium(path, start=start, end=end) for path in paths]
    read = partial(read_clip, spec=scorer.clip_spec)
    items = read_ahead(media, read, reading, ahead=scorer.batch_size)
    yield from scorer.answer_stream(
        scorer.failed(item) if isinstance(item, VideoError) else Question(clips=(item,))
        for item in items
    )


def window_predictions(
    scorer: QualityScorer,
    examples: Sequence[Example],
    windows: Sequence[range],
    reading: Reading,
) -> Iterator[tuple[int, Prediction]]:
    """(index, prediction) of every example whose index lies in one of `windows`, in the order of
    the windows, and within one as soon as its batch is done.

    Examples of different windows are never answered together, so the prediction of one depends on
    its own window only. While one window is answered, the next one is read: two windows of clips
    are what memory holds.
    """
    todo = [examples[index] for window in windows for index in window]
    read = partial(read_clip, spec=scorer.clip_spec)
    items = read_questions(todo, read, reading, ahead=max(map(len, windows), default=0))
    for window in windows:
        for place, prediction in scorer.answer_as_done([next(items) for _ in window]):
            yield window[place], prediction
