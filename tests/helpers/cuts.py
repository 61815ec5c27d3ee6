"""Videos with open groups of pictures, and files cut out of them without decoding, as `ffmpeg -c
copy`, HLS segmenters and capture programs leave them.

Oracles: every picture carries its number in the uncut source; `plain_decode` is what FFmpeg shows
of a file, decoded from its start with its default settings, without an index and without seeking.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from tests.helpers.video_factory import write_video

_KEYINT = "keyint={0}:min-keyint={0}:scenecut=0:bframes=3:open-gop=1"
OPEN_GOP = {  # codec -> options of its encoder, "{0}" being the distance of keyframes
    "h264": {"x264-params": f"{_KEYINT}:b-pyramid=normal:b-adapt=0:ref=3"},
    "hevc": {"x265-params": f"{_KEYINT}:log-level=none"},
    "mpeg2": {"bf": "2", "sc_threshold": "1000000000"},
}


def write_open_gop(path: Path, codec: str, *, gop: int, num_frames: int) -> Path:
    """A numbered video at 25 frames/s whose groups, but for the first, begin with leading pictures.

    To be cut into a transport stream it must be one: the headers stand before every group then.
    """
    options = {key: value.format(gop) for key, value in OPEN_GOP[codec].items()}
    return write_video(path, codec=codec, num_frames=num_frames, fps=25, gop=gop, options=options)


def key_numbers(path: Path) -> list[int]:
    """Which packets of the file are keyframes, counted in its own (the decoding) order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [number for number, packet in enumerate(packets) if packet.is_keyframe]


def cut_packets(
    source: Path, target: Path, first: int, last: int | None = None, *, num_hidden: int = 0
) -> Path:
    """Copies the packets first ≤ number < last; the earliest picture comes at time 0.

    num_hidden: so many of the earliest pictures come before time 0, which in an MP4 is an edit list
    that hides them.
    """
    with av.open(str(source)) as container, av.open(str(target), "w") as sink:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size][first:last]
        copy = sink.add_stream_from_template(stream)
        start = sorted(packet.pts for packet in packets)[num_hidden]
        for packet in packets:
            packet.stream = copy
            packet.pts -= start
            packet.dts -= start
            sink.mux(packet)
    return target


def hls_segments(source: Path, folder: Path, seconds: float) -> list[Path]:
    """The pieces of an HLS stream, of at least `seconds` each, in order; without those in which no
    packet came to lie."""
    folder.mkdir()
    options = {"hls_time": str(seconds), "hls_list_size": "0"}
    with (
        av.open(str(source)) as container,
        av.open(str(folder / "list.m3u8"), "w", format="hls", options=options) as sink,
    ):
        stream = container.streams.video[0]
        copy = sink.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.size:
                packet.stream = copy
                sink.mux(packet)
    pieces = [path for path in folder.glob("*.ts") if _has_packets(path)]
    return sorted(pieces, key=lambda path: int(path.stem.removeprefix("list")))


def _has_packets(path: Path) -> bool:
    try:
        with av.open(str(path)) as container:
            return any(packet.size for packet in container.demux(video=0))
    except (av.error.FFmpegError, IndexError):
        return False


def plain_decode(path: Path) -> list[tuple[float, np.ndarray]]:
    """(seconds, RGB picture) of all that FFmpeg shows; packets it cannot decode show nothing."""
    shown = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            shown += [(f.time, f.to_ndarray(format="rgb24")) for f in frames]
    return shown
