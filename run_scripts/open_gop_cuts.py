"""500 files cut out of videos with open groups of pictures: is each read as FFmpeg shows it?

    python -m run_scripts.open_gop_cuts [--num 500] [--seed 7] [--ffmpeg PATH]

H.264, HEVC and MPEG-2 x keyframes every 12, 24, 30, 60 pictures x MP4, Matroska, transport stream,
HLS segment x random starts: at keyframes, in mid-group, behind edit lists; a transport stream also
at any of its 188-byte packets. A file is *clean* where every picture that FFmpeg's decoder shows,
decoding from the start with default settings, is the picture of the uncut source, to the bit. A
clean file must be read: same number of frames, times and pixels, whatever frames are asked for.
Another file may be refused, and must not show a picture that differs from the source's. With
--ffmpeg, that program must show the same number of pictures at the same times with the same pixels.
Exits with 1 where anything is wrong or a clean file refused.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import subprocess
import tempfile
from pathlib import Path

import av
import numpy as np

from tests.helpers.cuts import cut_packets, hls_segments, key_numbers, plain_decode, write_open_gop
from tests.helpers.video_factory import read_frame_id
from thinker.video.decode import VideoFile
from thinker.video.file import VideoError

CODECS = ("h264", "hevc", "mpeg2")
KEYINTS = (12, 24, 30, 60)
CONTAINERS = ("mp4", "mkv", "ts", "hls")
NUM_FRAMES = 180
NUM_WINDOWS = 3

Shown = list[tuple[float, np.ndarray]]


class Sources:
    """The uncut videos, each written once, and their pictures by number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.truth: dict[Path, dict[int, np.ndarray]] = {}

    def get(self, codec: str, gop: int, suffix: str) -> Path:
        path = self.folder / f"{codec}-{gop}.{suffix}"
        if path not in self.truth:
            write_open_gop(path, codec, gop=gop, num_frames=NUM_FRAMES)
            self.truth[path] = dict(enumerate(picture for _, picture in plain_decode(path)))
            assert all(read_frame_id(p) == number for number, p in self.truth[path].items())
        return path


def make_cut(source: Path, target: Path, container: str, rng: np.random.Generator) -> Path:
    """A file cut out of the source at a random place."""
    keys = key_numbers(source)[1:]
    if container == "hls":
        segments = hls_segments(source, target.with_suffix(""), float(rng.uniform(0.1, 2.5)))
        return segments[int(rng.integers(min(1, len(segments) - 1), len(segments)))]
    if container == "ts" and rng.random() < 0.3:
        content = source.read_bytes()
        start = int(rng.integers(1, len(content) // 188 * 3 // 4)) * 188
        target.write_bytes(content[start:])
        return target
    key = int(rng.choice(keys[: max(1, len(keys) * 3 // 4)]))
    kind = rng.choice(["key", "mid", "hidden"])
    first = key + int(rng.integers(1, 30)) if kind == "mid" else key
    first = min(first, NUM_FRAMES - 20)
    last = None if rng.random() < 0.5 else int(rng.integers(first + 10, NUM_FRAMES))
    num_hidden = int(rng.integers(1, 10)) if kind == "hidden" else 0
    return cut_packets(source, target, first, last, num_hidden=num_hidden)


def is_clean(shown: Shown, truth: dict[int, np.ndarray]) -> bool:
    try:
        numbers = [read_frame_id(picture) for _, picture in shown]
    except AssertionError:
        return False
    return all(
        number in truth and np.array_equal(picture, truth[number])
        for number, (_, picture) in zip(numbers, shown, strict=True)
    )


def read(path: Path, rng: np.random.Generator) -> Shown:
    """All frames; and some again, each time in a file opened anew, as other specs would ask."""
    with VideoFile(path) as video:
        num_frames = len(video.index.seconds)
        by_number = dict(video.frames(list(range(num_frames))))
        frames = [by_number[number] for number in range(num_frames)]
        seconds = video.index.seconds
    for _ in range(NUM_WINDOWS):
        start = int(rng.integers(num_frames))
        step = int(rng.integers(1, 12))
        wanted = list(range(start, num_frames, step))[: int(rng.integers(1, 16))]
        with VideoFile(path) as video:
            assert video.index.seconds == seconds
            for number, picture in video.frames(wanted):
                assert np.array_equal(picture, frames[number]), f"frame {number} differs"
    return list(zip(seconds, frames, strict=True))


def verdict(path: Path, truth: dict[int, np.ndarray], rng: np.random.Generator) -> str:
    shown = plain_decode(path)
    clean = bool(shown) and is_clean(shown, truth)
    try:
        ours = read(path, rng)
    except VideoError as error:
        return f"clean, REFUSED: {error}" if clean else "not clean, refused"
    except AssertionError as error:
        return f"WRONG: {error}"
    if not clean:
        return "not clean, read right" if is_clean(ours, truth) else "WRONG picture"
    if len(ours) != len(shown):
        return f"WRONG number: {len(ours)} frames, FFmpeg shows {len(shown)}"
    for (second, picture), (at, expected) in zip(ours, shown, strict=True):
        if abs(second - (at - shown[0][0])) > 1e-6:
            return f"WRONG time: {second}, FFmpeg says {at - shown[0][0]}"
        if not np.array_equal(picture, expected):
            return "WRONG picture"
    return "clean, read"


def program_agrees(ffmpeg: str, path: Path) -> bool:
    """Whether the ffmpeg program shows the pictures, at the times, that its libraries gave us."""
    command = [ffmpeg, "-v", "quiet", "-threads", "1", "-i", str(path), "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-enc_time_base", "demux", "-f", "framemd5", "-"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    rows = [line.split(",") for line in lines if not line.startswith("#")]
    theirs = [(int(row[2]) - int(rows[0][2]), row[5].strip()) for row in rows]
    ours: list[tuple[int, str]] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                pixels = frame.to_ndarray().tobytes()  # planes, as framemd5 hashes them
                ours.append((frame.pts, hashlib.md5(pixels).hexdigest()))
    return theirs == [(pts - ours[0][0], digest) for pts, digest in ours]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ffmpeg", help="the program to compare with, too")
    args = parser.parse_args()
    kinds = list(itertools.product(CODECS, KEYINTS, CONTAINERS))
    verdicts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    bad = []
    with tempfile.TemporaryDirectory() as name:
        sources = Sources(Path(name))
        for case in range(args.num):
            codec, gop, container = kinds[case % len(kinds)]
            rng = np.random.default_rng([args.seed, case])
            suffix = "ts" if container == "hls" else container
            source = sources.get(codec, gop, suffix)
            path = make_cut(source, Path(name) / f"cut-{case}.{suffix}", container, rng)
            said = verdict(path, sources.truth[source], rng)
            if args.ffmpeg and not program_agrees(args.ffmpeg, path):
                said += "; WRONG oracle: the ffmpeg program shows something else"
            verdicts[codec, container, said.partition(":")[0]] += 1
            if "WRONG" in said or "REFUSED" in said:
                bad.append(f"case {case} ({codec}, keyint {gop}, {container}): {said}")
                print(bad[-1], flush=True)
            else:
                path.unlink()
    for (codec, container, said), count in sorted(verdicts.items()):
        print(f"{codec:6} {container:4} {count:4}  {said}")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
