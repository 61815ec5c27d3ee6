"""The policy that a run starts from: loaded, or tiny and random; and those that stages left.

`settle_dtype` and `trainer_args` say on what and how a run computes; `outline` is the same policy
without its weights, for what can be checked before anything slow begins.
"""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from thinker.config.build import build, foreign_values
from thinker.config.run import RunConfig, SftStage, StageSettings
from thinker.data.examples import lesson_turns
from thinker.policies import (
    MotionConfig,
    Policy,
    TinySize,
    load_policy,
    outline_policy,
    tiny_policy,
)
from thinker.policies.four_bit import check_installed
from thinker.policies.inputs import STILL_BOUNDS, UNKNOWN_LENGTH
from thinker.tasks.level import LevelConfig
from thinker.train.parts import check_parts, freeze_others
from thinker.train.processes.world import is_sharding_asked
from thinker.train.resume import check_settings
from thinker.train.run_data import Labels, RunData
from thinker.video import Clip
from thinker.video.read_ahead import Reading, read_ahead

logger = logging.getLogger(__name__)


CALIBRATION_VIDEOS = 128

A = TypeVar("A", bound=TrainingArguments)


def settle_dtype(config: RunConfig) -> RunConfig:
    """The same run with `dtype: auto` settled, so that it is continued in the type it began with:
    bfloat16 on a GPU, float32 on a CPU, as in scoring."""
    if config.model.dtype != "auto":
        return config
    dtype = "bfloat16" if on_gpu(config) else "float32"
    return replace(config, model=replace(config.model, dtype=dtype))


def on_gpu(config: RunConfig) -> bool:
    """Whether a run computes on a GPU: where there is one, unless a stage asks for the CPU."""
    return torch.cuda.is_available() and not any(s.trainer.get("use_cpu") for s in config.stages)


def device_args(config: RunConfig, stage: StageSettings) -> dict[str, Any]:
    """What the device, and the terminal, decide of a trainer's configuration.

    transformers wants to be told of a CPU, and several processes then train by DDP over gloo; but
    to be told would keep it from DeepSpeed and FSDP.
    """
    by_gloo = not on_gpu(config) and int(os.environ.get("WORLD_SIZE", "1")) > 1
    return {
        "bf16": settle_dtype(config).model.dtype == "bfloat16" and not stage.trainer.get("fp16"),
        "use_cpu": not on_gpu(config) and not is_sharding_asked(),
        "ddp_backend": "gloo" if by_gloo else None,
        "disable_tqdm": not sys.stderr.isatty(),  # plain lines instead
    }


def trainer_args(cls: type[A], config: RunConfig, stage: StageSettings, given: dict[str, Any]) -> A:
    """The configuration of a stage's trainer: what the device decides, what is given, and what the
    stage says instead.

    Raises ValueError, naming the stage, for what transformers, TRL or this package refuse, and for
    a stage that would make no step.
    """
    place = f"stages.{stage.name}.trainer"
    values = device_args(config, stage) | given | foreign_values(cls, stage.trainer, place)
    # The run's configuration decides, not accelerate's, whose value transformers would keep.
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    try:
        args = cls(**values)
        check_settings(args)
    except (ValueError, TypeError, ZeroDivisionError, ImportError, OSError) as error:
        raise ValueError(f"{place}: {error}") from error
    return args


def check_quantization(config: RunConfig) -> None:
    """Raises ValueError where a stage is to train on 4 bits but cannot here: without bitsandbytes,
    or under DeepSpeed or FSDP, whose shards of such weights were not tested."""
    for stage in config.stages:
        if stage.quantization is None:
            continue
        try:
            check_installed()
        except ValueError as error:
            raise ValueError(f"stages.{stage.name}.lora: {error}") from None
        if is_sharding_asked():
            raise ValueError(
                f"stages.{stage.name}.lora.quantization is {stage.quantization}, which works on "
                "one process and by DDP; leave ACCELERATE_CONFIG out, or quantization"
            )


def check_start(config: RunConfig, labels: Labels) -> None:
    """Raises ValueError for what would end the run when its policy is loaded, or at the start of a
    later stage: files that are missing, parts that the policy does not have, LoRA of layers that
    are none of its."""
    slowfast = config.model.slowfast
    if slowfast is not None and not Path(slowfast).is_file():
        raise ValueError(f"model.slowfast is {slowfast!r}, expected the file of a checkpoint")
    own_levels(config)
    model = outline(config, labels)
    if slowfast is not None and model.model.motion is None:
        raise ValueError("model.slowfast is given, but this policy has no motion branch")
    for stage in config.stages:
        check_parts(stage, model)
        if stage.quantization and model.config.quantized_base:
            raise ValueError(
                f"stages.{stage.name}.lora.quantization is {stage.quantization}, but a LoRA was "
                f"trained on {config.model.path} before in 4 bits: rounding its weights again "
                "loses what it has learnt (docs/policies.md); leave quantization out"
            )


def outline(config: RunConfig, labels: Labels) -> Any:
    """The model that a run starts from, on the meta device unless it is tiny."""
    settings = config.model
    if settings.path == "tiny":
        return _tiny(config, labels).model
    return outline_policy(settings.path, **_new_parts(config))


def _tiny(config: RunConfig, labels: Labels) -> Policy:
    settings = config.model
    bounds = {name for names in STILL_BOUNDS.values() for name in names}
    clip = {name: value for name, value in settings.clip.items() if name in bounds}
    sizes = {name: value for name, value in settings.clip.items() if name not in bounds}
    size = build(TinySize, sizes | settings.motion, "model.clip and model.motion")
    # It stands for a pretrained model, whose weights no seed of a run changes.
    texts = tuple(tokenizer_texts(config, labels))
    return tiny_policy(settings.backbone, size=size, texts=texts, clip=clip)


def _new_parts(config: RunConfig) -> dict[str, Any]:
    motion = config.model.motion
    return {
        "motion": build(MotionConfig, motion, "model.motion") if motion else None,
        "clip": config.model.clip,
    }


def start_policy(config: RunConfig, labels: Labels) -> Policy:
    """The policy as the model settings say; a new motion branch is not yet calibrated."""
    settings = config.model
    if settings.path == "tiny":
        policy = _tiny(config, labels)
    else:
        dtype = getattr(torch, settle_dtype(config).model.dtype)
        policy = load_policy(settings.path, dtype=dtype, **_new_parts(config))
        if policy.new_parts:
            logger.info("new motion branch: %d tensors", len(policy.new_parts))
    if (levels := own_levels(config)) is not None:
        policy.set_levels(levels)
    if settings.slowfast is not None:
        policy.model.model.motion.load_slowfast_checkpoint(settings.slowfast)
    return policy


def own_levels(config: RunConfig) -> LevelConfig | None:
    """The level words that the run gives its policy; None leaves those that it has."""
    levels = config.model.levels
    return build(LevelConfig, levels, "model.levels") if levels else None


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
        try:
            return Path(name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"model.texts: cannot read {name}: {error}") from None
    supervised = [stage.name for stage in config.stages if isinstance(stage, SftStage)]
    levels = own_levels(config)
    turns = (
        turn
        for name in supervised
        for source in labels.stages[name]
        for example in source.examples
        for turn in lesson_turns(example, levels)
    )
    return list(dict.fromkeys(turn.text for turn in turns))


def check_lengths(policy: Policy, labels: Labels) -> None:
    """Raises ValueError for an example whose prompt does not fit into the model's context."""
    inputs, room = policy.inputs, policy.context_tokens
    asked = {
        (example.media, example.turns): example.id
        for sources in labels.stages.values()
        for source in sources
        for example in source.examples
    }
    kinds = {media: tuple(medium.kind for medium in media) for media, _ in asked}
    said = {media: inputs.max_said_tokens([media]) for media, _ in asked}
    # A digit a frame of a file that is not read yet: its row shows whether it is too long.
    said = {media: length if length < UNKNOWN_LENGTH else 0 for media, length in said.items()}
    bound = inputs.max_tokens_of((kinds[media], turns) for media, turns in asked) if asked else 0
    if bound + max(said.values(), default=0) < room:
        return
    for (media, turns), name in asked.items():
        length = inputs.max_prompt_tokens(kinds[media], turns) + said[media]
        if length >= room:
            raise ValueError(
                f"example {name}: its prompt may have {length} tokens, the model's context has "
                f"{room}; shorten it, or take it out of the data"
            )


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


def load_start(
    folder: Path, config: RunConfig, rates: Mapping[str, float], quantization: Any = None
) -> Policy:
    """What a stage starts from, with gradients for the parts that it trains. quantization: of the
    language model, as `load_policy` takes it."""
    policy = load_policy(
        folder,
        dtype=getattr(torch, config.model.dtype),
        quantization=quantization,
        device=PartialState().device,
    )
    freeze_others(policy, rates)
    return policy
