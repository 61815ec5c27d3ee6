"""Generated pictures whose distortions have a place: what `train_metadata.json` of ViDA-UGC (arXiv
2508.12605) says of real ones, known by construction.

In: a `LocalConfig`. Out: a folder with `pictures/` (PNG), `train.json` and `eval.json`, the MOS as
meta files, and `metadata.json`, an object a picture: its MOS, level and size, and for each of its
distortions type, severity, box in pixels, position and importance; and `bench/`, the held-out
pictures as a test release in ViDA's form (release.py). Pictures have up to two distortions, each
in a rectangle of its own, of the ten types and the three severities of ViDA-UGC. Pictures are
small and regions large and on a grid of 16 cells, so that a policy of 1 M parameters, which sees 16
tokens of a picture, learns them in minutes: anywhere else they are not learnt (docs/log.md).

MOS follow a stated rule: `5 - 4 · (1 - Π (1 - harm))`, where the harm of a distortion is `.9 ·
strength · (.4 + .6 · √area)`, its strength .3, .6 or 1 and its area the share of the picture.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from rewards.boxes import BOX_SEVERITIES
from thinker.data.demo.generate import meta_json
from thinker.data.demo.pictures import picture_folder, save_png
from thinker.data.demo.plan import SPLITS
from thinker.data.demo.release import write_release
from thinker.data.demo.render import jpeg_round_trip
from thinker.data.demo.scenes import Scene, scale_luminance
from thinker.tasks.boxes import position_of
from thinker.tasks.level import level_word
from thinker.utils.atomic import write_atomic

STRENGTH = dict(zip(BOX_SEVERITIES, (0.3, 0.6, 1.0), strict=True))
"""How strong a severity is, 0 to 1."""
NUM_REGIONS = (0.1, 0.55, 0.35)
"""Shares of pictures with 0, 1 and 2 distortions; fewer where no place is left."""
TRIES = 20
"""Of a place for a region that touches no other."""
GRID = 4
"""Cells that a side of the picture is divided in; regions consist of whole ones."""
SMALLEST, LARGEST = 2, 3
"""Sides of a region, in cells."""
_LOCAL = 13  # keeps the seeds of scenes apart from those of other sets

Part = np.ndarray
"""(h, w, 3) uint8, the region that is distorted."""


def _resampled(part: Part, strength: float, how: Image.Resampling) -> Part:
    factor = 1.5 + 3.0 * strength
    height, width = part.shape[:2]
    small = (max(2, round(width / factor)), max(2, round(height / factor)))
    return np.asarray(Image.fromarray(part).resize(small, how).resize((width, height), how))


def _low_clarity(part: Part, strength: float, rng: np.random.Generator) -> Part:
    return _resampled(part, strength, Image.Resampling.BICUBIC)


def _aliasing(part: Part, strength: float, rng: np.random.Generator) -> Part:
    return _resampled(part, strength, Image.Resampling.NEAREST)


def _underexposure(part: Part, strength: float, rng: np.random.Generator) -> Part:
    return scale_luminance(part, 0.85 - 0.7 * strength)


def _overexposure(part: Part, strength: float, rng: np.random.Generator) -> Part:
    return scale_luminance(part, 1.1 + 0.9 * strength, 15 + 60 * strength)


def _blocking(part: Part, strength: float, rng: np.random.Generator) -> Part:
    return jpeg_round_trip(part, round(14 - 13 * strength))


def _noise(part: Part, strength: float, rng: np.random.Generator) -> Part:
    noise_HW1 = rng.standard_normal((*part.shape[:2], 1))
    return _bytes(part + (12 + 45 * strength) * noise_HW1)


def _defocus(part: Part, strength: float, rng: np.random.Generator) -> Part:
    """Every point becomes a disc, as it does behind a lens out of focus."""
    radius = 1.0 + 4.0 * strength
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _convolved(part, (x**2 + y**2 <= radius**2).astype(float))


def _motion_blur(part: Part, strength: float, rng: np.random.Generator) -> Part:
    """Every point becomes a line, in a direction that is drawn."""
    reach = round(2 + 6 * strength)
    angle = rng.uniform(0, math.pi)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for step in np.linspace(-reach, reach, 4 * reach + 1):
        place = round(reach + step * math.sin(angle)), round(reach + step * math.cos(angle))
        kernel[place] = 1.0
    return _convolved(part, kernel)


def _solid(part: Part, strength: float, rng: np.random.Generator) -> Part:
    colour = rng.uniform(40, 215, 3)
    kept = 0.5 * (1 - strength)
    return _bytes(kept * part + (1 - kept) * colour)


def _ringing(part: Part, strength: float, rng: np.random.Generator) -> Part:
    """Waves beside edges: what an ideal low pass leaves, made stronger."""
    spectrum = np.fft.fft2(part.astype(float), axes=(0, 1))
    frequency = [np.abs(np.fft.fftfreq(side)) for side in part.shape[:2]]
    passed = np.maximum.outer(*frequency) <= 0.25 - 0.15 * strength
    low = np.real(np.fft.ifft2(spectrum * passed[..., None], axes=(0, 1)))
    waves = low - ndimage.gaussian_filter(low, (3, 3, 0))
    return _bytes(low + (0.5 + 1.5 * strength) * waves)


def _convolved(part: Part, kernel: np.ndarray) -> Part:
    weights = (kernel / kernel.sum())[..., None]
    return _bytes(ndimage.convolve(part.astype(float), weights, mode="nearest"))


def _bytes(values: np.ndarray) -> Part:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


EFFECTS: dict[str, Callable[[Part, float, np.random.Generator], Part]] = {
    "Low clarity": _low_clarity,
    "Underexposure": _underexposure,
    "Edge aliasing effect": _aliasing,
    "Blocking artifacts": _blocking,
    "Overexposure": _overexposure,
    "Noise": _noise,
    "Out of focus blur": _defocus,
    "Meaningless solid color": _solid,
    "Motion blur": _motion_blur,
    "Edge ringing effect": _ringing,
}
"""The types of ViDA-UGC, as its files write them."""


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """What the set holds."""

    num_train: int = 6000
    """Training pictures, each of its own scene."""
    num_eval: int = 300
    """Held-out pictures, each of its own scene."""
    size_px: int = 64
    """Both sides of a picture."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_eval) < 1:
            raise ValueError(
                f"num_train is {self.num_train} and num_eval {self.num_eval}, expected at least 1"
            )
        if self.size_px < 48 or self.size_px % GRID:
            raise ValueError(
                f"size_px is {self.size_px}, expected a multiple of {GRID}, at least 48"
            )


def generate_local_set(folder: Path, config: LocalConfig) -> None:
    """Write the set into `folder`; pictures that are there stay. What it draws depends on `config`
    only.

    Raises ValueError where the folder holds the set of another configuration.
    """
    entries = [entry for split in range(2) for entry in _plan_split(config, split)]
    with picture_folder(folder, "metadata.json", entries) as pictures:
        for number, entry in enumerate(entries):
            if not (pictures / entry["image"]).is_file():
                save_png(pictures / entry["image"], render(entry, (config.seed, _LOCAL, number)))
        for split in SPLITS:
            own = [(entry["image"], entry["mos"]) for entry in entries if entry["split"] == split]
            write_atomic(folder / f"{split}.json", meta_json(own))
        write_release(folder / "bench", [entry for entry in entries if entry["split"] == "eval"])


def render(entry: dict[str, Any], seed: tuple[int, ...]) -> Part:
    """The picture that an entry of the metadata describes, of the scene of a seed."""
    picture_HWC = Scene(seed, entry["width"]).steady_frame(0).copy()
    rng = np.random.default_rng((*seed, 1))
    for one in entry["distortions"]:
        left, top, right, bottom = one["coordinates"]
        part = picture_HWC[top:bottom, left:right]
        strength = STRENGTH[one["severity"].lower()]
        picture_HWC[top:bottom, left:right] = EFFECTS[one["distortion"]](part, strength, rng)
    return picture_HWC


def mos_of(harms: list[float]) -> float:
    """The MOS of a picture with these harms: `5 - 4 · (1 - Π (1 - harm))`.

    Two of .3: 5 - 4 · (1 - .49) = 2.96; none: 5.
    """
    return 5 - 4 * (1 - math.prod(1 - harm for harm in harms))


def harm_of(severity: str, area: float) -> float:
    """What a distortion does to the whole: `.9 · strength · (.4 + .6 · √area)`.

    Severe on a quarter of the picture: .9 · 1 · (.4 + .6 · .5) = .63.
    """
    return 0.9 * STRENGTH[severity] * (0.4 + 0.6 * math.sqrt(area))


def _plan_split(config: LocalConfig, split_number: int) -> list[dict[str, Any]]:
    count = (config.num_train, config.num_eval)[split_number]
    split = SPLITS[split_number]
    rng = np.random.default_rng((config.seed, _LOCAL, split_number))
    return [
        _plan(f"{split}_{number:04d}.png", split, config.size_px, rng) for number in range(count)
    ]


def _plan(image: str, split: str, size_px: int, rng: np.random.Generator) -> dict[str, Any]:
    regions: list[tuple[int, int, int, int]] = []
    for _ in range(rng.choice(len(NUM_REGIONS), p=NUM_REGIONS)):
        drawn = (_region(size_px, rng) for _ in range(TRIES))
        free = (one for one in drawn if not any(_touch(one, other) for other in regions))
        regions += [region for region in (next(free, None),) if region is not None]
    names = rng.permutation(list(EFFECTS))[: len(regions)]
    found = []
    for number, (box, name) in enumerate(zip(regions, names, strict=True)):
        severity = BOX_SEVERITIES[rng.integers(3)]
        area = (box[2] - box[0]) * (box[3] - box[1]) / size_px**2
        harm = harm_of(severity, area)
        found.append(_described(number, str(name), severity, box, size_px, harm))
    mos = mos_of([one["significance_score"] for one in found])
    return {
        "image": image,
        "split": split,
        "mos": round(mos, 2),
        "level": level_word(mos),
        "width": size_px,
        "height": size_px,
        "distortions": found,
    }


def _region(size_px: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Corners in pixels, on the grid."""
    width, height = rng.integers(SMALLEST, LARGEST + 1, 2)
    left, top = rng.integers(0, GRID - width + 1), rng.integers(0, GRID - height + 1)
    left, top, right, bottom = (
        int(cells) * size_px // GRID for cells in (left, top, left + width, top + height)
    )
    return left, top, right, bottom


def _touch(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


MANIFESTATIONS = {
    "Low clarity": "fine detail is lost",
    "Underexposure": "the region is too dark",
    "Edge aliasing effect": "edges are jagged",
    "Blocking artifacts": "blocks of eight pixels show",
    "Overexposure": "the region is too bright",
    "Noise": "grains cover the surface",
    "Out of focus blur": "points are spread to discs",
    "Meaningless solid color": "one colour covers what was there",
    "Motion blur": "edges are smeared in one direction",
    "Edge ringing effect": "waves run along the edges",
}
"""How each type looks."""
IMPACTS = {
    "minor": "it is hardly noticed",
    "moderate": "it disturbs",
    "severe": "it hides what is shown",
}
"""What each severity does to a viewer."""


def _described(
    number: int,
    name: str,
    severity: str,
    box: tuple[int, int, int, int],
    size_px: int,
    harm: float,
) -> dict[str, Any]:
    return {
        "id": number,
        "distortion": name,
        "severity": severity.capitalize(),
        "coordinates": list(box),
        "position": position_of(box, (size_px, size_px)),
        "visual manifestation": MANIFESTATIONS[name],
        "perception impact": IMPACTS[severity],
        "region_quality_scores": f"The quality of this region is {level_word(5 - 4 * harm)}.",
        "region_importance_score": "Its share of the picture decides how much it counts.",
        "significance_score": round(harm, 4),
    }
