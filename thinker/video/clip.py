"""What to read of a video (`ClipSpec`), what comes of it (`Clip`), and which sizes. Which frames
these are stands in `thinker.video.sources.numbers`.

Suffixes: K keyframes, M motion frames, C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch

from thinker.video.file import MAX_ASPECT_RATIO
from thinker.video.geometry import (
    ANYRES_TILINGS,
    TILINGS,
    Geometry,
    anyres_fit,
    tile_grid,
)
from thinker.video.medium import KINDS, Crop
from thinker.video.stalls.intervals import FrameStalls

RESAMPLERS = ("torch", "pil")
READERS = ("pyav", "decord")
DEINTERLACERS = ("none", "bwdif")
STILLS = ("image", "video")
SPREAD_SAMPLERS = ("segments", "steps", "inner_steps")
"""K keyframes over the whole video (`keyframe_indices`): VQAThinker's, Q-Bench-Video's,
VLMEvalKit's."""
SECOND_SAMPLERS = ("seconds", "rounded_seconds")
"""A keyframe for each second (`thinker.video.sources.numbers.each_second`): VQA²'s, VITAL's."""
SAMPLERS = SPREAD_SAMPLERS + SECOND_SAMPLERS


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What to read of a video; part of the frame-cache key."""

    num_keyframes: int
    """Number K of frames, spread over the whole video; the most that there may be where the sampler
    takes one for each second."""
    resize: str
    """How keyframes are resized: "square" stretches them to one size (InternVL), "smart" keeps
    their aspect (Qwen2.5-VL)."""
    keyframe_px: int
    """Side of the square. "smart" ignores it."""
    min_pixels: int
    """Smallest area of a keyframe. "square" ignores it."""
    max_pixels: int
    """Largest area of a keyframe. "square" ignores it."""
    factor: int
    """Both sides of a keyframe are multiples of it. "square" ignores it."""
    num_motion_frames: int
    """Number M of dense frames, a multiple of K; 0 reads no motion clip. The most that there may be
    where the sampler goes by seconds."""
    motion_px: int
    """Side of the square that dense frames are stretched to."""
    resampler: str = "torch"
    """Whose antialiased bicubic filter resizes, bit for bit: "torch" is that of transformers'
    processors, "pil" that of the published programs, seven times slower. They differ by one level
    of 255."""
    stills: str = "video"
    """How a medium of kind "image" is read, one of `STILLS`: "image" at its own resolution, without
    motion; "video" as a video of one frame, K times, with motion."""
    min_patches: int = 1
    """Fewest tiles of a "square" image; `keyframe_px` is the side of a tile."""
    max_patches: int = 12
    """Most tiles of a "square" image, without its thumbnail."""
    image_min_pixels: int = 4 * 28**2
    """Smallest area of a "smart" image."""
    image_max_pixels: int = 1280 * 28**2
    """Largest area of a "smart" image."""
    reader: str = "pyav"
    """Whose pictures the frames of a video are, bit for bit, one of `READERS`: "pyav" is the exact
    reader of this project; "decord" that of the published programs, where it gives the right
    frames, else the file is read by "pyav" and `Clip.note` says so."""
    deinterlace: str = "none"
    """What makes whole pictures of frames that a video marks as interlaced, one of `DEINTERLACERS`:
    "none" leaves their lines as they are stored; "bwdif" is FFmpeg's filter, one picture a
    frame."""
    sampler: str = "segments"
    """Which frames the keyframes of a video are, one of `SAMPLERS`."""
    motion_stride: int = 1
    """Every so manieth frame is a motion frame; only where the sampler goes by seconds."""
    tiling: str = "aspect"
    """How a "square" image is cut into tiles, one of `thinker.video.geometry.TILINGS`."""
    max_side_px: int = 0
    """Keyframes of a video are first shrunk, their aspect kept, until neither side is longer, then
    resized as all are; 0 leaves this out."""

    def __post_init__(self) -> None:
        if self.resize not in ("square", "smart"):
            raise ValueError(f"resize must be 'square' or 'smart', got {self.resize!r}")
        if self.resampler not in RESAMPLERS:
            raise ValueError(
                f"resampler must be one of {', '.join(RESAMPLERS)}, got {self.resampler!r}"
            )
        if self.reader not in READERS:
            raise ValueError(f"reader must be one of {', '.join(READERS)}, got {self.reader!r}")
        if self.deinterlace not in DEINTERLACERS:
            raise ValueError(
                f"deinterlace must be one of {', '.join(DEINTERLACERS)}, got {self.deinterlace!r}"
            )
        if self.reader == "decord" and self.deinterlace != "none":
            raise ValueError("decord gives frames as they are stored; deinterlace with reader pyav")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.max_side_px < 0:
            raise ValueError(f"max_side_px must be 0 (no limit) or more, got {self.max_side_px}")
        if self.stills not in STILLS:
            raise ValueError(f"stills must be one of {', '.join(STILLS)}, got {self.stills!r}")
        is_square = self.resize == "square"
        bounds = [] if is_square else [("min_pixels", "max_pixels")]
        if self.stills == "image":
            tiling, area = ("min_patches", "max_patches"), ("image_min_pixels", "image_max_pixels")
            bounds.append(tiling if is_square else area)
        positive = ["num_keyframes"]
        for low, high in bounds:
            positive += [low, high]
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} exceeds {high} {getattr(self, high)}")
        positive.append("keyframe_px" if is_square else "factor")
        if self.num_motion_frames:
            positive += ["num_motion_frames", "motion_px"]
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.tiling not in TILINGS:
            raise ValueError(f"tiling must be one of {', '.join(TILINGS)}, got {self.tiling!r}")
        if self.motion_stride < 1 or (self.motion_stride > 1 and not self.by_seconds):
            raise ValueError(
                f"motion_stride is {self.motion_stride} with sampler {self.sampler!r}, expected 1, "
                f"or more with {' or '.join(SECOND_SAMPLERS)}"
            )
        if self.num_motion_frames % self.num_keyframes and not self.by_seconds:
            raise ValueError(
                f"num_motion_frames must be a multiple of num_keyframes ({self.num_keyframes}), "
                f"got {self.num_motion_frames}"
            )

    @property
    def by_seconds(self) -> bool:
        """Whether the numbers of frames follow from the length of the video."""
        return self.sampler in SECOND_SAMPLERS

    def of_medium(self, num_keyframes: int | None) -> ClipSpec:
        """This, with another number of keyframes and windows of motion as long as before; itself
        for None.

        Example: of 8 keyframes and 32 motion frames, `of_medium(2)` has 2 and 8.
        """
        if num_keyframes is None or num_keyframes == self.num_keyframes:
            return self
        if self.by_seconds:
            raise ValueError(
                f"{num_keyframes} keyframes were asked for, but with sampler {self.sampler!r} "
                "their number follows from the length of the video"
            )
        window = self.num_motion_frames // self.num_keyframes
        return replace(self, num_keyframes=num_keyframes, num_motion_frames=window * num_keyframes)

    def bounded(self, height: int, width: int) -> tuple[int, int]:
        """The size of a keyframe once `max_side_px` is kept; sides are rounded down, as in the
        program of Q-Bench-Video.

        Example: with 512, `bounded(1080, 1920)` is (288, 512), `bounded(240, 320)` as it is.
        """
        if not self.max_side_px or max(height, width) <= self.max_side_px:
            return height, width
        scale = min(self.max_side_px / width, self.max_side_px / height)
        return max(1, int(height * scale)), max(1, int(width * scale))

    def geometry(self, kind: str, height: int, width: int, crop: Crop | None = None) -> Geometry:
        """Where a picture's places lie in the keyframes of a clip of that kind, and their sizes.

        height, width, crop: as those of a `Clip`. Only a "square" image has several tiles. Raises
        ValueError where one side is over 200 times the other and the aspect is to be kept.
        """
        part_height, part_width = (crop.height, crop.width) if crop else (height, width)
        if kind == "video":
            part_height, part_width = self.bounded(part_height, part_width)
        rows, columns, tile_height, tile_width = 1, 1, self.keyframe_px, self.keyframe_px
        thumbnail, fitted = None, None
        if self.resize == "smart":
            is_image = kind == "image"
            tile_height, tile_width = smart_resize(
                part_height,
                part_width,
                factor=self.factor,
                min_pixels=self.image_min_pixels if is_image else self.min_pixels,
                max_pixels=self.image_max_pixels if is_image else self.max_pixels,
            )
        elif kind == "image":
            rows, columns = tile_grid(
                part_height,
                part_width,
                tile_px=self.keyframe_px,
                min_patches=self.min_patches,
                max_patches=self.max_patches,
                tiling=self.tiling,
            )
            thumbnail = {"area": True, "anyres": True, "anyres_tiles": False}.get(self.tiling)
            if self.tiling in ANYRES_TILINGS:
                canvas = (rows * tile_height, columns * tile_width)
                fitted = anyres_fit(part_height, part_width, canvas)
        return Geometry(
            height=height,
            width=width,
            crop=crop,
            rows=rows,
            columns=columns,
            tile_height=tile_height,
            tile_width=tile_width,
            thumbnail=thumbnail,
            fitted=fitted,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """The frames of one video or picture, or of a part of it, ready for the policy's normalisation.
    Times count from the first frame of the video."""

    path: Path
    """The file that was read."""
    keyframes_KCHW: torch.Tensor
    """The keyframes, uint8 RGB, all of one size."""
    motion_MCHW: torch.Tensor
    """The dense frames, uint8 RGB; (0, 3, px, px) without a motion clip."""
    keyframe_seconds: torch.Tensor
    """When each keyframe is shown, float64 (K,)."""
    motion_seconds: torch.Tensor
    """When each dense frame is shown, float64 (M,)."""
    keyframe_indices: tuple[int, ...]
    """Number of each keyframe in the whole video, also where only a range of it was read."""
    motion_indices: tuple[int, ...]
    """Number of each dense frame in the whole video."""
    num_frames: int
    """Frames of the whole video; 1 for a picture."""
    fps: float
    """Mean rate of the whole video; 0.0 where there is none (a picture)."""
    height: int
    """Height of the whole picture as displayed: upright and in square pixels
    (`geometry.displayed_size`), before cutting and resizing."""
    width: int
    """Width of the whole picture as displayed, as `height`."""
    kind: str = "video"
    """One of `thinker.video.medium.KINDS`. "image": a still at its own resolution, without motion;
    its keyframes are what the vision tower sees of it. A still that was read as a video of one
    frame is a "video"."""
    crop: Crop | None = None
    """What was cut out of every picture; None: nothing, the whole picture was read."""
    variant: str = ""
    """What was done to the frames after reading them: "reverse:7" of a perturbed copy, nothing of a
    clip as it was read. Frames that come from no file are told apart by a hash of them."""
    stalls: FrameStalls | None = None
    """Where the part that was read stalls, as it was given with the medium; None: not given."""
    note: str = ""
    """What was done otherwise than asked, for a person: that another reader stepped in, and why.
    Nothing else is ever done otherwise."""

    @cached_property
    def key(self) -> Hashable:
        """Stands for the frames: in a run, clips of one key and spec show the same pictures.

        A range of time is in it by the numbers of its frames.
        """
        return (
            str(self.path),
            self.kind,
            self.crop,
            self.keyframe_indices,
            self.motion_indices,
            tuple(self.keyframes_KCHW.shape),
            self.variant,
        )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.kind == "image" and len(self.motion_MCHW):
            raise ValueError(f"an image has no motion, got {len(self.motion_MCHW)} frames of it")
        for name, frames, seconds, indices in (
            ("keyframes", self.keyframes_KCHW, self.keyframe_seconds, self.keyframe_indices),
            ("motion", self.motion_MCHW, self.motion_seconds, self.motion_indices),
        ):
            if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
                raise ValueError(
                    f"{name}: expected uint8 (N, 3, H, W), got {frames.dtype} {tuple(frames.shape)}"
                )
            if seconds.dtype != torch.float64 or seconds.shape != frames.shape[:1]:
                raise ValueError(
                    f"{name}: expected {len(frames)} float64 times, "
                    f"got {seconds.dtype} {tuple(seconds.shape)}"
                )
            if len(indices) != len(frames):
                raise ValueError(f"{name}: {len(frames)} frames, but {len(indices)} indices")
        if not len(self.keyframes_KCHW):
            raise ValueError("a clip needs at least one keyframe")


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """(height, width) with sides that are multiples of `factor`, area in min..max_pixels, aspect
    nearly kept.

    Qwen2.5-VL's rule, equal to transformers' `qwen2_vl.smart_resize` (a test compares them);
    written out because that module imports torchvision. Raises ValueError where one side is over
    200 times the other.
    Example: `smart_resize(1080, 1920, factor=28, min_pixels=3136, max_pixels=200704)` → `(336,
    588)`.
    """
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ValueError(
            f"one side may be at most {MAX_ASPECT_RATIO} times the other, got {width} x {height}"
        )
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


_FACTS = {  # the scalars of a clip
    "num_frames": int,
    "fps": float,
    "height": int,
    "width": int,
    "kind": str,
    "note": str,
}


def clip_to_tensors(clip: Clip) -> dict[str, torch.Tensor]:
    """Everything but the path and the variant: of a clip as `read_clip` gives it."""
    scalars = {name: kind(getattr(clip, name)) for name, kind in _FACTS.items()}
    parts = {name: getattr(clip, name) for name in ("crop", "stalls")}
    facts = json.dumps(scalars | {name: asdict(part) for name, part in parts.items() if part})
    return {
        "keyframes": clip.keyframes_KCHW,
        "motion": clip.motion_MCHW,
        "keyframe_seconds": clip.keyframe_seconds,
        "motion_seconds": clip.motion_seconds,
        "keyframe_indices": torch.tensor(clip.keyframe_indices, dtype=torch.int64),
        "motion_indices": torch.tensor(clip.motion_indices, dtype=torch.int64),
        # A tensor, as safetensors writes metadata entries in random order.
        "facts": torch.frombuffer(bytearray(facts.encode()), dtype=torch.uint8),
    }


def clip_from_tensors(tensors: dict[str, torch.Tensor], path: Path) -> Clip:
    """Raises ValueError where these are not exactly the tensors of a clip."""
    expected = {"keyframes", "motion", "keyframe_seconds", "motion_seconds"}
    expected |= {"keyframe_indices", "motion_indices", "facts"}
    if set(tensors) != expected:
        raise ValueError(f"tensors of a clip are {sorted(expected)}, got {sorted(tensors)}")
    facts = json.loads(bytes(tensors["facts"].tolist()))
    crop = facts.pop("crop", None) if isinstance(facts, dict) else None
    stalls = facts.pop("stalls", None) if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or {k: type(v) for k, v in facts.items()} != _FACTS:
        raise ValueError(f"facts of a clip are {list(_FACTS)}, got {facts!r:.80}")
    sides = {field.name for field in fields(Crop)}
    if crop is not None and not (isinstance(crop, dict) and set(crop) == sides):
        raise ValueError(f"the crop of a clip has {sorted(sides)}, got {crop!r:.80}")
    if stalls is not None:
        try:
            runs = tuple((first, stop) for first, stop in stalls.pop("runs"))
            stalls = FrameStalls(runs=runs, **stalls)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"the stalls of a clip are {stalls!r:.80}") from None
    indices = [tensors["keyframe_indices"], tensors["motion_indices"]]
    if any(tensor.dtype != torch.int64 or tensor.ndim != 1 for tensor in indices):
        raise ValueError("indices of a clip are one-dimensional int64 tensors")
    return Clip(
        path=path,
        keyframes_KCHW=tensors["keyframes"],
        motion_MCHW=tensors["motion"],
        keyframe_seconds=tensors["keyframe_seconds"],
        motion_seconds=tensors["motion_seconds"],
        keyframe_indices=tuple(indices[0].tolist()),
        motion_indices=tuple(indices[1].tolist()),
        crop=None if crop is None else Crop(**crop),
        stalls=stalls,
        **facts,
    )
