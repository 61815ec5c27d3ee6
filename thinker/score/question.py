"""Examples whose media are read: what a scorer answers.

In: examples of any task. Out: a `Question` each, or the row of an example one of whose media could
not be read. The media of all examples are read in one stream, so a medium that hangs or kills its
decoder costs only the example that shows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from thinker.data.examples import Example, parsed_reference
from thinker.prompts import Turn
from thinker.score.prediction import Prediction, failed
from thinker.video import Clip, VideoError
from thinker.video.read_ahead import Read, Reading, read_ahead


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a policy is asked, its media read."""

    clips: tuple[Clip, ...] = ()
    """The media, in the order of their placeholders."""
    turns: tuple[Turn, ...] = ()
    """The conversation. None at all asks the policy's own scoring question."""
    task: str = "score"
    """How the answer is read: a key of `thinker.tasks.TASKS`."""
    reference: Any = None
    """What the task made of the reference, with the options; None where it needs none."""


def question_of(example: Example, clips: tuple[Clip, ...]) -> Question:
    """The question of an example. Raises ValueError where its task cannot read its reference."""
    return Question(
        clips=clips,
        turns=example.turns,
        task=example.task,
        reference=parsed_reference(example),
    )


def read_questions(
    examples: Sequence[Example], read: Read, reading: Reading, *, ahead: int = 0
) -> Iterator[Question | Prediction]:
    """The question of every example, in order, or the row of one that cannot be asked.

    ahead: for how many examples media may be read while the consumer is busy.
    """
    most = max((len(example.media) for example in examples), default=0)
    media = [medium for example in examples for medium in example.media]
    clips = read_ahead(media, read, reading, ahead=ahead * most)
    for example in examples:
        answers = [next(clips) for _ in example.media]
        errors = [answer for answer in answers if isinstance(answer, VideoError)]
        if errors:
            yield failed(errors[0], example.media[0].path, example.task)
        else:
            shown = tuple(answer for answer in answers if isinstance(answer, Clip))
            yield question_of(example, shown)
