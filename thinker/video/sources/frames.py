"""Single pictures to look at closely: a picture file, or chosen frames of a video, each as a still.

In: a medium, and of a video the times. Out: a `Still` each: the picture as displayed, and the clip
that a policy reads of it. The clip of a frame is that of a picture file of the same pixels, and so
is that of a picture in memory (`clip_from_picture`).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from thinker.video.boundary import attempt, guarded
from thinker.video.clip import Clip, ClipSpec
from thinker.video.decode import FrameIndex, VideoFile
from thinker.video.file import IMAGE_SUFFIXES, VideoError, check_file, load_image
from thinker.video.geometry import displayed_size
from thinker.video.medium import Medium, Source, medium
from thinker.video.read import cut_out, frames_in_range, still_clip, stretched
from thinker.video.sources.animated import AnimatedPicture
from thinker.video.sources.chunks import is_animated
from thinker.video.sources.numbers import keyframe_indices

PICTURE_PATH = Path("<picture>")
"""What a picture in memory is called."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Still:
    """A picture, and what a policy reads of it."""

    picture_HWC: np.ndarray
    """The picture as displayed (upright, in square pixels), uint8 RGB, or the part of it that the
    medium cuts out."""
    clip: Clip
    """Of kind "image", or what `ClipSpec.stills` says instead."""
    seconds: float | None = None
    """When a frame of a video is shown; None of a picture file."""
    number: int | None = None
    """Of that frame in the video; None of a picture file."""


Moment = tuple[float | None, Still | VideoError]
"""The time that was asked for (None: none was), and what is shown then."""


def read_still(source: Source, spec: ClipSpec) -> Still:
    """A picture file. Raises `VideoError` as `read_clip` does of an image."""
    wanted = replace(medium(source), kind="image")

    def read() -> Still:
        check_file(wanted.path, is_picture=True)
        if is_animated(wanted.path):
            detail = "an animated picture is a video, not an image"
            raise VideoError(wanted.path, "unsupported", detail)
        return _still(load_image(wanted.path), spec, wanted)

    return guarded(wanted.path, read)


def clip_from_picture(picture_HWC: np.ndarray, spec: ClipSpec) -> Clip:
    """The clip that reading a picture file of these pixels would give.

    picture_HWC: uint8 RGB as displayed. Raises ValueError for anything else, `VideoError` where its
    aspect cannot be kept.
    """
    if picture_HWC.dtype != np.uint8 or picture_HWC.ndim != 3 or picture_HWC.shape[2] != 3:
        raise ValueError(
            "a picture must be a uint8 RGB array (H, W, 3), got "
            f"{picture_HWC.dtype} of shape {picture_HWC.shape}"
        )
    picture_HWC = np.ascontiguousarray(picture_HWC)
    clip = still_clip(picture_HWC, spec, Medium(path=PICTURE_PATH, kind="image"))
    # Pictures of one size differ in nothing else that `Clip.key` holds.
    return replace(clip, variant=hashlib.blake2b(picture_HWC.data, digest_size=16).hexdigest())


def read_frames(source: Source, spec: ClipSpec, at: Sequence[float] | int) -> Iterator[Moment]:
    """Frames of a video, one at a time, in the order in which they are asked for.

    at: times in seconds from the first frame on, or how many frames, evenly spaced. A time shows
    the last frame that has come by then. A time at which no frame of the medium's range is shown is
    a `VideoError` of the reason "empty_range"; a file that cannot be opened is one for each time.
    Raises ValueError for times and numbers that make no sense.
    """
    check_times(at)
    return _read_frames(medium(source), spec, at)


def check_times(at: Sequence[float] | int) -> None:
    """Raises ValueError unless these are times, or a number of frames."""
    if isinstance(at, int):
        if at < 1:
            raise ValueError(f"{at} frames are asked for, expected at least 1")
        return
    if not at:
        raise ValueError("no time is given, expected at least one")
    for seconds in at:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"a time is {seconds} s, expected 0 or more")


def _read_frames(wanted: Medium, spec: ClipSpec, at: Sequence[float] | int) -> Iterator[Moment]:
    def opened() -> tuple[FrameIndex, range]:
        index = _index(wanted.path)
        begin, end = wanted.start_seconds, wanted.end_seconds
        first, count = frames_in_range(wanted.path, index.seconds, begin, end)
        return index, range(first, first + count)

    known = attempt(wanted.path, opened)
    if isinstance(known, VideoError):
        yield from ((seconds, known) for seconds in ([None] if isinstance(at, int) else at))
        return
    index, span = known
    if isinstance(at, int):
        chosen = dict.fromkeys(span[place] for place in keyframe_indices(len(span), at))
        at = [index.seconds[number] for number in chosen]
    for seconds in at:
        read = partial(_frame, wanted, spec, index, span, seconds)
        yield seconds, attempt(wanted.path, read)


def _index(path: Path) -> FrameIndex:
    is_picture = path.suffix.lower() in IMAGE_SUFFIXES
    check_file(path, is_picture=is_picture)
    if is_picture or is_animated(path):
        return AnimatedPicture(path).index
    with VideoFile(path) as file:
        return file.index


def _frame(wanted: Medium, spec: ClipSpec, index: FrameIndex, span: range, at: float) -> Still:
    path, number = wanted.path, bisect_right(index.seconds, at) - 1
    begins, last = index.seconds[span[0]], index.seconds[span[-1]]
    ends = last + (1 / index.fps if index.fps else 0.0)
    if number not in span or (at > last and at >= ends):
        detail = f"asked for {at:g} s, the frames are shown from {begins:.3f} to {ends:.3f} s"
        raise VideoError(path, "empty_range", detail)
    picture_HWC = _picture(path, spec, index, number)
    still = _still(picture_HWC, spec, Medium(path=path, kind="image", crop=wanted.crop))
    seconds = index.seconds[number]
    clip = _numbered(still.clip, number, seconds)
    return replace(still, clip=clip, seconds=seconds, number=number)


def _picture(path: Path, spec: ClipSpec, index: FrameIndex, number: int) -> np.ndarray:
    """A frame as displayed. Each is looked for by a decoder of its own: damage costs the frames
    that need it."""
    if is_animated(path):
        ((_, picture_HWC),) = AnimatedPicture(path).frames([number])
        return picture_HWC
    with VideoFile(path, deinterlace=spec.deinterlace == "bwdif", index=index) as file:
        ((_, picture_HWC),) = file.frames([number])
        height, width = picture_HWC.shape[:2]
        shown = displayed_size(height, width, file.pixel_aspect)
    return stretched(path, picture_HWC, shown, spec.resampler)


def _still(picture_HWC: np.ndarray, spec: ClipSpec, wanted: Medium) -> Still:
    clip = still_clip(picture_HWC, spec, wanted)
    return Still(picture_HWC=cut_out(wanted.path, picture_HWC, wanted.crop), clip=clip)


def _numbered(clip: Clip, number: int, seconds: float) -> Clip:
    """The clip of a frame, by the frame's own number and time."""
    return replace(
        clip,
        keyframe_indices=(number,) * len(clip.keyframe_indices),
        motion_indices=(number,) * len(clip.motion_indices),
        keyframe_seconds=torch.full_like(clip.keyframe_seconds, seconds),
        motion_seconds=torch.full_like(clip.motion_seconds, seconds),
        variant="still",
    )
