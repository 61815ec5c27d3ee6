"""Labels: how far a degraded clip is from the clip that it was made from, frame by frame."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np

from thinker.data.reference_labels.planes import FORMAT, size
from thinker.data.reference_labels.settings import LABELS
from thinker.data.reference_labels.vmaf import find_vmaf

TIME_BASE = Fraction(1, 25)  # any: frames are paired by their numbers

Measure = Callable[[np.ndarray, Sequence[np.ndarray], float], list[float]]
"""(planes_TYX of the pristine clip, of each degraded one, frames a second) → labels."""


def find_measure(label: str) -> tuple[Measure, str]:
    """What measures a label, and the version of what does. Raises ValueError where the machine
    cannot."""
    if label == "vmaf":
        vmaf = find_vmaf()
        return vmaf, vmaf.version
    library = "libavfilter " + ".".join(map(str, av.library_versions["libavfilter"]))
    measure = {"ssim": ssim, "xpsnr": xpsnr}[label]
    return measure, f"{label} filter of {library}"


def ssim(reference_TYX: np.ndarray, degraded: Sequence[np.ndarray], fps: float) -> list[float]:
    """Structural similarity of luma (Wang et al. 2004, in blocks of 8 pixels as FFmpeg's filter
    has it), the mean over the frames; 0 to 1, where 1 is the same."""
    scale = LABELS["ssim"]
    return [
        max(float(np.mean(_compared("ssim", "lavfi.ssim.Y", reference_TYX, one))), scale.min)
        for one in degraded
    ]


def xpsnr(reference_TYX: np.ndarray, degraded: Sequence[np.ndarray], fps: float) -> list[float]:
    """Perceptually weighted PSNR of luma in dB (Helmrich et al. 2020, FFmpeg's filter), of the mean
    error over the frames; 60 where it is more, as it is without limit where nothing differs.

    -10 log10 of the mean of 10^(-x/10): frames of 30 and 40 dB have 32.6 dB.
    """
    scale = LABELS["xpsnr"]
    found = []
    for one in degraded:
        of_frames = np.array(_compared("xpsnr", "lavfi.xpsnr.xpsnr.y", reference_TYX, one))
        error = float(np.mean(10 ** (-of_frames / 10)))
        decibel = math.inf if error == 0 else -10 * math.log10(error)
        found.append(min(max(decibel, scale.min), scale.max))
    return found


def _compared(
    name: str, key: str, reference_TYX: np.ndarray, degraded_TYX: np.ndarray
) -> list[float]:
    """What a filter of two videos says of each frame."""
    width, height = size(reference_TYX)
    graph = av.filter.Graph()
    layout = av.VideoFormat(FORMAT, width, height)
    inputs = [
        graph.add_buffer(width=width, height=height, format=layout, time_base=TIME_BASE)
        for _ in range(2)
    ]
    compare, sink = graph.add(name), graph.add("buffersink")
    for place, buffer in enumerate(inputs):
        buffer.link_to(compare, 0, place)
    compare.link_to(sink)
    graph.configure()
    found = []
    for number, planes in enumerate(zip(degraded_TYX, reference_TYX, strict=True)):
        for buffer, planes_YX in zip(inputs, planes, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes_YX), format=FORMAT)
            frame.pts, frame.time_base = number, TIME_BASE
            buffer.push(frame)
        found.append(float(sink.pull().metadata[key]))
    return found
