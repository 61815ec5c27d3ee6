"""Writes files of unusual kinds, and decodes them as FFmpeg does, from the first frame to the
last."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
from PIL import Image

from tests.helpers.video_factory import frame_pattern

OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "20", "bf": "2", "g": "12"},
    "libx265": {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none:keyint=12"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "25", "b": "0"},
    "libsvtav1": {"preset": "8", "crf": "20", "svtav1-params": "lp=1:enable-tf=0"},
    "mpeg2video": {"qscale": "2"},
}


def write_streams(
    path: Path,
    sizes: Sequence[tuple[int, int]],
    *,
    default: int = 0,
    cover: int | None = None,
    encoder: str = "libx264",
    aspect: Fraction | None = None,
    rotation: int = 0,
    pix_fmt: str = "yuv420p",
    transfer: int | None = None,
    fps: int = 25,
    gop: int | None = None,
    max_b_frames: int | None = None,
    x264: str = "",
    num_frames: int = 24,
) -> Path:
    """A video stream for each (width, height), of numbered frames; only `default` has the default
    flag, `cover` is marked as an attached picture and has one frame.

    `aspect` is that of the stored pixels; with a rotation of 90 the pictures are stored turned, and
    the sizes are the stored ones still.
    """
    with av.open(str(path), "w") as container:
        streams = []
        for number, (width, height) in enumerate(sizes):
            options = {**OPTIONS.get(encoder, {}), **({"x264-params": x264} if x264 else {})}
            stream = container.add_stream(encoder, rate=fps, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.thread_count = 1
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            if transfer is not None:
                stream.codec_context.color_trc = transfer
                stream.codec_context.colorspace = 9  # BT.2020
            if gop is not None:
                stream.codec_context.gop_size = gop
            if max_b_frames is not None:
                stream.codec_context.max_b_frames = max_b_frames
            if rotation:
                stream.set_display_rotation(-rotation)
            flags = av.stream.Disposition
            stream.disposition = flags.default if number == default else flags(0)
            if number == cover:
                stream.disposition = flags.attached_pic
            streams.append(stream)
        for number in range(num_frames):
            for place, stream in enumerate(streams):
                if place == cover and number:
                    continue
                width, height = sizes[place]
                shown = (height, width) if rotation in (90, 270) else (width, height)
                picture = np.rot90(frame_pattern(number, *shown), rotation // 90)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def write_animation(path: Path, ids: Iterable[int], durations_ms: Sequence[int]) -> Path:
    """Numbered pictures of 96 x 64."""
    first, *rest = (Image.fromarray(frame_pattern(i, 96, 64)) for i in ids)
    settings = {".webp": {"lossless": True}, ".avif": {"quality": 90}, ".apng": {"format": "PNG"}}
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=list(durations_ms),
        **settings.get(path.suffix, {}),
    )
    return path


def write_interlaced(path: Path, parts: Sequence[tuple[int, bool]]) -> Path:
    """Moving noise whose lines come from two moments: (frames, marked as interlaced) after another;
    several parts make a raw stream."""
    base = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    contents = []
    for count, is_interlaced in parts:
        with av.open(str(path), "w") as container:
            mode = "tff=1" if is_interlaced else "bframes=2"
            options = {"preset": "ultrafast", "x264-params": mode}
            stream = container.add_stream("libx264", rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.thread_count = 1
            for number in range(count):
                picture = np.roll(base, 6 * number, 1)
                picture[1::2] = np.roll(base, 6 * number + 3, 1)[1::2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(stream.encode(None))
        contents.append(path.read_bytes())
    path.write_bytes(b"".join(contents))
    return path


def raw_frames_of(path: Path) -> list[av.VideoFrame]:
    """All frames, decoded in order."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def picture_of(frame: av.VideoFrame) -> np.ndarray:
    return frame.reformat(format="rgb24", threads=1).to_ndarray()


def bwdif_over_all(frames: Sequence[av.VideoFrame]) -> list[np.ndarray]:
    """What FFmpeg's command line gives: one filter, all frames in order, then the end."""
    graph = av.filter.Graph()
    first = frames[0]
    time_base = Fraction(1, 25)
    source = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=time_base
    )
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    pictures = []
    for frame in [*frames, None]:
        graph.push(frame)
        while True:
            try:
                pictures.append(picture_of(graph.pull()))
            except (av.error.BlockingIOError, av.error.EOFError):
                break
    return pictures
