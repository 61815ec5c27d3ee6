"""Mutated videos, and the judge of what reading one gave, run in worker processes.

The judge has two witnesses. A second, simpler reader: the whole file decoded from its start, one
packet after another, without an index and without seeking, up to its first error. And the frames of
the undamaged file: a picture that equals the original's of the same time is right.
"""

import json
import struct
from functools import cache
from pathlib import Path

import av
import numpy as np

from tests.helpers.video_factory import read_frame_id
from thinker.video.clip import Clip, ClipSpec
from thinker.video.decode import _upright_rgb
from thinker.video.file import VideoError
from thinker.video.read import read_clip, resize_frame

FORMATS = {"h264": "mp4", "hevc": "mp4", "vp9": "webm", "mpeg4": "avi", "av1": "mp4"}
HEADER_BOXES = (
    b"ftyp", b"moov", b"mvhd", b"tkhd", b"elst", b"mdhd", b"hdlr", b"stsd", b"stts", b"ctts",
    b"stss", b"stsz", b"stsc", b"stco", b"avcC", b"hvcC", b"av1C", b"mdat", b"dref",
)  # fmt: skip
LIES = (0, 1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 170_000_000, 10**9)


def mutate(good: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A damaged copy: "cut", "flip", "span" or "lie" (a header field says something else)."""
    content = bytearray(good)
    if kind == "cut":
        return bytes(content[: int(rng.integers(0, len(content)))])
    if kind == "flip":
        for place in rng.integers(0, len(content), int(rng.integers(1, 20))):
            content[place] ^= 1 << int(rng.integers(8))
    elif kind == "span":
        start = int(rng.integers(0, len(content)))
        length = int(rng.integers(1, 1 + len(content) // 8))
        filler = rng.choice([0, 255, -1])
        span = rng.bytes(length) if filler < 0 else bytes([int(filler)]) * length
        content[start : start + length] = span[: len(content) - start]
    else:
        place = _header_field(good, rng)
        order = "<I" if good.startswith(b"RIFF") else ">I"
        struct.pack_into(order, content, place, int(rng.choice(LIES)))
    return bytes(content)


def _header_field(good: bytes, rng: np.random.Generator) -> int:
    """The place of some four bytes of a header: of a box, or near the start of other containers."""
    places = [good.find(box) for box in HEADER_BOXES]
    boxes = [place for place in places if place >= 4] if good[4:8] == b"ftyp" else []
    if not boxes:
        return int(rng.integers(4, 400))
    box = int(rng.choice(boxes))
    return min(box - 4 + 4 * int(rng.integers(0, 24)), len(good) - 4)


def judge(spec: ClipSpec, path: Path) -> bytes:
    """JSON: reason of the error, or what is wrong with the clip and which frames it shows."""
    try:
        clip = read_clip(path, spec)
    except VideoError as error:
        return json.dumps({"reason": error.reason}).encode()
    problems = times_problems(clip)
    frames = decoded_frames(path)
    original = original_frames(path.with_stem(f"good-{path.stem.split('-')[0]}"))
    ids, num_confirmed = [], 0
    sets = ((clip.keyframes_KCHW, clip.keyframe_seconds, clip.keyframe_indices),
            (clip.motion_MCHW, clip.motion_seconds, clip.motion_indices))  # fmt: skip
    for pictures, seconds, indices in sets:
        for picture_CHW, second, index in zip(pictures, seconds.tolist(), indices, strict=True):
            size = tuple(picture_CHW.shape[1:])
            witnesses = [seen.get(round(second, 9)) for seen in (frames, original)]
            agree = [
                np.array_equal(picture_CHW.numpy(), resize_frame(picture, size, spec.resampler))
                for picture in witnesses
                if picture is not None
            ]
            num_confirmed += any(agree)
            if agree and not any(agree):
                problems.append(f"frame {index} at {second} s is another picture")
            ids.append((index, id_of(picture_CHW)))
    facts = {
        "problems": problems,
        "ids": ids,
        "confirmed": num_confirmed,
        "frames": clip.num_frames,
    }
    return json.dumps(facts).encode()


def times_problems(clip: Clip) -> list[str]:
    problems = []
    for name in ("keyframe", "motion"):
        seconds = getattr(clip, f"{name}_seconds").tolist()
        indices = getattr(clip, f"{name}_indices")
        if not all(0 <= index < clip.num_frames for index in indices):
            problems.append(f"{name}: indices {indices} of {clip.num_frames} frames")
        if not all(0 <= second < float("inf") for second in seconds):
            problems.append(f"{name}: times {seconds}")
        at = dict(zip(indices, seconds, strict=True))
        if sorted(at.values()) != [at[index] for index in sorted(at)]:
            problems.append(f"{name}: times do not ascend with the indices")
        if len(set(at.values())) != len(at):
            problems.append(f"{name}: two frames at one time")
    return problems


def id_of(picture_CHW) -> int | None:
    try:
        return read_frame_id(picture_CHW)
    except AssertionError:
        return None


@cache
def original_frames(path: Path) -> dict[float, np.ndarray]:
    return decoded_frames(path)


def decoded_frames(path: Path) -> dict[float, np.ndarray]:
    """{seconds from the first frame: picture}, decoded from the start of the file."""
    options = {"protocol_whitelist": "file"}
    with av.open(f"file:{path}", options=options, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        is_avi = container.format.name == "avi"
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"err_detect": "crccheck+explode"}
        pictures, shown = [], []
        try:
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None and not packet.is_discard:
                    shown.append(packet.pts)
                pictures += [(f.pts, _upright_rgb(path, f)) for f in packet.decode()]
        except av.error.FFmpegError:
            pass
        if is_avi:  # without times: frames by count
            rate = float(stream.average_rate)
            return {round(i / rate, 9): picture for i, (_, picture) in enumerate(pictures)}
        first = min(shown, default=0)
        base = stream.time_base
        return {round(float((pts - first) * base), 9): p for pts, p in pictures if pts is not None}
