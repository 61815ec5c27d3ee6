"""Settings of SlowFast and of the motion encoder, and what fits together.

Sources: SlowFast networks (arXiv 1812.03982, Table 1), with the topology of pytorchvideo's public
`slowfast_r50` 8x8 checkpoint; VQA² (arXiv 2411.03795) and the released VQAThinker (arXiv
2508.06051) for the defaults of the two modes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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

MODES = ("interleaved", "pooled", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowFastConfig:
    """Depths and widths of a SlowFast network; the defaults are the public R50.

    After residual stage i = 0..3 the slow pathway has 4 * slow_width * 2**i channels and the fast
    pathway 1/beta_inv of that. R50: slow 256, 512, 1024, 2048; fast 32, 64, 128, 256.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Residual blocks of res2, res3, res4, res5."""

    slow_width: int = 64
    """Channels of the slow stem."""

    beta_inv: int = 8
    """Channels of the slow pathway per channel of the fast one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))  # JSON has lists only
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SlowFastConfig:
        """Raises ValueError for a key that is no field."""
        _check_keys(cls, values)
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """What the motion encoder sees and how many tokens it makes of it.

    Lives in a model's config.json as `motion_config`. The released VQAThinker trained with
    num_keyframes=6 (448 px), slow_divisor=3, pool_repeats=6, and infers with num_keyframes=12
    (560 px), slow_divisor=4, pool_repeats=4.

    Raises ValueError for values that do not fit together.
    """

    mode: str = "interleaved"
    """"interleaved": `num_motion_frames` dense frames in `num_keyframes` windows; each keyframe
    gets `tokens_per_frame` tokens, from its own window. "pooled": one token a video, from the
    keyframes, by the rules of the released VQAThinker. "none": there is no motion encoder."""

    slowfast: SlowFastConfig = SlowFastConfig()
    """Sizes of the SlowFast network."""

    hidden_size: int = 3584
    """D, the width of the language model."""

    num_keyframes: int = 8
    """K, the keyframes of a video."""

    image_mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue in 0..1, for normalising; None: see `mean_std`."""

    image_std: tuple[float, float, float] | None = None
    """Standard deviation of red, green and blue, given together with `image_mean`."""

    num_motion_frames: int = 128
    """M, the dense frames of a video, a multiple of K; mode "interleaved" only."""

    motion_px: int = 192
    """Side of the dense frames, as VQA² with Qwen2.5-VL; mode "interleaved" only."""

    tokens_per_frame: int = 4
    """L, which divides the M/K frames of a window; mode "interleaved" only."""

    max_positions: int = 2000
    """Rows of the positional embedding, as VQA², at least K * L; mode "interleaved" only."""

    slow_divisor: int = 3
    """The slow pathway sees K // slow_divisor of the keyframes; mode "pooled" only."""

    pool_repeats: int = 6
    """Each feature is repeated so often in time, to fill the pooling windows; mode "pooled"
    only."""

    def __post_init__(self) -> None:
        if isinstance(self.slowfast, Mapping):
            object.__setattr__(self, "slowfast", SlowFastConfig.from_dict(self.slowfast))
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, expected one of {', '.join(MODES)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{field.name} is {value!r}, expected an integer of at least 1")
        self._check_mean_std()
        if self.mode == "interleaved":
            self._check_windows()
        elif self.mode == "pooled":
            check_pooled_length(self, self.num_keyframes)

    def _check_mean_std(self) -> None:
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if value is not None and len(value) != 3:
                raise ValueError(f"{name} is {value}, expected three numbers (red, green, blue)")
            object.__setattr__(self, name, None if value is None else tuple(value))
        if (self.image_mean is None) != (self.image_std is None):
            raise ValueError("image_mean and image_std belong together: give both or neither")

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
        check_num_positions(self, self.num_keyframes)

    @property
    def frames_per_window(self) -> int:
        """Dense frames that belong to one keyframe, M/K."""
        return self.num_motion_frames // self.num_keyframes

    @property
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that normalise uint8 frames: those given, else ImageNet's in
        mode "pooled" and 0.5 (VQA²) in mode "interleaved"."""
        if self.image_mean is not None and self.image_std is not None:
            return self.image_mean, self.image_std
        return IMAGENET_MEAN_STD if self.mode == "pooled" else VQA2_MEAN_STD

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MotionConfig:
        """Raises ValueError for a key that is no field."""
        _check_keys(cls, values)
        return cls(**values)


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return list(values) if isinstance(values, tuple) else values


def _check_keys(cls: type, values: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"unknown key of {cls.__name__}: {', '.join(unknown)}; known: {', '.join(known)}"
        )


def check_num_positions(config: MotionConfig, num_keyframes: int) -> None:
    """Raises ValueError when the motion tokens of a video outnumber the positional embedding."""
    num_tokens = num_keyframes * config.tokens_per_frame
    if num_tokens > config.max_positions:
        raise ValueError(
            f"{num_keyframes} keyframes with {config.tokens_per_frame} motion tokens each need "
            f"{num_tokens} positions, max_positions is {config.max_positions}"
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
