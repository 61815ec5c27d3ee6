"""SlowFast and the motion encoder: frames in, motion tokens of the language model's width out.

Shape suffixes: B videos, K keyframes of a video, M dense frames of a video, N clips, T frames of a
clip on the fast path, S frames of a clip on the slow path, C channels, H height, W width,
L motion tokens of a keyframe (`tokens_per_frame`), D width of the language model.

In: uint8 RGB frames as `Clip` holds them, or float frames that are normalised already.
Out: motion tokens, (B, K, L, D) for mode "interleaved", (B, 1, D) for mode "pooled", (B, M, D) for
the modes "frames" and "frames_viewed".

Sources: SlowFast networks (arXiv 1812.03982, Table 1), with the topology and the parameter names of
pytorchvideo's public `slowfast_r50` 8x8 checkpoint, which loads by name. Mode "interleaved" is
VQA²'s motion extractor (arXiv 2411.03795): the fast pathway alone, on dense frames. Mode "pooled"
is the released VQAThinker (arXiv 2508.06051): both pathways on the sparse keyframes, pooled into
one token. "frames" is the released VQA² and "frames_viewed" the released VITAL (arXiv 2511.17962).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from thinker.policies.motion.config import (
    FAST,
    POOL_KERNEL,
    SLOW,
    MotionConfig,
    check_num_positions,
    check_pooled_length,
)
from thinker.policies.motion.slowfast import (
    DRAW,
    SlowFast,
    init_layer,
    mark_layers,
    read_slowfast_checkpoint,
)

MIN_VARIANCE = 1e-6
"""Smallest variance over time; keeps the gradient of the square root finite for still content."""


class MotionEncoder(nn.Module):
    """SlowFast and the projector to the language model.

    "interleaved": each of the K windows of M/K dense frames is a clip of its own for the fast
    pathway; its features are averaged over space, then their mean and standard deviation are taken
    over L equal time segments (a stutter moves the deviation, hardly the mean), standardised, given
    a learned absolute position (of the token within its video) and pass Linear, GELU, Linear.
    "pooled": see `pooled_features`; LayerNorm, Linear, GELU, Linear.
    "frames", "frames_viewed": see `frame_features`; the first adds a position to each frame's and
    passes Linear, GELU, Linear, the second LayerNorm, Linear, GELU, Linear.

    Weights are PyTorch's defaults until `init_motion_weights` runs (a model's `_init_weights` hook
    calls it) or a checkpoint is loaded.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.hidden_size, config.feature_channels
        if config.mode == "none":
            raise ValueError("mode 'none' has no motion encoder: do not build one")
        both = config.mode == "pooled"
        self.slowfast = SlowFast(config.slowfast, pathways="both" if both else "fast")
        if config.mode == "interleaved":
            # Mean 0 and variance 1 until `calibrate` knows better; always in eval mode, as SlowFast
            self.standardise = nn.BatchNorm1d(channels).train(False)
            mark_layers(self.standardise, {nn.BatchNorm1d: "ones"})
        norm: list[nn.Module] = []
        if config.has_positions:
            self.position_embedding = nn.Embedding(config.max_positions, channels)
            mark_layers(self.position_embedding, {nn.Embedding: "normal"})
        else:
            norm = [nn.LayerNorm(channels)]
        self.projector = nn.Sequential(
            *norm, nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
        )
        drawn = "normal" if config.has_positions else "uniform"
        mark_layers(self.projector, {nn.LayerNorm: "ones", nn.Linear: drawn})

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

    def load_slowfast_checkpoint(self, path: str | Path) -> tuple[str, ...]:
        """Loads the public SlowFast checkpoint at `path`; returns the names it had no use for.

        Raises ValueError as `SlowFast.load_public_state_dict`.
        """
        return self.slowfast.load_public_state_dict(read_slowfast_checkpoint(path))

    def forward(self, frames: Tensor) -> Tensor:
        """Motion tokens of a batch of videos.

        "interleaved": frames (B, M, 3, px, px), M any multiple of `frames_per_window`; returns
        (B, K, L, D), [b, k] being the tokens of keyframe k. "pooled": frames are the keyframes,
        (B, K, 3, H, W); returns (B, 1, D). "frames", "frames_viewed": (B, M, 3, px, px) with any M;
        returns (B, M, D). uint8 frames are normalised here (`mean_std`); float frames must be
        already. Raises ValueError for any other shape or dtype.

        Example: K = 2, M = 8, L = 2: token [b, 1, 0] is the mean over frames 4 and 5.
        """
        return self.project(self.features(frames))

    def features(self, frames: Tensor) -> Tensor:
        """What SlowFast gives, before the standardisation, positions and projector, which may be
        trained while SlowFast is frozen.

        Of frames as `forward` takes them: (B, K, L, C), in mode "pooled" (B, C), in the modes
        "frames" and "frames_viewed" (B, M, C), C being `MotionConfig.feature_channels`. `slowfast`
        is called once, with normalised clips (N, 3, T, H, W).
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames are {tuple(frames.shape)}, expected (B, frames, 3, H, W)")
        frames = self._normalised(frames)
        if self.config.mode == "pooled":
            return self.pooled_features(frames)
        self._check_size(frames)
        if self.config.per_frame:
            return self.frame_features(frames)
        return self.window_features(frames)

    def project(self, features: Tensor) -> Tensor:
        """Motion tokens of `features`, as `forward` returns them."""
        features = features.to(self._projector_dtype)
        if self.config.mode == "pooled":
            return self.projector(features)[:, None]
        if self.config.per_frame:
            return self.projector(self._placed(features))
        features_BKLC = self.standardise(features.flatten(0, 2)).view_as(features)
        num_keyframes, num_tokens = features_BKLC.shape[1:3]
        check_num_positions(self.config, num_keyframes * num_tokens)
        positions = torch.arange(num_keyframes * num_tokens, device=features.device)
        positions_KLC = self.position_embedding(positions).unflatten(0, (num_keyframes, num_tokens))
        return self.projector(features_BKLC + positions_KLC)

    def _placed(self, features_BMC: Tensor) -> Tensor:
        """Features with a position each, where the mode has them."""
        if not self.config.has_positions:
            return features_BMC
        num_frames = features_BMC.shape[1]
        check_num_positions(self.config, num_frames)
        return features_BMC + self.position_embedding.weight[:num_frames]

    def frame_features(self, frames_BM3HW: Tensor) -> Tensor:
        """(B, M, 3, px, px) normalised dense frames -> (B, M, fast_channels).

        The whole video is one clip for the fast pathway, whose features are averaged over space:
        (B, fast_channels, M). "frames" transposes them, so that row m is frame m. "frames_viewed"
        takes them as they lie in memory: entry c of row m is that of channel f div M and frame
        f mod M, f = fast_channels · m + c. Example: 2 channels of 3 frames, a b c and d e f, are
        the rows (a, d), (b, e), (c, f) and (a, b), (c, d), (e, f).
        """
        features_BCMHW, _ = self.slowfast(frames_BM3HW.transpose(1, 2))
        features_BCM = features_BCMHW.mean(dim=(3, 4))
        if self.config.mode == "frames":
            return features_BCM.transpose(1, 2)
        num_videos, num_channels, num_frames = features_BCM.shape
        return features_BCM.contiguous().view(num_videos, num_frames, num_channels)

    def window_features(self, frames_BM3HW: Tensor) -> Tensor:
        """(B, M, 3, px, px) normalised dense frames -> (B, K, L, 2 * fast_channels)."""
        config = self.config
        num_videos, num_frames = frames_BM3HW.shape[:2]
        if num_frames == 0 or num_frames % config.frames_per_window:
            raise ValueError(
                f"{num_frames} dense frames a video, expected a multiple of the "
                f"{config.frames_per_window} frames of a window"
            )
        windows_NT3HW = frames_BM3HW.reshape(-1, config.frames_per_window, *frames_BM3HW.shape[2:])
        features_NCTHW, _ = self.slowfast(windows_NT3HW.transpose(1, 2))
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
        fast_BCKHW, slow_BCSHW = self.slowfast(fast_B3KHW, slow_B3SHW)
        pooled = [
            _sliding_mean(features, self.config.pool_repeats, kernel)
            for features, kernel in (
                (slow_BCSHW, POOL_KERNEL[SLOW]),
                (fast_BCKHW, POOL_KERNEL[FAST]),
            )
        ]
        return torch.cat(pooled, dim=1)

    def _check_size(self, frames_BM3HW: Tensor) -> None:
        size, px = tuple(frames_BM3HW.shape[3:]), self.config.motion_px
        if size != (px, px):
            raise ValueError(f"dense frames are {size}, expected motion_px {px}")

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

    Convolutions: He normal, fan out. BatchNorm: the identity. Projector: normal of std 0.02 where
    there are positions, which are drawn so, too; else U(0, 0.01), as released. Biases 0.
    """
    whole = isinstance(module, (SlowFast, MotionEncoder))
    for layer in module.modules() if whole else (module,):
        if hasattr(layer, DRAW):
            init_layer(layer)
