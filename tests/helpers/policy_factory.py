"""Tiny policies and clips for tests: real classes, small sizes, no files needed."""

from pathlib import Path

import torch

from thinker.policies import Policy, TinySize, tiny_policy
from thinker.video import Clip

BACKBONES = ("internvl3", "qwen2_5_vl")
SIZE = TinySize(
    width=32, layers=2, heads=2, vision_width=32, vision_layers=2, frame_px=40, patch_px=10,
    patches_merged=2, num_keyframes=2, num_motion_frames=8, motion_px=32,
    tokens_per_frame=2, slow_width=8,
)  # fmt: skip


def small_policy(backbone: str, *, amplify: float = 3.0, size: TinySize = SIZE) -> Policy:
    """A tiny policy whose weights are scaled up, so that a wrong position or mask cannot hide."""
    policy = tiny_policy(backbone, size=size, texts=("It is blur.",))
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if parameter.dim() > 1 and "slowfast" not in name:
                parameter.mul_(amplify)
    return policy


def random_clip(policy: Policy, seed: int, *, height: int = 40, width: int = 40) -> Clip:
    """A clip of noise in the form the policy reads; InternVL's frames have its own size."""
    spec = policy.inputs.clip_spec
    if spec.resize == "square":
        height = width = spec.keyframe_px
    draw = torch.Generator().manual_seed(seed)
    num_keyframes, num_motion = spec.num_keyframes, spec.num_motion_frames

    def frames(count: int, rows: int, columns: int) -> torch.Tensor:
        shape = (count, 3, rows, columns)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)

    return Clip(
        path=Path(f"clip{seed}.mp4"),
        keyframes_KCHW=frames(num_keyframes, height, width),
        motion_MCHW=frames(num_motion, spec.motion_px, spec.motion_px),
        keyframe_seconds=torch.arange(num_keyframes, dtype=torch.float64),
        motion_seconds=torch.arange(num_motion, dtype=torch.float64),
        keyframe_indices=tuple(range(num_keyframes)),
        motion_indices=tuple(range(num_motion)),
        num_frames=max(num_keyframes, num_motion),
        fps=24.0,
        height=height,
        width=width,
    )
