"""Procedural scenes of the embedded demo set: a seed goes in, frames at any time come out.

A scene is a textured torus (coloured 1/f noise, shapes, stripes, rows of text-like marks) under a
smooth camera, with a slow illumination drift and maybe one moving object. Natural images have 1/f
amplitude spectra (Field, JOSA A 1987); the slope here is steeper, so that added noise stands out
from texture. Nothing random happens after `Scene.__init__`.

Lengths in this file are pixels of a 96-px frame; `unit` turns them into pixels of the actual one.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

REFERENCE_PX = 96
CANVAS_PX = 256  # period of the torus, more than two frames
GRID = 6  # shapes along a side of the canvas
PAD_PX = 4  # canvas pixels before the torus' origin, for the bicubic kernel

Painter = Callable[[ImageDraw.ImageDraw, np.random.Generator, float, float, float], None]


class Scene:
    """One content. `Scene((0, 1), 80).frame(2.5)` is a uint8 RGB array (80, 80, 3).

    Brightness and contrast lie in a narrow band, as under a camera's exposure control: otherwise
    the severity of a wrong exposure could not be read off a clip at all.
    """

    def __init__(self, seed: tuple[int, ...], size_px: int) -> None:
        rng = np.random.default_rng(seed)
        self.size_px = size_px
        self.unit = size_px / REFERENCE_PX
        self.period = round(CANVAS_PX * self.unit)
        # A window may start anywhere on the torus; the tiling behind covers it at any zoom.
        behind = round(1.5 * size_px)
        canvas = np.pad(
            _paint_canvas(rng, self.period),
            ((PAD_PX, behind), (PAD_PX, behind), (0, 0)),
            mode="wrap",
        )
        self.canvas = Image.fromarray(canvas)
        self.start = rng.uniform(0, self.period, 2)
        # Narrow, so that a skip of n frames is a jump of about the same length in every content.
        self.speed = rng.uniform(1.2, 1.6) * self.unit
        self.heading = rng.uniform(0, 2 * math.pi)
        self.turn = rng.uniform(-0.004, 0.004)  # radians a frame: at most 11 degrees in 48 frames
        self.zoom = rng.uniform(0.0, 0.08)
        self.zoom_phase = rng.uniform(0, 2 * math.pi)
        # Makes brightness differ between distant frames of every clip: keyframes hide flicker.
        self.drift = rng.uniform(0.06, 0.13)
        self.drift_period = rng.uniform(50, 110)  # frames
        self.drift_phase = rng.uniform(0, 2 * math.pi)
        side = round(rng.uniform(18, 34) * self.unit)
        self.sprite = _paint_sprite(rng, side) if rng.random() < 0.6 else None
        self.sprite_centre = rng.uniform(0.35, 0.65, 2) * size_px
        self.sprite_swing = rng.uniform(0.15, 0.3, 2) * size_px
        self.sprite_rate = rng.uniform(0.03, 0.05, 2)  # radians a frame: below 1.5 px a frame
        self.sprite_phase = rng.uniform(0, 2 * math.pi, 2)
        self._steady: dict[int, np.ndarray] = {}

    def steady_frame(self, time: int) -> np.ndarray:
        """`frame(time)`, rendered once for all clips of the content and not to be written to."""
        if time not in self._steady:
            self._steady[time] = self.frame(time)
        return self._steady[time]

    def frame(self, time: float, shift_px: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """uint8 RGB (H, W, 3) at `time`, counted in frames of smooth playback.

        `shift_px` (right, down) turns the camera: the whole picture moves the other way.
        """
        scale = 1.08 + self.zoom * math.sin(0.05 * time + self.zoom_phase)  # canvas px a frame px
        angle = self.heading + self.turn * time
        x = self.start[0] + self.speed * time * math.cos(angle) + shift_px[0] * scale
        y = self.start[1] + self.speed * time * math.sin(angle) + shift_px[1] * scale
        image = self.canvas.transform(
            (self.size_px, self.size_px),
            Image.Transform.AFFINE,
            (scale, 0, x % self.period + PAD_PX, 0, scale, y % self.period + PAD_PX),
            resample=Image.Resampling.BICUBIC,
        )
        if self.sprite is not None:
            self._paste_sprite(image, self.sprite, time, shift_px)
        angle = 2 * math.pi * time / self.drift_period + self.drift_phase
        return scale_luminance(np.asarray(image), 1 + self.drift * math.sin(angle))

    def _paste_sprite(
        self, image: Image.Image, sprite: Image.Image, time: float, shift_px: tuple[float, float]
    ) -> None:
        swing = self.sprite_swing * np.sin(self.sprite_rate * time + self.sprite_phase)
        left, top = self.sprite_centre + swing - np.array(shift_px) - 0.5 * sprite.width
        layer = sprite.transform(
            image.size,
            Image.Transform.AFFINE,
            (1, 0, -left, 0, 1, -top),
            resample=Image.Resampling.BILINEAR,
        )
        image.paste(layer, (0, 0), layer.getchannel("A"))


def scale_luminance(frame_HWC: np.ndarray, gain: float, offset: float = 0.0) -> np.ndarray:
    """`gain * value + offset`, rounded and clipped to uint8 (a table: 256 values are few).

    scale_luminance([10, 200], 1.5, 5) = [20, 255].
    """
    table = np.rint(gain * np.arange(256) + offset)
    return np.clip(table, 0, 255).astype(np.uint8)[frame_HWC]


def _noise_field(rng: np.random.Generator, side: int, slope: float, count: int) -> np.ndarray:
    """Periodic fields (count, side, side) of unit variance, amplitude ~ 1/f^slope."""
    spectrum = np.fft.rfft2(rng.standard_normal((count, side, side)))
    fy, fx = np.fft.fftfreq(side)[:, None] * side, np.fft.rfftfreq(side)[None] * side
    radius = np.hypot(fy, fx)  # cycles a canvas
    # Waves longer than half a frame (5 cycles) would make brightness depend on the viewpoint.
    gain = np.maximum(radius, 5.0) ** -slope * np.minimum(1.0, radius / 5.0)
    field = np.fft.irfft2(spectrum * gain, s=(side, side))
    return field / field.std(axis=(1, 2), keepdims=True)


def _paint_canvas(rng: np.random.Generator, side: int) -> np.ndarray:
    """A periodic picture, uint8 (side, side, 3), its mean and contrast in a narrow range."""
    luma, warm, cool = _noise_field(rng, side, rng.uniform(1.5, 1.8), 3)
    texture = np.stack([34 * luma + 14 * warm, 34 * luma - 7 * warm, 34 * luma + 16 * cool], axis=2)
    texture += 122 + rng.uniform(-14, 14, 3)
    image = Image.fromarray(np.clip(texture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    painters: tuple[Painter, ...] = (_paint_box, _paint_ellipse, _paint_stripes, _paint_text)
    # One shape in every cell of a jittered grid: every window holds several, so that brightness,
    # contrast and edges differ less between contents than between severities.
    for cell in range(GRID**2):
        x = (cell % GRID + rng.uniform(0.1, 0.5)) * side / GRID
        y = (cell // GRID + rng.uniform(0.1, 0.5)) * side / GRID
        painter = painters[int(rng.integers(len(painters)))]
        seed = int(rng.integers(2**32))
        for dx, dy in ((0, 0), (-side, 0), (0, -side), (-side, -side)):  # across the seams
            painter(draw, np.random.default_rng(seed), x + dx, y + dy, 4 / GRID * side / CANVAS_PX)
    pixels = np.asarray(image, dtype=np.float64)
    grey = pixels.mean(axis=2)
    contrast = rng.uniform(44, 48) / grey.std()
    pixels = (pixels - grey.mean()) * contrast + rng.uniform(116, 122)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, level: float) -> tuple[int, int, int]:
    red, green, blue = np.clip(level + rng.uniform(-38, 38, 3), 0, 255)
    return int(red), int(green), int(blue)


def _two_levels(rng: np.random.Generator) -> tuple[float, float]:
    """A dark and a light level, in either order: every shape has an edge of high contrast."""
    dark, light = rng.uniform(30, 80), rng.uniform(165, 225)
    return (dark, light) if rng.random() < 0.5 else (light, dark)


def _paint_box(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, unit: float
) -> None:
    fill, edge = (_colour(rng, level) for level in _two_levels(rng))
    w, h = rng.uniform(14, 44, 2) * unit
    draw.rectangle((x, y, x + w, y + h), fill=fill, outline=edge, width=max(1, round(2 * unit)))


def _paint_ellipse(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, unit: float
) -> None:
    fill, edge = (_colour(rng, level) for level in _two_levels(rng))
    w, h = rng.uniform(16, 44, 2) * unit
    draw.ellipse((x, y, x + w, y + h), fill=fill, outline=edge, width=max(1, round(2 * unit)))


def _paint_stripes(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, unit: float
) -> None:
    colour = _colour(rng, _two_levels(rng)[0])
    gap, length, lean = (
        np.array([rng.uniform(4, 7), rng.uniform(24, 44), rng.uniform(-20, 20)]) * unit
    )
    for left in x + gap * np.arange(6):
        draw.line((left, y, left + lean, y + length), fill=colour, width=max(1, round(2 * unit)))


def _paint_text(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, unit: float
) -> None:
    paper, ink = (_colour(rng, level) for level in _two_levels(rng))
    draw.rectangle((x, y, x + 46 * unit, y + 30 * unit), fill=paper)
    for line in range(3):
        left = 3.0
        while left < 40:
            width, top = rng.uniform(1.5, 5), 4 + 9 * line + rng.uniform(0, 2)
            mark = (left, top, left + width, top + 4)
            draw.rectangle(
                [a + b * unit for a, b in zip((x, y, x, y), mark, strict=True)], fill=ink
            )
            left += width + rng.uniform(1.5, 3)


def _paint_sprite(rng: np.random.Generator, side: int) -> Image.Image:
    sprite = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(sprite)
    disc, badge = (_colour(rng, level) for level in _two_levels(rng))
    draw.ellipse((1, 1, side - 2, side - 2), fill=(*disc, 255))
    draw.rectangle((side / 3, side / 3, 2 * side / 3, 2 * side / 3), fill=(*badge, 255))
    return sprite
