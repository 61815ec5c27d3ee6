"""Coding: planes → the bytes of an MP4 file, and back. One thread, so that a file's bytes depend on
the pictures and the settings only.
"""

import io
import re
from fractions import Fraction

import av
import numpy as np

from thinker.data.reference_labels.planes import FORMAT, size

CARRIER_QP = 10
"""H.264 quantiser of clips that no codec degrades. What it costs counts in the label, which is
measured on the file."""

OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "medium", "x264-params": "mbtree=0"},
    "libx265": {
        "preset": "medium",
        "x265-params": "log-level=none:pools=none:frame-threads=1",
    },
    "libvpx-vp9": {"deadline": "good", "cpu-used": "4", "b": "0"},
    "libsvtav1": {"preset": "8", "svtav1-params": "lp=1"},
}
"""What an encoder is told beside its rate: its middle preset (8 of SVT-AV1's 13: the slower ones
take several times as long), constant quality (b=0 of VP9), one thread. Without mbtree, whose vector
code gives other bits in one process than in another (x264 core 165; with no-asm it does not)."""

_SAYS = re.compile(rb"x264 - core \d+|x265 \(build \d+\) - [0-9.]+")
_FPS_DENOMINATOR = 1001  # 23.976 is 24000/1001


def settings_of(encoder: str | None, crf: int | None) -> dict[str, str]:
    """All options that an encoder gets.

    >>> settings_of("libx264", 38)
    {'preset': 'medium', 'x264-params': 'mbtree=0', 'crf': '38'}
    """
    if encoder is None:
        return {"preset": "fast", "qp": str(CARRIER_QP)}
    return OPTIONS[encoder] | {"crf": str(crf)}


def require_encoders(encoders: set[str]) -> None:
    """Raises ValueError that names those that PyAV's FFmpeg was built without."""
    missing = sorted(name for name in encoders if not _has_encoder(name))
    if missing:
        raise ValueError(
            f"PyAV {av.__version__} has no encoder {', '.join(missing)}; install PyAV's wheel (pip "
            "install av), or take the conditions that need it out of the ladder"
        )


def _has_encoder(name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except av.error.FFmpegError:
        return False
    return True


def encode(planes_TYX: np.ndarray, fps: float, encoder: str | None, crf: int | None) -> bytes:
    """The bytes of an MP4 file with all frames, in order."""
    file = io.BytesIO()
    # Without the time of writing, so that the same pictures give the same file.
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(_FPS_DENOMINATOR)
        stream = container.add_stream(encoder or "libx264", rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size(planes_TYX)
        stream.pix_fmt = FORMAT
        stream.thread_count = 1
        stream.options = dict(settings_of(encoder, crf))
        for planes_YX in planes_TYX:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes_YX, format=FORMAT)))
        container.mux(stream.encode(None))
    return file.getvalue()


def decode(content: bytes) -> np.ndarray:
    """planes_TYX of all frames of a file that `encode` made."""
    with av.open(io.BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        return np.stack([frame.to_ndarray(format=FORMAT) for frame in container.decode(stream)])


def encoder_version(content: bytes) -> str:
    """What an encoder writes of itself into its file, and the library that called it: "x264 - core
    165, libavcodec 62.28.102". VP9 and AV1 say nothing of themselves."""
    said = _SAYS.search(content)
    library = "libavcodec " + ".".join(map(str, av.library_versions["libavcodec"]))
    return library if said is None else f"{said[0].decode()}, {library}"
