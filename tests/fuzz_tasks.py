"""Mutated videos, and the judge of what reading one gave, run in guarded processes.

The judge is a second, simpler reader: the whole file decoded from its start, one packet after
another, without an index and without seeking. What it cannot reach (after damage it waits for the
next seek point) it leaves out.
"""

import json
import struct
from pathlib import Path

import av
import numpy as np
from video_factory import read_frame_id

from thinker.clip import Clip, ClipSpec
from thinker.decode import _upright_rgb
from thinker.reader import read_clip, resize_frame
from thinker.video_file import VideoError

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
    ids, num_compared = [], 0
    sets = ((clip.keyframes_KCHW, clip.keyframe_seconds, clip.keyframe_indices),
            (clip.motion_MCHW, clip.motion_seconds, clip.motion_indices))  # fmt: skip
    for pictures, seconds, indices in sets:
        for picture_CHW, second, index in zip(pictures, seconds.tolist(), indices, strict=True):
            expected = frames.get(round(second, 9))
            if expected is not None:
                num_compared += 1
                size = tuple(picture_CHW.shape[1:])
                if not np.array_equal(picture_CHW.numpy(), resize_frame(expected, size)):
                    problems.append(f"frame {index} at {second} s is another picture")
            ids.append((index, id_of(picture_CHW)))
    facts = {"problems": problems, "ids": ids, "compared": num_compared, "frames": clip.num_frames}
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


def decoded_frames(path: Path) -> dict[float, np.ndarray]:
    """{seconds from the first frame: picture}, decoded from the start of the file."""
    options = {"protocol_whitelist": "file"}
    with av.open(f"file:{path}", options=options, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        is_avi = container.format.name == "avi"
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"err_detect": "crccheck+explode"}
        pictures, shown, is_lost = [], [], False
        try:
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None and not packet.is_discard:
                    shown.append(packet.pts)
                if is_lost and not packet.is_keyframe:
                    continue
                is_lost = packet.is_corrupt
                try:
                    frames = [] if is_lost else packet.decode()
                except av.error.FFmpegError:
                    is_lost, frames = True, []
                    context.flush_buffers()
                pictures += [(f.pts, _upright_rgb(path, f)) for f in frames if not f.is_corrupt]
        except av.error.FFmpegError:
            pass
        if is_avi:  # without times: frames by count, as long as nothing was lost
            rate = float(stream.average_rate)
            return {} if is_lost else {round(i / rate, 9): p for i, (_, p) in enumerate(pictures)}
        first = min(shown, default=0)
        base = stream.time_base
        return {round(float((pts - first) * base), 9): p for pts, p in pictures if pts is not None}
