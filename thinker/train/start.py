"""The policy that a run starts from: loaded, or tiny and random; and those that stages left."""

import logging
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from string import Template

import torch

from thinker.config.build import build
from thinker.config.run import RunConfig, SftStage
from thinker.data.examples import lesson_turns
from thinker.policies import (
    ClipConfig,
    MotionConfig,
    Policy,
    TinySize,
    load_policy,
    tiny_policy,
)
from thinker.train.parts import freeze_others
from thinker.train.run_data import Labels, RunData
from thinker.video import Clip
from thinker.video.read_ahead import Reading, read_ahead

logger = logging.getLogger(__name__)


CALIBRATION_VIDEOS = 128


def start_policy(config: RunConfig, labels: Labels) -> Policy:
    """The policy as the model settings say; a new motion branch is not yet calibrated."""
    settings = config.model
    if settings.path == "tiny":
        size = build(TinySize, settings.clip | settings.motion, "model.clip and model.motion")
        # It stands for a pretrained model, whose weights no seed of a run changes.
        texts = tuple(tokenizer_texts(config, labels))
        policy = tiny_policy(settings.backbone, size=size, texts=texts)
    else:
        motion, clip = settings.motion, settings.clip
        policy = load_policy(
            settings.path,
            dtype=getattr(torch, settings.dtype),
            motion=build(MotionConfig, motion, "model.motion") if motion else None,
            clip=build(ClipConfig, clip, "model.clip") if clip else None,
        )
        if policy.new_parts:
            logger.info("new motion branch: %d tensors", len(policy.new_parts))
    if settings.slowfast is not None:
        policy.model.model.motion.load_slowfast_checkpoint(settings.slowfast)
    return policy


def tokenizer_texts(config: RunConfig, labels: Labels) -> list[str]:
    """What the tokenizer of a tiny policy should know: `model.texts`, or all that is said in
    supervised stages, each text once."""
    if config.model.texts is not None:
        path = Template(config.model.texts)
        try:
            name = path.substitute(os.environ | config.data.variables)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"model.texts is {config.model.texts!r}: {error} is no variable that is set; set "
                "it, or give the path itself"
            ) from None
        return Path(name).read_text(encoding="utf-8").splitlines()
    supervised = [stage.name for stage in config.stages if isinstance(stage, SftStage)]
    turns = (
        turn
        for name in supervised
        for source in labels.stages[name]
        for example in source.examples
        for turn in lesson_turns(example)
    )
    return list(dict.fromkeys(turn.text for turn in turns))


def calibrate_motion(config: RunConfig, policy: Policy, data: RunData) -> None:
    """Set the statistics of a new motion branch to those of the first clips of the first stage,
    unless its SlowFast comes from a checkpoint."""
    motion = policy.model.model.motion
    is_new = config.model.path == "tiny" or bool(policy.new_parts)
    if motion is None or not is_new or config.model.slowfast is not None:
        return
    if motion.config.mode != "interleaved":
        return
    examples = (e for s in data.stages[config.stages[0].name] for e in s.examples)
    media = dict.fromkeys(m for e in examples for m in e.media if m.kind == "video")
    read = read_ahead(media, data.reader, Reading(num_workers=0))
    clips = (clip for clip in read if isinstance(clip, Clip))
    first = list(islice(clips, CALIBRATION_VIDEOS))
    if first:
        motion.calibrate(torch.stack([clip.motion_MCHW for clip in first]))


def load_start(folder: Path, config: RunConfig, rates: Mapping[str, float]) -> Policy:
    """What a stage starts from, with gradients for the parts that it trains."""
    policy = load_policy(folder, dtype=getattr(torch, config.model.dtype))
    freeze_others(policy, rates)
    return policy
