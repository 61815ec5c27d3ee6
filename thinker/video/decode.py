"""The frames of one video file by number: exactly those asked for, or a `VideoError`.

Flow: index of all frames (packets only, nothing decoded) → decode just what is needed, from the
nearest seek point → upright RGB pictures. The only module that knows the decoder.

Why PyAV and not decord2: decord2 3.4.0 finds a frame by *counting* after a seek. Where a seek point
has leading pictures (open GOP: x265's default, many H.264 broadcasts, MPEG-4 with B frames) it
silently returns a picture 2 to 10 frames away; on bit errors it may silently repeat a neighbour; it
fails on closed-GOP HEVC and on some widths (96). PyAV hands out every frame with its presentation
time, so a frame here is either the one asked for or a `VideoError`, at less CPU time. Converted
checkpoints still get decord's pixels, each compared with its frame (`sources/decord_frames.py`).
What no decoder can tell: bits damaged into another valid stream (HEVC notices little).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thinker.video.cut import (
    Cut,
    PacketFacts,
    decode_cut,
    find_cut,
    has_leading_pictures,
    packets_shown,
    require_whole,
    starts_afresh,
)
from thinker.video.file import VideoError, count_null_frames, picture_format
from thinker.video.mp4 import MAX_DURATION_SECONDS, MAX_FRAME_PIXELS, MAX_FRAMES, MAX_STREAMS
from thinker.video.sources.deinterlace import deinterlaced

if TYPE_CHECKING:
    import av.container
    import av.video

# FFmpeg guesses the format from content. Only real video containers are let in: a text file would
# otherwise be rendered as a video (tty), and a playlist (hls, concat) could open other files or the
# network.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,ivf,yuv4mpegpipe,gif,mxf,dv"

# A raw stream has no header to know it by: what looks like one may be a damaged file of another
# kind. So it is taken for one only where its name says so.
_RAW_STREAMS = {
    ".264": "h264", ".avc": "h264", ".h264": "h264", ".265": "hevc", ".h265": "hevc",
    ".hevc": "hevc", ".m1v": "mpegvideo", ".m2v": "mpegvideo", ".mpv": "mpegvideo", ".obu": "obu",
}  # fmt: skip

# FFmpeg's demuxers of these give no presentation times, or made-up ones ("avi": the decoding
# order), so frames are known by their count.
_WITHOUT_TIMES = frozenset({"avi", *_RAW_STREAMS.values()})

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's one name for them

# Discs and broadcasts go up to 3.6 (MPEG-2 of 352 columns at 2.21:1).
MAX_PIXEL_ASPECT = 10

# Codecs whose decoder applies `skip_frame` to the next packet at once and reports a missing
# reference frame. AV1's works on several packets at once; HEVC's fills a missing reference
# silently, so damage would go unnoticed (found by fuzzing).
_SKIPS_AT_ONCE = frozenset({"h264"})


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """Where the frames of a file lie."""

    pts: list[int] | None
    """Of each frame in display order, in the time base of the stream; None where frames are known
    by their number only."""
    starts: list[int]
    """pts of the seek points, ascending."""
    seconds: list[float]
    """Presentation times, the first frame at 0."""
    fps: float
    """Mean rate."""
    cut: Cut | None = None
    """Where a file that was cut out of a longer recording becomes whole; None: it starts afresh."""


Opened = tuple["av.container.InputContainer", "av.VideoStream"]


def _open_by_header(path: Path) -> Opened:
    """As `_open`, without decoding anything where the header says all.

    FFmpeg decodes the first frames of a file to learn what its header leaves open. The tables of an
    MP4 leave nothing open for H.264: they hold size and rate, and the order of presentation says
    how many frames the decoder has to hold back (FFmpeg's demuxer reads it off them).
    """
    container, stream = _open(path, skip_frame="all")
    if (
        container.format.name == _MP4
        and len(_shown_streams(container)) == 1  # among several, packets help to choose
        and stream.codec_context.name == "h264"
        and stream.frames  # 0: a fragmented file, whose tables are spread over it
    ):
        return container, stream
    container.close()
    return _open(path)


def _open(path: Path, *, is_cut: bool = False, **probing: str) -> Opened:
    """Container and video stream; one thread, and damage raises instead of being concealed.

    is_cut: decoded as players do; damage is what `decode_cut` is told. probing: settings of the
    decoders that look into the first frames.
    """
    import av

    raw_stream = _RAW_STREAMS.get(path.suffix.lower())
    options = {
        "format_whitelist": ",".join(filter(None, (_CONTAINERS, raw_stream))),
        "protocol_whitelist": "file",
        "enable_drefs": "0",  # tracks of an mp4 that lie in other files; off by default, too
        "max_streams": str(MAX_STREAMS),
        "max_pixels": str(MAX_FRAME_PIXELS),  # of the decoders that look into the first frames
        **probing,
    }
    try:
        # "file:" so that a name with a colon is no protocol.
        container = av.open(f"file:{path}", options=options, metadata_errors="ignore")
    except (av.error.FFmpegError, UnicodeError) as error:
        picture = picture_format(path)
        if picture is not None:
            detail = f"it is a {picture} picture; rename it to .{picture.lower()}"
            raise VideoError(path, "not_a_video", detail) from None
        raise _failed(path, "not_a_video", error) from None
    seconds = (container.duration or 0) / av.time_base
    if seconds > MAX_DURATION_SECONDS:
        container.close()
        raise VideoError(path, "too_long", f"the header says {seconds:.0f} s")
    stream = _best_stream(container)
    problem = ("no_frames", "no video stream")
    if stream is not None:
        context = stream.codec_context
        if context is None:  # the stubs deny it, but an unknown codec has none
            problem = ("unsupported", "no decoder for the codec")  # type: ignore[unreachable]
        elif context.width * context.height > MAX_FRAME_PIXELS:
            problem = ("too_large", f"{context.width} x {context.height}")
        else:
            context.thread_count = 1  # many worker processes decode at once
            # A damaged slice or a missing reference is an error, not a picture patched up from a
            # neighbour.
            context.options = {
                "err_detect": "crccheck" if is_cut else "crccheck+explode",
                "max_pixels": str(MAX_FRAME_PIXELS),
            }
            return container, stream
    container.close()
    raise VideoError(path, *problem)


def _shown_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Those that move: no album picture of a film or a song, no thumbnails of its chapters."""
    import av

    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & still]


def _best_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video that players show: FFmpeg's choice (`av_find_best_stream`), which goes by the
    default flag, then by frames and bit rate; never one that has no decoder where another has."""
    import av

    shown = _shown_streams(container)
    decodable = [stream for stream in shown if stream.codec_context is not None]
    best = container.streams.best("video")
    if best in (decodable or shown):
        return best
    default = av.stream.Disposition.default
    ranked = sorted(decodable or shown, key=lambda stream: not stream.disposition & default)
    return ranked[0] if ranked else None


def _failed(path: Path, reason: str, error: Exception, what: str = "") -> VideoError:
    """The `VideoError` of a decoder's error; a packet that no memory holds is one, too."""
    if isinstance(error, MemoryError):
        reason = "memory"
    # The log is kept once a cut file was read; what is said of this one must not depend on that.
    said = str(error).partition("; last error log")[0]
    return VideoError(path, reason, f"{what}{said}")


class VideoFile:
    """A video file, opened once: the index of its frames, then the frames asked for.

    A context manager. Opening may cost as much as decoding several frames (`_open_by_header`), so
    what read the index goes on to decode. Raises `VideoError`.

    deinterlace: frames that the file marks as interlaced are made whole by FFmpeg's bwdif.
    index: of this file, where it is known already. from_start: whether frames that no seek leads to
    are looked for from the start of the file on.
    """

    pixel_aspect = Fraction(1)
    """Width of a pixel over its height, in the upright picture that was given last."""

    def __init__(
        self,
        path: Path,
        *,
        deinterlace: bool = False,
        index: FrameIndex | None = None,
        from_start: bool = True,
    ) -> None:
        self.path, self._deinterlace, self._from_start = path, deinterlace, from_start
        self._container, self._stream = _open_by_header(path)
        try:
            self.index = index or _index(path, self._container, self._stream)
            if self.index.cut:
                self._container.close()
                self._container, self._stream = _open(path, is_cut=True)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def frames(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, upright RGB (H, W, 3)) of exactly the frames `wanted` (ascending)."""
        raw = self._deinterlaced(wanted) if self._deinterlace else self.raw_frames(wanted)
        for number, frame in raw:
            picture = _upright_rgb(self.path, frame)
            del frame
            yield number, picture
            del picture  # or two full-size ones would be in memory at the next

    def raw_frames(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """As `frames`, as they come out of the decoder: not turned, colours not converted."""
        for number, frame in self._decode(wanted):
            self.pixel_aspect = _pixel_aspect(self._stream, frame)
            yield number, frame
            del frame

    def _deinterlaced(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        import av

        def look_back(numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
            with VideoFile(self.path) as other:
                yield from other.raw_frames(numbers)

        try:
            yield from deinterlaced(
                self.raw_frames, look_back, wanted, num_frames=len(self.index.seconds)
            )
        except av.error.FFmpegError as error:
            raise _failed(self.path, "unsupported", error, "deinterlacing: ") from None

    def _decode(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        pts = self.index.pts
        if pts is None:
            if not self._from_start:
                detail = "frames are known by their count, and damage lies before these"
                raise VideoError(self.path, "decode_error", detail)
            yield from self._decode_from_start({number: number for number in wanted})
            return
        missing = {pts[number]: number for number in wanted}
        try:
            for number, frame in self._seek_and_decode(pts[0], missing):
                del missing[pts[number]]
                yield number, frame
                del frame
        except VideoError:
            if not self._from_start:
                raise
            # A seek can look like damage: references from before an H.264 open GOP, intra refresh,
            # coarse indices. From the start of the file only damage fails, and raises.
            yield from self._decode_from_start(missing)

    def _decode_from_start(self, numbers: dict[int, int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames of {pts or count: frame number}, by a decoder of its own."""
        self._container.close()  # two decoders' reference frames need twice the memory
        cut = self.index.cut
        container, self._stream = _open(self.path, is_cut=cut is not None)
        with container:
            by_pts = self.index.pts is not None
            whole_from = cut.whole_from if cut else None
            yield from _decode_run(
                self.path, container, self._stream, numbers, whole_from, by_pts=by_pts
            )

    def _seek_and_decode(
        self, first_pts: int, numbers: dict[int, int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames of {pts: frame number}, one seek for all that share a seek point."""
        import av

        starts = self.index.starts
        runs: dict[int, dict[int, int]] = {}  # seek point → {pts: frame number}
        for pts, number in numbers.items():
            # The last seek point at or before the frame in *display* order: leading pictures, which
            # follow the next seek point in the file, need the one before.
            place = bisect_right(starts, pts)
            seek_pts = starts[place - 1] if place else first_pts
            runs.setdefault(seek_pts, {})[pts] = number
        for seek_pts, run in runs.items():
            try:
                self._container.seek(seek_pts, stream=self._stream)
            except av.error.FFmpegError as error:  # an index that leads nowhere
                raise _failed(self.path, "decode_error", error) from None
            cut = self.index.cut
            # Leading pictures of the seek point are not asked for here.
            whole_from = max(cut.whole_from, seek_pts) if cut else None
            yield from _decode_run(
                self.path, self._container, self._stream, run, whole_from, by_pts=True
            )


def _index(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> FrameIndex:
    """Times of all frames, from the packets alone (counted where packets carry no usable times)."""
    import av

    try:
        demuxed = (packet for packet in container.demux(stream) if packet.size)
        first = next(demuxed, None)
        if first is None:
            raise VideoError(path, "no_frames", "a video stream without packets")
        is_fresh = starts_afresh(first, stream.codec_context)
        all_packets = chain([first], demuxed)
        found = (PacketFacts(p.pts, p.is_keyframe, p.is_discard) for p in all_packets)
        packets = list(islice(found, MAX_FRAMES + 1))
    except av.error.FFmpegError as error:
        raise _failed(path, "decode_error", error, "reading packets: ") from None
    if len(packets) > MAX_FRAMES:
        raise VideoError(path, "too_long", f"more than {MAX_FRAMES} frames")
    rate = _rate(container, stream)
    time_base = stream.time_base
    if container.format.name in _WITHOUT_TIMES or time_base is None:
        return _count_frames(path, rate)
    cut = None
    if not is_fresh or has_leading_pictures(packets):
        cut = _find_cut(path, packets)
    if cut:
        packets = packets_shown(packets, cut)
    # Discarded: cut away by an edit list, so decoded but never shown.
    shown = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
    if len(set(shown)) != sum(not p.is_discard for p in packets):
        return _count_frames(path, rate)
    if not shown:
        raise VideoError(path, "no_frames", "all frames are cut away by the edit list")
    seconds = [float((pts - shown[0]) * time_base) for pts in shown]
    return FrameIndex(
        pts=shown,
        starts=sorted(p.pts for p in packets if p.is_keyframe and p.pts is not None),
        seconds=seconds,
        fps=rate or ((len(shown) - 1) / seconds[-1] if len(shown) > 1 else 0.0),
        cut=cut,
    )


def _rate(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Mean frames a second, 0 where the file does not say.

    FFmpeg gives every raw stream 25 unless told otherwise, whatever its own header says, and a DV
    file 60000.
    """
    if container.format.name == "dv":
        return 0.0
    is_raw = container.format.name in _RAW_STREAMS.values()
    return float((is_raw and stream.codec_context.framerate) or stream.average_rate or 0)


def _find_cut(path: Path, packets: list[PacketFacts]) -> Cut | None:
    """As `find_cut`; None where no packet is marked as a keyframe: no marks tell nothing."""
    import av

    if not any(packet.is_keyframe for packet in packets):
        return None
    container, stream = _open(path, is_cut=True)
    with container:
        try:
            return find_cut(path, container, stream, packets)
        except av.error.FFmpegError as error:
            raise _failed(path, "decode_error", error, "reading packets: ") from None


def _count_frames(path: Path, rate: float) -> FrameIndex:
    """Index of a file without presentation times, decoded once.

    Its constant rate gives the times; in an AVI, the place of each frame among the slots of the
    file, some of which may be empty. Where frames are known by their count alone, one that is lost
    would shift all that follow.
    """
    if not rate:
        raise VideoError(path, "unsupported", "neither presentation times nor a frame rate")
    container, stream = _open(path)
    slots: list[int] = []
    with container:
        declared = stream.frames  # 0: unknown
        stream_index, is_avi = stream.index, container.format.name == "avi"
        slot_seconds = stream.time_base if is_avi and stream.time_base else 1 / rate
        for frame in _decode_stream(path, container, stream):
            following = slots[-1] + 1 if slots else 0
            # Of the packet at which the frame came out, as FFmpeg takes it; the last frames come
            # out when there are no more packets.
            slot = frame.dts if is_avi and frame.dts is not None else following
            slots.append(max(slot, following))
    if not slots:
        raise VideoError(path, "no_frames", "the decoder gives no frame")
    if len(slots) < declared:
        num_nulls = count_null_frames(path, stream_index) if is_avi else 0
        if len(slots) + num_nulls < declared:
            detail = f"the header says {declared} frames, {len(slots)} come out of the decoder"
            raise VideoError(path, "decode_error", f"{detail}, {num_nulls} are empty")
    seconds = [float((slot - slots[0]) * slot_seconds) for slot in slots]
    return FrameIndex(pts=None, starts=[], seconds=seconds, fps=rate)


def _decode_run(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    numbers: dict[int, int],
    whole_from: int | None,
    *,
    by_pts: bool,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decodes until every key of `numbers` ({pts or count: frame number}) was seen, else raises."""
    missing = dict(numbers)
    last = max(missing)
    wanted = frozenset(numbers) if by_pts else None
    for count, frame in enumerate(_decode_stream(path, container, stream, wanted, whole_from)):
        key = frame.pts if by_pts else count
        if key is None:
            continue
        if key in missing:
            if frame.is_corrupt:
                raise VideoError(path, "decode_error", f"frame {missing[key]} is damaged")
            yield missing.pop(key), frame
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
    whole_from: int | None = None,
) -> Iterator[av.VideoFrame]:
    """Frames in display order: all, or those `wanted` (by pts) and what their decoding passes.

    whole_from: of a cut file; errors in pictures before this pts do not count.

    No other frame is built upon one that is not a reference (most B frames): where it is not wanted
    either, the decoder leaves it out. The frames that come out are the same to the bit.
    """
    import av

    context = stream.codec_context
    try:
        for packet in container.demux(stream):
            pts = packet.pts
            is_lost = whole_from is not None and pts is not None and pts < whole_from
            if packet.is_corrupt and not is_lost:
                raise VideoError(path, "decode_error", f"damaged packet at pts {pts}")
            if wanted is not None and context.name in _SKIPS_AT_ONCE:
                needed = pts is None or pts in wanted
                context.skip_frame = "DEFAULT" if needed else "NONREF"
            if whole_from is None:
                yield from packet.decode()
            else:
                frames, complaints = decode_cut(packet)
                require_whole(path, complaints, whole_from)
                yield from frames
    except av.error.FFmpegError as error:
        raise _failed(path, "decode_error", error) from None


def _upright_rgb(path: Path, frame: av.VideoFrame) -> np.ndarray:
    """The frame as displayed, RGB (H, W, 3): colours by the frame's own matrix, turned by its
    display matrix.

    Unlabelled colours are read as BT.601, like FFmpeg does at any size. Transfer and primaries are
    left as they are: PQ and HLG come as they are stored. Pixels keep their aspect
    (`VideoFile.pixel_aspect`).
    """
    import av

    if frame.width * frame.height > MAX_FRAME_PIXELS:  # the size may change within a stream
        raise VideoError(path, "too_large", f"{frame.width} x {frame.height}")
    try:
        picture = frame.reformat(format="rgb24", threads=1).to_ndarray()
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:  # a matrix FFmpeg cannot convert
        what = f"colours of {frame.format.name}, matrix code {int(frame.colorspace)}: "
        raise _failed(path, "unsupported", error, what) from None
    return upright(path, frame, picture)


def upright(path: Path, frame: av.VideoFrame, picture: np.ndarray) -> np.ndarray:
    """The stored picture of a frame (H, W, 3), turned by the frame's display matrix."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return picture
    a, b, c, d = matrix
    if (a or d) and (b or c):
        raise VideoError(
            path, "unsupported", f"rotated by {frame.rotation} degrees, expected a multiple of 90"
        )
    if b or c:
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """a, b, c, d of x' = a·x + c·y, y' = b·x + d·y (libavutil/display.h), 32-bit fixed point."""
    from av.sidedata.sidedata import SideDataContainer, Type

    # `frame.side_data` would refer to the frame that holds it: a cycle, so every picture would stay
    # in memory until Python's collector happens to run.
    all_side_data: Any = SideDataContainer(frame)  # type: ignore[call-arg]
    side_data = all_side_data.get(Type.DISPLAYMATRIX)
    if side_data is None:
        return None
    a, b, _, c, d = struct.unpack("=5i", bytes(side_data)[:20])
    return a, b, c, d


def _pixel_aspect(stream: av.VideoStream, frame: av.VideoFrame) -> Fraction:
    """Width of a pixel over its height once the frame is upright. What the container says counts
    before what the codec says, as for FFmpeg; what no camera or disc has counts as damage, and
    pixels as square, as in players."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not aspect or not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        return Fraction(1)
    matrix = _display_matrix(frame)
    return 1 / aspect if matrix and matrix[1] else aspect
