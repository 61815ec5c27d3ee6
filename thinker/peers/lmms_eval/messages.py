"""The messages of any task of lmms-eval → a question for a policy.

A message is `{"role": "user", "content": [{"type": "video", "url": "a.mp4"}, {"type": "text",
"text": "Is it sharp?"}]}` (lmms-eval's `protocol.ChatMessages`, as plain values). `url` is a path,
or of an image a picture of PIL's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from thinker.prompts import IMAGE, VIDEO, Turn, words
from thinker.score.prediction import Prediction
from thinker.score.question import Question
from thinker.score.scorer import QualityScorer
from thinker.tasks import TASKS
from thinker.video import Clip, Medium, VideoError
from thinker.video.file import rgb_pixels
from thinker.video.sources.frames import clip_from_picture

Message = Mapping[str, Any]


def turns_of(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """What is said, with a place for each medium where it stands.

    Words of a text that mark such a place themselves (`<image>`, `<video>`) are left out: those of
    a task are meant for other models' processors. Raises ValueError for sound and other content.

    >>> seen = {"type": "video", "url": "a.mp4"}
    >>> asked = {"type": "text", "text": "Is it <video>sharp?"}
    >>> turns_of([{"role": "user", "content": [seen, asked]}])
    (Turn(role='user', text='<video>\\nIs it sharp?'),)
    """
    return tuple(
        Turn(role=message["role"], text="".join(map(_text, message["content"])))
        for message in messages
    )


def _text(part: Mapping[str, Any]) -> str:
    if part["type"] == "text":
        return words(Turn(role="user", text=part["text"]))
    if part["type"] not in (IMAGE, VIDEO):
        raise ValueError(
            f"the content {part['type']!r} cannot be shown to a policy; choose a task with text, "
            "images and videos"
        )
    return f"<{part['type']}>\n"


def question_of(
    messages: Sequence[Message], scorer: QualityScorer, where: str
) -> Question | Prediction:
    """The question with its media read, or the row of one whose medium cannot be read.

    where: what errors call the document. Raises ValueError for what cannot be asked.
    """
    try:
        turns = turns_of(messages)
        scorer.policy.inputs.check_turns(turns)
        media = [
            _clip(part["type"], part["url"], scorer)
            for message in messages
            for part in message["content"]
            if part["type"] != "text"
        ]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    for one in media:
        if isinstance(one, Prediction):
            return one
    clips = tuple(one for one in media if isinstance(one, Clip))
    scorer.make_room({(tuple(clip.kind for clip in clips), turns)})
    nothing_known = TASKS["open"].read_reference(None, ())
    return Question(clips=clips, turns=turns, task="open", reference=nothing_known)


def _clip(kind: str, url: object, scorer: QualityScorer) -> Clip | Prediction:
    if isinstance(url, str | Path):
        return scorer.read(Medium(path=Path(url), kind=kind))
    if not isinstance(url, Image.Image):
        raise ValueError(f"a {kind} is a {type(url).__name__}; expected a path or a PIL picture")
    try:
        return clip_from_picture(rgb_pixels(ImageOps.exif_transpose(url)), scorer.clip_spec)
    except VideoError as error:
        return scorer.failed(error)
