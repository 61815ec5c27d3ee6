"""A supervised stage of a run: configuration → trainer → trained policy."""

from pathlib import Path

from transformers import TrainingArguments

from thinker.config.run import RunConfig, SftStage
from thinker.policies import Policy
from thinker.train.parts import with_lora
from thinker.train.run_data import RunData
from thinker.train.run_log import MetricsFile
from thinker.train.sft.trainer import SupervisedTrainer, check_sft
from thinker.train.start import trainer_args


def train_sft(
    config: RunConfig, stage: SftStage, args: TrainingArguments, policy: Policy, data: RunData
) -> tuple[Policy, int]:
    """Train on answers, from the newest valid checkpoint where there is one; returns the policy in
    memory, LoRA merged, and the number of steps."""
    trainer = SupervisedTrainer(
        policy=policy,
        model=with_lora(policy, stage, is_autocast=args.bf16 or args.fp16),
        args=args,
        sources=data.stages[stage.name],
        read_clip=data.reader,
        rates=stage.train,
        callbacks=[MetricsFile(Path(args.output_dir))],
    )
    trainer.train(resume_from_checkpoint=True)
    return trainer.trained_policy(policy), trainer.state.global_step


def sft_args(config: RunConfig, stage: SftStage, folder: Path) -> TrainingArguments:
    """transformers' configuration with the run's seed; its journal and checkpoints go into
    `folder`."""
    given = {
        "output_dir": str(folder),
        "seed": config.seed,
        "learning_rate": max(stage.train.values()),
        "report_to": [],
        "save_strategy": "no",
        "save_total_limit": 2,  # the newest, and one to fall back on
        "dataloader_num_workers": config.data.num_workers,
    }
    args = trainer_args(TrainingArguments, config, stage, given)
    check_sft(args)
    return args
