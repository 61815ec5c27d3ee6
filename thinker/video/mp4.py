"""What the header of an MP4 or MOV file declares, read by seeking from box to box (ISO 14496-12).

In: an open file. Out: what is cut off, or beyond a limit, as (reason, detail) of a `VideoError`.
The decoder's own reader builds an index of as many entries as the header claims, before it looks at
any frame: twenty bytes can ask it for gigabytes. So the claims are checked here first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# 8192 x 8192, twice 8K UHD. A header may claim any size; beyond this it is damage or an attack on
# the memory.
MAX_FRAME_PIXELS = 2**26
MAX_DURATION_SECONDS = 24 * 3600  # a day; a transport stream's clock wraps after 26.5 hours
MAX_FRAMES = MAX_DURATION_SECONDS * 120  # 120 frames a second all day; 1 GB of index
MAX_STREAMS = 256  # of every kind; fonts and subtitles of a Matroska file are streams, too

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_SHOWN = {b"vide", b"pict", b"auxv"}  # films, picture sequences, their transparency
_TABLES = (b"stts", b"ctts", b"stss", b"stsc", b"stco", b"co64")
Problem = tuple[str, str]  # reason, detail


class _Box(NamedTuple):
    """One box, as its header declares it."""

    type: bytes
    """Four characters, such as `b"moov"`."""
    start: int
    """First byte of its content."""
    end: int
    """Byte behind its content, which may lie beyond the end of the file."""


def mp4_problem(file: BinaryIO, file_size: int, *, is_picture: bool = False) -> Problem | None:
    """The first thing wrong with the boxes of the file, None where the decoder may have it.

    is_picture: a still is expected (HEIF, ISO 23008-12), which has no film in it.
    """
    types = set()
    for box in _boxes(file, 0, file_size):
        types.add(box.type)
        if box.end > file_size and box.type in (b"mdat", b"moov", b"moof", b"meta"):
            where = f"box {box.type.decode()} ends at byte {box.end}, the file at {file_size}"
            return "truncated", where
        if box.type == b"moov" and (problem := _header_problem(file, box)):
            return problem
    if b"moov" in types or (is_picture and b"meta" in types):
        return None
    if b"meta" in types and b"moof" not in types:
        return "unsupported", "a HEIF picture; of these AVIF is read, by the suffix .avif"
    return "truncated", "the index (moov box) is missing"


def _header_problem(file: BinaryIO, moov: _Box) -> Problem | None:
    """Limits of the film and of its video tracks. A track of another kind has no frames: one of PCM
    sound counts every sample."""
    num_streams = 0
    for box in _boxes(file, moov.start, moov.end):
        if box.type == b"mvhd" and (problem := _duration_problem(file, box)):
            return problem
        num_streams += box.type == b"trak"
        if num_streams > MAX_STREAMS:
            return "too_many_streams", f"more than {MAX_STREAMS} tracks"
        if box.type == b"trak" and (problem := _track_problem(file, box)):
            return problem
    return None


def _track_problem(file: BinaryIO, trak: _Box) -> Problem | None:
    leaves = list(_leaves(file, trak))
    handlers = [_read(file, box, 12)[8:12] for box in leaves if box.type == b"hdlr"]
    if not _SHOWN & set(handlers):
        return None
    for box in leaves:
        problem = None
        if box.type == b"mdhd":
            problem = _duration_problem(file, box)
        elif box.type == b"stsd":
            problem = _size_problem(file, box)
        elif box.type in (b"stsz", b"stz2"):
            problem = _count_problem(box, _read(file, box, 12)[8:12])
        elif box.type in _TABLES:
            problem = _count_problem(box, _read(file, box, 8)[4:8])
        if problem:
            return problem
    return None


def _leaves(file: BinaryIO, parent: _Box) -> Iterator[_Box]:
    for box in _boxes(file, parent.start, parent.end):
        if box.type in _PARENTS:
            yield from _leaves(file, box)
        else:
            yield box


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    """The boxes between two places: 32-bit size, type, maybe 64-bit size (4.2)."""
    position = start
    while position + 8 <= end:
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        content = position + 8
        if size == 1 and len(head) == 16:
            size, content = struct.unpack(">Q", head[8:])[0], position + 16
        elif size == 0:  # "until the end of the file"
            size = end - position
        yield _Box(kind, content, position + size)
        if size < 8:  # not a box: rubbish after the last one, which players ignore too
            return
        position += size


def _read(file: BinaryIO, box: _Box, num_bytes: int) -> bytes:
    """The first bytes of a box; fewer where it ends before."""
    file.seek(box.start)
    return file.read(max(0, min(num_bytes, box.end - box.start)))


def _duration_problem(file: BinaryIO, box: _Box) -> Problem | None:
    """Of `mvhd` and `mdhd`: version, flags, two dates, time scale, duration (8.2.2, 8.4.2)."""
    head = _read(file, box, 32)
    form = ">QQIQ" if head[:1] == b"\1" else ">IIII"
    if len(head) < 4 + struct.calcsize(form):
        return None
    *_, scale, duration = struct.unpack_from(form, head, 4)
    unknown = 2**64 - 1 if form == ">QQIQ" else 2**32 - 1
    if not scale or duration == unknown or duration <= MAX_DURATION_SECONDS * scale:
        return None
    return "too_long", f"the header says {duration / scale:.0f} s"


def _size_problem(file: BinaryIO, box: _Box) -> Problem | None:
    """Of the first entry of `stsd`: width and height, 16 bit each (8.5.2, 12.1.3)."""
    head = _read(file, box, 44)
    if len(head) < 44:
        return None
    width, height = struct.unpack_from(">HH", head, 40)
    if width * height <= MAX_FRAME_PIXELS:
        return None
    return "too_large", f"the header says {width} x {height}"


def _count_problem(box: _Box, field: bytes) -> Problem | None:
    count = int.from_bytes(field, "big")
    if count <= MAX_FRAMES:
        return None
    return "too_long", f"the header says {count} entries in {box.type.decode()}"
