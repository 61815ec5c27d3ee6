"""The policy that GRPO starts from: loaded, or tiny and warm-started on the demo set's words."""

import json
import logging
from pathlib import Path

import torch
from transformers import TrainingArguments

from thinker.config.build import build, foreign_values
from thinker.config.run import RunConfig
from thinker.data.datasets import TrainSource, load_dataset_config
from thinker.data.demo.plan import DISTORTIONS
from thinker.policies import (
    ClipConfig,
    MotionConfig,
    Policy,
    TinySize,
    load_policy,
    tiny_policy,
)
from thinker.tasks.level import LEVELS
from thinker.train.run_data import RunData
from thinker.train.sft.lessons import (
    level_answer,
    reasoning_text,
    recognition_answer,
    warm_start_lessons,
)
from thinker.train.sft.trainer import train_supervised

logger = logging.getLogger(__name__)


CALIBRATION_VIDEOS = 128


def start_policy(config: RunConfig) -> Policy:
    """The policy that training starts from, parts frozen as configured."""
    settings = config.model
    if settings.path == "tiny":
        size = build(TinySize, settings.clip | settings.motion, "model.clip and model.motion")
        texts = tuple(lesson_texts())
        # It stands for a pretrained model, whose weights no seed of a run changes.
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
    policy.model.freeze(settings.freeze)
    return policy


def lesson_texts() -> list[str]:
    """Words of the warm start, for the tiny tokenizer."""

    pairs = [(name, level) for name in DISTORTIONS for level in LEVELS]
    return [
        text
        for name, level in pairs
        for text in (recognition_answer(name), level_answer(level), reasoning_text(name, level))
    ]


def reload(folder: Path, config: RunConfig) -> Policy:
    """Load a saved start, parts frozen as configured."""
    policy = load_policy(folder, dtype=getattr(torch, config.model.dtype))
    policy.model.freeze(config.model.freeze)
    return policy


def warm_start(config: RunConfig, policy: Policy, data: RunData) -> None:
    """The supervised stage of a policy without pretraining; needs the demo set's distortion
    words."""
    settings = config.warm_start
    assert settings is not None
    source = load_dataset_config(
        config.data.config, variables=config.data.variables, overrides=config.data.overrides
    ).train[0]
    assert isinstance(source, TrainSource)
    truth_file = source.jsonl.with_name("distortions.json")
    truth = json.loads(truth_file.read_text(encoding="utf-8"))
    root = truth_file.parent / "videos"
    motion = policy.model.model.motion
    if motion is not None:
        first = [data.reader(sample.media[0].path) for sample in data.train[:CALIBRATION_VIDEOS]]
        motion.calibrate(torch.stack([clip.motion_MCHW for clip in first]))
    words = {s.id: truth[str(s.media[0].path.relative_to(root))]["distortion"] for s in data.train}
    lessons = warm_start_lessons(
        data.train, words, level_share=settings.level_share, seed=config.seed
    )
    args = TrainingArguments(
        **{
            "output_dir": str(Path(config.output_dir) / "warm_start"),
            "seed": config.seed,
            "report_to": [],
            "save_strategy": "no",
            "dataloader_num_workers": config.data.num_workers,
            **foreign_values(TrainingArguments, settings.trainer, "warm_start.trainer"),
        }
    )
    train_supervised(policy, lessons, data.reader, args)
