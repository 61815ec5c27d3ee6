"""A picture in detail: what impairs it and where, and a description in words.

In: a picture, or chosen frames of a video, each of which counts as a picture. Out: a `Located`
each: the row, the boxes in pixels, the picture to draw them on. The questions are those that
training asks (`thinker.tasks.boxes`, `thinker.tasks.describe`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from PIL import Image

from rewards.parts import DescriptionParts, parse_parts
from thinker.score.draw import draw_boxes, pixel_box
from thinker.score.prediction import OK, Prediction
from thinker.tasks.boxes import DETECTION, EXPERT
from thinker.tasks.describe import (
    BRIEF,
    BRIEF_DESCRIPTION,
    DESCRIBER,
    DESCRIPTION,
    ONE_KIND,
    ONE_KIND_QUESTION,
)
from thinker.utils.names import path_text
from thinker.video import ClipSpec, VideoError, medium
from thinker.video.boundary import attempt
from thinker.video.medium import Source
from thinker.video.sources.frames import Moment, Still, check_times, read_frames, read_still

NUM_FRAMES = 4
"""Frames of a video where no time is named."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Located:
    """What was answered about one picture, and where it is."""

    prediction: Prediction
    """The row; its `boxes` are in thousandths of the sides."""
    picture_HWC: np.ndarray | None
    """The picture as displayed, uint8 RGB, which the boxes mean: the whole of it, or the part that
    a medium cuts out. None where it could not be read."""
    seconds: float | None = None
    """Of a frame of a video: when it is shown, or the time that was asked for where none is."""
    frame: int | None = None
    """Its number in the video."""
    parts: DescriptionParts | None = None
    """Of a description in four steps; None of every other answer."""

    @property
    def boxes_px(self) -> tuple[tuple[int, int, int, int], ...]:
        """Left, top, right, bottom of each box in pixels (`draw.pixel_box`)."""
        if self.picture_HWC is None:
            return ()
        height, width = self.picture_HWC.shape[:2]
        return tuple(pixel_box(found.box, width, height) for found in self.prediction.boxes)

    def drawn(self) -> Image.Image:
        """The picture with its boxes. Raises ValueError where there is no picture."""
        if self.picture_HWC is None:
            raise ValueError(f"there is nothing to draw on: {self.prediction.error}")
        return draw_boxes(Image.fromarray(self.picture_HWC), self.prediction.boxes)

    def to_row(self) -> dict[str, object]:
        """Plain values that JSON can hold: those of the prediction, each box with `box_px` too, the
        size of the picture, and of a frame its time and number."""
        row = self.prediction.to_row()
        boxes = zip(self.prediction.boxes, self.boxes_px, strict=True)
        row["boxes"] = [asdict(found) | {"box_px": corners} for found, corners in boxes]
        height, width = (None, None) if self.picture_HWC is None else self.picture_HWC.shape[:2]
        row |= {"width": width, "height": height, "at_seconds": self.seconds, "frame": self.frame}
        if self.parts is not None:
            row["parts"] = asdict(self.parts) | {"missing": self.parts.missing}
        return row


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of each picture."""

    question: str
    """In words."""
    system: str = EXPERT
    """What is said before."""
    task: str = "boxes"
    """How the answer is read."""
    has_parts: bool = False
    """Whether the answer has the four parts of a description."""


def grounding(question: str | None = None) -> Wish:
    """Where distortions are. question: instead of that for all of them."""
    return Wish(question=DETECTION if question is None else question)


def description(*, brief: bool = False, distortion: str | None = None) -> Wish:
    """A description in four steps; in three points, or of one kind of distortion. Raises ValueError
    for both at once and for a kind without a name."""
    if distortion is not None:
        if brief:
            raise ValueError("a description is brief, or of one distortion; leave out one of them")
        if not distortion.strip():
            raise ValueError("the distortion has no name; name one, such as noise")
        question = ONE_KIND_QUESTION.format(name=distortion.strip())
        return Wish(question=question, system=ONE_KIND, task="describe")
    if brief:
        return Wish(question=BRIEF_DESCRIPTION, system=BRIEF, task="describe")
    return Wish(question=DESCRIPTION, system=DESCRIBER, task="describe", has_parts=True)


def check_source(source: Source, at: Sequence[float] | None, frames: int | None) -> None:
    """Raises ValueError for times or a number of frames that make no sense of this medium."""
    if at is not None and frames is not None:
        raise ValueError("frames are chosen by their times or by their number, not by both")
    wanted = medium(source)
    if wanted.kind == "image" and (at is not None or frames is not None):
        raise ValueError(f"times and frames are of a video, {path_text(wanted.path)} is an image")
    if at is not None or frames is not None:
        check_times(at if at is not None else frames)  # type: ignore[arg-type]


def check_picture(source: Source) -> None:
    """Raises ValueError for what is no picture."""
    wanted = medium(source)
    if wanted.kind != "image":
        raise ValueError(
            f"descriptions are of images, {path_text(wanted.path)} is a video; ask about it instead"
        )


Ask = Callable[[Still | VideoError, Wish], Prediction]
"""A picture, or why there is none, and what is asked of it → its row."""


def locate(
    ask: Ask,
    source: Source,
    spec: ClipSpec,
    wish: Wish,
    *,
    at: Sequence[float] | None = None,
    frames: int | None = None,
) -> Iterator[Located]:
    """The answer about a picture, or about each chosen frame of a video, as they come: at the times
    that are named, else `frames` of them, evenly spaced. What cannot be read is a row with its
    status. Raises ValueError as `check_source` does."""
    moments = stills(source, spec, at=at, frames=frames)
    return (_answered(ask, still, seconds, wish) for seconds, still in moments)


def stills(
    source: Source,
    spec: ClipSpec,
    *,
    at: Sequence[float] | None = None,
    frames: int | None = None,
) -> Iterator[Moment]:
    """The picture, or the chosen frames of a video, as `locate` asks about them."""
    check_source(source, at, frames)
    wanted = medium(source)
    if wanted.kind == "image":
        return iter([(None, attempt(wanted.path, lambda: read_still(wanted, spec)))])
    return read_frames(wanted, spec, at if at is not None else frames or NUM_FRAMES)


def _answered(ask: Ask, still: Still | VideoError, seconds: float | None, wish: Wish) -> Located:
    row = ask(still, wish)
    if isinstance(still, VideoError):
        return Located(prediction=row, picture_HWC=None, seconds=seconds)
    parts = None
    if wish.has_parts and row.status == OK:
        parts = parse_parts(row.completion or "")
        row = replace(row, note="; ".join(filter(None, [row.note, *parts.missing])) or None)
    return Located(
        prediction=row,
        picture_HWC=still.picture_HWC,
        seconds=still.seconds,
        frame=still.number,
        parts=parts,
    )
