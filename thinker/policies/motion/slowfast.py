"""SlowFast without its head: clips in, feature maps of both pathways out.

Shape suffixes: N clips, T frames of a clip on the fast path, S frames of a clip on the slow path,
C channels, H height, W width.

Source: SlowFast networks (arXiv 1812.03982, Table 1), with the topology and the parameter names of
pytorchvideo's public `slowfast_r50` 8x8 checkpoint, which loads by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from thinker.policies.motion.config import (
    ALPHA,
    FAST,
    FUSION_KERNEL,
    FUSION_RATIO,
    SLOW,
    STAGE_SPATIAL_STRIDES,
    STAGE_TEMPORAL_KERNELS,
    STEM_TEMPORAL_KERNEL,
    SlowFastConfig,
    num_slow_frames,
)


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
    """One stage of both pathways and the lateral connection behind it, or of the fast one alone."""

    multipathway_fusion: _FastToSlow | None

    def __init__(self, pathways: dict[str, nn.Module], fusion: _FastToSlow | None) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleDict(pathways)
        self.multipathway_fusion = fusion

    def forward(
        self, fast_NCTHW: Tensor, slow_NCSHW: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if slow_NCSHW is None:
            return self.multipathway_blocks[FAST](fast_NCTHW), None
        slow_NCSHW = self.multipathway_blocks[SLOW](slow_NCSHW)
        fast_NCTHW = self.multipathway_blocks[FAST](fast_NCTHW)
        if self.multipathway_fusion is not None:
            slow_NCSHW = self.multipathway_fusion(slow_NCSHW, fast_NCTHW)
        return fast_NCTHW, slow_NCSHW


class SlowFast(nn.Module):
    """SlowFast without its head: blocks 0 (stem) to 4 (res5) of pytorchvideo's `slowfast_r50`.

    The slow pathway never feeds the fast one, so `pathways="fast"` builds the fast pathway alone:
    0.51 M of the 33.6 M parameters of the R50.

    Always in eval mode, trained or not: BatchNorm is the only layer that knows the mode, and with
    batch statistics the embedding of a video would depend on the videos beside it and differ
    between rollouts and their log-probabilities.
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
        mark_layers(self, {nn.Conv3d: "he", nn.BatchNorm3d: "ones"})
        self.train(False)

    def train(self, mode: bool = True) -> SlowFast:
        """Stays in eval mode whatever `mode` is; see the class."""
        del mode
        return super().train(False)

    def forward(
        self, fast_N3THW: Tensor, slow_N3SHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Features of the fast and the slow pathway after res5, before any pooling.

        Returns (N, fast_channels, T, H/32, W/32) and (N, slow_channels, S, H/32, W/32), sides
        rounded up. Without slow frames the fast pathway runs alone, with the same features, and the
        second result is None. Raises ValueError unless S = ceil(T/4), and for slow frames where
        there is no slow pathway.

        Example, R50: (1, 3, 32, 64, 64) and (1, 3, 8, 64, 64) give (1, 256, 32, 2, 2) and
        (1, 2048, 8, 2, 2).
        """
        if slow_N3SHW is not None:
            if self.pathways == "fast":
                raise ValueError(
                    "slow frames were given to a SlowFast with pathways='fast', expected only fast "
                    "ones"
                )
            num_slow, num_fast = slow_N3SHW.shape[2], fast_N3THW.shape[2]
            if num_slow != num_slow_frames(num_fast):
                raise ValueError(
                    f"{num_slow} slow frames do not fit {num_fast} fast frames, expected "
                    f"{num_slow_frames(num_fast)}: a lateral connection has stride {ALPHA}"
                )
        for block in self.blocks:
            fast_N3THW, slow_N3SHW = block(fast_N3THW, slow_N3SHW)
        return fast_N3THW, slow_N3SHW

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


def init_layer(layer: nn.Module) -> None:
    """Draw the parameters of a layer that `mark_layers` marked and reset its statistics."""
    for name, parameter in layer.named_parameters(recurse=False):
        if name == "bias":
            init.zeros_(parameter)
        else:
            _INIT_WEIGHT[getattr(layer, DRAW)](parameter)
    for name, buffer in layer.named_buffers(recurse=False):  # of a BatchNorm
        if name == "running_var":
            init.ones_(buffer)
        else:
            init.zeros_(buffer)


DRAW = "motion_draw"
"""Attribute of a layer: how its weight is drawn, a key of `_INIT_WEIGHT`."""

_INIT_WEIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "he": lambda weight: init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu"),
    "ones": init.ones_,
    "normal": lambda weight: init.normal_(weight, std=0.02),
    "uniform": lambda weight: init.uniform_(weight, 0.0, 0.01),
}


def mark_layers(module: nn.Module, draws: dict[type[nn.Module], str]) -> None:
    """Note at all layers of some types how their weights are drawn; see `DRAW`."""
    for layer in module.modules():
        if type(layer) in draws:
            setattr(layer, DRAW, draws[type(layer)])
