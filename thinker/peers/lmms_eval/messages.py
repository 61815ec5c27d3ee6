"""The messages of any task of lmms-eval → a question for a policy.

A message is `{"role": "user", "content": [{"type": "video", "url": "a.mp4"}, {"type": "text",
"text": "Is it sharp?"}]}` (lmms-eval's `protocol.ChatMessages`, as plain values). `url` is a path,
or of an image a picture of PIL's; a video may have `start_time` and `end_time` in seconds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from thinker.prompts import IMAGE, VIDEO, Turn, words
from thinker.score.prediction import Prediction
from thinker.score.question import Question
from thinker.score.scorer import QualityScorer
from thinker.tasks import TASKS
from thinker.video import Clip, Medium, VideoError
from thinker.video.file import upright_pixels
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
            _clip(part, scorer)
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


def _clip(part: Mapping[str, Any], scorer: QualityScorer) -> Clip | Prediction:
    kind, shown = part["type"], part["url"]
    if isinstance(shown, str | Path):
        start, end = part.get("start_time"), part.get("end_time")
        wanted = Medium(path=Path(shown), kind=kind, start_seconds=start, end_seconds=end)
        return scorer.read(wanted)
    if not isinstance(shown, Image.Image) or kind != IMAGE:
        raise ValueError(
            f"the content {kind!r} is a {type(shown).__name__}; expected a path, or of an image a "
            "picture of PIL's"
        )
    try:
        return clip_from_picture(upright_pixels(shown), scorer.clip_spec)
    except VideoError as error:
        return scorer.failed(error)
