"""Settings of SlowFast and of the motion encoder, and what fits together.

Sources: SlowFast networks (arXiv 1812.03982, Table 1), with the topology of pytorchvideo's public
`slowfast_r50` 8x8 checkpoint; VQA² (arXiv 2411.03795) for the defaults of "interleaved" and for
"frames", the released VQAThinker (arXiv 2508.06051) for "pooled", VITAL (arXiv 2511.17962) for
"frames_viewed".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import FiniteFloat

from thinker.config.build import build

# These are fixed by the public 8x8 checkpoint; a network that differs here is another network.
ALPHA = 4  # fast frames per slow frame
FUSION_KERNEL = 7  # temporal extent of a lateral connection, of stride ALPHA
FUSION_RATIO = 2  # a lateral connection doubles the channels of the fast pathway
SLOW, FAST = "0", "1"  # names of the pathways inside `multipathway_blocks`
STEM_TEMPORAL_KERNEL = {SLOW: 1, FAST: 5}
STAGE_TEMPORAL_KERNELS = {SLOW: (1, 1, 3, 3), FAST: (3, 3, 3, 3)}
STAGE_SPATIAL_STRIDES = (1, 2, 2, 2)
POOL_KERNEL = {SLOW: (8, 7, 7), FAST: (32, 7, 7)}  # of the checkpoint's head, made for 224 px clips

IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VQA2_MEAN_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

PER_FRAME_MODES = ("frames", "frames_viewed")
MODES = ("interleaved", "pooled", *PER_FRAME_MODES, "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowFastConfig:
    """Depths and widths of a SlowFast network; the defaults are the public R50.

    After residual stage i = 0..3 the slow pathway has 4 * slow_width * 2**i channels and the fast
    pathway 1/beta_inv of that. R50: slow 256, 512, 1024, 2048; fast 32, 64, 128, 256.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Number of residual blocks in each of the stages res2, res3, res4 and res5."""
    slow_width: int = 64
    """Channels of the slow pathway's stem."""
    beta_inv: int = 8
    """Channels of the slow pathway for each channel of the fast one."""

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ValueError(f"depths is {self.depths}, expected four numbers of at least 1")
        if min(self.slow_width, self.beta_inv) < 1 or self.slow_width % self.beta_inv:
            raise ValueError(
                f"slow_width is {self.slow_width} and beta_inv {self.beta_inv}, expected positive "
                "numbers, the first a multiple of the second"
            )

    @property
    def slow_channels(self) -> int:
        """Channels of the slow features after res5; 2048 for R50."""
        return 32 * self.slow_width

    @property
    def fast_channels(self) -> int:
        """Channels of the fast features after res5; 256 for R50."""
        return self.slow_channels // self.beta_inv


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """What the motion encoder sees and how many tokens it makes of it.

    Lives in a model's config.json as `motion_config`. Modes:
    - "interleaved": `num_motion_frames` dense frames in `num_keyframes` windows; each keyframe gets
      `tokens_per_frame` tokens, from its own window.
    - "pooled": one token a video, from the keyframes, by the rules of the released VQAThinker.
    - "frames": one token a dense frame, of as many frames as a video has, by the rules of the
      released VQA²: a position is added to the feature of each frame.
    - "frames_viewed": the same by the rules of the released VITAL: no positions, and the array of
      features (channels, frames) is *viewed* as one row a frame instead of being transposed, so
      that a row mixes channels and moments. Its weights were trained so.
    - "none": there is no motion encoder.

    The released VQAThinker trained with num_keyframes=6 (448 px), slow_divisor=3, pool_repeats=6,
    and infers with num_keyframes=12 (560 px), slow_divisor=4, pool_repeats=4.

    Raises ValueError for values that do not fit together.
    """

    mode: str = "interleaved"
    """One of the modes above."""
    slowfast: SlowFastConfig = SlowFastConfig()
    """Sizes of the SlowFast network."""
    hidden_size: int = 3584
    """Width D of a motion token, which is that of the language model."""
    num_keyframes: int = 8
    """Number K of keyframes of a video; the most of them where their number follows from its
    length."""
    image_mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    """Mean that frames are normalised by: red, green and blue in 0..1. None takes the default of
    the mode, see `mean_std`."""
    image_std: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    """Deviation that frames are normalised by; given together with `image_mean` or not at all."""

    num_motion_frames: int = 128
    """Number M of dense frames of a video, a multiple of K in mode "interleaved"; the most of them
    in the modes "frames" and "frames_viewed"."""
    motion_px: int = 192
    """Side of the square that dense frames are stretched to, as in VQA² with Qwen2.5-VL."""
    tokens_per_frame: int = 4
    """Number L of motion tokens of a keyframe. It divides the M/K frames of a window. Mode
    "interleaved" only."""
    max_positions: int = 2000
    """Rows of the positional embedding of motion tokens, as in VQA²; at least K * L in mode
    "interleaved", at least M in mode "frames"."""

    slow_divisor: int = 3
    """The slow pathway sees K // slow_divisor of the keyframes. Mode "pooled" only."""
    pool_repeats: int = 6
    """How often each feature is repeated in time, to fill the pooling windows. Mode "pooled"
    only."""

    twice: bool = False
    """Whether the motion tokens of a video stand behind its visual tokens and then a second time in
    a place of their own, as in VQA²'s code for questions. Mode "frames" only."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, expected one of {', '.join(MODES)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < 1:
                raise ValueError(f"{field.name} is {value!r}, expected an integer of at least 1")
        if (self.image_mean is None) != (self.image_std is None):
            raise ValueError("image_mean and image_std belong together: give both or neither")
        if self.twice and self.mode != "frames":
            raise ValueError(f"twice is for mode 'frames', the mode is {self.mode!r}")
        if self.mode == "interleaved":
            self._check_windows()
        elif self.mode == "pooled":
            check_pooled_length(self, self.num_keyframes)
        elif self.mode == "frames":
            check_num_positions(self, self.num_motion_frames)

    def _check_windows(self) -> None:
        if self.num_motion_frames % self.num_keyframes:
            raise ValueError(
                f"num_motion_frames is {self.num_motion_frames}, expected a multiple of "
                f"num_keyframes ({self.num_keyframes}): all windows have one length"
            )
        if self.frames_per_window % self.tokens_per_frame:
            raise ValueError(
                f"tokens_per_frame is {self.tokens_per_frame}, expected a divisor of the "
                f"{self.frames_per_window} frames of a window (num_motion_frames / num_keyframes)"
            )
        check_num_positions(self, self.num_keyframes * self.tokens_per_frame)

    @property
    def per_frame(self) -> bool:
        """Whether each dense frame becomes one token."""
        return self.mode in PER_FRAME_MODES

    @property
    def has_positions(self) -> bool:
        """Whether each motion token has a learned position."""
        return self.mode in ("interleaved", "frames")

    @property
    def feature_channels(self) -> int:
        """Channels of a feature that the projector is given: mean and deviation of the fast
        pathway's, those of both pathways, or the fast pathway's."""
        fast, slow = self.slowfast.fast_channels, self.slowfast.slow_channels
        return {"interleaved": 2 * fast, "pooled": slow + fast}.get(self.mode, fast)

    @property
    def has_own_frames(self) -> bool:
        """Whether the motion encoder sees dense frames, and not the keyframes."""
        return self.mode == "interleaved" or self.per_frame

    @property
    def stands_behind(self) -> bool:
        """Whether the motion tokens of a video stand behind all its visual tokens."""
        return self.mode == "pooled" or self.per_frame

    @property
    def frames_per_window(self) -> int:
        """Dense frames that belong to one keyframe, M/K."""
        return self.num_motion_frames // self.num_keyframes

    @property
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that normalise uint8 frames: those given, else ImageNet's in
        the modes "pooled" and "frames_viewed" and 0.5 (VQA²) in the others."""
        if self.image_mean is not None and self.image_std is not None:
            return self.image_mean, self.image_std
        imagenet = self.mode in ("pooled", "frames_viewed")
        return IMAGENET_MEAN_STD if imagenet else VQA2_MEAN_STD

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MotionConfig:
        """Raises ValueError for keys and values that are not those of the fields."""
        return build(cls, values, "motion_config")


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return list(values) if isinstance(values, tuple) else values


def check_num_positions(config: MotionConfig, num_tokens: int) -> None:
    """Raises ValueError when the motion tokens of a video outnumber the positional embedding."""
    if num_tokens > config.max_positions:
        raise ValueError(
            f"{num_tokens} motion tokens need {num_tokens} positions, max_positions is "
            f"{config.max_positions}"
        )


def check_pooled_length(config: MotionConfig, num_keyframes: int) -> None:
    """Raises ValueError where mode "pooled" cannot run: the lateral connections turn K fast frames
    into ceil(K/4) slow ones, and repeated features must fill the pooling windows of 8 and 32."""
    num_slow = num_keyframes // config.slow_divisor
    if num_slow != num_slow_frames(num_keyframes):
        raise ValueError(
            f"{num_keyframes} keyframes with slow_divisor {config.slow_divisor} give {num_slow} "
            f"slow frames, the lateral connections need {num_slow_frames(num_keyframes)}"
        )
    for pathway, length in ((SLOW, num_slow), (FAST, num_keyframes)):
        if length * config.pool_repeats < POOL_KERNEL[pathway][0]:
            raise ValueError(
                f"{length} features in time, each repeated {config.pool_repeats} times, are "
                f"shorter than the pooling window of {POOL_KERNEL[pathway][0]}: raise pool_repeats"
            )


def num_slow_frames(num_fast_frames: int) -> int:
    """Length of the slow clip that fits a fast clip: ceil(T / 4). Example: 32 -> 8, 6 -> 2."""
    return -(-num_fast_frames // ALPHA)
