"""Whole pictures of interlaced frames, by FFmpeg's filter bwdif: as if it ran over the whole file.

In: a way to decode frames by number, and the numbers that are wanted. Out: those frames. What the
file marks as interlaced is deinterlaced, one picture a frame; progressive frames are untouched.
Numbers and times stay what they are.

bwdif looks at the frame before and the frame behind, so both are decoded, too. Of all that came
before it remembers one thing: whether it has filtered a frame yet, because the first one that it
filters has no neighbours in time and is interpolated within its own picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from thinker.video.sources.filters import filter_graph

if TYPE_CHECKING:
    import av
    import av.filter

RawFrames = Callable[[list[int]], "Iterator[tuple[int, av.VideoFrame]]"]


def deinterlaced(
    raw_frames: RawFrames, look_back: RawFrames, wanted: list[int], num_frames: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields (number, frame) of the frames `wanted` (ascending) of a file of `num_frames`.

    raw_frames: decodes frames by number (ascending). look_back: the same by a decoder of its own,
    while the other one is in use; needed only where progressive and interlaced frames are mixed.
    """
    needed = {n + step for n in wanted for step in (-1, 0, 1)} & set(range(num_frames))
    asked = frozenset(wanted)
    stretch = _Stretch(0)
    seen_interlaced = False

    def has_filtered() -> bool:
        """Whether a frame before the stretch is interlaced."""
        if seen_interlaced or not stretch.first:
            return seen_interlaced
        return any(frame.interlaced_frame for _, frame in look_back(list(range(stretch.first))))

    for number, frame in raw_frames(sorted(needed)):
        if not stretch.continues(number, frame):
            if number == stretch.last + 1:  # the size changes here: FFmpeg begins anew, too
                yield from (done for done in stretch.end() if done[0] in asked)
            stretch = _Stretch(number)
        yield from (done for done in stretch.add(number, frame, has_filtered) if done[0] in asked)
        seen_interlaced |= frame.interlaced_frame
    if stretch.last == num_frames - 1:
        yield from (done for done in stretch.end() if done[0] in asked)


class _Stretch:
    """Consecutive frames of one size and format, filtered from the first interlaced one on."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.last = first - 1
        self._previous: av.VideoFrame | None = None
        self._graph: av.filter.Graph | None = None
        self._waiting: deque[tuple[int | None, av.VideoFrame]] = deque()

    def continues(self, number: int, frame: av.VideoFrame) -> bool:
        return number == self.last + 1 and (
            self._previous is None or _shape(frame) == _shape(self._previous)
        )

    def add(
        self, number: int, frame: av.VideoFrame, has_filtered: Callable[[], bool]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """What is done once this frame is known: itself, or the one before it."""
        if self._graph is None and frame.interlaced_frame:
            # The order of the fields is FFmpeg's choice.
            self._graph = filter_graph(frame, ("bwdif", "mode=send_frame:deint=interlaced"))
            if self._previous is not None:
                if has_filtered():  # the filter forgets that it is new
                    self._push(None, frame)
                    self._push(None, frame)
                self._push(None, self._previous)
        self._previous, self.last = frame, number
        if self._graph is None:
            yield number, frame
        else:
            self._push(number, frame)
            yield from self._pull()

    def end(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """The last frame, which has none behind it."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()

    def _push(self, number: int | None, frame: av.VideoFrame) -> None:
        assert self._graph is not None
        self._waiting.append((number, frame))
        self._graph.push(frame)

    def _pull(self) -> Iterator[tuple[int, av.VideoFrame]]:
        import av

        assert self._graph is not None
        while self._waiting:
            try:
                filtered = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(filtered, av.VideoFrame)
            number, frame = self._waiting.popleft()
            if number is not None:
                # Not what the filter passes on, whose format may be another.
                yield number, filtered if frame.interlaced_frame else frame


def _shape(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
