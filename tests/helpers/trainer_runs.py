"""Trainers on tiny policies with scripted rollouts, small enough for a test."""

import dataclasses
import json
import os
from pathlib import Path

from peft import LoraConfig
from trl import GRPOConfig

from rewards import build_reward
from tests.helpers.policy_factory import random_clip, small_policy
from thinker.data.examples import Example
from thinker.policies import load_policy
from thinker.prompts import ask
from thinker.rollout.base import Completion
from thinker.rollout.hf import hf_rollout
from thinker.train.grpo.rewards import WeightedReward
from thinker.train.grpo.trainer import ThinkerTrainer
from thinker.video.medium import medium

GROUP = 2


NUM_VIDEOS = 4


def samples(count=NUM_VIDEOS, questions=(None,)):
    """Samples of one video each; the questions are asked in turn, None being the policy's own."""
    return [
        Example(
            id=f"demo/{i}",
            dataset="demo",
            media=(medium(f"/videos/{i}.mp4"),),
            turns=ask(question) if (question := questions[i % len(questions)]) else (),
            mos=1.0 + i,
            target=1.0 + i,
            content=str(i),
        )
        for i in range(count)
    ]


def examples_of(prompts):
    """Examples that ask these prompts; `ClipsByName` reads their media."""
    return [
        Example(
            id=f"demo/{i}",
            dataset="demo",
            media=tuple(medium(f"/media/{clip.path}") for clip in prompt.clips),
            turns=prompt.turns,
            target=1.0 + i,
            content=str(i),
        )
        for i, prompt in enumerate(prompts)
    ]


class ClipsByName:
    """Stands for the reader: the clips of prompts, by the names of their files."""

    def __init__(self, prompts):
        self.clips = {clip.path.name: clip for prompt in prompts for clip in prompt.clips}

    def __call__(self, medium):
        return self.clips[medium.path.name]


@dataclasses.dataclass(frozen=True)
class ClipsByNumber:
    """Stands for the reader: the clip of `/videos/3.mp4` is noise drawn from seed 3."""

    policy: object

    def __call__(self, medium):
        return random_clip(self.policy, int(medium.path.stem))


class Scripted:
    """A rollout back end whose texts are given: one function for the videos, one for the copies."""

    name = "scripted"
    reports_logprobs = False

    def __init__(self, tokenizer, own, perturbed, num_videos=NUM_VIDEOS):
        self.tokenizer, self.texts, self.num_videos = tokenizer, (own, perturbed), num_videos

    def sync(self, step):
        return {}

    def generate(self, requests, num_generations, sampling, seed):
        self.num_requests = len(requests)
        return [
            [self._completion(i, j) for j in range(num_generations)] for i in range(len(requests))
        ]

    def _completion(self, i, j):
        text = self.texts[i >= self.num_videos](i % self.num_videos, j)
        ids = self.tokenizer(text)["input_ids"]
        return Completion(token_ids=[*ids, self.tokenizer.eos_token_id])


class ScriptedByPlace(Scripted):
    """Completions that follow from the place of a video in the batch of all processes, which must
    hold every video once."""

    def generate(self, requests, num_generations, sampling, seed):
        first = int(os.environ.get("RANK", "0")) * len(requests)
        return [
            [self._completion((first + i) % NUM_VIDEOS, j) for j in range(num_generations)]
            for i in range(len(requests))
        ]


def answer(value):
    return f"<think>It is blur.</think><answer>{value:.2f}</answer>"


def rewards(*names):
    return [WeightedReward(reward=build_reward(name)) for name in names]


def make_trainer(
    tmp_path, backbone="internvl3", *, reward_list=None, rollout=None, lora=False, freeze=(),
    seed=0, save_start=True, logprobs="shared", examples=None, one_step_off=False,
    quantization=None, **grpo,
):  # fmt: skip
    """lora: whether it is trained, or its configuration."""
    if save_start:
        small_policy(backbone, amplify=1.0).save(tmp_path / "start")
    policy = load_policy(tmp_path / "start", quantization=quantization)
    policy.model.freeze(freeze)
    args = GRPOConfig(
        **{
            "output_dir": str(tmp_path / "run"),
            "num_generations": GROUP,
            "per_device_train_batch_size": NUM_VIDEOS * GROUP,
            "max_completion_length": 8,
            "max_steps": 1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "shuffle_dataset": False,
            "seed": seed,
            **grpo,
        }
    )
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    if lora is True:
        lora = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    make_rollout = rollout or (lambda model: hf_rollout(dataclasses.replace(policy, model=model)))
    return ThinkerTrainer(
        policy=policy,
        args=args,
        rewards=reward_list or rewards("regression", "ranking", "format", "temporal"),
        samples=examples or samples(),
        read_clip=ClipsByNumber(policy),
        rollout=make_rollout if callable(make_rollout) else (lambda model: make_rollout),
        perturbations=("reverse", "drop"),
        peft_config=lora or None,
        logprobs=logprobs,
        one_step_off=one_step_off,
    )


def scripted(*, own=None, perturbed=None, backbone="internvl3"):
    """A factory of `Scripted` with graded answers, so that advantages are not zero. backbone: whose
    tokenizer writes them; another one may have fewer tokens."""
    policy = small_policy(backbone)
    own = own or (lambda i, j: answer(1.0 + i * 0.9 + 0.3 * j))
    perturbed = perturbed or (lambda i, j: answer(3.0))
    return Scripted(policy.tokenizer, own, perturbed)


def snapshot(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
