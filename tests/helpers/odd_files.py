"""Files whose names and contents are seldom seen, for tests of whole commands."""

import os
import shutil
from pathlib import Path

from tests.helpers.video_factory import write_video

NAMES = (
    b"plain.mp4",
    b"latin-\xfc.mp4",
    "ünïcode \u2028.mp4".encode(),
    b"two\nlines\tand \x1b[1m.mp4",
    b'it\'s "quoted", \\x41.mp4',
    b"-rf.mp4",
    b"'=1+1.mp4",
    b"\xed\xa0\x80.mp4",
)
"""Of videos. The last is half a surrogate as UTF-8 would write it."""


def odd_names(folder: Path) -> list[Path]:
    """A small video under each of `NAMES`."""
    first = write_video(folder / "first.mp4", num_frames=6)
    paths = [folder / os.fsdecode(name) for name in NAMES]
    for path in paths:
        shutil.copy(first, path)
    first.unlink()
    return paths


def odd_matrix(path: Path, code: int = 8, codec: str = "h264") -> Path:
    """A video whose header names a colour matrix, by its number in H.273, that FFmpeg cannot
    convert."""
    names = {8: "YCgCo", 11: "smpte2085", 14: "ICtCp"}
    if codec == "h264":
        more = {"x264-params": f"colormatrix={names[code]}"}
    elif codec == "hevc":
        more = {"x265-params": f"log-level=none:colormatrix={names[code].lower()}"}
    else:
        more = {"svtav1-params": f"lp=1:enable-tf=0:matrix-coefficients={code}"}
    pix_fmt = "yuv420p" if codec == "av1" else "yuv444p"
    return write_video(path, codec=codec, pix_fmt=pix_fmt, num_frames=4, options=more)
