"""The motion branch: dense frames in, motion tokens of the language model's width out.

- `config.py`: `MotionConfig`, `SlowFastConfig`
- `slowfast.py`: the SlowFast network and its public checkpoints
- `encoder.py`: `MotionEncoder`, SlowFast and the projector to the language model
"""

from thinker.policies.motion.config import (
    IMAGENET_MEAN_STD,
    PER_FRAME_MODES,
    MotionConfig,
    SlowFastConfig,
    num_slow_frames,
)
from thinker.policies.motion.encoder import MotionEncoder, init_motion_weights
from thinker.policies.motion.slowfast import SlowFast, read_slowfast_checkpoint

__all__ = [
    "IMAGENET_MEAN_STD",
    "PER_FRAME_MODES",
    "MotionConfig",
    "MotionEncoder",
    "SlowFast",
    "SlowFastConfig",
    "init_motion_weights",
    "num_slow_frames",
    "read_slowfast_checkpoint",
]
