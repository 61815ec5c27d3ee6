"""The 36 features of BRISQUE (Mittal, Moorthy, Bovik, 2012, doi 10.1109/TIP.2012.2214050).

Luma is normalised by its local mean and deviation (a Gaussian of 7 x 7, deviation 7/6). Of the
result a generalised Gaussian is fitted (shape, variance), and of its products with the neighbours
in four directions an asymmetric one each (shape, mean, left and right variance): 18 numbers, at
full and at half resolution.
"""

import numpy as np
from scipy import ndimage, special

SHAPES = np.arange(0.2, 10.001, 0.001)
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


def _ratio(shape: np.ndarray) -> np.ndarray:
    """E|x|² / E x² of a generalised Gaussian of that shape."""
    gamma = special.gamma
    return gamma(2 / shape) ** 2 / (gamma(1 / shape) * gamma(3 / shape))


RATIOS = _ratio(SHAPES)


def brisque_features(luma_HW: np.ndarray) -> np.ndarray:
    """luma_HW: 0..255 → (36,)."""
    luma_HW = luma_HW.astype(np.float64)
    half_HW = ndimage.zoom(luma_HW, 0.5, order=3)
    return np.concatenate([_of_scale(luma_HW), _of_scale(half_HW)])


def _of_scale(luma_HW: np.ndarray) -> np.ndarray:
    def local(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 7 / 6, radius=3, mode="nearest")

    mean_HW = local(luma_HW)
    deviation_HW = np.sqrt(np.maximum(local(luma_HW**2) - mean_HW**2, 0))
    normal_HW = (luma_HW - mean_HW) / (deviation_HW + 1)
    variance = float(np.mean(normal_HW**2))
    found = [_shape(np.mean(np.abs(normal_HW)) ** 2 / (variance + 1e-12)), variance]
    for down, right in SHIFTS:
        found += _asymmetric(normal_HW * np.roll(normal_HW, (down, right), axis=(0, 1)))
    return np.array(found)


def _shape(ratio: float) -> float:
    """The shape that has this E|x|² / E x².

    >>> normal = np.random.default_rng(0).normal(size=10**6)
    >>> round(_shape(np.mean(np.abs(normal)) ** 2 / np.mean(normal**2)), 1)
    2.0
    """
    return float(SHAPES[np.argmin(np.abs(RATIOS - ratio))])


def _asymmetric(values: np.ndarray) -> list[float]:
    """Shape, mean, left and right variance of an asymmetric generalised Gaussian, by moments."""
    left = np.sqrt(np.mean(values[values < 0] ** 2)) if (values < 0).any() else 1e-6
    right = np.sqrt(np.mean(values[values > 0] ** 2)) if (values > 0).any() else 1e-6
    tilt = left / right
    spread = np.mean(np.abs(values)) ** 2 / (np.mean(values**2) + 1e-12)
    shape = _shape(spread * (tilt**3 + 1) * (tilt + 1) / (tilt**2 + 1) ** 2)
    gamma = special.gamma
    mean = (
        (right - left)
        * (gamma(2 / shape) / gamma(1 / shape))
        * np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    )
    return [shape, float(mean), float(left**2), float(right**2)]
