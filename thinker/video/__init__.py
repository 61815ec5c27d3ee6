"""Reading videos: the one place to import from.

Flow: path → `Medium` → `read_clip` → `Clip`, kept in a `FrameCache`; `check_videos` does it for a
data set.

- `file.py`, `mp4.py`: errors, limits, checks on bytes and headers, pictures
- `boundary.py`: what turns anything that goes wrong with one medium into a `VideoError`
- `medium.py`: `Medium`, a file or a part of it (a range of time, a cut-out)
- `geometry.py`: where places of a picture lie once it is cut, resized and tiled, and back
- `clip.py`: `ClipSpec`, `Clip`, which sizes; a clip as tensors
- `decode.py`: index and exact decoding of a file (PyAV)
- `read.py`: `read_clip`, and `clip_from_frames` for frames that are in memory
- `sources/`: which frames a clip shows, animated pictures, deinterlacing, decord's pictures,
  windows of long videos, chosen frames as stills
- `cache.py`: `FrameCache`, `ClipReader`
- `check.py`: `check_videos`; `read_ahead.py`: the same for scoring; both in worker processes
  (utils/worker_pool.py)
- `find.py`: what a user names → files; `perturb.py`: frames in another order
"""

from thinker.video.cache import FrameCache
from thinker.video.check import TooManyBadVideosError, check_videos
from thinker.video.clip import Clip, ClipSpec, smart_resize
from thinker.video.file import (
    IMAGE_SUFFIXES,
    MAX_ASPECT_RATIO,
    REASONS,
    VideoError,
)
from thinker.video.medium import Crop, Medium, medium
from thinker.video.mp4 import MAX_FRAME_PIXELS
from thinker.video.read import READER_VERSION, read_clip
from thinker.video.sources.numbers import keyframe_indices, motion_indices

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_ASPECT_RATIO",
    "MAX_FRAME_PIXELS",
    "READER_VERSION",
    "REASONS",
    "Clip",
    "ClipSpec",
    "Crop",
    "FrameCache",
    "Medium",
    "TooManyBadVideosError",
    "VideoError",
    "check_videos",
    "keyframe_indices",
    "medium",
    "motion_indices",
    "read_clip",
    "smart_resize",
]
