"""One condition on the pictures of a clip: planes → the degraded file, and what it shows."""

import numpy as np
from scipy.ndimage import gaussian_filter

from thinker.data.reference_labels.codec import decode, encode
from thinker.data.reference_labels.conditions import Condition, held_frames
from thinker.data.reference_labels.planes import resized, size, split_planes
from thinker.utils.seeds import derive_seed


def degrade(
    planes_TYX: np.ndarray, condition: Condition, *, fps: float, seed: int
) -> tuple[bytes, np.ndarray]:
    """The bytes of the degraded clip's file, and the planes (as given, uint8) that it decodes to.

    What a codec makes is stored as it came out of the codec; only where something follows it
    (scaling up, frames that are held) are its pictures coded once more, nearly without loss. Held
    frames are frames of the degraded video.
    """
    pictures_TYX = _filtered(planes_TYX, condition, derive_seed(seed, 0))
    width, height = size(planes_TYX)
    if condition.half:
        pictures_TYX = resized(pictures_TYX, *_half(width, height))
    shown = held_frames(condition, len(planes_TYX), fps, derive_seed(seed, 1))
    is_held = shown != list(range(len(planes_TYX)))
    content = encode(pictures_TYX, fps, condition.encoder, condition.crf)
    if condition.encoder is not None:
        pictures_TYX = decode(content)
    if condition.half:
        pictures_TYX = resized(pictures_TYX, width, height)
    if condition.half or is_held:
        content = encode(pictures_TYX[shown], fps, None, None)
    decoded_TYX = decode(content)
    assert decoded_TYX.shape == planes_TYX.shape, (condition.name, decoded_TYX.shape)
    return content, decoded_TYX


def _half(width: int, height: int) -> tuple[int, int]:
    """Half of both sides, even as 4:2:0 wants them.

    >>> _half(64, 70)
    (32, 34)
    """
    return width // 4 * 2, height // 4 * 2


def _filtered(planes_TYX: np.ndarray, condition: Condition, seed: int) -> np.ndarray:
    """Blurred, then with noise; the same array where neither is asked for."""
    if not condition.blur_px and not condition.noise:
        return planes_TYX
    made_TYX = planes_TYX.copy()
    luma, *chroma = split_planes(made_TYX)
    if condition.blur_px:
        for plane, px in ((luma, condition.blur_px), *((c, condition.blur_px / 2) for c in chroma)):
            plane[:] = gaussian_filter(plane, (0, px, px))
    if condition.noise:
        drawn = np.random.default_rng(seed).standard_normal(luma.shape, dtype=np.float32)
        luma[:] = np.clip(np.rint(luma + condition.noise * drawn), 0, 255)
    return made_TYX
