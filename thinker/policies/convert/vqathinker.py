"""The released VQAThinker checkpoint (arXiv 2508.06051) → a policy in motion mode "pooled"."""

from dataclasses import dataclass
from pathlib import Path

from thinker.policies.convert.internvl_chat import Recipe, convert_internvl_chat
from thinker.policies.inputs import ClipConfig
from thinker.policies.motion import MotionConfig


@dataclass(frozen=True, kw_only=True)
class ReleasedSetting:
    """How one of the two published programs runs the weights."""

    num_keyframes: int
    """Frames over the whole video."""

    px: int
    """Side of the square that frames are stretched to."""

    slow_divisor: int
    """See `MotionConfig.slow_divisor`."""

    pool_repeats: int
    """See `MotionConfig.pool_repeats`."""

    layout: str
    """See `ClipConfig.layout`."""


SETTINGS = {
    # inference code, which the published results are from
    "12x560": ReleasedSetting(
        num_keyframes=12, px=560, slow_divisor=4, pool_repeats=4, layout="inline"
    ),
    # training code
    "6x448": ReleasedSetting(
        num_keyframes=6, px=448, slow_divisor=3, pool_repeats=6, layout="lines"
    ),
}


def convert_checkpoint(source: Path, target: Path, setting: str = "12x560") -> int:
    """Convert the folder `source` into the new folder `target`; returns the tensors written.

    setting: a key of `SETTINGS`. Raises ValueError for whatever `source` lacks or has too much of;
    `target` then does not exist.
    """
    chosen = SETTINGS[setting]
    recipe = Recipe(
        name=f"VQAThinker, setting {setting}",
        motion=MotionConfig(
            mode="pooled",
            num_keyframes=chosen.num_keyframes,
            slow_divisor=chosen.slow_divisor,
            pool_repeats=chosen.pool_repeats,
        ),
        clip=ClipConfig(
            num_keyframes=chosen.num_keyframes,
            keyframe_px=chosen.px,
            layout=chosen.layout,
            resampler="pil",
            reader="decord",
            stills="video",
        ),
    )
    return convert_internvl_chat(source, target, recipe)
