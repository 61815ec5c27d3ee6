"""Tiny policies and clips for tests: real classes, small sizes, no files needed."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from thinker.policies import BACKBONES as REGISTERED
from thinker.policies import Policy, Prompt, TinySize, tiny_policy
from thinker.prompts import Turn, ask
from thinker.video import Clip

BACKBONES = tuple(os.environ.get("THINKER_BACKBONES", "internvl3 qwen2_5_vl").split())
"""Those that every equality test runs on, two unless told otherwise. run_scripts/test_backbones.sh
runs the tests on the others."""
ALL_BACKBONES = tuple(
    dict.fromkeys([*BACKBONES, "internvl3_5", "llava_onevision", "qwen2_vl", "qwen3_vl"])
)
"""Those that the tests run on that a backbone most needs."""
OTHERS = tuple(name for name in ALL_BACKBONES if name not in BACKBONES)
"""Those that run_scripts/test_backbones.sh is for."""
FRAME_POLICIES = {
    "vital": ("internvl3", "frames_viewed"),
    "vqa2": ("llava_onevision", "frames"),
}
"""Small policies whose motion tokens are one a frame, by name: (backbone, motion mode). Their clips
differ in length. Each goes through some of the equality tests."""
SIZE = TinySize(
    width=32, layers=2, heads=2, vision_width=32, vision_layers=2, frame_px=40, patch_px=10,
    patches_merged=2, num_keyframes=2, num_motion_frames=8, motion_px=32,
    tokens_per_frame=2, slow_width=8,
)  # fmt: skip


def keeps_aspect(backbone: str) -> bool:
    """Whether frames keep their aspect ratio and go in pairs, as the Qwen-VL models have it;
    InternVL's are squares."""
    backbone, _ = FRAME_POLICIES.get(backbone, (backbone, None))
    return REGISTERED[backbone].inputs.resize == "smart"


def small_policy(backbone: str, *, amplify: float = 3.0, size: TinySize = SIZE) -> Policy:
    """A tiny policy whose weights are scaled up, so that a wrong position or mask cannot hide."""
    if backbone in FRAME_POLICIES:
        backbone, mode = FRAME_POLICIES[backbone]
        size = replace(size, motion_mode=mode, num_keyframes=4, num_motion_frames=32)
    if backbone == "qwen3_vl" and size.layers == SIZE.layers:
        size = replace(size, layers=3)  # two levels of DeepStack, and a layer that sees the second
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
    num_keyframes, num_motion = spec.num_keyframes, spec.num_motion_frames
    if spec.by_seconds:
        num_keyframes, num_motion = 2 + seed % 2, 8 + 4 * (seed % 3)
    keyframes = (num_keyframes, 3, height, width)
    motion = (num_motion, 3, spec.motion_px, spec.motion_px)
    return _noise(f"clip{seed}.mp4", seed, keyframes, motion)


def random_still(
    policy: Policy, seed: int, *, tiles: int = 3, height: int = 20, width: int = 60
) -> Clip:
    """A still of noise: InternVL's has `tiles` tiles of its own size, LLaVA-OneVision's the whole
    picture behind them, Qwen2.5-VL's one frame."""
    spec = policy.inputs.clip_spec
    shape, size = (1, 3, height, width), {}
    if spec.resize == "square":
        px, anyres = spec.keyframe_px, spec.tiling == "anyres"
        shape = (tiles + anyres, 3, px, px)
        size = {"height": px, "width": px * tiles} if anyres else {}
    motion = (0, 3, spec.motion_px, spec.motion_px)
    return _noise(f"still{seed}.png", seed, shape, motion, kind="image", **size)


def _noise(name: str, seed: int, keyframes: tuple, motion: tuple, **fields) -> Clip:
    draw = torch.Generator().manual_seed(seed)
    return Clip(
        path=Path(name),
        keyframes_KCHW=torch.randint(0, 256, keyframes, dtype=torch.uint8, generator=draw),
        motion_MCHW=torch.randint(0, 256, motion, dtype=torch.uint8, generator=draw),
        keyframe_seconds=torch.arange(keyframes[0], dtype=torch.float64),
        motion_seconds=torch.arange(motion[0], dtype=torch.float64),
        keyframe_indices=tuple(range(keyframes[0])),
        motion_indices=tuple(range(motion[0])),
        num_frames=max(keyframes[0], motion[0]),
        fps=24.0,
        **{"height": keyframes[2], "width": keyframes[3], **fields},
    )


def one_clip(clips, question: str | None = None) -> list[Prompt]:
    """A prompt for each clip, with the policy's own question or another."""
    return [Prompt(clips=(clip,), turns=ask(question) if question else ()) for clip in clips]


def conversations(policy: Policy, seed: int = 0) -> list[Prompt]:
    """Two videos of different size; a still beside a video, the question first; system, user,
    assistant, user, with the video and the still of the second prompt; no media at all."""
    video, wide, still = (
        random_clip(policy, seed + 50),
        random_clip(policy, seed + 51, height=20, width=60),
        random_still(policy, seed + 52),
    )
    turns = [
        Turn(role="system", text="Be short."),
        Turn(role="user", text="<video>\nWhat is it?"),
        Turn(role="assistant", text="It is blur."),
        Turn(role="user", text="And here?\n<image>"),
    ]
    return [
        Prompt(clips=(video, wide), turns=ask("<video>\n<video>\nWhich is better?")),
        Prompt(clips=(still, video), turns=ask("Does <image> come from <video>?")),
        Prompt(clips=(video, still), turns=tuple(turns)),
        Prompt(turns=ask("What is blur?")),
    ]
