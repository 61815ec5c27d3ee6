"""The windows of one long video, each a `Clip`, in one pass over the file.

In: a medium and a length in seconds. Out: the media of its windows, and a reader of them that keeps
the file open from one window to the next. The index is made once; neighbouring windows share groups
of pictures, which are decoded once where windows are read in order. Memory holds one picture, the
clip that is gathered, and the index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from thinker.video.boundary import attempt, guarded
from thinker.video.clip import Clip, ClipSpec
from thinker.video.decode import FrameIndex, VideoFile
from thinker.video.file import IMAGE_SUFFIXES, VideoError, check_file
from thinker.video.medium import Medium, Source, medium
from thinker.video.read import Sample, frames_in_range, read_clip
from thinker.video.sources.animated import AnimatedPicture

MAX_WINDOWS = 100_000
"""Of one video: a day in windows of one second. More is a slip of the unit."""


class Windows:
    """The windows of a video, `seconds` long, from the start of its range on: [0, s), [s, 2s), …

    The last one ends with the video, or with the range. It is a `Read` of `read_ahead`, and can be
    pickled into a worker; give it one worker, because two would each decode what lies between their
    windows. The clip of a window equals `read_clip` of its medium, bit for bit.

    Raises ValueError for a picture, for seconds that are no positive number and for more than
    `MAX_WINDOWS` windows; `VideoError` for a file that cannot be read, or has no frame in the
    range.
    """

    def __init__(self, source: Source, spec: ClipSpec, seconds: float) -> None:
        self._whole, self._spec = medium(source), spec
        if self._whole.kind == "image":
            raise ValueError(f"windows are of videos, {self._whole.path} is an image")
        check_seconds(seconds)
        self._index = guarded(self._whole.path, self._read_index)
        self.media = tuple(self._media(seconds))
        """One a window, in order; a window in which no frame lies has one, too."""
        self._places = {wanted: place for place, wanted in enumerate(self.media)}
        self._next = 0
        self._clips: Iterator[Clip | VideoError] | None = None
        self._damaged: int | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_clips": None}  # an open file stays where it was opened

    def __call__(self, wanted: Medium) -> Clip:
        """The clip of one of `media`. Raises `VideoError` as `read_clip`; what is damaged costs the
        windows that need it, and no other."""
        if not self._in_one_pass:
            return read_clip(wanted, self._spec)
        return guarded(wanted.path, lambda: self._read(self._places[wanted]))

    @property
    def _in_one_pass(self) -> bool:
        """decord's pictures and animated ones come file by file; the former are compared anyway."""
        is_picture = self._whole.path.suffix.lower() in IMAGE_SUFFIXES
        return self._spec.reader == "pyav" and not is_picture

    def _read_index(self) -> FrameIndex:
        path = self._whole.path
        if path.suffix.lower() in IMAGE_SUFFIXES:  # animated, or it would be an image
            check_file(path, is_picture=True)
            index = AnimatedPicture(path).index
        else:
            check_file(path)
            with VideoFile(path) as file:
                index = file.index
        frames_in_range(path, index.seconds, self._whole.start_seconds, self._whole.end_seconds)
        return index

    def _media(self, seconds: float) -> Iterator[Medium]:
        index, begin = self._index, self._whole.start_seconds or 0.0
        last = index.seconds[-1]
        end = last + (1 / index.fps if index.fps else seconds)
        if self._whole.end_seconds is not None:
            end = min(end, self._whole.end_seconds)
        if (end - begin) / seconds > MAX_WINDOWS:
            raise ValueError(
                f"windows of {seconds} s cut {end - begin:.0f} s into more than {MAX_WINDOWS}; "
                "give seconds"
            )
        # Edges are products, not sums, so that a frame lies in exactly one window.
        for number in range(MAX_WINDOWS + 1):
            low, high = begin + number * seconds, min(begin + (number + 1) * seconds, end)
            if low > last or low >= high:
                return
            yield replace(self._whole, start_seconds=low, end_seconds=high)

    def _read(self, place: int) -> Clip:
        if self._clips is None or place != self._next:
            self._clips = self._from(place)
        self._next = place + 1
        result = attempt(self._whole.path, lambda: next(self._clips))  # type: ignore[arg-type]
        if not isinstance(result, VideoError):
            return result
        if result.reason != "empty_range":  # which the pass itself gives, and goes on
            # It has looked from the start of the file on, and what is damaged there lies before
            # every later window, too: those can be had by a seek only.
            self._clips, self._damaged = None, place
        raise result

    def _from(self, place: int) -> Iterator[Clip | VideoError]:
        """The clips of all windows from one on; an error where no frame lies in one."""
        path, index, spec = self._whole.path, self._index, self._spec
        samples = [
            attempt(path, lambda one=one: Sample(index, spec, one))  # type: ignore[misc]
            for one in self.media[place:]
        ]
        numbers = [n for one in samples if isinstance(one, Sample) for n in one.numbers]
        if not numbers:
            yield from (one for one in samples if isinstance(one, VideoError))
            return
        with VideoFile(
            path,
            deinterlace=spec.deinterlace == "bwdif",
            index=index,
            from_start=self._damaged is None or place < self._damaged,
        ) as file:
            frames = file.frames(numbers)
            samples.reverse()  # each goes once its clip is made
            while samples:
                sample = samples.pop()
                if isinstance(sample, VideoError):
                    yield sample
                    continue
                for _ in sample.numbers:
                    number, picture_HWC = next(frames)
                    sample.add(number, picture_HWC, file.pixel_aspect)
                    del picture_HWC
                yield sample.clip()
                del sample


def check_seconds(seconds: float) -> None:
    """Raises ValueError for a length of windows that is no positive number."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"a window is {seconds} s long, expected a positive number of seconds")
