"""One video file (or picture) in, one `Clip` out: few large keyframes and a dense clip of small
frames for motion.

Flow: path → file checks → index of all frames (packets only, nothing decoded) → frame numbers →
decode just what is needed, from the nearest seek point → turn upright, resize, drop the full-size
frame → `Clip`, kept in a `FrameCache`.

The sampling rule of the keyframes is VQAThinker's (arXiv 2508.06051, "Frames" of the published
code). Dense motion frames follow VQA² (the motion branch must see neighbouring frames).

Why PyAV and not decord2: decord2 3.4.0 finds a frame by *counting* after a seek. Where a seek point
has leading pictures (open GOP: x265's default, many H.264 broadcasts, MPEG-4 with B frames) it
silently returns a picture 2 to 10 frames away; on bit errors it may silently repeat a neighbour; it
fails on closed-GOP HEVC and on some widths (96). PyAV hands out every frame with its presentation
time, so a frame here is either the one asked for or a `VideoError`, at less CPU time. What no
decoder can tell: bits damaged into another valid stream (HEVC notices little).

Suffixes: K keyframes, M motion frames, C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import struct
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import av.container
    import av.video

# Part of every cache key: raise it whenever the same file and spec would give other pixels, times
# or indices.
READER_VERSION = 1

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

# FFmpeg guesses the format from content. Only real video containers are let in: a text file would
# otherwise be rendered as a video (tty), and a playlist (hls, concat) could open other files or the
# network.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,ivf,yuv4mpegpipe,gif"

# 8192 x 8192, twice 8K UHD. A header may claim any size; beyond this it is damage or an attack on
# the memory.
MAX_FRAME_PIXELS = 2**26

MAX_ASPECT_RATIO = 200  # of the "smart" resize; Qwen2.5-VL's own limit

REASONS = {
    "missing": "there is no such file",
    "unreadable": "the file cannot be opened for reading",
    "empty": "the file has no bytes",
    "not_a_video": "the content is no video (or image) that this reader knows",
    "truncated": "the file ends before its own header says it does",
    "no_frames": "there is no video stream with frames",
    "decode_error": "a requested frame cannot be decoded",
    "too_large": f"a frame has more than {MAX_FRAME_PIXELS} pixels",
    "aspect_ratio": f"one side is more than {MAX_ASPECT_RATIO} times the other",
    "unsupported": "the file is valid, but uses something this reader does not handle",
    "empty_range": "no frame lies between start and end",
    "crashed": "the decoding process died",
    "timeout": "decoding took longer than allowed",
}


class VideoError(ValueError):
    """A video that cannot be read as asked. `reason` is a key of `REASONS`; `detail` says what was
    seen."""

    def __init__(self, path: Path | str, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        self.path, self.reason, self.detail = Path(path), reason, detail
        super().__init__(f"{path}: {reason}: {detail or REASONS[reason]}")

    def __reduce__(
        self,
    ) -> tuple[Any, ...]:  # exceptions with several arguments do not unpickle by themselves
        return type(self), (self.path, self.reason, self.detail)


class TooManyBadVideosError(ValueError):
    """More videos failed than allowed; `failures` maps each path to its `VideoError`."""

    def __init__(
        self, failures: dict[Path, VideoError], num_videos: int, allowed_share: float
    ) -> None:
        self.failures = failures
        super().__init__(
            f"{len(failures)} of {num_videos} videos cannot be read, "
            f"allowed is a share of {allowed_share}:\n"
            + "\n".join(str(error) for error in failures.values())
        )


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What to read of a video; part of the frame-cache key."""

    num_keyframes: int  # K
    resize: str  # "square": stretched (InternVL); "smart": aspect kept (Qwen2.5-VL)
    keyframe_px: int  # side of the square; ignored by "smart"
    min_pixels: int  # area of a keyframe; ignored by "square", like the next two
    max_pixels: int
    factor: int  # both sides are multiples of it
    num_motion_frames: int  # M dense frames, a multiple of K; 0 = no motion clip
    motion_px: int  # dense frames are stretched to motion_px x motion_px

    def __post_init__(self) -> None:
        if self.resize not in ("square", "smart"):
            raise ValueError(f"resize must be 'square' or 'smart', got {self.resize!r}")
        positive = (
            ["num_keyframes", "keyframe_px"] if self.resize == "square" else ["num_keyframes"]
        )
        if self.resize == "smart":
            positive += ["min_pixels", "max_pixels", "factor"]
            if self.min_pixels > self.max_pixels:
                raise ValueError(
                    f"min_pixels {self.min_pixels} exceeds max_pixels {self.max_pixels}"
                )
        if self.num_motion_frames:
            positive += ["num_motion_frames", "motion_px"]
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_motion_frames % self.num_keyframes:
            raise ValueError(
                f"num_motion_frames must be a multiple of num_keyframes ({self.num_keyframes}), "
                f"got {self.num_motion_frames}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """The frames of one video, ready for the policy's normalisation. Times count from the first
    frame of the video."""

    path: Path
    keyframes_KCHW: torch.Tensor  # uint8 RGB, all of one size
    motion_MCHW: torch.Tensor  # uint8 RGB; (0, 3, px, px) without motion clip
    keyframe_seconds: torch.Tensor  # float64 presentation times (K,)
    motion_seconds: torch.Tensor  # float64 (M,)
    keyframe_indices: tuple[
        int, ...
    ]  # frame numbers in the whole video, also where only a range was read
    motion_indices: tuple[int, ...]
    num_frames: int  # of the whole video; 1 for a picture
    fps: float  # mean rate of the whole video; 0.0 where there is none (a picture)
    height: int  # of the video as displayed (after rotation), before resizing
    width: int

    def __post_init__(self) -> None:
        for name, frames, seconds, indices in (
            ("keyframes", self.keyframes_KCHW, self.keyframe_seconds, self.keyframe_indices),
            ("motion", self.motion_MCHW, self.motion_seconds, self.motion_indices),
        ):
            if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
                raise ValueError(
                    f"{name}: expected uint8 (N, 3, H, W), got {frames.dtype} {tuple(frames.shape)}"
                )
            if seconds.dtype != torch.float64 or seconds.shape != frames.shape[:1]:
                raise ValueError(
                    f"{name}: expected {len(frames)} float64 times, "
                    f"got {seconds.dtype} {tuple(seconds.shape)}"
                )
            if len(indices) != len(frames):
                raise ValueError(f"{name}: {len(frames)} frames, but {len(indices)} indices")
        if not len(self.keyframes_KCHW):
            raise ValueError("a clip needs at least one keyframe")


# --- which frames ---------------------------------------------------------------------------------


def keyframe_indices(num_frames: int, num_keyframes: int) -> list[int]:
    """Frame numbers of the K keyframes: `int(seg/2 + round(seg·i))`, `seg = (N-1)/K` (VQAThinker).

    `round` is Python's: halves go to the even neighbour, as in the reference. The largest index is
    below
    `N-1 - seg/2 + 1/2`, so never above N-1. Short videos repeat frames.
    Example: `keyframe_indices(100, 6)` → `[8, 24, 41, 58, 74, 90]`.
    """
    if num_frames < 1 or num_keyframes < 1:
        raise ValueError(
            f"need at least 1 frame and 1 keyframe, got {num_frames} and {num_keyframes}"
        )
    seg = (num_frames - 1) / num_keyframes
    return [int(seg / 2 + round(seg * i)) for i in range(num_keyframes)]


def motion_indices(num_frames: int, spec: ClipSpec) -> list[int]:
    """Frame numbers of the M motion frames: K windows of L = M/K consecutive frames, window i
    around keyframe i.

    The keyframe is element L//2 of its window. Windows are shifted inwards at both ends of the
    video; a video shorter than L gives all its frames, then its last one repeated.
    Example: K = 2, M = 8, 100 frames (keyframes 24, 74) → `[22, 23, 24, 25, 72, 73, 74, 75]`.
    """
    if not spec.num_motion_frames:
        return []
    length = spec.num_motion_frames // spec.num_keyframes
    indices = []
    for centre in keyframe_indices(num_frames, spec.num_keyframes):
        first = max(0, min(centre - length // 2, num_frames - length))
        indices += [min(first + offset, num_frames - 1) for offset in range(length)]
    return indices


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """(height, width) with sides that are multiples of `factor`, area in min..max_pixels, aspect
    nearly kept.

    Qwen2.5-VL's rule, equal to transformers' `qwen2_vl.smart_resize` (a test compares them);
    written out because that module imports torchvision. Raises ValueError where one side is over
    200 times the other.
    Example: `smart_resize(1080, 1920, factor=28, min_pixels=3136, max_pixels=200704)` → `(336,
    588)`.
    """
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ValueError(
            f"one side may be at most {MAX_ASPECT_RATIO} times the other, got {width} x {height}"
        )
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def _keyframe_size(path: Path, spec: ClipSpec, height: int, width: int) -> tuple[int, int]:
    if spec.resize == "square":
        return spec.keyframe_px, spec.keyframe_px
    try:
        return smart_resize(
            height,
            width,
            factor=spec.factor,
            min_pixels=spec.min_pixels,
            max_pixels=spec.max_pixels,
        )
    except ValueError as error:
        raise VideoError(path, "aspect_ratio", str(error)) from None


# --- reading a clip -------------------------------------------------------------------------------


def read_clip(
    path: Path | str, spec: ClipSpec, *, start: float | None = None, end: float | None = None
) -> Clip:
    """Reads the frames `spec` asks for. `start`/`end` (seconds from the first frame) keep frames
    start ≤ t < end.

    A picture file counts as a video of one frame. Raises `VideoError` for a file that cannot be
    read as asked and ValueError for a bad range. One decoding thread; safe in forked and spawned
    workers (the decoder is loaded on first use, nothing is shared between calls).
    """
    path = Path(path)
    _check_range(start, end)
    _check_file(path)
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    index = (
        _FrameIndex(pts=None, starts=[], seconds=[0.0], fps=0.0) if is_image else _index_video(path)
    )
    first, num_in_range = _frames_in_range(path, index.seconds, start, end)
    keyframes = [first + i for i in keyframe_indices(num_in_range, spec.num_keyframes)]
    motion = [first + i for i in motion_indices(num_in_range, spec)]
    wanted = sorted({*keyframes, *motion})
    pictures = [(0, _load_image(path))] if is_image else _decode_frames(path, index, wanted)

    # The full-size picture lives for one turn of this loop only: 40 frames of 4K would be 1 GB.
    small_keyframes: dict[int, np.ndarray] = {}
    small_motion: dict[int, np.ndarray] = {}
    height = width = 0
    for number, picture_HWC in pictures:
        if not height:
            height, width = picture_HWC.shape[:2]
            keyframe_size = _keyframe_size(path, spec, height, width)
        if number in keyframes:
            small_keyframes[number] = _resize(picture_HWC, keyframe_size)
        if number in motion:
            small_motion[number] = _resize(picture_HWC, (spec.motion_px, spec.motion_px))

    no_motion = np.empty((0, 3, spec.motion_px, spec.motion_px), dtype=np.uint8)
    return Clip(
        path=path,
        keyframes_KCHW=torch.from_numpy(np.stack([small_keyframes[i] for i in keyframes])),
        motion_MCHW=torch.from_numpy(
            np.stack([small_motion[i] for i in motion]) if motion else no_motion
        ),
        keyframe_seconds=torch.tensor([index.seconds[i] for i in keyframes], dtype=torch.float64),
        motion_seconds=torch.tensor([index.seconds[i] for i in motion], dtype=torch.float64),
        keyframe_indices=tuple(keyframes),
        motion_indices=tuple(motion),
        num_frames=len(index.seconds),
        fps=index.fps,
        height=height,
        width=width,
    )


def _resize(picture_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (3, H, W) by PIL's bicubic filter, which widens its support when shrinking (antialias).

    PIL, not torch's `interpolate(antialias=True)`: the reference resizes with PIL, and this is
    bit-identical to it. No torch operation either: its thread pool would fight over the cores of
    the other workers.
    """
    height, width = size
    image = Image.fromarray(picture_HWC).resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _check_range(start: float | None, end: float | None) -> None:
    for name, value in (("start", start), ("end", end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number of seconds, 0 or more, got {value}")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"end must lie after start, got start={start}, end={end}")


def _frames_in_range(
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


def _load_image(path: Path) -> np.ndarray:
    """The picture (H, W, 3), turned upright by its EXIF orientation."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise VideoError(path, "too_large", f"{image.width} x {image.height}")
            if image.mode.startswith(
                ("I", "F")
            ):  # PIL would clip 16 bit to white instead of scaling it
                raise VideoError(
                    path, "unsupported", f"pixel mode {image.mode}, expected 8 bit per channel"
                )
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise VideoError(path, "not_a_video", str(error)) from None
    except Image.DecompressionBombError as error:
        raise VideoError(path, "too_large", str(error)) from None
    except (
        OSError,
        SyntaxError,
    ) as error:  # PIL reports damaged data as OSError or, for PNG, SyntaxError
        reason = "truncated" if "truncated" in str(error).lower() else "decode_error"
        raise VideoError(path, reason, str(error)) from None


# --- checks on the bytes of the file --------------------------------------------------------------


def _check_file(path: Path) -> None:
    """Raises `VideoError` for what can be told without a decoder: missing, empty or cut-off
    files."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise VideoError(path, "empty")
            head = file.read(12)
            problem = None
            if head[4:8] == b"ftyp":
                problem = _mp4_cut(file, size)
            elif head.startswith(b"\x1a\x45\xdf\xa3"):
                problem = _matroska_cut(file, size)
    except FileNotFoundError:
        raise VideoError(path, "missing") from None
    except OSError as error:
        raise VideoError(path, "unreadable", str(error)) from None
    if problem:
        raise VideoError(path, "truncated", problem)


def _mp4_cut(file: BinaryIO, file_size: int) -> str | None:
    """What is cut off, told by the top-level boxes (ISO 14496-12, 4.2): 32-bit size, type, maybe
    64-bit size."""
    position, types = 0, set()
    while position + 8 <= file_size:
        file.seek(position)
        head = file.read(16)
        box_size, box_type = struct.unpack(">I4s", head[:8])
        if box_size == 1 and len(head) == 16:
            box_size = struct.unpack(">Q", head[8:])[0]
        elif box_size == 0:  # "until the end of the file"
            box_size = file_size - position
        types.add(box_type)
        if position + box_size > file_size and box_type in (b"mdat", b"moov", b"moof"):
            end = position + box_size
            return f"box {box_type.decode()} ends at byte {end}, the file at {file_size}"
        if box_size < 8:  # not a box: rubbish after the last one, which players ignore too
            break
        position += box_size
    return None if b"moov" in types else "the index (moov box) is missing"


def _matroska_cut(file: BinaryIO, file_size: int) -> str | None:
    """What is cut off, told by the size of the Segment element (RFC 8794, 4 and 8); live streams
    leave it open."""

    def read_size() -> int | None:  # EBML variable-size integer; all value bits set = unknown
        first = file.read(1)[0]
        length = 9 - first.bit_length()
        value = int.from_bytes(bytes([first & (0xFF >> length)]) + file.read(length - 1), "big")
        return None if value == 2 ** (7 * length) - 1 else value

    file.seek(4)
    file.seek(read_size() or 0, os.SEEK_CUR)  # past the EBML header
    if file.read(4) != b"\x18\x53\x80\x67":
        return None  # no Segment here; the decoder will say what it is
    size = read_size()
    if size is not None and file.tell() + size > file_size:
        return f"the Segment ends at byte {file.tell() + size}, the file at {file_size}"
    return None


# --- index and decoding ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _FrameIndex:
    pts: (
        list[int] | None
    )  # of each frame in display order, stream time base; None: frames are known by count only
    starts: list[int]  # pts of the seek points, ascending
    seconds: list[float]  # presentation times, the first frame at 0
    fps: float


def _open(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Container and video stream; one thread, and damage raises instead of being concealed."""
    import av

    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    try:
        container = av.open(str(path), options=options, metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise VideoError(path, "not_a_video", str(error)) from None
    cover = av.stream.Disposition.attached_pic  # the album picture of an audio file
    streams = [s for s in container.streams.video if not s.disposition & cover]
    problem = ("no_frames", "no video stream")
    if streams:
        context = streams[0].codec_context
        if context is None:  # the stubs deny it, but an unknown codec has none
            problem = ("unsupported", "no decoder for the codec")  # type: ignore[unreachable]
        elif context.width * context.height > MAX_FRAME_PIXELS:
            problem = ("too_large", f"{context.width} x {context.height}")
        else:
            context.thread_count = 1  # many worker processes decode at once
            # A damaged slice or a missing reference is an error, not a picture patched up from a
            # neighbour.
            context.options = {"err_detect": "crccheck+explode"}
            return container, streams[0]
    container.close()
    raise VideoError(path, *problem)


def _index_video(path: Path) -> _FrameIndex:
    """Times of all frames, from the packets alone (counted where packets carry no usable times)."""
    import av

    container, stream = _open(path)
    with container:
        try:
            packets = [
                (packet.pts, packet.is_keyframe, packet.is_discard)
                for packet in container.demux(stream)
                if packet.size
            ]
        except av.error.FFmpegError as error:
            raise VideoError(path, "decode_error", f"reading packets: {error}") from None
        # Discarded: cut away by an edit list, so decoded but never shown.
        shown = sorted(pts for pts, _, is_discard in packets if pts is not None and not is_discard)
        has_times = len(set(shown)) == sum(not is_discard for _, _, is_discard in packets)
        rate = float(stream.average_rate or 0)
        is_avi = container.format.name == "avi"  # its "pts" is the decoding order
        time_base = stream.time_base
    if not packets:
        raise VideoError(path, "no_frames", "a video stream without packets")
    if is_avi or not has_times or time_base is None:
        return _count_frames(path, rate)
    if not shown:
        raise VideoError(path, "no_frames", "all frames are cut away by the edit list")
    seconds = [float((pts - shown[0]) * time_base) for pts in shown]
    return _FrameIndex(
        pts=shown,
        starts=sorted(pts for pts, is_start, _ in packets if is_start and pts is not None),
        seconds=seconds,
        fps=rate or ((len(shown) - 1) / seconds[-1] if len(shown) > 1 else 0.0),
    )


def _count_frames(path: Path, rate: float) -> _FrameIndex:
    """Index of a file without presentation times: decoded once, its constant rate gives times."""
    if not rate:
        raise VideoError(path, "unsupported", "neither presentation times nor a frame rate")
    container, stream = _open(path)
    with container:
        num_frames = sum(1 for _ in _decode_stream(path, container, stream))
    if not num_frames:
        raise VideoError(path, "no_frames", "the decoder gives no frame")
    return _FrameIndex(pts=None, starts=[], seconds=[i / rate for i in range(num_frames)], fps=rate)


def _decode_frames(
    path: Path, index: _FrameIndex, wanted: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (number, upright RGB (H, W, 3)) of exactly the frames `wanted` (ascending numbers)."""
    if index.pts is None:
        yield from _decode_from_start(path, {number: number for number in wanted}, by_pts=False)
        return
    missing = {index.pts[number]: number for number in wanted}
    runs: dict[int, dict[int, int]] = {}  # seek point → {pts: frame number}
    for pts, number in missing.items():
        # The last seek point at or before the frame in *display* order: leading pictures, which
        # follow the next seek point in the file, need the one before.
        place = bisect_right(index.starts, pts)
        seek_pts = index.starts[place - 1] if place else index.pts[0]
        runs.setdefault(seek_pts, {})[pts] = number
    try:
        container, stream = _open(path)
        with container:
            for seek_pts, run in runs.items():
                container.seek(seek_pts, stream=stream)
                for number, picture in _decode_run(path, container, stream, run, by_pts=True):
                    del missing[index.pts[number]]
                    yield number, picture
    except VideoError:
        # A seek can look like damage: references from before an H.264 open GOP, intra refresh,
        # coarse indices. From the start of the file only damage fails, and raises.
        yield from _decode_from_start(path, missing, by_pts=True)


def _decode_from_start(
    path: Path, numbers: dict[int, int], *, by_pts: bool
) -> Iterator[tuple[int, np.ndarray]]:
    container, stream = _open(path)
    with container:
        yield from _decode_run(path, container, stream, numbers, by_pts=by_pts)


def _decode_run(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    numbers: dict[int, int],
    *,
    by_pts: bool,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decodes until every key of `numbers` ({pts or count: frame number}) was seen, else raises."""
    missing = dict(numbers)
    last = max(missing)
    wanted = frozenset(numbers) if by_pts else None
    for count, frame in enumerate(_decode_stream(path, container, stream, wanted)):
        key = frame.pts if by_pts else count
        if key is None:
            continue
        if key in missing:
            if frame.is_corrupt:
                raise VideoError(path, "decode_error", f"frame {missing[key]} is damaged")
            yield missing.pop(key), _upright_rgb(path, frame)
        if not missing:
            return
        if key > last:
            break
    lost = sorted(missing.values())
    raise VideoError(path, "decode_error", f"frames {lost} do not come out of the decoder")


def _decode_stream(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    wanted: frozenset[int] | None = None,
) -> Iterator[av.VideoFrame]:
    """Frames in display order: all, or those `wanted` (by pts) and what their decoding passes.

    No other frame is built upon one that is not a reference (most B frames): where it is not wanted
    either, the decoder leaves it out. The frames that come out are the same to the bit.
    """
    import av

    context = stream.codec_context
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise VideoError(path, "decode_error", f"damaged packet at pts {packet.pts}")
            if wanted is not None and context.name in _SKIPS_AT_ONCE:
                needed = packet.pts is None or packet.pts in wanted
                context.skip_frame = "DEFAULT" if needed else "NONREF"
            yield from packet.decode()
    except av.error.FFmpegError as error:
        raise VideoError(path, "decode_error", str(error)) from None


def _upright_rgb(path: Path, frame: av.VideoFrame) -> np.ndarray:
    """The frame as displayed, RGB (H, W, 3): colours by the frame's own matrix, turned by its
    display matrix.

    Unlabelled colours are read as BT.601, like FFmpeg does at any size. Pixels are taken as square.
    """
    from av.sidedata.sidedata import Type

    if frame.width * frame.height > MAX_FRAME_PIXELS:  # the size may change within a stream
        raise VideoError(path, "too_large", f"{frame.width} x {frame.height}")
    picture = frame.reformat(format="rgb24", threads=1).to_ndarray()
    side_data: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if side_data is None:
        return picture
    # x' = a·x + c·y, y' = b·x + d·y (libavutil/display.h), 32-bit fixed point
    a, b, _, c, d = struct.unpack("=5i", bytes(side_data)[:20])
    if (a or d) and (b or c):
        raise VideoError(
            path, "unsupported", f"rotated by {frame.rotation} degrees, expected a multiple of 90"
        )
    if b or c:
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


# Decoders that heed the setting with the very packet they get; AV1's works on several at once.
_SKIPS_AT_ONCE = frozenset({"h264", "hevc"})

_FACTS = ("num_frames", "fps", "height", "width")  # the scalars of a clip

# --- cache ----------------------------------------------------------------------------------------


class FrameCache:
    """Clips on disk, lossless (raw uint8), one safetensors file each: `<folder>/<key>.safetensors`.

    The key is a hash of the file's *content*, the spec, the range and `READER_VERSION`: a moved or
    copied video hits, an edited one misses. Content is hashed once per (path, size, modification
    time) and process; BLAKE2b over all bytes, since two encodes of one source may share size,
    header and tail. Files appear atomically (written aside, then renamed) and carry a checksum, so
    readers of a shared folder never see half a clip, and a damaged file is read again from the
    video. Safe to pickle into workers.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._content_hashes: dict[tuple[str, int, int], str] = {}

    def get_or_read(
        self,
        path: Path | str,
        spec: ClipSpec,
        *,
        start: float | None = None,
        end: float | None = None,
    ) -> Clip:
        """The cached clip, else `read_clip` (whose errors pass through) stored for the next
        time."""
        file = self._file(Path(path), spec, start, end)
        clip = _load_clip(file, Path(path))
        if clip is None:
            clip = read_clip(path, spec, start=start, end=end)
            _save_clip(file, clip)
        return clip

    def contains(
        self,
        path: Path | str,
        spec: ClipSpec,
        *,
        start: float | None = None,
        end: float | None = None,
    ) -> bool:
        """True where a whole, undamaged clip is cached."""
        return _load_clip(self._file(Path(path), spec, start, end), Path(path)) is not None

    def _file(self, path: Path, spec: ClipSpec, start: float | None, end: float | None) -> Path:
        key = [
            READER_VERSION,
            self._content_hash(path),
            path.suffix.lower(),
            asdict(spec),
            start,
            end,
        ]
        digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=20)
        return self.folder / f"{digest.hexdigest()}.safetensors"

    def _content_hash(self, path: Path) -> str:
        try:
            stat = path.stat()
            key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
            if key not in self._content_hashes:
                with open(path, "rb") as file:
                    self._content_hashes[key] = hashlib.file_digest(file, "blake2b").hexdigest()
            return self._content_hashes[key]
        except FileNotFoundError:
            raise VideoError(path, "missing") from None
        except OSError as error:
            raise VideoError(path, "unreadable", str(error)) from None


def _checksum(tensors: dict[str, torch.Tensor], facts: str) -> torch.Tensor:
    """uint8 (20,) over all tensors and the facts."""
    digest = hashlib.blake2b(facts.encode(), digest_size=20)
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _save_clip(file: Path, clip: Clip) -> None:
    from safetensors.torch import save

    tensors = {
        "keyframes": clip.keyframes_KCHW,
        "motion": clip.motion_MCHW,
        "keyframe_seconds": clip.keyframe_seconds,
        "motion_seconds": clip.motion_seconds,
        "keyframe_indices": torch.tensor(clip.keyframe_indices, dtype=torch.int64),
        "motion_indices": torch.tensor(clip.motion_indices, dtype=torch.int64),
    }
    facts = json.dumps({name: getattr(clip, name) for name in _FACTS})
    # The checksum is a tensor: safetensors writes several metadata entries in random order.
    content = save(tensors | {"checksum": _checksum(tensors, facts)}, metadata={"facts": facts})
    # Same folder, so that the rename stays in one file system; a name of its own for each writer.
    aside = file.with_name(f".{file.stem}.{uuid.uuid4().hex}.tmp")
    try:
        with open(aside, "xb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def _load_clip(file: Path, path: Path) -> Clip | None:
    """The clip, or None where there is no file or a damaged one (which the next write replaces)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            facts = (stored.metadata() or {}).get("facts", "")
            names = stored.keys()
            tensors = {name: stored.get_tensor(name) for name in names}
    except (FileNotFoundError, SafetensorError):
        return None
    checksum = tensors.pop("checksum", torch.empty(0))
    if not torch.equal(checksum, _checksum(tensors, facts)):
        return None
    return Clip(
        path=path,
        keyframes_KCHW=tensors["keyframes"],
        motion_MCHW=tensors["motion"],
        keyframe_seconds=tensors["keyframe_seconds"],
        motion_seconds=tensors["motion_seconds"],
        keyframe_indices=tuple(tensors["keyframe_indices"].tolist()),
        motion_indices=tuple(tensors["motion_indices"].tolist()),
        **json.loads(facts),
    )


# --- checking a whole data set --------------------------------------------------------------------


def check_videos(
    paths: Iterable[Path | str],
    spec: ClipSpec,
    cache: FrameCache,
    *,
    max_failed_share: float,
    num_workers: int,
) -> dict[Path, VideoError]:
    """Reads every video once in worker processes, which fills the cache, and returns the failing
    ones.

    The caller leaves these out and says so. Raises `TooManyBadVideosError`, listing all, where
    their share exceeds
    `max_failed_share` (0..1). A video that kills its worker (reason "crashed") costs only itself.
    """
    if not 0 <= max_failed_share <= 1:
        raise ValueError(f"max_failed_share must lie in 0..1, got {max_failed_share}")
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    unique = list(dict.fromkeys(Path(path) for path in paths))
    task = partial(_cache_one, FrameCache(cache.folder), spec)
    failures = {}
    for path, error in _map_guarded(task, unique, num_workers).items():
        if isinstance(error, _Died):
            failures[path] = VideoError(path, "crashed")
        elif error is not None:
            failures[path] = error
    if len(failures) > max_failed_share * len(unique):
        raise TooManyBadVideosError(failures, len(unique), max_failed_share)
    return failures


def _cache_one(cache: FrameCache, spec: ClipSpec, path: Path) -> VideoError | None:
    try:
        cache.get_or_read(path, spec)
    except VideoError as error:
        return error
    return None


class _Died:
    """Stands for the result of an item whose worker process died."""


Item = TypeVar("Item")
Result = TypeVar("Result")


def _map_guarded(
    task: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> dict[Item, Result | _Died]:
    """{item: task(item)} over processes; an item whose process dies (twice, the second time alone)
    gives `_Died`."""
    results: dict[Item, Result | _Died] = {}
    pending = list(items)
    while pending:
        results.update(_map_until_death(task, pending, num_workers))
        pending = [item for item in pending if item not in results]
        # Work is handed out in order: the killer is among the first unfinished ones. Alone, it
        # shows.
        for item in pending[:num_workers]:
            results[item] = _map_until_death(task, [item], 1).get(item, _Died())
        pending = pending[num_workers:]
    return results


def _map_until_death(
    task: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> dict[Item, Result]:
    """{item: task(item)}, incomplete where a worker process died."""
    results = {}
    # spawn: forking a process in which torch or the decoder already runs threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(items)), mp_context=context) as pool:
        futures = {pool.submit(task, item): item for item in items}
        for future in as_completed(futures):
            try:
                results[futures[future]] = future.result()
            except BrokenProcessPool:
                continue
    return results
