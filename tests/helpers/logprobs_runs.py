"""Short training runs by which shared and plain log-probabilities are compared.

Completions are fixed, so that both are of the same rows; prompts and completions are ragged; there
are several groups a micro-batch.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig

from tests.helpers.policy_factory import conversations, small_policy
from tests.helpers.trainer_runs import (
    GROUP,
    ClipsByName,
    ClipsByNumber,
    Scripted,
    answer,
    examples_of,
    rewards,
    samples,
)
from thinker.policies import load_policy
from thinker.train.grpo.trainer import ThinkerTrainer

QUESTIONS = (None, "Why?")  # prompts of two lengths, of even and odd videos
LOSS_TYPES = ("grpo", "dapo", "dr_grpo", "cispo")
FROZEN = {  # every loss type with another set of frozen parts, whose features are reused
    "grpo": (),
    "dapo": ("slowfast",),
    "dr_grpo": ("vision_tower", "slowfast"),
    "cispo": ("vision_tower", "vision_projector", "slowfast"),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    backbone: str
    dtype: torch.dtype = torch.float64
    loss_type: str = "grpo"
    beta: float = 0.0
    frozen: tuple[str, ...] = ()
    several: bool = False  # prompts with several media, or none, instead of one video each
    lora: bool = False
    checkpointing: str | None = None  # "reentrant", "non_reentrant"
    accumulation: int = 2
    steps: int = 3


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """losses: of every micro-batch. gradients: of every optimizer step, by name."""

    losses: list[torch.Tensor]
    gradients: list[dict[str, torch.Tensor]]
    parameters: dict[str, torch.Tensor]


class KeepGradients(TrainerCallback):
    def __init__(self):
        self.trainer, self.kept = None, []

    def on_pre_optimizer_step(self, *args, **kwargs):
        named = self.trainer.core.named_parameters()
        self.kept.append({n: p.grad.clone() for n, p in named if p.grad is not None})


class RecordedTrainer(ThinkerTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.losses.append(loss.detach().clone())
        return loss


def ragged(i, j):
    """Answers about video 2 are all the same, so that its group adds no gradient without KL."""
    return "It is blur. " * ((2 * i + j) % 3) + answer(1.0 + 0.9 * i + 0.3 * j * (i != 2))


def recorded_trainer(case: Case, folder: Path, logprobs: str) -> RecordedTrainer:
    """A trainer on the policy in `folder / "start"`, whose rollouts are fixed texts (fake)."""
    policy = load_policy(folder / "start", dtype=case.dtype)
    policy.model.freeze(case.frozen)
    keep, prompts = KeepGradients(), conversations(policy)
    checkpointing = {
        "gradient_checkpointing": case.checkpointing is not None,
        "gradient_checkpointing_kwargs": {"use_reentrant": case.checkpointing == "reentrant"},
    }
    adam = case.dtype == torch.float64  # in float32 it turns noise of 1e-9 around 0 into full steps
    trainer = RecordedTrainer(
        policy=policy,
        args=GRPOConfig(
            output_dir=str(folder / logprobs),
            num_generations=GROUP,
            per_device_train_batch_size=2 * GROUP,
            gradient_accumulation_steps=case.accumulation,
            num_iterations=2,
            max_completion_length=32,
            max_steps=case.steps,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            optim="adamw_torch" if adam else "sgd",
            loss_type=case.loss_type,
            beta=case.beta,
            save_strategy="no",
            report_to=[],
            logging_steps=1,
            bf16=False,
            use_cpu=True,
            disable_tqdm=True,
            shuffle_dataset=False,
            **checkpointing,
        ),
        rewards=rewards("regression"),
        samples=examples_of(prompts) if case.several else samples(questions=QUESTIONS),
        read_clip=ClipsByName(prompts) if case.several else ClipsByNumber(policy),
        rollout=lambda model: Scripted(policy.tokenizer, ragged, None, num_videos=8),
        peft_config=LoraConfig(
            r=4,
            target_modules=r".*language_model.*\.(q_proj|v_proj)",
            modules_to_save=list(policy.model.projector_names),
        )
        if case.lora
        else None,
        callbacks=[keep],
        logprobs=logprobs,
    )
    keep.trainer, trainer.losses = trainer, []
    Path(trainer.args.output_dir).mkdir(parents=True, exist_ok=True)
    return trainer


def outcome(case: Case, folder: Path, logprobs: str) -> TrainedRun:
    torch.manual_seed(0)  # LoRA draws its matrices
    trainer = recorded_trainer(case, folder, logprobs)
    if case.lora:  # B starts at zero, and then A would have no gradient
        for name, parameter in trainer.core.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    trainer.train()
    kept = trainer.callback_handler.callbacks
    gradients = next(c.kept for c in kept if isinstance(c, KeepGradients))
    return TrainedRun(
        losses=trainer.losses,
        gradients=gradients,
        parameters={n: p.detach().clone() for n, p in trainer.core.named_parameters()},
    )


def compare(case: Case, folder: Path, tolerance: float) -> None:
    """Run both ways and compare loss, every gradient and the parameters; differences are relative
    to the largest value of a tensor, or absolute where that is below 1."""
    plain, shared = (outcome(case, folder, logprobs) for logprobs in ("plain", "shared"))
    assert len(plain.losses) == len(shared.losses) == case.steps * case.accumulation
    for one, other in zip(plain.losses, shared.losses, strict=True):
        assert close(one, other, tolerance), ("loss", case, one, other)
    assert len(plain.gradients) == len(shared.gradients) == case.steps
    for one, other in zip(plain.gradients, shared.gradients, strict=True):
        assert one.keys() == other.keys()
        assert any(gradient.abs().max() > 1e-4 for gradient in one.values()), case
        wrong = [name for name in one if not close(one[name], other[name], tolerance)]
        assert not wrong, ("gradients", case, wrong[:5])
    wrong = [
        name
        for name, value in plain.parameters.items()
        if not close(value, shared.parameters[name], tolerance)
    ]
    assert not wrong, ("parameters", case, wrong[:5])


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return bool((one - other).abs().max() <= tolerance * one.abs().max().clamp(min=1.0))


def save_start(backbone: str, folder: Path) -> None:
    small_policy(backbone, amplify=1.5).save(folder / "start")


def with_frozen(case: Case) -> Case:
    return replace(case, frozen=FROZEN[case.loss_type])
