"""A whole training run: configuration in, `OUTPUT_DIR` out.

Flow: labels → samples → check and cache every video → policy (loaded, or tiny and warm-started) →
held-out scores before → GRPO → held-out scores after → `final/`, `summary.json`, `curves.png`;
`metrics.jsonl` and `rollouts.jsonl` are written as it goes. Each stage leaves a result that appears
when it is complete (run_folder.py), so the same command continues where a killed run stopped.
"""

import dataclasses
import json
import logging
import platform
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig
from transformers import TrainingArguments, set_seed
from trl import GRPOConfig

from rewards import build_reward
from thinker.config.build import build, foreign_values
from thinker.config.run import RunConfig
from thinker.data.datasets import (
    EvalSet,
    load_dataset_config,
    load_eval_samples,
    load_train_samples,
)
from thinker.data.demo.generate import DISTORTIONS
from thinker.data.samples import VideoSample
from thinker.eval.metrics.agreement import plcc, srcc
from thinker.policies import (
    ClipConfig,
    MotionConfig,
    Policy,
    TinySize,
    load_policy,
    tiny_policy,
)
from thinker.rollout.base import Rollout, RolloutError
from thinker.rollout.build import build_rollout
from thinker.rollout.hf import hf_rollout
from thinker.score.scorer import QualityScorer
from thinker.train.grpo.rewards import WeightedReward
from thinker.train.grpo.trainer import ThinkerTrainer
from thinker.train.plots import plot_curves, read_metrics
from thinker.train.run_folder import folder_once, is_complete, json_once, open_run
from thinker.train.run_log import METRICS, MetricsFile
from thinker.train.sft.lessons import warm_start_lessons
from thinker.train.sft.trainer import train_supervised
from thinker.utils.atomic import write_atomic
from thinker.utils.lock import run_lock
from thinker.video import ClipSpec, FrameCache, check_videos
from thinker.video.cache import ClipReader

logger = logging.getLogger(__name__)
REPORTED_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "vqa-thinker")
STEPS = "training.json"  # in `final/`: how many steps it took
EVAL_BATCH = 64
CALIBRATION_VIDEOS = 128


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads; every video of it was read once without an error."""

    train: list[VideoSample]
    """Samples to train on."""
    eval_sets: list[tuple[EvalSet, list[VideoSample]]]
    """Held-out sets, each with its samples."""
    reader: ClipReader
    """Reads their clips."""


def run_training(config: RunConfig) -> dict[str, Any]:
    """Run it all, or what is left of it; returns what `summary.json` holds. One run at a time in an
    output folder."""
    with run_lock(Path(config.output_dir)):
        return _run_training(config)


def _run_training(config: RunConfig) -> dict[str, Any]:
    began = time.perf_counter()
    args = grpo_args(config)  # first: it starts torch.distributed
    output = Path(config.output_dir)
    open_run(output, config)
    if is_complete(output / "summary.json"):
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        print(f"{summary_table(summary)}\n{output} is complete; delete it to run again")
        return summary
    set_seed(config.seed)
    policy, data = start_stage(config)
    before = json_once(
        output / "before.json", lambda: held_out(policy, data, hf_rollout(policy), config)
    )
    trained, steps = train_stage(config, args, policy, data)
    after = held_out(trained, data, hf_rollout(trained), config)
    summary = summarise_run(config, data, before, after) | {
        "steps": steps,
        "seconds": round(time.perf_counter() - began, 1),
    }
    if PartialState().is_main_process:
        plot_curves(read_metrics(output / METRICS), summary, output / "curves.png")
        write_atomic(output / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(summary_table(summary))
    return summary


def start_stage(config: RunConfig) -> tuple[Policy, RunData]:
    """The policy that GRPO starts from, saved in `start/` and loaded back: TRL builds the reference
    model from that folder. Training data as `load_data` gives them."""
    start = Path(config.output_dir) / "start"
    if not is_complete(start):
        policy = start_policy(config)
        data = load_data(config, policy.inputs.clip_spec)
        if config.warm_start is not None:
            warm_start(config, policy, data)
        folder_once(start, policy.save)
        return reload(start, config), data
    policy = reload(start, config)
    return policy, load_data(config, policy.inputs.clip_spec)


def train_stage(
    config: RunConfig, args: GRPOConfig, policy: Policy, data: RunData
) -> tuple[Policy, int]:
    """GRPO, saved in `final/`; the trained policy and the number of steps."""
    final = Path(config.output_dir) / "final"
    if is_complete(final):
        steps = json.loads((final / STEPS).read_text(encoding="utf-8"))["steps"]
        return load_policy(final, dtype=getattr(torch, config.model.dtype)), steps
    trained, steps = train_grpo(config, args, policy, data)

    def save(folder: Path) -> None:
        trained.save(folder)
        write_json(folder / STEPS, {"steps": steps})

    folder_once(final, save)
    return trained, steps


Scores = dict[str, dict[str, float | None]]
"""By held-out set: srcc, plcc, valid_share."""


def summarise_run(config: RunConfig, data: RunData, before: Scores, after: Scores) -> dict:
    """What `summary.json` holds; the top figures are those of the first held-out set."""
    main = next(iter(before), None)
    figures = {
        f"{name}_{when}": scores[main][name] if main else None
        for name in ("srcc", "plcc")
        for when, scores in (("before", before), ("after", after))
    }
    return {
        **figures,
        "num_train": len(data.train),
        "num_eval": len(data.eval_sets[0][1]) if data.eval_sets else 0,
        "sets": {key: {"before": before[key], "after": after[key]} for key in before},
        "seed": config.seed,
        "versions": {name: version(name) for name in REPORTED_PACKAGES},
        "python": platform.python_version(),
        "config": dataclasses.asdict(config),
    }


def summary_table(summary: dict[str, Any]) -> str:
    """The short table a run ends with."""
    lines = [f"{'held-out set':<16}{'':>8}{'SRCC':>8}{'PLCC':>8}{'valid':>8}"]
    for key, when in ((k, w) for k in summary["sets"] for w in ("before", "after")):
        scores = summary["sets"][key][when]
        cells = [scores["srcc"], scores["plcc"], scores["valid_share"]]
        shown = "".join(f"{'undef.' if v is None else f'{v:.3f}':>8}" for v in cells)
        lines.append(f"{key:<16}{when:>8}{shown}")
    return "\n".join([*lines, f"{summary['steps']} steps, {summary['seconds']:.0f} s"])


# Data


def load_data(config: RunConfig, spec: ClipSpec) -> RunData:
    """Read all labels, then decode (or find cached) every video once; what fails is left out."""
    settings = config.data
    dataset = load_dataset_config(
        settings.config, variables=settings.variables, overrides=settings.overrides
    )
    train, bad = load_train_samples(dataset, skip_bad_lines=settings.skip_bad_lines)
    if bad:
        logger.warning("%d bad label lines skipped", len(bad))
    eval_sets = [
        (eval_set, load_eval_samples(eval_set, require_files=True).samples)
        for eval_set in dataset.eval
    ]
    reader = clip_reader(settings.cache, spec)
    videos = [sample.path for _, samples in [(None, train), *eval_sets] for sample in samples]
    failures = check_videos(videos, spec, reader.cache, max_failed_share=settings.max_failed_share)
    for error in failures.values():
        logger.warning("left out: %s", error)
    return RunData(
        train=[sample for sample in train if sample.path not in failures],
        eval_sets=[
            (eval_set, [s for s in samples if s.path not in failures])
            for eval_set, samples in eval_sets
        ],
        reader=reader,
    )


def clip_reader(cache: str | None, spec: ClipSpec) -> ClipReader:
    """path → Clip, picklable."""
    return ClipReader(spec, None if cache is None else FrameCache(cache))


# Policy


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
    from thinker.prompts import LEVELS
    from thinker.train.sft.lessons import level_answer, reasoning_text, recognition_answer

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
    truth_file = (
        load_dataset_config(
            config.data.config, variables=config.data.variables, overrides=config.data.overrides
        )
        .train[0]
        .jsonl.with_name("distortions.json")
    )
    truth = json.loads(truth_file.read_text(encoding="utf-8"))
    root = truth_file.parent / "videos"
    motion = policy.model.model.motion
    if motion is not None:
        first = [data.reader(sample.path) for sample in data.train[:CALIBRATION_VIDEOS]]
        motion.calibrate(torch.stack([clip.motion_MCHW for clip in first]))
    words = {s.id: truth[str(s.path.relative_to(root))]["distortion"] for s in data.train}
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


# GRPO


def train_grpo(
    config: RunConfig, args: GRPOConfig, policy: Policy, data: RunData
) -> tuple[Policy, int]:
    """Train by GRPO, from the newest valid checkpoint where there is one; returns the policy in
    memory, LoRA merged, and the number of steps."""
    trainer = ThinkerTrainer(
        policy=policy,
        args=args,
        rewards=[
            WeightedReward(reward=build_reward(r.name, r.config), weight=r.weight)
            for r in config.rewards
        ],
        samples=data.train,
        read_clip=data.reader,
        rollout=lambda model: build_rollout(
            config.rollout,
            dataclasses.replace(policy, model=model),
            max_new_tokens=args.max_completion_length,
        ),
        perturbations=config.perturbations,
        evaluate_policy=partial(_metrics_of, data=data, config=config),
        peft_config=lora_config(config, policy),
        logprobs=config.logprobs,
        callbacks=[MetricsFile(Path(config.output_dir))],
        max_skipped_steps=config.max_skipped_steps,
    )
    try:
        trainer.train(resume_from_checkpoint=True)
    except RolloutError as error:
        raise RolloutError(f"{error}; {trainer.save_last_step()}") from error
    finally:
        trainer.rollouts.backend.close()
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    return dataclasses.replace(policy, model=model), trainer.state.global_step


def grpo_args(config: RunConfig) -> GRPOConfig:
    """TRL's configuration with the run's seed and folder.

    vLLM's float32 logprobs equal the trainer's (tests/test_rollout_vllm.py), so the correction for
    their difference, which costs a forward pass a batch, is on by default in half precision only.
    """
    return GRPOConfig(
        **{
            "output_dir": config.output_dir,
            "seed": config.seed,
            "dataloader_num_workers": config.data.num_workers,
            "report_to": ["tensorboard"],
            "vllm_importance_sampling_correction": config.model.dtype != "float32",
            "save_total_limit": 2,  # the newest, and one to fall back on
            **foreign_values(GRPOConfig, config.grpo, "grpo"),
        }
    )


def lora_config(config: RunConfig, policy: Policy) -> LoraConfig | None:
    """LoRA on the language model; the projectors (one may be new) are trained in full."""
    lora = config.model.lora
    if lora is None:
        return None
    modules = "|".join(lora.target_modules)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf".*language_model.*\.({modules})",
        modules_to_save=list(policy.model.projector_names),
    )


# Evaluation


def held_out(policy: Policy, data: RunData, rollout: Rollout, config: RunConfig) -> Scores:
    """SRCC, PLCC and the share of valid answers, by held-out set; each video is scored once."""
    max_new_tokens = config.grpo.get("max_completion_length", GRPOConfig.max_completion_length)
    scorer = QualityScorer(policy, rollout, max_new_tokens=max_new_tokens, batch_size=EVAL_BATCH)
    paths = dict.fromkeys(s.path for _, samples in data.eval_sets for s in samples)
    stream = scorer.score_stream(data.reader(path) for path in paths)
    scores = dict(zip(paths, (prediction.score for prediction in stream), strict=True))
    return {
        eval_set.key: _figures([(scores[s.path], s.target) for s in samples])
        for eval_set, samples in data.eval_sets
    }


def _figures(pairs: list[tuple[float | None, float]]) -> dict[str, float | None]:
    scored = [(score, target) for score, target in pairs if score is not None]
    predicted, targets = [p for p, _ in scored], [t for _, t in scored]
    return {
        "srcc": srcc(predicted, targets).value,
        "plcc": plcc(predicted, targets).value,
        "valid_share": len(scored) / max(len(pairs), 1),
    }


def _metrics_of(policy: Policy, rollout: Rollout, *, data: RunData, config: RunConfig):
    """Held-out figures under the names of a log: those of the first set plain, others by key."""
    scores = held_out(policy, data, rollout, config)
    return {
        name if number == 0 else f"{key}_{name}": value
        for number, (key, figures) in enumerate(scores.items())
        for name, value in figures.items()
        if value is not None
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
