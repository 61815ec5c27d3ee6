"""What can be told of a video or picture file without decoding it, and the errors of all readers.

In: a path. Out: nothing, or a `VideoError` with its reason; a picture's pixels.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

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


def check_file(path: Path) -> None:
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


def load_image(path: Path) -> np.ndarray:
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
