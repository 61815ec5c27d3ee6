"""Pictures as encoders and metrics see them: planar YUV 4:2:0 of 8 bits.

`planes_TYX` below is uint8 of shape (T, 3H/2, W), which PyAV gives and takes: the rows of luma, and
under them those of both chroma planes, packed. T counts frames, H and W are even.
"""

from collections.abc import Iterable

import av
import numpy as np
from PIL import Image

FORMAT = "yuv420p"


def to_planes(
    pictures: Iterable[np.ndarray], crop: tuple[int, int, int, int] | None, height: int | None
) -> np.ndarray:
    """uint8 RGB pictures (H, W, 3) → planes_TYX, each cut and scaled.

    crop: left, top, right, bottom in pixels; None keeps all. height: of the result, the width
    follows; None does not scale. Odd sides lose their last pixel. Scaling down averages (Lanczos
    over the whole area), which takes the traces of the source's own coding with it.
    """
    return np.stack([_planes(picture, crop, height) for picture in pictures])


def _planes(
    picture_HWC: np.ndarray, crop: tuple[int, int, int, int] | None, height: int | None
) -> np.ndarray:
    if crop is not None:
        left, top, right, bottom = crop
        picture_HWC = picture_HWC[top:bottom, left:right]
    if height is not None and height != picture_HWC.shape[0]:
        width = round(picture_HWC.shape[1] * height / picture_HWC.shape[0])
        scaled = Image.fromarray(picture_HWC).resize((width, height), Image.Resampling.LANCZOS)
        picture_HWC = np.asarray(scaled)
    height, width = (size // 2 * 2 for size in picture_HWC.shape[:2])
    even_HWC = np.ascontiguousarray(picture_HWC[:height, :width])
    frame = av.VideoFrame.from_ndarray(even_HWC, format="rgb24")
    return frame.reformat(format=FORMAT, threads=1).to_ndarray()


def to_picture(planes_YX: np.ndarray) -> np.ndarray:
    """One frame as uint8 RGB (H, W, 3), to look at."""
    frame = av.VideoFrame.from_ndarray(planes_YX, format=FORMAT)
    return frame.reformat(format="rgb24", threads=1).to_ndarray()


def size(planes_TYX: np.ndarray) -> tuple[int, int]:
    """(width, height) in pixels.

    >>> size(np.zeros((5, 96, 32), dtype=np.uint8))
    (32, 64)
    """
    return planes_TYX.shape[2], planes_TYX.shape[1] * 2 // 3


def split_planes(planes_TYX: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Luma (T, H, W), and both chroma planes (T, H/2, W/2); views."""
    width, height = size(planes_TYX)
    luma = planes_TYX[:, :height]
    chroma = planes_TYX[:, height:].reshape(len(planes_TYX), 2, height // 2, width // 2)
    return luma, chroma[:, 0], chroma[:, 1]


def resized(planes_TYX: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scaled by swscale's bicubic filter, as players do; width and height are even."""

    def one(planes_YX: np.ndarray) -> np.ndarray:
        frame = av.VideoFrame.from_ndarray(planes_YX, format=FORMAT)
        scaled = frame.reformat(width=width, height=height, interpolation="BICUBIC", threads=1)
        return scaled.to_ndarray()

    return np.stack([one(planes_YX) for planes_YX in planes_TYX])
