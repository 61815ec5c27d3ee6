"""Files or examples in, predictions out: decode ahead of the model, turn a failure into a row, and
answer the rest.

`thinker score`, the actors of an archive, `thinker eval` and `thinker faithfulness` all read and
answer through here. They differ in what may be answered together: `predictions` takes files as they
come, `window_predictions` takes fixed sets of examples.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from thinker.data.examples import Example
from thinker.score.prediction import Prediction
from thinker.score.question import Question, read_questions
from thinker.score.scorer import QualityScorer
from thinker.video import Clip, VideoError, read_clip
from thinker.video.medium import Source
from thinker.video.read_ahead import Reading, read_ahead


def predictions(
    scorer: QualityScorer,
    media: Iterable[Source],
    reading: Reading,
) -> Iterator[Prediction]:
    """The score of each medium, in order; a path means `medium(path)`.

    While one batch is scored, the next one is read: of `media` no more is taken than that.
    """
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
    read: Callable[..., Clip] = read_clip,
) -> Iterator[tuple[int, Prediction]]:
    """(index, prediction) of every example whose index lies in one of `windows`, in the order of
    the windows, and within one as soon as its batch is done.

    Examples of different windows are never answered together, so the prediction of one depends on
    its own window only. While one window is answered, the next one is read: two windows of clips
    are what memory holds. read: how a medium becomes a clip of a `spec`, as `read_clip` does.
    """
    todo = [examples[index] for window in windows for index in window]
    as_asked = partial(read, spec=scorer.clip_spec)
    items = read_questions(todo, as_asked, reading, ahead=max(map(len, windows), default=0))
    for window in windows:
        for place, prediction in scorer.answer_as_done([next(items) for _ in window]):
            yield window[place], prediction
