"""One video file (or picture), or a part of it, in; one `Clip` out: few large keyframes and a dense
clip of small frames for motion.

Flow: medium → file checks → index of all frames → frame numbers → decode just what is needed → turn
upright, cut, resize, drop the full-size frame → `Clip`. A clip that is not as asked has a note.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from thinker.video.boundary import guarded
from thinker.video.clip import Clip, ClipSpec
from thinker.video.decode import FrameIndex, VideoFile
from thinker.video.file import IMAGE_SUFFIXES, VideoError, check_file, load_image
from thinker.video.geometry import Geometry, displayed_size
from thinker.video.medium import Crop, Medium, Source, medium
from thinker.video.mp4 import MAX_FRAME_PIXELS
from thinker.video.sources.animated import AnimatedPicture
from thinker.video.sources.chunks import is_animated
from thinker.video.sources.decord_frames import DecordFile, NotByDecord
from thinker.video.sources.numbers import frame_numbers
from thinker.video.sources.remote import RemoteMedium, fetched
from thinker.video.stalls.intervals import FrameStalls, frame_stalls

# Part of every cache key: raise it whenever the same file and spec would give other pixels, times
# or indices.
READER_VERSION = 2


def read_clip(source: Source, spec: ClipSpec) -> Clip:
    """Reads the frames `spec` asks for of a medium; a path means `medium(path)`.

    Of a range the frames start ≤ t < end count, with their numbers and times in the whole video. A
    crop is cut out of every picture, upright and not yet resized, keyframe or motion frame. An
    image becomes what `spec.stills` says; a picture file of kind "video" is a video of one frame,
    an animated one of all its pictures.
    Raises nothing but `VideoError` (boundary.py), for what cannot be read as asked. One decoding
    thread; safe in forked and spawned workers (the decoder is loaded on first use, nothing is
    shared between calls).
    """
    wanted = medium(source)
    return guarded(wanted.path, lambda: _read(wanted, spec))


def _read(wanted: Medium, spec: ClipSpec) -> Clip:
    path = wanted.path
    if isinstance(wanted, RemoteMedium):
        return _read_fetched(wanted, spec)
    is_picture = wanted.kind == "image" or path.suffix.lower() in IMAGE_SUFFIXES
    check_file(path, is_picture=is_picture)
    if is_animated(path):
        if wanted.kind == "image":
            raise VideoError(path, "unsupported", "an animated picture is a video, not an image")
        return _sample(AnimatedPicture(path), spec, wanted)
    if wanted.kind == "image":
        return still_clip(load_image(path), spec, wanted)
    if is_picture:
        return _sample(_Picture(path, load_image(path)), spec, wanted)
    return _video(path, spec, wanted)


def _read_fetched(wanted: RemoteMedium, spec: ClipSpec) -> Clip:
    with fetched(wanted) as local:
        try:
            clip = _read(local, spec)
        except VideoError as error:  # names the temporary file
            raise VideoError(wanted.path, error.reason, error.detail) from None
    return replace(clip, path=wanted.path)


def _video(path: Path, spec: ClipSpec, wanted: Medium) -> Clip:
    note = ""
    if spec.reader == "decord":
        try:
            with DecordFile(path) as theirs:
                return _sample(theirs, spec, wanted)
        except NotByDecord as reason:
            note = f"read by pyav instead of decord: {reason}"
    with VideoFile(path, deinterlace=spec.deinterlace == "bwdif") as file:
        return replace(_sample(file, spec, wanted), note=note)


def still_clip(picture_HWC: np.ndarray, spec: ClipSpec, wanted: Medium) -> Clip:
    """The clip of an upright picture, as `ClipSpec.stills` says: at its own resolution its tiles,
    row by row, then the thumbnail; one picture where it is not tiled.

    wanted: an image; its file is not read. Raises `VideoError`.
    """
    if spec.stills == "video":
        return _sample(_Picture(wanted.path, picture_HWC), spec, wanted)
    height, width = picture_HWC.shape[:2]
    part_HWC = cut_out(wanted.path, picture_HWC, wanted.crop)
    del picture_HWC
    geometry = _geometry(wanted.path, spec, "image", height, width, wanted.crop)
    resized_CHW = _on_canvas(part_HWC, geometry, spec.resampler)
    boxes = [geometry.tile_box(index) for index in range(geometry.num_tiles)]
    seen = [resized_CHW[:, top:bottom, left:right] for left, top, right, bottom in boxes]
    if geometry.has_thumbnail:
        tile_size = (geometry.tile_height, geometry.tile_width)
        seen.append(resize_frame(part_HWC, tile_size, spec.resampler))
    return Clip(
        path=wanted.path,
        keyframes_KCHW=torch.from_numpy(np.stack(seen)),
        motion_MCHW=torch.empty((0, 3, spec.motion_px, spec.motion_px), dtype=torch.uint8),
        keyframe_seconds=torch.zeros(len(seen), dtype=torch.float64),
        motion_seconds=torch.zeros(0, dtype=torch.float64),
        keyframe_indices=(0,) * len(seen),
        motion_indices=(),
        num_frames=1,
        fps=0.0,
        height=height,
        width=width,
        kind="image",
        crop=wanted.crop,
    )


def _on_canvas(part_HWC: np.ndarray, geometry: Geometry, resampler: str) -> np.ndarray:
    """The resized part (3, H, W), in the middle of a black canvas where it does not fill it."""
    left, top, right, bottom = geometry.fitted_box
    resized_CHW = resize_frame(part_HWC, (bottom - top, right - left), resampler)
    size = (geometry.resized_height, geometry.resized_width)
    if resized_CHW.shape[1:] == size:
        return resized_CHW
    canvas_CHW = np.zeros((3, *size), dtype=np.uint8)
    canvas_CHW[:, top:bottom, left:right] = resized_CHW
    return canvas_CHW


def _geometry(
    path: Path, spec: ClipSpec, kind: str, height: int, width: int, crop: Crop | None = None
) -> Geometry:
    """As `ClipSpec.geometry`; an aspect that cannot be kept is a `VideoError`."""
    try:
        return spec.geometry(kind, height, width, crop)
    except ValueError as error:
        raise VideoError(path, "aspect_ratio", str(error)) from None


class _Picture:
    """A picture, read as a video of one frame."""

    index = FrameIndex(pts=None, starts=[], seconds=[0.0], fps=0.0)
    pixel_aspect = Fraction(1)

    def __init__(self, path: Path, picture_HWC: np.ndarray) -> None:
        self.path, self._picture_HWC = path, picture_HWC

    def frames(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self._picture_HWC


Frames = VideoFile | DecordFile | AnimatedPicture | _Picture


def _sample(file: Frames, spec: ClipSpec, wanted: Medium) -> Clip:
    sample = Sample(file.index, spec, wanted)
    for number, picture_HWC in file.frames(sample.numbers):
        sample.add(number, picture_HWC, file.pixel_aspect)
        del picture_HWC
    return sample.clip()


class Sample:
    """The frames of one clip, gathered picture by picture.

    One full-size picture is in memory at a time: 40 frames of 4K would be 1 GB. Raises `VideoError`
    where no frame lies in the range of the medium.
    """

    def __init__(self, index: FrameIndex, spec: ClipSpec, wanted: Medium) -> None:
        spec = spec.of_medium(wanted.num_keyframes)
        self._index, self._spec, self._wanted = index, spec, wanted
        first, num_in_range = frames_in_range(
            wanted.path, index.seconds, wanted.start_seconds, wanted.end_seconds
        )
        self._stalls = _stalls(wanted, index)
        keyframes, motion = frame_numbers(wanted.path, num_in_range, index.fps, spec)
        self._keyframes = [first + i for i in keyframes]
        self._motion = [first + i for i in motion]
        self.numbers = sorted({*self._keyframes, *self._motion})
        """Of the frames that are needed, ascending; `add` is called with each of them once."""
        self._small_keyframes: dict[int, np.ndarray] = {}
        self._small_motion: dict[int, np.ndarray] = {}
        self._geometry: Geometry | None = None

    def add(self, number: int, picture_HWC: np.ndarray, pixel_aspect: Fraction) -> None:
        """Take what the clip needs of the upright picture of frame `number`."""
        path, spec, crop = self._wanted.path, self._spec, self._wanted.crop
        stored_height, stored_width = picture_HWC.shape[:2]
        shown = displayed_size(stored_height, stored_width, pixel_aspect)
        if crop is not None:
            picture_HWC = stretched(path, picture_HWC, shown, spec.resampler)
        picture_HWC = cut_out(path, picture_HWC, crop)
        if self._geometry is None:  # the first picture decides for all
            self._geometry = _geometry(path, spec, "video", *shown, crop)
        geometry = self._geometry
        if number in self._keyframes:
            size = (geometry.resized_height, geometry.resized_width)
            bounded_HWC = _bounded(picture_HWC, geometry, spec)
            self._small_keyframes[number] = resize_frame(bounded_HWC, size, spec.resampler)
            del bounded_HWC
        if number in self._motion:
            motion_size = (spec.motion_px, spec.motion_px)
            self._small_motion[number] = resize_frame(picture_HWC, motion_size, spec.resampler)

    def clip(self) -> Clip:
        """The clip, once all frames were given."""
        keyframes, motion, seconds = self._keyframes, self._motion, self._index.seconds
        geometry = self._geometry
        assert geometry is not None
        no_motion = np.empty((0, 3, self._spec.motion_px, self._spec.motion_px), dtype=np.uint8)
        dense = np.stack([self._small_motion[i] for i in motion]) if motion else no_motion
        large = np.stack([self._small_keyframes[i] for i in keyframes])
        return Clip(
            path=self._wanted.path,
            keyframes_KCHW=torch.from_numpy(large),
            motion_MCHW=torch.from_numpy(dense),
            keyframe_seconds=torch.tensor([seconds[i] for i in keyframes], dtype=torch.float64),
            motion_seconds=torch.tensor([seconds[i] for i in motion], dtype=torch.float64),
            keyframe_indices=tuple(keyframes),
            motion_indices=tuple(motion),
            num_frames=len(seconds),
            fps=self._index.fps,
            height=geometry.height,
            width=geometry.width,
            crop=self._wanted.crop,
            stalls=self._stalls,
        )


def _stalls(wanted: Medium, index: FrameIndex) -> FrameStalls | None:
    """The stalls of the part that is read; those that do not fit the file are a `VideoError`."""
    if wanted.stalls is None:
        return None
    try:
        return frame_stalls(wanted.stalls, index.seconds, wanted.start_seconds, wanted.end_seconds)
    except ValueError as error:
        raise VideoError(wanted.path, "stalls", str(error)) from None


def _bounded(picture_HWC: np.ndarray, geometry: Geometry, spec: ClipSpec) -> np.ndarray:
    """The picture within `ClipSpec.max_side_px`, in square pixels where it had to be shrunk."""
    crop = geometry.crop
    shown = (crop.height, crop.width) if crop else (geometry.height, geometry.width)
    size = spec.bounded(*shown)
    if size == shown:
        return picture_HWC
    return np.ascontiguousarray(resize_frame(picture_HWC, size, spec.resampler).transpose(1, 2, 0))


def stretched(
    path: Path, picture_HWC: np.ndarray, shown: tuple[int, int], resampler: str
) -> np.ndarray:
    """The picture in square pixels, whose crop means what a person sees. A picture that is not cut
    is resized from its stored pixels at once."""
    if picture_HWC.shape[:2] == shown:
        return picture_HWC
    if shown[0] * shown[1] > MAX_FRAME_PIXELS:
        raise VideoError(path, "too_large", f"{shown[1]} x {shown[0]} as displayed")
    return np.ascontiguousarray(resize_frame(picture_HWC, shown, resampler).transpose(1, 2, 0))


def cut_out(path: Path, picture_HWC: np.ndarray, crop: Crop | None) -> np.ndarray:
    """The part of an upright picture; a crop that reaches beyond it is a `VideoError`."""
    if crop is None:
        return picture_HWC
    height, width = picture_HWC.shape[:2]
    if crop.right > width or crop.bottom > height:
        asked = f"left {crop.left}, top {crop.top}, right {crop.right}, bottom {crop.bottom}"
        detail = f"the picture is {width} x {height} pixels, the crop {asked}"
        raise VideoError(path, "outside_picture", detail)
    return np.ascontiguousarray(picture_HWC[crop.top : crop.bottom, crop.left : crop.right])


def resize_frame(picture_HWC: np.ndarray, size: tuple[int, int], resampler: str) -> np.ndarray:
    """uint8 (3, H, W) of `size`, by a bicubic filter that widens its support when shrinking
    (antialias): torch's or PIL's, see `ClipSpec.resampler`."""
    height, width = size
    if resampler == "pil":
        image = Image.fromarray(picture_HWC).resize((width, height), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    # Channels last, which torch has its fast 8-bit kernel for. It warns of read-only memory.
    writable_HWC = np.require(picture_HWC, requirements="W")
    frame_1CHW = torch.from_numpy(writable_HWC).permute(2, 0, 1).unsqueeze(0)
    small_1CHW = torch.nn.functional.interpolate(
        frame_1CHW, size=size, mode="bicubic", antialias=True
    )
    return small_1CHW[0].contiguous().numpy()


def frames_in_range(
    path: Path, seconds: Sequence[float], start: float | None, end: float | None
) -> tuple[int, int]:
    """(first frame number, number of frames) with start ≤ t < end; `seconds` ascends."""
    first = bisect_left(seconds, start or 0.0)
    stop = len(seconds) if end is None else bisect_left(seconds, end)
    if first >= stop:
        raise VideoError(
            path,
            "empty_range",
            f"asked for {start}..{end} s, the frames lie at {seconds[0]:.3f}..{seconds[-1]:.3f} s",
        )
    return first, stop - first


FRAMES_PATH = Path("<frames>")


FRAMES_FPS = 25.0  # what frames without times count as


def clip_from_frames(
    frames: torch.Tensor | np.ndarray,
    spec: ClipSpec,
    *,
    start: float | None = None,
    end: float | None = None,
) -> Clip:
    """The clip that reading a video of these frames would give.

    frames: uint8 RGB, a tensor (T, 3, H, W) or an array (T, H, W, 3). start, end: seconds
    at `FRAMES_FPS`.
    Raises ValueError for anything else, `VideoError` as `read_clip` does.
    """
    frames_THWC = _as_thwc(frames)
    num_frames, height, width = frames_THWC.shape[:3]
    seconds = [i / FRAMES_FPS for i in range(num_frames)]
    first, num_in_range = frames_in_range(FRAMES_PATH, seconds, start, end)
    numbers = frame_numbers(FRAMES_PATH, num_in_range, FRAMES_FPS, spec)
    keyframes, motion = ([first + i for i in some] for some in numbers)
    geometry = _geometry(FRAMES_PATH, spec, "video", height, width)

    def pick(pictures: list[np.ndarray], size: tuple[int, int]) -> torch.Tensor:
        if not pictures:
            return torch.empty((0, 3, *size), dtype=torch.uint8)
        frames = [resize_frame(picture_HWC, size, spec.resampler) for picture_HWC in pictures]
        return torch.from_numpy(np.stack(frames))

    return Clip(
        path=FRAMES_PATH,
        keyframes_KCHW=pick(
            [_bounded(frames_THWC[i], geometry, spec) for i in keyframes],
            (geometry.resized_height, geometry.resized_width),
        ),
        motion_MCHW=pick([frames_THWC[i] for i in motion], (spec.motion_px, spec.motion_px)),
        keyframe_seconds=torch.tensor([seconds[i] for i in keyframes], dtype=torch.float64),
        motion_seconds=torch.tensor([seconds[i] for i in motion], dtype=torch.float64),
        keyframe_indices=tuple(keyframes),
        motion_indices=tuple(motion),
        num_frames=num_frames,
        fps=FRAMES_FPS,
        height=height,
        width=width,
        variant=hashlib.blake2b(frames_THWC.data, digest_size=16).hexdigest(),
    )


def _as_thwc(frames: torch.Tensor | np.ndarray) -> np.ndarray:
    array = (
        frames.cpu().movedim(1, -1).numpy()
        if isinstance(frames, torch.Tensor) and frames.ndim == 4
        else np.asarray(frames)
    )
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or not len(array):
        raise ValueError(
            "frames must be uint8 RGB, a tensor (T, 3, H, W) or an array (T, H, W, 3), got "
            f"{type(frames).__name__} of {frames.dtype} and shape {tuple(frames.shape)}"
        )
    return np.ascontiguousarray(array)
