"""Where a film cuts: shots from how much the colours of each frame differ from those before.

A cut changes most of a picture's colours within one frame, and its neighbours do not: that is what
is asked for here. Fades and dissolves, which change them little by little, are not found; a window
over one is a moving picture like any other. (PySceneDetect finds those as well; it would bring
OpenCV, whose decoder this project never reads by.)
"""

import numpy as np

BITS = 3  # of each colour: 512 bins
NEIGHBOURS = 8  # frames on either side that a cut has to stand out from
STANDS_OUT = 3.0
"""How many times a cut's difference exceeds the mean of its neighbours': a whip pan, an explosion
or flicker changes every frame as much."""


def colours(picture_HWC: np.ndarray) -> np.ndarray:
    """Share of the pixels in each of 512 bins of colour; uint8 RGB (H, W, 3) → float32 (512,)."""
    r, g, b = (picture_HWC.astype(np.uint16) >> (8 - BITS)).transpose(2, 0, 1)
    counts = np.bincount(((r << 2 * BITS) | (g << BITS) | b).ravel(), minlength=1 << 3 * BITS)
    return (counts / counts.sum()).astype(np.float32)


def colour_change(before: np.ndarray, after: np.ndarray) -> float:
    """Share of the pixels whose colour has no partner in the other picture, 0 to 1.

    >>> colour_change(np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.0, 0.5]))
    0.5
    """
    return float(np.abs(before - after).sum() / 2)


def find_shots(changes_T: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """(first frame, frame behind the last) of each shot, in order, without gaps.

    changes_T: `colour_change` of each frame to the one before, 0 for the first.

    >>> find_shots(np.array([0, 0.01, 0.02, 0.9, 0.02, 0.01]), threshold=0.35)
    [(0, 3), (3, 6)]
    """
    num_frames = len(changes_T)
    cuts = []
    for i in range(1, num_frames):
        low, high = max(i - NEIGHBOURS, 1), min(i + NEIGHBOURS + 1, num_frames)
        around = np.delete(changes_T[low:high], i - low)
        stands_out = not len(around) or changes_T[i] > STANDS_OUT * around.mean()
        if changes_T[i] >= threshold and stands_out:
            cuts.append(i)
    return list(zip([0, *cuts], [*cuts, num_frames], strict=True))
