"""What can be told of a video or picture file without decoding it, and the errors of all readers.

In: a path. Out: nothing, or a `VideoError` with its reason; a picture's pixels.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from thinker.utils.names import path_text, printable
from thinker.video.mp4 import (
    MAX_DURATION_SECONDS,
    MAX_FRAME_PIXELS,
    MAX_FRAMES,
    MAX_STREAMS,
    Problem,
    mp4_problem,
)

_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
)

# What reading a picture may take; a JPEG or PNG may have 111 megapixels, a WebP 58, an AVIF 43, an
# animation 35.
MAX_PICTURE_BYTES = 10**9
# What a pixel takes at the peak, measured and rounded up: 4 bytes in PIL, 3 in our array or 4 in a
# turned copy, and what the decoder of the format holds. MPO is several JPEGs in a file.
_BYTES_A_PIXEL = {"JPEG": 9, "MPO": 9, "PNG": 9, "BMP": 9, "TIFF": 13, "WEBP": 17, "AVIF": 23}
_BYTES_A_PIXEL_ANIMATED = 28  # the picture before, the one that is composed, and those above
_BYTES_A_PIXEL_PROGRESSIVE = 11  # a JPEG in several scans: all coefficients at once
_STRIP_PIXELS = 2**22  # so many are converted at once

MAX_ASPECT_RATIO = 200  # of the "smart" resize; Qwen2.5-VL's own limit

REASONS = {
    "missing": "there is no such file",
    "unreadable": "the file cannot be opened for reading",
    "empty": "the file has no bytes",
    "not_a_video": "the content is no video (or image) that this reader knows",
    "truncated": "the file ends before its own header says it does",
    "no_frames": "there is no video stream with frames",
    "decode_error": "a requested frame cannot be decoded",
    "too_large": (
        f"a frame has more than {MAX_FRAME_PIXELS} pixels, or a picture needs more than "
        f"{MAX_PICTURE_BYTES / 1e9:g} GB"
    ),
    "aspect_ratio": f"one side is more than {MAX_ASPECT_RATIO} times the other",
    "unsupported": "the file is valid, but uses something this reader does not handle",
    "empty_range": "no frame lies between start and end",
    "outside_picture": "the crop reaches beyond the picture",
    "stalls": "the stalls that are given do not fit the video",
    "unexpected": "the reader met an error that it does not know; the log has its traceback",
    "crashed": "the process that decoded it died, or the one that scored it",
    "timeout": "decoding took longer than allowed",
    "memory": "decoding took more memory than allowed",
    "too_long": (
        f"the header says more than {MAX_DURATION_SECONDS // 3600} hours or {MAX_FRAMES} frames, "
        "or there are more of them than the policy reads"
    ),
    "too_short": "the video has fewer frames than the policy needs",
    "too_many_streams": f"there are more than {MAX_STREAMS} streams",
}


class VideoError(ValueError):
    """A video that cannot be read as asked. `reason` is a key of `REASONS`; `detail` says what was
    seen."""

    def __init__(self, path: Path | str, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        self.path, self.reason, self.detail = Path(path), reason, printable(detail)
        super().__init__(f"{path_text(path)}: {reason}: {self.detail or REASONS[reason]}")

    # Exceptions with several arguments do not unpickle by themselves.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason, self.detail)


# Where the pictures of an AVI lie; a large one consists of several RIFF chunks ("AVIX").
_AVI_LISTS = (b"AVI ", b"AVIX", b"movi", b"rec ")

# The first block of a sequence of raw DV is its header.
_DV_HEADER = b"\x1f\x07\x00"

# A video with its index in front may start with any of these (QuickTime has no "ftyp").
_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")


def require_regular(path: Path) -> None:
    """Raises `VideoError` unless the path is a file with bytes of its own: a pipe would block its
    reader, a device never ends."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise VideoError(path, "missing") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise VideoError(path, "unreadable", str(error)) from None
    if not stat.S_ISREG(mode):
        raise VideoError(path, "unreadable", "not a regular file")


def check_file(path: Path, *, is_picture: bool = False) -> None:
    """Raises `VideoError` for what can be told without a decoder: missing, empty or cut-off files,
    and headers beyond the limits.

    is_picture: a still is expected, so an AVIF without a film is right.
    """
    require_regular(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise VideoError(path, "empty")
            head = file.read(12)
            problem = None
            if head[4:8] in _MP4_FIRST_BOXES:
                problem = mp4_problem(file, size, is_picture=is_picture)
            elif head.startswith(b"\x1a\x45\xdf\xa3"):
                problem = _matroska_cut(file, size)
            elif head.startswith(b"RIFF"):
                problem = _riff_cut(head, size)
            elif head.startswith(_DV_HEADER):
                problem = _dv_cut(head, size)
    except FileNotFoundError:
        raise VideoError(path, "missing") from None
    except OSError as error:
        raise VideoError(path, "unreadable", str(error)) from None
    if problem:
        raise VideoError(path, *problem)


def _matroska_cut(file: BinaryIO, file_size: int) -> Problem | None:
    """What is cut off, told by the size of the Segment element (RFC 8794, 4 and 8); live streams
    leave it open."""

    def read_size() -> int | None:  # EBML variable-size integer; all value bits set = unknown
        first = (file.read(1) or b"\xff")[0]
        length = 9 - first.bit_length()
        value = int.from_bytes(bytes([first & (0xFF >> length)]) + file.read(length - 1), "big")
        return None if value == 2 ** (7 * length) - 1 else value

    file.seek(4)
    file.seek(read_size() or 0, os.SEEK_CUR)  # past the EBML header
    if file.read(4) != b"\x18\x53\x80\x67":
        return None  # no Segment here; the decoder will say what it is
    size = read_size()
    if size is not None and file.tell() + size > file_size:
        return (
            "truncated",
            f"the Segment ends at byte {file.tell() + size}, the file at {file_size}",
        )
    return None


def _dv_cut(head: bytes, file_size: int) -> Problem | None:
    """What is cut off of raw DV: frames are equally long, 10 or (bit 7 of the fourth byte: 50 Hz)
    12 sequences of 150 blocks of 80 bytes; those of DV50 and DV100 are whole multiples (IEC 61834,
    SMPTE 314M). FFmpeg fills the rest of a cut frame with what was decoded before."""
    frame = (12 if head[3] & 0x80 else 10) * 150 * 80
    rest = file_size % frame
    if not rest:
        return None
    return "truncated", f"the last frame has {rest} of {frame} bytes"


def _riff_cut(head: bytes, file_size: int) -> Problem | None:
    """What is cut off of an AVI, told by the size of its first chunk."""
    end = 8 + int.from_bytes(head[4:8], "little")
    if end <= file_size:
        return None
    return "truncated", f"the RIFF chunk ends at byte {end}, the file at {file_size}"


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """A picture file of a known format and a size that we allow, not decoded yet; what PIL raises
    while it is open becomes a `VideoError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have our own limit
            # PIL knows forty formats more, one of which (EPS) starts another program.
            with Image.open(path, formats=_IMAGE_FORMATS) as image:
                _check_size(path, image)
                # PIL would clip 16 bit to white instead of scaling it.
                if image.mode.startswith(("I", "F")):
                    raise VideoError(
                        path, "unsupported", f"pixel mode {image.mode}, expected 8 bit per channel"
                    )
                yield image
    except UnidentifiedImageError as error:
        raise VideoError(path, "not_a_video", str(error)) from None
    except Image.DecompressionBombError as error:
        raise VideoError(path, "too_large", str(error)) from None
    # PIL reports damaged data as OSError, for PNG as SyntaxError, of animations as EOFError.
    except (OSError, SyntaxError, EOFError) as error:
        reason = "truncated" if "truncated" in str(error).lower() else "decode_error"
        raise VideoError(path, reason, str(error)) from None


def picture_format(path: Path) -> str | None:
    """The format of a file that is a picture, whatever its name says; None of any other."""
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            return image.format
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of a picture file, turned upright; only its header is read.

    Raises `VideoError`.
    """
    with opened_picture(path) as image:
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if is_turned else (image.width, image.height)


def load_image(path: Path) -> np.ndarray:
    """The picture (H, W, 3), turned upright by its EXIF orientation."""
    with opened_picture(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return rgb_pixels(image)


def _check_size(path: Path, image: Image.Image) -> None:
    """Refuses, before anything is decoded, a picture that takes more memory than we allow."""
    assert image.format is not None
    in_scans = "progressive" in image.info  # only of a JPEG
    each = _BYTES_A_PIXEL_PROGRESSIVE if in_scans else _BYTES_A_PIXEL[image.format]
    # Of other formats with several pictures, such as a TIFF of pages, the first is read.
    if image.format in ("WEBP", "PNG", "AVIF") and getattr(image, "is_animated", False):
        each = _BYTES_A_PIXEL_ANIMATED
    need = image.width * image.height * each
    if need > MAX_PICTURE_BYTES:
        detail = f"{image.width} x {image.height} pixels of a {image.format} take {need / 1e9:.2f}"
        raise VideoError(path, "too_large", f"{detail} GB, at most {MAX_PICTURE_BYTES / 1e9:g} GB")


def upright_pixels(image: Image.Image) -> np.ndarray:
    """The pixels (H, W, 3) of a picture in memory, turned upright by its EXIF orientation."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return rgb_pixels(image)


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """The pixels (H, W, 3), strip by strip: PIL would hold a second picture meanwhile."""
    picture_HWC = np.empty((image.height, image.width, 3), dtype=np.uint8)
    num_rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, num_rows):
        strip = image.crop((0, top, image.width, min(top + num_rows, image.height)))
        picture_HWC[top : top + num_rows] = np.asarray(strip.convert("RGB"))
    return picture_HWC


def count_null_frames(path: Path, stream_index: int) -> int:
    """Empty chunks of a video stream in an AVI: slots in which nothing new is shown, as capture
    programs write them for frames that they dropped. 0 where the chunks do not follow each other
    as they should."""
    wanted = {b"%02ddc" % stream_index, b"%02ddb" % stream_index}
    num_nulls = riff_end = 0
    with open(path, "rb") as file:
        while len(head := file.read(8)) == 8:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            if kind == b"RIFF":
                riff_end = file.tell() + size
            elif file.tell() > riff_end:  # rubbish after the last chunk
                break
            if kind in (b"RIFF", b"LIST"):
                if file.read(4) in _AVI_LISTS:
                    continue
                size -= 4
            num_nulls += kind in wanted and not size
            file.seek(max(size + (size & 1), 0), os.SEEK_CUR)
            if not kind.replace(b" ", b"").isalnum() or file.tell() > riff_end + 1:
                return 0
    return num_nulls
