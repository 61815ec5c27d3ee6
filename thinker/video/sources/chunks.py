"""What the header of a picture file says of its animation: whether there is one, and its times.

In: a path. Out: a yes or no, or the time of every picture, by seeking from chunk to chunk (WebP's
container specification, "Animation"; PNG third edition, 11.3.6). Nothing is decoded.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate, islice, takewhile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from thinker.video.file import VideoError
from thinker.video.mp4 import MAX_DURATION_SECONDS, MAX_FRAMES

# Pictures of this time and shorter ones are shown for a tenth of a second: what browsers do, and
# FFmpeg with a GIF.
TOO_SHORT_SECONDS = Fraction(1, 100)
INSTEAD_SECONDS = Fraction(1, 10)

_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks before the pictures (colour profile, texts): a header with more is no one's.
_MAX_HEADER_CHUNKS = 1000


class _Chunk(NamedTuple):
    """One chunk of a WebP or PNG file, as its header declares it."""

    type: bytes
    """Four characters, such as `b"ANMF"`."""
    content: int
    """Its first byte within the file."""
    size: int
    """Bytes of its content, which may lie beyond the end of the file."""


def is_animated(path: Path) -> bool:
    """Whether the content is an animated WebP, PNG or AVIF, whatever its name says.

    A few reads of the header; a file that cannot be read is no animation. One picture that is
    marked as an animation is a still, except for an AVIF, whose brand `avis` decides.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            return False
        with open(path, "rb") as file:
            return _moves(file)
    except Exception:  # whatever it is, the reader meets it, too, and says so in a row
        return False


def _moves(file: BinaryIO) -> bool:
    head = file.read(64)
    if head[4:8] == b"ftyp":
        brands = head[8 : min(struct.unpack(">I", head[:4])[0], len(head))]
        return b"avis" in (brands[i : i + 4] for i in range(0, len(brands), 4))
    chunks = islice(_chunks(file, head), _MAX_HEADER_CHUNKS)
    if head.startswith(_PNG):
        for chunk in takewhile(lambda chunk: chunk.type != b"IDAT", chunks):
            if chunk.type == b"acTL":
                return int.from_bytes(_read(file, chunk, 4), "big") > 1
        return False
    if head[12:16] != b"VP8X" or not head[20:21] or not head[20] & 2:
        return False
    return len(list(islice((c for c in chunks if c.type == b"ANMF"), 2))) == 2


def start_seconds(path: Path) -> list[float]:
    """When each picture of an animated WebP or PNG is shown, the first at 0.

    Raises `VideoError` where the file ends before its pictures do, and beyond the limits.
    """
    durations: list[Fraction] = []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for chunk in _chunks(file, file.read(64)):
            if chunk.content + chunk.size > size:
                where = f"chunk {chunk.type!r} ends at byte {chunk.content + chunk.size}"
                raise VideoError(path, "truncated", f"{where}, the file at {size}")
            if chunk.type == b"ANMF":
                milliseconds = int.from_bytes(_read(file, chunk, 16)[12:15], "little")
                durations.append(Fraction(milliseconds, 1000))
            elif chunk.type == b"fcTL" and chunk.size >= 24:
                numerator, denominator = struct.unpack(">HH", _read(file, chunk, 24)[20:24])
                durations.append(Fraction(numerator, denominator or 100))
            if len(durations) > MAX_FRAMES:
                raise VideoError(path, "too_long", f"more than {MAX_FRAMES} frames")
    return starts_of(path, durations)


def starts_of(path: Path, durations: list[Fraction]) -> list[float]:
    """Example: durations of 0.05, 0 and 0.2 s give the times 0, 0.05 and 0.15 s; the second picture
    counts as 0.1 s long."""
    shown = [d if d > TOO_SHORT_SECONDS else INSTEAD_SECONDS for d in durations]
    *starts, end = accumulate(shown, initial=Fraction(0))
    if end > MAX_DURATION_SECONDS:
        raise VideoError(path, "too_long", f"the pictures last {float(end):.0f} s")
    return [float(start) for start in starts]


def _chunks(file: BinaryIO, head: bytes) -> Iterator[_Chunk]:
    """The chunks of a WebP (little endian, padded to even) or a PNG (big endian, with a CRC)."""
    is_png = head.startswith(_PNG)
    if not is_png and not (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return
    position = 8 if is_png else 12
    while True:
        file.seek(position)
        fields = file.read(8)
        if len(fields) < 8:
            return
        if is_png:
            size, kind = struct.unpack(">I4s", fields)
            position += 12 + size
        else:
            kind, size = struct.unpack("<4sI", fields)
            position += 8 + size + size % 2
        yield _Chunk(kind, file.tell(), size)


def _read(file: BinaryIO, chunk: _Chunk, num_bytes: int) -> bytes:
    file.seek(chunk.content)
    return file.read(min(num_bytes, chunk.size))
