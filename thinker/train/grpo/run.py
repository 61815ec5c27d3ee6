"""The GRPO stage of a run: configuration → trainer → trained policy."""

import dataclasses
from functools import partial
from pathlib import Path

from peft import LoraConfig
from trl import GRPOConfig

from rewards import build_reward
from thinker.config.build import foreign_values
from thinker.config.run import RunConfig
from thinker.policies import Policy
from thinker.rollout.base import RolloutError
from thinker.rollout.build import build_rollout
from thinker.train.grpo.rewards import WeightedReward
from thinker.train.grpo.trainer import ThinkerTrainer
from thinker.train.held_out import logged_figures
from thinker.train.run_data import RunData
from thinker.train.run_log import MetricsFile


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
            max_prompt_tokens=policy.inputs.max_tokens_of(
                (tuple(medium.kind for medium in example.media), example.turns)
                for example in [*data.train, *(e for _, held in data.eval_sets for e in held)]
            ),
        ),
        perturbations=config.perturbations,
        evaluate_policy=partial(logged_figures, data=data, config=config),
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

    vLLM's float32 logprobs equal the trainer's (tests/rollout/test_vllm.py), so the correction for
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
