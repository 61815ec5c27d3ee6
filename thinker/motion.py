"""SlowFast and the motion encoder: frames in, motion tokens of the language model's width out.

Shape suffixes: B videos, K keyframes of a video, M dense frames of a video, N clips, T frames of a
clip on the fast path, S frames of a clip on the slow path, C channels, H height, W width,
L motion tokens of a keyframe (`tokens_per_frame`), D width of the language model.

In: uint8 RGB frames as `Clip` holds them, or float frames that are normalised already.
Out: motion tokens, (B, K, L, D) for mode "interleaved" and (B, 1, D) for mode "pooled".

Sources: SlowFast networks (arXiv 1812.03982, Table 1), with the topology and the parameter names of
pytorchvideo's public `slowfast_r50` 8x8 checkpoint, which loads by name. Mode "interleaved" is
VQA²'s motion extractor (arXiv 2411.03795): the fast pathway alone, on dense frames. Mode "pooled"
is the released VQAThinker (arXiv 2508.06051): both pathways on the sparse keyframes, pooled into
one token.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

# Fixed by the public 8x8 checkpoint; a network that differs here is another network.
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

MIN_VARIANCE = 1e-6  # over time; keeps the gradient of the square root finite for still content

MODES = ("interleaved", "pooled", "none")


# Configuration


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowFastConfig:
    """Depths and widths of a SlowFast network; the defaults are the public R50.

    After residual stage i = 0..3 the slow pathway has 4 * slow_width * 2**i channels and the fast
    pathway 1/beta_inv of that. R50: slow 256, 512, 1024, 2048; fast 32, 64, 128, 256.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)  # residual blocks of res2, res3, res4, res5
    slow_width: int = 64  # channels of the slow stem
    beta_inv: int = 8  # channels of the slow pathway per channel of the fast one

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

    Lives in a model's config.json as `motion_config`. Modes:
    - "interleaved": `num_motion_frames` dense frames in `num_keyframes` windows; each keyframe gets
      `tokens_per_frame` tokens, from its own window.
    - "pooled": one token a video, from the keyframes, by the rules of the released VQAThinker.
    - "none": there is no motion encoder.

    The released VQAThinker trained with num_keyframes=6 (448 px), slow_divisor=3, pool_repeats=6,
    and infers with num_keyframes=12 (560 px), slow_divisor=4, pool_repeats=4.

    Raises ValueError for values that do not fit together.
    """

    mode: str = "interleaved"
    slowfast: SlowFastConfig = SlowFastConfig()
    hidden_size: int = 3584  # D
    num_keyframes: int = 8  # K
    image_mean: tuple[float, float, float] | None = None  # of RGB in 0..1; None: see `mean_std`
    image_std: tuple[float, float, float] | None = None

    # "interleaved" only
    num_motion_frames: int = 128  # M, a multiple of K
    motion_px: int = 192  # side of the dense frames; as VQA² with Qwen2.5-VL
    tokens_per_frame: int = 4  # L, divides the M/K frames of a window
    max_positions: int = 2000  # rows of the positional embedding, as VQA²; at least K * L

    # "pooled" only
    slow_divisor: int = 3  # the slow pathway sees K // slow_divisor of the keyframes
    pool_repeats: int = 6  # each feature is repeated in time, to fill the pooling windows

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
        """Normalisation of uint8 frames; by default 0.5 (VQA²), in mode "pooled" ImageNet's."""
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


# SlowFast


def num_slow_frames(num_fast_frames: int) -> int:
    """Length of the slow clip that fits a fast clip: ceil(T / 4). Example: 32 -> 8, 6 -> 2."""
    return -(-num_fast_frames // ALPHA)


class _Stem(nn.Module):
    def __init__(self, channels: int, temporal_kernel: int) -> None:
        super().__init__()
        self.conv = _conv(3, channels, (temporal_kernel, 7, 7), spatial_stride=2)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        x_NCTHW = F.relu(self.norm(self.conv(x_NCTHW)), inplace=True)
        return F.max_pool3d(x_NCTHW, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))


class _Bottleneck(nn.Module):
    """Temporal, spatial and pointwise convolution; the stride is the spatial one's."""

    def __init__(self, dim_in: int, dim_out: int, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        dim_inner = dim_out // 4
        self.conv_a = _conv(dim_in, dim_inner, (temporal_kernel, 1, 1))
        self.norm_a = nn.BatchNorm3d(dim_inner)
        self.conv_b = _conv(dim_inner, dim_inner, (1, 3, 3), spatial_stride=stride)
        self.norm_b = nn.BatchNorm3d(dim_inner)
        self.conv_c = _conv(dim_inner, dim_out, (1, 1, 1))
        self.norm_c = nn.BatchNorm3d(dim_out)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        x_NCTHW = F.relu(self.norm_a(self.conv_a(x_NCTHW)), inplace=True)
        x_NCTHW = F.relu(self.norm_b(self.conv_b(x_NCTHW)), inplace=True)
        return self.norm_c(self.conv_c(x_NCTHW))


class _ResBlock(nn.Module):
    """A bottleneck and its shortcut, which is a projection in the first block of a stage."""

    branch1_conv: nn.Conv3d | None
    branch1_norm: nn.BatchNorm3d | None

    def __init__(
        self, dim_in: int, dim_out: int, temporal_kernel: int, stride: int, *, project: bool
    ) -> None:
        super().__init__()
        self.branch1_conv = (
            _conv(dim_in, dim_out, (1, 1, 1), spatial_stride=stride) if project else None
        )
        self.branch1_norm = nn.BatchNorm3d(dim_out) if project else None
        self.branch2 = _Bottleneck(dim_in, dim_out, temporal_kernel, stride)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        shortcut_NCTHW = x_NCTHW
        if self.branch1_conv is not None and self.branch1_norm is not None:
            shortcut_NCTHW = self.branch1_norm(self.branch1_conv(x_NCTHW))
        return F.relu(shortcut_NCTHW + self.branch2(x_NCTHW), inplace=True)


class _ResStage(nn.Module):
    def __init__(
        self, dim_in: int, dim_out: int, depth: int, temporal_kernel: int, stride: int
    ) -> None:
        super().__init__()
        first = _ResBlock(dim_in, dim_out, temporal_kernel, stride, project=True)
        others = [
            _ResBlock(dim_out, dim_out, temporal_kernel, 1, project=False) for _ in range(depth - 1)
        ]
        self.res_blocks = nn.ModuleList([first, *others])

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        for block in self.res_blocks:
            x_NCTHW = block(x_NCTHW)
        return x_NCTHW


class _FastToSlow(nn.Module):
    """Lateral connection: fast features, strided in time, appended to the slow channels."""

    def __init__(self, fast_channels: int) -> None:
        super().__init__()
        channels = FUSION_RATIO * fast_channels
        self.conv_fast_to_slow = nn.Conv3d(
            fast_channels,
            channels,
            (FUSION_KERNEL, 1, 1),
            stride=(ALPHA, 1, 1),
            padding=(FUSION_KERNEL // 2, 0, 0),
            bias=False,
        )
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, slow_NCSHW: Tensor, fast_NCTHW: Tensor) -> Tensor:
        lateral_NCSHW = F.relu(self.norm(self.conv_fast_to_slow(fast_NCTHW)), inplace=True)
        return torch.cat([slow_NCSHW, lateral_NCSHW], dim=1)


class _Block(nn.Module):
    """One stage of the present pathways, and the lateral connection behind it."""

    multipathway_fusion: _FastToSlow | None

    def __init__(self, pathways: dict[str, nn.Module], fusion: _FastToSlow | None) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleDict(pathways)
        self.multipathway_fusion = fusion

    def forward(self, slow_NCSHW: Tensor, fast_NCTHW: Tensor) -> tuple[Tensor, Tensor]:
        slow_NCSHW = self.multipathway_blocks[SLOW](slow_NCSHW)
        fast_NCTHW = self.multipathway_blocks[FAST](fast_NCTHW)
        if self.multipathway_fusion is not None:
            slow_NCSHW = self.multipathway_fusion(slow_NCSHW, fast_NCTHW)
        return slow_NCSHW, fast_NCTHW


class SlowFast(nn.Module):
    """SlowFast without its head: blocks 0 (stem) to 4 (res5) of pytorchvideo's `slowfast_r50`.

    The slow pathway never feeds the fast one, so `pathways="fast"` builds the fast pathway alone:
    0.51 M of the 33.6 M parameters of the R50.

    Always in eval mode, trained or not: BatchNorm is the only layer that knows the mode, and with
    batch statistics the embedding of a video would depend on the videos beside it and differ
    between rollout and scoring.
    """

    def __init__(self, config: SlowFastConfig, pathways: Literal["both", "fast"] = "both") -> None:
        super().__init__()
        if pathways not in ("both", "fast"):
            raise ValueError(f"pathways is {pathways!r}, expected 'both' or 'fast'")
        self.config = config
        self.pathways = pathways
        names = (SLOW, FAST) if pathways == "both" else (FAST,)
        width = {SLOW: config.slow_width, FAST: config.slow_width // config.beta_inv}
        # What enters a stage: its pathway's channels, and on the slow path the lateral ones too.
        lateral = FUSION_RATIO * width[FAST]
        dim_in = {SLOW: width[SLOW] + lateral, FAST: width[FAST]}
        stems = {name: _Stem(width[name], STEM_TEMPORAL_KERNEL[name]) for name in names}
        fusion = _FastToSlow(width[FAST]) if pathways == "both" else None
        blocks = [_Block(dict(stems), fusion)]
        for i, (depth, stride) in enumerate(zip(config.depths, STAGE_SPATIAL_STRIDES, strict=True)):
            dim_out = {name: 4 * width[name] * 2**i for name in width}
            stages = {
                name: _ResStage(
                    dim_in[name], dim_out[name], depth, STAGE_TEMPORAL_KERNELS[name][i], stride
                )
                for name in names
            }
            last = i == len(config.depths) - 1
            fusion = None if last or pathways == "fast" else _FastToSlow(dim_out[FAST])
            blocks.append(_Block(dict(stages), fusion))
            dim_in = {SLOW: dim_out[SLOW] + FUSION_RATIO * dim_out[FAST], FAST: dim_out[FAST]}
        self.blocks = nn.ModuleList(blocks)
        _mark_layers(self, {nn.Conv3d: "he", nn.BatchNorm3d: "ones"})
        self.train(False)

    def train(self, mode: bool = True) -> SlowFast:
        """Stays in eval mode whatever `mode` is; see the class."""
        del mode
        return super().train(False)

    def forward(self, slow_N3SHW: Tensor, fast_N3THW: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both pathways after res5, before any pooling.

        Returns (N, slow_channels, S, H/32, W/32) and (N, fast_channels, T, H/32, W/32), sides
        rounded up. Raises ValueError unless S = ceil(T/4).

        Example, R50: (1, 3, 8, 64, 64) and (1, 3, 32, 64, 64) give (1, 2048, 8, 2, 2) and
        (1, 256, 32, 2, 2).
        """
        if self.pathways == "fast":
            raise ValueError("this SlowFast was built with pathways='fast': use forward_fast")
        num_slow, num_fast = slow_N3SHW.shape[2], fast_N3THW.shape[2]
        if num_slow != num_slow_frames(num_fast):
            raise ValueError(
                f"{num_slow} slow frames do not fit {num_fast} fast frames, expected "
                f"{num_slow_frames(num_fast)}: a lateral connection has stride {ALPHA}"
            )
        for block in self.blocks:
            slow_N3SHW, fast_N3THW = block(slow_N3SHW, fast_N3THW)
        return slow_N3SHW, fast_N3THW

    def forward_fast(self, fast_N3THW: Tensor) -> Tensor:
        """The fast features of `forward` alone: (N, fast_channels, T, H/32, W/32)."""
        for block in self.blocks:
            assert isinstance(block, _Block)
            fast_N3THW = block.multipathway_blocks[FAST](fast_N3THW)
        return fast_N3THW

    def load_public_state_dict(self, state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Loads the state dict of a pytorchvideo SlowFast by name; returns the names discarded.

        Discarded are blocks 5 and 6 (pooling and classification head), and without a slow pathway
        also `multipathway_blocks.0` and `multipathway_fusion` of every block. Anything else that
        does not match is a ValueError that lists every missing and unexpected name and every
        shape; nothing is loaded then.
        """
        discard = _HEAD_KEY if self.pathways == "both" else _HEAD_OR_SLOW_KEY
        discarded = tuple(sorted(key for key in state_dict if discard.match(key)))
        given = {key: value for key, value in state_dict.items() if not discard.match(key)}
        own = self.state_dict()
        # Old PyTorch did not save this counter, and with a fixed momentum nothing reads it.
        required = {key for key in own if not key.endswith(".num_batches_tracked")}
        problems = [f"missing: {key}" for key in sorted(required - set(given))]
        problems += [f"unexpected: {key}" for key in sorted(set(given) - set(own))]
        problems += [
            f"shape of {key}: {tuple(given[key].shape)}, expected {tuple(own[key].shape)}"
            for key in sorted(set(own) & set(given))
            if given[key].shape != own[key].shape
        ]
        if problems:
            raise ValueError(
                f"this is no checkpoint of {self.config}, pathways {self.pathways!r}:\n"
                + "\n".join(problems)
            )
        self.load_state_dict(given, strict=False)
        return discarded


_HEAD_KEY = re.compile(r"blocks\.[56]\.")
_HEAD_OR_SLOW_KEY = re.compile(
    r"blocks\.[56]\.|blocks\.[0-4]\.(multipathway_blocks\.0|multipathway_fusion)\."
)


def _conv(
    dim_in: int, dim_out: int, kernel: tuple[int, int, int], spatial_stride: int = 1
) -> nn.Conv3d:
    """A convolution that keeps the length in time, without bias (a BatchNorm follows)."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    stride = (1, spatial_stride, spatial_stride)
    return nn.Conv3d(dim_in, dim_out, kernel, stride=stride, padding=padding, bias=False)


def read_slowfast_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """State dict of a SlowFast checkpoint: `.safetensors`, or `.pt`/`.pth`/`.pyth` holding it
    plainly or under "model_state" (the public `SLOWFAST_8x8_R50.pyth`). Runs no pickled code."""
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix not in (".pt", ".pth", ".pyth"):
        raise ValueError(f"{path}: expected a .safetensors, .pt, .pth or .pyth file")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping) and "model_state" in content:
        content = content["model_state"]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise ValueError(
            f"{path}: expected a mapping of names to tensors, plain or under 'model_state'"
        )
    return dict(content)


# Motion encoder


class MotionEncoder(nn.Module):
    """SlowFast and the projector to the language model.

    "interleaved": each of the K windows of M/K dense frames is a clip of its own for the fast
    pathway; its features are averaged over space, then their mean and standard deviation are taken
    over L equal time segments (a stutter moves the deviation, hardly the mean), standardised, given
    a learned absolute position (of the token within its video) and pass Linear, GELU, Linear.
    "pooled": see `pooled_features`; LayerNorm, Linear, GELU, Linear.

    Weights are PyTorch's defaults until `init_motion_weights` runs (a model's `_init_weights` hook
    calls it) or a checkpoint is loaded.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        if config.mode == "interleaved":
            channels = 2 * config.slowfast.fast_channels
            self.slowfast = SlowFast(config.slowfast, pathways="fast")
            # Mean 0 and variance 1 until `calibrate` knows better; always in eval mode, as SlowFast
            self.standardise = nn.BatchNorm1d(channels).train(False)
            self.position_embedding = nn.Embedding(config.max_positions, channels)
            self.projector = nn.Sequential(
                nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
            )
            _mark_layers(self.position_embedding, {nn.Embedding: "normal"})
            _mark_layers(self.projector, {nn.Linear: "normal"})
            _mark_layers(self.standardise, {nn.BatchNorm1d: "ones"})
        elif config.mode == "pooled":
            channels = config.slowfast.slow_channels + config.slowfast.fast_channels
            self.slowfast = SlowFast(config.slowfast, pathways="both")
            self.projector = nn.Sequential(
                nn.LayerNorm(channels),
                nn.Linear(channels, width),
                nn.GELU(),
                nn.Linear(width, width),
            )
            _mark_layers(self.projector, {nn.LayerNorm: "ones", nn.Linear: "uniform"})
        else:
            raise ValueError(f"mode {config.mode!r} has no motion encoder: do not build one")

    def train(self, mode: bool = True) -> MotionEncoder:
        """As `nn.Module.train`, but statistics never follow a batch; see `SlowFast`."""
        super().train(mode)
        if self.config.mode == "interleaved":
            self.standardise.train(False)
        return self

    @torch.no_grad()
    def calibrate(self, frames_BM3HW: Tensor) -> None:
        """Sets the BatchNorm statistics of a new encoder to those of some videos, once.

        With mean 0 and variance 1 a network that no checkpoint was loaded into hardly tells videos
        apart. Mode "interleaved"; frames as `forward` takes them.
        """
        norms = [
            part
            for part in self.modules()
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm3d)) and part is not self.standardise
        ]
        # SlowFast first: the statistics of its features depend on its own
        for group in (norms, [self.standardise]):
            for norm in group:
                norm.momentum, norm.training = 1.0, True
            self(frames_BM3HW)
            for norm in group:
                norm.momentum, norm.training = 0.1, False

    def freeze_slowfast(self) -> None:
        """Stops training SlowFast; the projector and the positions stay trainable."""
        self.slowfast.requires_grad_(False)

    def load_slowfast_checkpoint(self, path: str | Path) -> tuple[str, ...]:
        """Loads the public SlowFast checkpoint at `path`; returns the names it had no use for.

        Raises ValueError as `SlowFast.load_public_state_dict`.
        """
        return self.slowfast.load_public_state_dict(read_slowfast_checkpoint(path))

    def forward(self, frames: Tensor) -> Tensor:
        """Motion tokens of a batch of videos.

        "interleaved": frames (B, M, 3, px, px), M any multiple of `frames_per_window`; returns
        (B, K, L, D), [b, k] being the tokens of keyframe k. "pooled": frames are the keyframes,
        (B, K, 3, H, W); returns (B, 1, D). uint8 frames are normalised here (`mean_std`); float
        frames must be already. Raises ValueError for any other shape or dtype.

        Example: K = 2, M = 8, L = 2: token [b, 1, 0] is the mean over frames 4 and 5.
        """
        return self.project(self.features(frames))

    def features(self, frames: Tensor) -> Tensor:
        """SlowFast's features of frames as `forward` takes them, before anything that a frozen
        SlowFast leaves trainable: (B, K, L, 2 * fast_channels), in mode "pooled" (B, slow_channels
        + fast_channels)."""
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames are {tuple(frames.shape)}, expected (B, frames, 3, H, W)")
        frames = self._normalised(frames)
        pooled = self.config.mode == "pooled"
        return self.pooled_features(frames) if pooled else self.window_features(frames)

    def project(self, features: Tensor) -> Tensor:
        """Motion tokens of `features`, as `forward` returns them."""
        features = features.to(self._projector_dtype)
        if self.config.mode == "pooled":
            return self.projector(features)[:, None]
        features_BKLC = self.standardise(features.flatten(0, 2)).view_as(features)
        num_keyframes, num_tokens = features_BKLC.shape[1:3]
        check_num_positions(self.config, num_keyframes)
        positions = torch.arange(num_keyframes * num_tokens, device=features.device)
        positions_KLC = self.position_embedding(positions).unflatten(0, (num_keyframes, num_tokens))
        return self.projector(features_BKLC + positions_KLC)

    def window_features(self, frames_BM3HW: Tensor) -> Tensor:
        """(B, M, 3, px, px) normalised dense frames -> (B, K, L, 2 * fast_channels)."""
        config = self.config
        num_videos, num_frames = frames_BM3HW.shape[:2]
        size = tuple(frames_BM3HW.shape[3:])
        if num_frames == 0 or num_frames % config.frames_per_window:
            raise ValueError(
                f"{num_frames} dense frames a video, expected a multiple of the "
                f"{config.frames_per_window} frames of a window"
            )
        if size != (config.motion_px, config.motion_px):
            raise ValueError(f"dense frames are {size}, expected motion_px {config.motion_px}")
        windows_NT3HW = frames_BM3HW.reshape(-1, config.frames_per_window, *frames_BM3HW.shape[2:])
        features_NCTHW = self.slowfast.forward_fast(windows_NT3HW.transpose(1, 2))
        features_NCT = features_NCTHW.mean(dim=(3, 4))
        # Small deviations from a large mean need at least float32.
        precision = torch.promote_types(features_NCT.dtype, torch.float32)
        features_NCT = features_NCT.to(precision)
        means_NCL = segment_means(features_NCT, config.tokens_per_frame)
        segments_NCLt = features_NCT.unflatten(-1, (config.tokens_per_frame, -1))
        variances_NCL = segments_NCLt.var(dim=-1, correction=0).clamp(min=MIN_VARIANCE)
        features_NCL = torch.cat([means_NCL, variances_NCL.sqrt()], dim=1)
        return features_NCL.transpose(1, 2).unflatten(0, (num_videos, -1))

    def pooled_features(self, frames_BK3HW: Tensor) -> Tensor:
        """(B, K, 3, H, W) normalised keyframes -> (B, slow_channels + fast_channels).

        The rules of the released VQAThinker: the fast pathway sees every keyframe, the slow one
        `pooled_slow_indices`; each feature is repeated `pool_repeats` times in time; windows of
        (8, 7, 7) on the slow and (32, 7, 7) on the fast features are averaged at stride 1, then
        all of these averages. Frames under 193 px, which the released code cannot take, have
        maps smaller than 7 x 7: there the window is the whole map.
        """
        num_keyframes = frames_BK3HW.shape[1]
        check_pooled_length(self.config, num_keyframes)
        fast_B3KHW = frames_BK3HW.transpose(1, 2)
        slow_B3SHW = fast_B3KHW[:, :, pooled_slow_indices(num_keyframes, self.config.slow_divisor)]
        slow_BCSHW, fast_BCKHW = self.slowfast(slow_B3SHW, fast_B3KHW)
        pooled = [
            _sliding_mean(features, self.config.pool_repeats, kernel)
            for features, kernel in (
                (slow_BCSHW, POOL_KERNEL[SLOW]),
                (fast_BCKHW, POOL_KERNEL[FAST]),
            )
        ]
        return torch.cat(pooled, dim=1)

    @property
    def _projector_dtype(self) -> torch.dtype:
        return next(self.projector.parameters()).dtype

    def _normalised(self, frames: Tensor) -> Tensor:
        dtype = next(self.slowfast.parameters()).dtype
        if frames.is_floating_point():
            return frames.to(dtype)
        if frames.dtype != torch.uint8:
            raise ValueError(
                f"frames are {frames.dtype}, expected torch.uint8 or normalised float frames"
            )
        # At least float32: bfloat16 would merge neighbouring values of the 256.
        precision = torch.promote_types(dtype, torch.float32)
        mean, std = (
            torch.tensor(values, dtype=precision, device=frames.device).view(3, 1, 1)
            for values in self.config.mean_std
        )
        return frames.to(precision).div_(255).sub_(mean).div_(std).to(dtype)


def segment_means(x_NCT: Tensor, num_segments: int) -> Tensor:
    """(N, C, T) -> (N, C, L), means of equal time segments. Example: [1, 3, 5, 7], 2 -> [2, 6]."""
    return x_NCT.unflatten(-1, (num_segments, -1)).mean(dim=-1)


def pooled_slow_indices(num_keyframes: int, slow_divisor: int) -> list[int]:
    """Keyframes of the slow pathway: linspace(0, K - 1, K // slow_divisor), truncated.

    Example: (6, 3) -> [0, 5]; (12, 4) -> [0, 5, 11], the middle one 5.5.
    """
    # Spelled as released, so that float32 rounding can never choose another frame.
    positions = torch.linspace(
        0, num_keyframes - 1, num_keyframes // slow_divisor, dtype=torch.float32, device="cpu"
    )
    return positions.long().tolist()


def _sliding_mean(x_NCTHW: Tensor, repeats: int, kernel: tuple[int, int, int]) -> Tensor:
    """(N, C, T, H, W) -> (N, C): x repeated in time, averaged over windows, then over all windows.

    Written as one weighted mean (`window_weights` per axis): PyTorch has no 3-D pooling in
    bfloat16 on the CPU.
    """
    num_frames, height, width = x_NCTHW.shape[2:]
    weights_T = window_weights(num_frames * repeats, kernel[0]).view(-1, repeats).sum(dim=1)
    weights_H = window_weights(height, min(kernel[1], height))
    weights_W = window_weights(width, min(kernel[2], width))
    weights_THW = weights_T[:, None, None] * weights_H[:, None] * weights_W
    return (x_NCTHW * weights_THW.to(x_NCTHW)).sum(dim=(2, 3, 4))


def window_weights(length: int, kernel: int) -> Tensor:
    """Weight of each position in the mean over all windows at stride 1; (length,) in float64.

    Positions near a border lie in fewer windows. Example: length 4, kernel 2 -> windows 01, 12, 23
    -> [1, 2, 2, 1] / 6.
    """
    num_windows = length - kernel + 1
    position = torch.arange(length, dtype=torch.float64, device="cpu")
    covered = torch.minimum(position + 1, length - position).clamp(max=min(kernel, num_windows))
    return covered / (kernel * num_windows)


def init_motion_weights(module: nn.Module) -> None:
    """Draws the weights of one layer of a motion encoder, or of all layers of a MotionEncoder or
    SlowFast; leaves every other module alone.

    For a model's `_init_weights(module)` hook, after `super()`. It works on single layers because
    transformers shows the hook of a class from outside its own package no module that merely
    contains others. Weights that came from a checkpoint stay: transformers' `initialization`
    functions skip them.

    Convolutions: He normal, fan out. BatchNorm: the identity. Projector: "interleaved" normal of
    std 0.02, positions too; "pooled" U(0, 0.01), as released. Biases 0.
    """
    whole = isinstance(module, (SlowFast, MotionEncoder))
    for layer in module.modules() if whole else (module,):
        if hasattr(layer, _DRAW):
            _init_layer(layer)


def _init_layer(layer: nn.Module) -> None:
    for name, parameter in layer.named_parameters(recurse=False):
        if name == "bias":
            init.zeros_(parameter)
        else:
            _INIT_WEIGHT[getattr(layer, _DRAW)](parameter)
    for name, buffer in layer.named_buffers(recurse=False):  # of a BatchNorm
        if name == "running_var":
            init.ones_(buffer)
        else:
            init.zeros_(buffer)


_DRAW = "motion_draw"  # attribute of a layer: how its weight is drawn, a key of _INIT_WEIGHT
_INIT_WEIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "he": lambda weight: init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu"),
    "ones": init.ones_,
    "normal": lambda weight: init.normal_(weight, std=0.02),
    "uniform": lambda weight: init.uniform_(weight, 0.0, 0.01),
}


def _mark_layers(module: nn.Module, draws: dict[type[nn.Module], str]) -> None:
    for layer in module.modules():
        if type(layer) in draws:
            setattr(layer, _DRAW, draws[type(layer)])
