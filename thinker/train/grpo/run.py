"""A GRPO stage of a run: configuration → trainer → trained policy."""

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from trl import GRPOConfig

from rewards import build_reward
from thinker.config.run import GrpoStage, RunConfig
from thinker.data.mixture import Source, union
from thinker.policies import Policy
from thinker.rollout.base import RolloutError
from thinker.rollout.build import build_rollout
from thinker.train.grpo.one_step_off import check_one_step_off, told_at_start
from thinker.train.grpo.rewards import WeightedReward, check_tasks
from thinker.train.grpo.trainer import ThinkerTrainer, check_groups
from thinker.train.held_out import logged_figures
from thinker.train.parts import lora_config
from thinker.train.run_data import RunData
from thinker.train.run_log import MetricsFile
from thinker.train.start import settle_dtype, trainer_args
from thinker.video.perturb import PERTURBATIONS

logger = logging.getLogger(__name__)


def train_grpo(
    config: RunConfig,
    stage: GrpoStage,
    args: GRPOConfig,
    policy: Policy,
    data: RunData,
    rewards: Sequence[WeightedReward],
) -> tuple[Policy, int]:
    """Train by GRPO, from the newest valid checkpoint where there is one; returns the policy in
    memory, LoRA merged, and the number of steps. rewards: as `checked_rewards` gives them."""
    trained = [e for source in data.stages[stage.name] for e in source.examples]
    held_out = [e for _, examples in data.eval_sets for e in examples]
    trainer = ThinkerTrainer(
        policy=policy,
        args=args,
        rewards=rewards,
        samples=union(data.stages[stage.name], config.seed),
        read_clip=data.reader,
        rollout=lambda model: build_rollout(
            config.rollout,
            dataclasses.replace(policy, model=model),
            max_new_tokens=args.max_completion_length,
            max_prompt_tokens=policy.inputs.max_tokens_of(
                (tuple(medium.kind for medium in example.media), example.turns)
                for example in [*trained, *held_out]
            )
            + policy.inputs.max_said_tokens(example.media for example in [*trained, *held_out]),
        ),
        perturbations=stage.perturbations,
        evaluate_policy=partial(logged_figures, data=data, config=config),
        peft_config=lora_config(stage.lora, policy, stage.train),
        rates=stage.train,
        logprobs=stage.logprobs,
        callbacks=[MetricsFile(Path(args.output_dir))],
        max_skipped_steps=stage.max_skipped_steps,
        one_step_off=stage.one_step_off,
    )
    if stage.one_step_off:
        logger.info("%s", told_at_start(args))
    try:
        trainer.train(resume_from_checkpoint=True)
    except RolloutError as error:
        raise RolloutError(f"{error}; {trainer.save_last_step()}") from error
    finally:
        trainer.rollouts.backend.close()
    return trainer.trained_policy(policy), trainer.state.global_step


def stage_rewards(stage: GrpoStage) -> list[WeightedReward]:
    """The rewards of a stage. Raises ValueError for one that cannot be built."""
    return [
        WeightedReward(reward=build_reward(r.name, r.config), weight=r.weight)
        for r in stage.rewards
    ]


def check_grpo(stage: GrpoStage, args: GRPOConfig, sources: Sequence[Source], seed: int) -> None:
    """Raises ValueError for what would end the stage when it begins, or let it end without a step:
    too few videos for a batch, an unknown perturbation. Stages before it may take hours."""
    check_groups(args)
    if stage.one_step_off:
        check_one_step_off(args)
    num_rows = len(union(sources, seed))
    num_needed = args.generation_batch_size // args.num_generations
    if num_rows < num_needed:
        raise ValueError(
            f"stage {stage.name}: its data holds {num_rows} videos, but one batch takes "
            f"{num_needed} (per_device_train_batch_size {args.per_device_train_batch_size} x "
            f"{args.world_size} processes x steps_per_generation {args.steps_per_generation} / "
            f"num_generations {args.num_generations}), so no step would be made; lower one of them"
        )
    unknown = [kind for kind in stage.perturbations if kind not in PERTURBATIONS]
    if unknown:
        raise ValueError(
            f"stage {stage.name}: unknown perturbation {unknown[0]!r}, expected some of "
            f"{', '.join(PERTURBATIONS)}"
        )


def checked_rewards(stage: GrpoStage, sources: Sequence[Source]) -> list[WeightedReward]:
    """The rewards of a stage. Raises ValueError for one that cannot be built, for a task of the
    data that none of them judges, and where one needs perturbed copies that the stage does not
    make or tags that the data does not have."""
    rewards = stage_rewards(stage)
    examples = [example for source in sources for example in source.examples]
    check_tasks([weighted.reward for weighted in rewards], (e.task for e in examples))
    for weighted in rewards:
        check_tags = getattr(weighted.reward, "check_tags", None)
        if check_tags is not None:
            check_tags([dict(e.tags) for e in examples if e.task in weighted.reward.tasks])
    needy = [weighted.reward.name for weighted in rewards if weighted.reward.needs_perturbed]
    if needy and not stage.perturbations:
        raise ValueError(
            f"stage {stage.name}: reward {needy[0]} compares with perturbed copies, but "
            "perturbations is empty"
        )
    return rewards


def grpo_args(config: RunConfig, stage: GrpoStage, folder: Path) -> GRPOConfig:
    """TRL's configuration with the run's seed; its journals and checkpoints go into `folder`.

    vLLM's float32 logprobs equal the trainer's (tests/rollout/test_vllm.py), so the correction for
    their difference, which costs a forward pass a batch, is on by default in half precision, and
    where rollouts are one step off.
    """
    is_exact = settle_dtype(config).model.dtype == "float32" and not stage.one_step_off
    given = {
        "output_dir": str(folder),
        "seed": config.seed,
        "learning_rate": max(stage.train.values()),
        "dataloader_num_workers": config.data.num_workers,
        "report_to": ["tensorboard"],
        "vllm_importance_sampling_correction": not is_exact,
        "save_total_limit": 2,  # the newest, and one to fall back on
    }
    return trainer_args(GRPOConfig, config, stage, given)
