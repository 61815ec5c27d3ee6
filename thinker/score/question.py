"""Examples whose media are read: what a scorer answers.

In: examples of any task. Out: a `Question` each, or the row of an example one of whose media could
not be read. The media of all examples are read in one stream, so a medium that hangs or kills its
decoder costs only the example that shows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from thinker.data.examples import Example, parsed_reference
from thinker.policies.inputs import Prompt
from thinker.prompts import VIDEO, Turn, ask, count_placeholders
from thinker.score.prediction import INVALID_ANSWER, Prediction, failed
from thinker.tasks import TASKS
from thinker.tasks.level import LevelConfig
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


def asked(
    text: str, *, task: str = "open", system: str | None = None, num_media: int = 1
) -> Question:
    """The question that a person asks in so many words, its media not read yet.

    text: `<image>` or `<video>` in it marks the place of a medium, in order; without any, media
    stand before it. system: what is said before everything else. Raises ValueError for an empty
    text, an unknown task, another number of media than the task is asked of, and places for another
    number of media.
    """
    if not text.strip():
        raise ValueError("the question is empty; write what you want to know")
    if task not in TASKS:
        raise ValueError(f"task is {task!r}, expected one of {', '.join(TASKS)}")
    check_num_media(task, num_media)
    options = TASKS[task].options(text, ())
    turns = ask(TASKS[task].question(text, options))
    num_places = count_placeholders(turns)
    if num_places not in (0, num_media):
        raise ValueError(
            f"the question marks places for {num_places} media by <image> or <video>, {num_media} "
            "are given; mark one for each of them, or none"
        )
    if system is not None:
        turns = (Turn(role="system", text=system), *turns)
    reference = TASKS[task].read_reference(None, options)
    return Question(turns=turns, task=task, reference=reference)


def check_num_media(task: str, count: int) -> None:
    """Raises ValueError where a task is asked of another number of media."""
    fewest, most = TASKS[task].num_media
    if count < fewest or (most is not None and count > most):
        expected = f"{fewest}" if most == fewest else f"{fewest} to {most or 'any number'}"
        raise ValueError(
            f"task {task} is asked of {expected} video or image, {count} are given; give as many, "
            "or ask an open question"
        )


def blank_row(question: Question) -> Prediction:
    """The row of a question before it is answered."""
    first = question.clips[0] if question.clips else None
    return Prediction(
        path=None if first is None else first.path,
        score=None,
        status=INVALID_ANSWER,
        task=question.task,
        frame_indices=() if first is None else first.keyframe_indices,
        note="; ".join(dict.fromkeys(clip.note for clip in question.clips if clip.note)) or None,
    )


def prompt_of(question: Question, levels: LevelConfig | None = None) -> Prompt:
    """What the policy reads. levels: of the policy in mode "level", which asks for a level unless
    the question does so itself; None in mode "reason"."""
    turns = question.turns
    if levels is not None and not (question.task == "level" and turns):
        turns = ask(levels.question(medium_kind(question)))
    return Prompt(clips=question.clips, turns=turns)


def medium_kind(question: Question) -> str:
    """The kind of the first medium, whose wording a level is asked in."""
    return question.clips[0].kind if question.clips else VIDEO


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
