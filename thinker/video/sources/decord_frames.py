"""The frames of one video as decord gives them, each held to the file's own index.

In: a path. Out: decord's pictures, bit for bit, or `NotByDecord`: the published programs read
through decord, so a converted checkpoint is reproduced with its pixels, which differ from those of
the default reader where a video has more than 8 bits. But decord finds a frame by counting, and may
return another one (`thinker.video.decode` says where). So every picture is compared with the frame
of that number and time, decoded by PyAV and converted by the filter that decord uses: they are
equal to the bit, or the picture is not used. That costs a second decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thinker.video.decode import VideoFile, upright
from thinker.video.sources.filters import filter_graph

if TYPE_CHECKING:
    import av

# decord tells times as 32-bit floats.
_SECONDS_OFF = 1e-3
_SHARE_OFF = 1e-6


class NotByDecord(Exception):
    """decord does not give the frames of this file; the message says what it does."""


class DecordFile:
    """As `VideoFile`, with decord's pictures. Raises `NotByDecord`; a file that the default reader
    cannot read, either, is that reader's `VideoError`.

    The default reader opens the file first, so decord, which knows no list of formats and would
    follow a playlist, only sees containers that are on ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ours = VideoFile(path)
        self.index = self._ours.index
        try:
            self._theirs = _open(path)
            self._check_times()
        except BaseException:
            self._ours.__exit__()
            raise

    def __enter__(self) -> DecordFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._ours.__exit__(*error)

    @property
    def pixel_aspect(self) -> Fraction:
        """As that of `VideoFile`."""
        return self._ours.pixel_aspect

    def frames(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, RGB (H, W, 3)) of exactly the frames `wanted` (ascending)."""
        for number, frame in self._ours.raw_frames(wanted):
            picture = _asked(lambda number=number: self._theirs[number].asnumpy())
            if not np.array_equal(picture, upright(self.path, frame, _as_decord(frame))):
                seconds = self.index.seconds[number]
                raise NotByDecord(
                    f"decord's picture of frame {number} is not the one of {seconds:.3f} s"
                )
            del frame
            yield number, picture
            del picture

    def _check_times(self) -> None:
        """As many frames as the file's index lists, each at the time that it says."""
        expected = np.array(self.index.seconds)
        count = len(self._theirs)
        if count != len(expected):
            raise NotByDecord(f"decord counts {count} frames, the file has {len(expected)}")
        times = _asked(lambda: self._theirs.get_frame_timestamp(list(range(count)))[:, 0])
        times = times.astype(np.float64) - times[0]
        off = np.abs(times - expected) > _SECONDS_OFF + _SHARE_OFF * expected
        if off.any():
            number = int(off.argmax())
            raise NotByDecord(
                f"decord says that frame {number} is shown at {times[number]:.3f} s, "
                f"the file says {expected[number]:.3f} s"
            )


def _open(path: Path) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    # An absolute path is no protocol.
    return _asked(lambda: decord.VideoReader(str(path.absolute()), num_threads=1))


def _asked(call: Any) -> Any:
    """What decord answers; its errors have no common type."""
    try:
        return call()
    except MemoryError:
        raise
    except Exception as error:
        first_line = (str(error) or type(error).__name__).strip().partition("\n")[0]
        raise NotByDecord(f"decord fails: {first_line}") from None


def _as_decord(frame: av.VideoFrame) -> np.ndarray:
    """The stored frame as RGB (H, W, 3), by the filter that decord puts its frames through."""
    graph = filter_graph(frame, ("scale", f"{frame.width}:{frame.height}"), ("format", "rgb24"))
    graph.push(frame)
    return graph.vpull().to_ndarray()
