"""The released VITAL checkpoints (arXiv 2511.17962; Base, Assistant, Warm-up) → a Thinker policy in
motion mode "frames_viewed".

Names are those of VQAThinker's layout. Of SlowFast only the fast pathway counts, one token a
motion frame, and the policy leaves the slow pathway out: nothing that it computes depends on it.
All motion tokens stand behind all visual ones. Keyframes lie a second apart, as far as they are
motion frames, too.

The published programs differ in the frames that they read and in the text around them. At 30
frames a second "training" has a keyframe in four seconds, "scoring_less" one in two, the others one
a second.
"""

from dataclasses import dataclass
from pathlib import Path

from thinker.policies.convert.internvl_chat import Recipe, convert_internvl_chat
from thinker.policies.inputs import ClipConfig
from thinker.policies.motion import MotionConfig
from thinker.tasks.level import VQA2_WORDS, LevelConfig

PX = 448
"""Side of every frame and tile."""

MAX_KEYFRAMES = 60
"""Their 256 tokens each, 512 motion tokens and the text of "training" fill the context of 16,384
tokens that the weights were trained with. The published programs read videos of any length."""


@dataclass(frozen=True, kw_only=True)
class ReleasedSetting:
    """How one of the published programs runs the weights."""

    stride: int
    """See `ClipConfig.motion_stride`."""

    max_motion_frames: int
    """Most motion frames; a longer video is refused."""

    layout: str
    """See `ClipConfig.layout`."""

    prefix: str
    """What the answer about a video is forced to begin with, where it is scored by level words."""


OVERALL = "The overall quality of this video is"

SETTINGS = {
    # What the weights were trained with.
    "training": ReleasedSetting(stride=8, max_motion_frames=512, layout="vital", prefix=OVERALL),
    # eval/internvl_chat_finetune.py; a label for every motion frame
    "scoring": ReleasedSetting(
        stride=1, max_motion_frames=1200, layout="vital_scoring", prefix=OVERALL
    ),
    # eval/internvl_chat_finetune_less_token.py
    "scoring_less": ReleasedSetting(
        stride=4,
        max_motion_frames=300,
        layout="vital_scoring",
        prefix="The quality of this video is",
    ),
    # eval/qbench_video.py, for questions
    "questions": ReleasedSetting(stride=1, max_motion_frames=1200, layout="vital", prefix=OVERALL),
}


def convert_checkpoint(source: Path, target: Path, setting: str = "training") -> int:
    """Convert the folder `source` into the new folder `target`; returns the tensors written.

    setting: a key of `SETTINGS`. Raises ValueError for whatever `source` lacks or has too much of;
    `target` then does not exist.
    """
    chosen = SETTINGS[setting]
    recipe = Recipe(
        name=f"VITAL, setting {setting}",
        motion=MotionConfig(
            mode="frames_viewed",
            num_keyframes=MAX_KEYFRAMES,
            num_motion_frames=chosen.max_motion_frames,
            motion_px=PX,
        ),
        clip=ClipConfig(
            num_keyframes=MAX_KEYFRAMES,
            keyframe_px=PX,
            layout=chosen.layout,
            resampler="pil",
            reader="decord",
            sampler="rounded_seconds",
            motion_stride=chosen.stride,
            stills="image",
            tiling="area",
        ),
        levels=LevelConfig(
            words=VQA2_WORDS,
            weights=(0.2, 0.4, 0.6, 0.8, 1.0),
            weight_range=(0.2, 1.0),
            video_question="",
            video_prefix=chosen.prefix,
            image_question="",
            image_prefix="The quality of this image is",
        ),
    )
    return convert_internvl_chat(source, target, recipe)
