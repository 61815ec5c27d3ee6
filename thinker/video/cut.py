"""Files cut out of a longer recording: the first pictures may lean on some that are not there.

In: the packets of a file and its decoder. Out: the first picture that can be shown, or a
`VideoError` where what would be shown is not whole.

A recording is cut at a keyframe or anywhere. What precedes the first keyframe, and the pictures
that follow it in the file but precede it on the screen (leading pictures of an open group), need
pictures from before the cut. FFmpeg's decoders leave them out: H.264 up to the recovery point, HEVC
the pictures marked as skipped (RASL), MPEG-2 B pictures with one reference. Which ones is learnt by
decoding the first group once; files that start afresh, nearly all, are told by their packets alone.

The strict settings of the decoder do not serve here: they take the order to forget a picture from
before the cut for damage, in pictures that are whole. So a cut file is decoded as players do it,
and what the decoder says on the way decides: an error that it reports of a picture that counts ends
the reading. Its messages are the only place where it tells of some missing references.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from thinker.video.file import VideoError

if TYPE_CHECKING:
    import av.container
    import av.packet
    import av.video

# H.264 tells a decoder which pictures to forget; to forget one from before the cut changes nothing.
_HARMLESS = "mmco: unref short failure"

# What decoders say of a picture whose references or headers were cut away; anything else is damage.
_LEANING = (
    "Missing reference picture",  # H.264
    "reference picture missing",
    "co located POCs unavailable",
    "non-existing PPS",
    "non-existing SPS",
    "decode_slice_header error",
    "no frame!",
    "Could not find ref with POC",  # HEVC
    "Error constructing the frame RPS",
    "PPS id out of range",
    "Invalid frame dimensions 0x0",  # MPEG-2
    "Not all references are available",  # VP9
)

Complaint = tuple[int | None, str]
"""pts of a picture, and what the decoder says of it."""

_H264_SLICE, _H264_FRESH_SLICE = 1, 5  # types of NAL units: of any picture, of one that is an IDR


class PacketFacts(NamedTuple):
    """What the index keeps of a packet."""

    pts: int | None
    is_keyframe: bool
    is_discard: bool
    """Cut away by an edit list: decoded, but never shown."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a cut file becomes whole. Both are pts, in the time base of the stream."""

    first_shown: int
    """The first picture of the file that can be shown."""
    whole_from: int
    """No picture from here on leans on what was cut away; what the decoder says of earlier ones
    does not count. It precedes `first_shown` where an edit list hides whole pictures."""


def starts_afresh(packet: av.packet.Packet[av.VideoStream], context: av.VideoCodecContext) -> bool:
    """Whether nothing after the first packet of a stream can lean on what was before it, as far as
    that packet tells: in H.264 only an IDR picture promises it, and not every keyframe is one."""
    if not packet.is_keyframe:
        return False
    if context.name != "h264":
        return True
    content, extradata = bytes(packet), context.extradata or b""
    # Either each NAL unit follows its length (extradata is then an "avcC" record, of version 1), or
    # a start code.
    length_size = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0
    place = length_size if length_size else content.find(b"\0\0\1") + 3
    while length_size <= place < len(content):
        unit_type = content[place] & 31
        if unit_type in (_H264_SLICE, _H264_FRESH_SLICE):
            return unit_type == _H264_FRESH_SLICE
        if length_size:
            size = int.from_bytes(content[place - length_size : place], "big")
            place += size + length_size
        else:
            place = content.find(b"\0\0\1", place) + 3
            if place == 2:
                break
    return False


def has_leading_pictures(packets: list[PacketFacts]) -> bool:
    """Whether a picture is shown before the first one of the file, or right behind that one are
    pictures without a time and nowhere else: Matroska has none for what is shown before 0."""
    first = packets[0].pts
    if first is None:
        return False
    times = [packet.pts for packet in packets]
    head = _head_length(packets, first)
    return any(pts is None or pts < first for pts in times[:head]) and None not in times[head:]


def packets_shown(packets: list[PacketFacts], cut: Cut) -> list[PacketFacts]:
    """Without those that cannot be shown."""
    head = _head_length(packets, cut.first_shown)
    return [
        packet
        for number, packet in enumerate(packets)
        if (number >= head if packet.pts is None else packet.pts >= cut.first_shown)
    ]


def _head_length(packets: list[PacketFacts], start: int) -> int:
    """Number of packets before the first one, in the order of the file, that is shown after
    `start`; leading pictures are among them."""
    later = (i for i, packet in enumerate(packets) if packet.pts is not None and packet.pts > start)
    return next(later, len(packets))


def decode_cut(
    packet: av.packet.Packet[av.VideoStream],
) -> tuple[list[av.VideoFrame], list[Complaint]]:
    """The frames that come out at this packet, and what the decoder finds wrong."""
    import av

    _keep_messages()
    frames, failure = [], ""
    with av.logging.Capture() as messages:
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            failure = str(error)
    texts = [text.strip() for level, _, text in messages if level <= av.logging.ERROR]
    texts = [text for text in texts if text != _HARMLESS] or [failure] * bool(failure)
    complaints = [(packet.pts, text) for text in texts]
    return frames, complaints + [(f.pts, "damaged frame") for f in frames if f.is_corrupt]


def require_whole(path: Path, complaints: list[Complaint], whole_from: int) -> None:
    """Raises `VideoError` where a complaint is of a picture that counts."""
    for pts, text in complaints:
        if pts is None or pts >= whole_from:
            raise VideoError(path, "decode_error", f"picture at pts {pts}: {text}")


def _keep_messages() -> None:
    """FFmpeg's messages are off in PyAV; from now on errors can be captured, and nothing else
    changes: what no one captures goes to a logger that is silent."""
    import av

    level = av.logging.get_level()
    if level is None or level < av.logging.ERROR:
        logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
        av.logging.set_skip_repeated(False)  # or a second picture's message would be missing
        av.logging.set_level(av.logging.ERROR)


def find_cut(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: list[PacketFacts],
) -> Cut:
    """Where a cut file, freshly opened, becomes whole; decodes it up to its second keyframe.

    Raises `VideoError` where a picture would be shown that is not whole.
    """
    from av.video.frame import PictureType

    first_key, *later_keys = (i for i, packet in enumerate(packets) if packet.is_keyframe)
    headless = {packet.pts for packet in packets[:first_key]}
    cut = None
    complaints: list[Complaint] = []
    for number, packet in enumerate(container.demux(stream)):
        if cut is not None and later_keys and number >= later_keys[0]:
            break
        frames, new_complaints = decode_cut(packet)
        complaints += new_complaints
        if cut is None and frames:
            shown = frames[0].pts
            if shown is None:
                raise VideoError(path, "unsupported", "it is cut and has no presentation times")
            if shown in headless and frames[0].pict_type != PictureType.I:
                detail = "its first pictures lean on pictures that were cut away"
                raise VideoError(path, "decode_error", detail)
            cut = Cut(first_shown=shown, whole_from=_whole_from(packets, first_key, shown))
    if cut is None:
        raise VideoError(path, "decode_error", "it is cut, and no picture of it can be shown")
    require_whole(path, complaints, cut.whole_from)
    for pts, text in complaints:
        # Or damage to the first keyframe would make a file begin later than it does.
        if not text.startswith(_LEANING):
            raise VideoError(path, "decode_error", f"picture at pts {pts}: {text}")
    return cut


def _whole_from(packets: list[PacketFacts], first_key: int, shown: int) -> int:
    key_pts = packets[first_key].pts
    if key_pts is None:
        return shown
    hidden = any(p.is_discard and p.pts is not None and key_pts <= p.pts < shown for p in packets)
    return key_pts if hidden else shown
