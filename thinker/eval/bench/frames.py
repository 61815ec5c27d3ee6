"""Which frames a benchmark shows: the policy's own sampler, or a published one by name.

A policy reads videos as it was trained to unless told otherwise: "own" is the default, and what a
figure of it should be reported with. The published samplers are for comparing protocols; they give
it another number of frames than it was trained with. Windows of motion frames stay as long as they
are, one a keyframe.
"""

from dataclasses import dataclass, replace

from thinker.eval.bench.asking import FrameCounts
from thinker.policies import Policy

OWN_FRAMES = "own"


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A published sampler."""

    num_keyframes: int
    """Frames of the one video of a question; each video of a pair has half of them."""
    sampler: str
    """One of `thinker.video.clip.SAMPLERS`."""
    max_side_px: int
    """Longest side of a frame, before the policy resizes it; 0 is no limit."""


FRAMES: dict[str, Frames] = {
    # Q-Future/Q-Bench-Video, GPT_test.py: 16 frames at i·int(n/16), pairs 8 + 8, at most 512 px.
    "official": Frames(num_keyframes=16, sampler="steps", max_side_px=512),
    # open-compass/VLMEvalKit, vlmeval/dataset/qbench_video.py with nframe=16: single videos only;
    # pairs are ours, 8 + 8 by the same rule.
    "vlmevalkit": Frames(num_keyframes=16, sampler="inner_steps", max_side_px=0),
}
"""By name."""


def use_frames(policy: Policy, name: str) -> None:
    """Make a policy read videos by a published sampler from now on; "own" changes nothing.

    Raises ValueError where its motion branch cannot take as many frames.
    """
    if name == OWN_FRAMES:
        return
    frames, inputs = FRAMES[name], policy.inputs
    motion = inputs.motion_config
    if motion.per_frame:
        raise ValueError(
            f"this policy cannot read the frames {name!r}: it reads a keyframe a second; use the "
            "frames 'own'"
        )
    try:
        half, whole = (
            replace(motion, num_keyframes=count, num_motion_frames=motion.frames_per_window * count)
            for count in (frames.num_keyframes // 2, frames.num_keyframes)
        )
    except ValueError as error:
        raise ValueError(
            f"this policy cannot read the frames {name!r}: {error}; use the frames 'own'"
        ) from None
    del half  # of a pair's videos: it only had to be possible
    inputs.motion_config = whole
    inputs.clip_config = replace(
        inputs.clip_config,
        num_keyframes=frames.num_keyframes,
        sampler=frames.sampler,
        max_side_px=frames.max_side_px,
    )


def frame_counts(policy: Policy, name: str) -> FrameCounts:
    """What a policy sees of a video, at most; after `use_frames`."""
    spec = policy.inputs.clip_spec
    return FrameCounts(
        single=spec.num_keyframes,
        pair=spec.num_keyframes if name == OWN_FRAMES else FRAMES[name].num_keyframes // 2,
        motion_per_keyframe=spec.num_motion_frames // spec.num_keyframes,
    )


def check_prompt(policy: Policy, prompt: str) -> None:
    """Raises ValueError where a published prompt tells how many frames a video has, but no one
    number is true of all videos."""
    if policy.inputs.clip_spec.by_seconds and prompt != "own":
        raise ValueError(
            f"the prompt {prompt!r} tells how many frames a video has, which with this policy "
            "follows from its length; use the prompt 'own'"
        )
