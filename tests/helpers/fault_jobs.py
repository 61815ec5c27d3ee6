"""What the forked children of the fault tests do; see zygote.py."""

import hashlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback, TrainingArguments, modeling_utils

from tests.helpers import trainer_runs
from tests.helpers.logged_rollout import LoggedRollout
from tests.helpers.policy_factory import small_policy
from thinker.cli import main as command_line
from thinker.config.run import LoraSettings, SftStage, SourceSettings
from thinker.data.demo.generate import generate_demo_set
from thinker.data.demo.plan import SyntheticConfig
from thinker.data.examples import Example
from thinker.data.mixture import Source
from thinker.policies import load_policy
from thinker.prompts import ask
from thinker.train import pipeline
from thinker.train import state_file as train_state
from thinker.train.checkpoint import newest_valid
from thinker.train.grpo.rewards import WeightedReward
from thinker.train.grpo.trainer import ThinkerTrainer
from thinker.train.parts import freeze_others, with_lora
from thinker.train.run_log import MetricsFile
from thinker.train.sft.trainer import SupervisedTrainer
from thinker.utils import worker_pool
from thinker.video.medium import medium

GROUP = 2


class Lengths:
    """A reward that varies between any two completions, so that a random policy has a gradient."""

    name = "lengths"
    needs_perturbed = False
    tasks = ("score",)

    def __call__(self, completions, sample_id, target, **columns):
        return [sum(text.encode()) % 97 / 97 for text in completions]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt:
    """Counts moments of a run and kills the process at one of them, without a word."""

    def __init__(self, moment: int | None, rank: int = 0):
        mine = int(os.environ.get("RANK", "0")) == rank
        self.moment = moment if mine else None
        self.seen = 0

    def __call__(self) -> None:
        self.seen += 1
        if self.seen == self.moment:
            die()

    def around(self, trainer: ThinkerTrainer, *methods: str) -> None:
        """A moment before and one after each call of the methods."""
        for name in methods:
            setattr(trainer, name, partial(self._around, getattr(trainer, name)))

    def _around(self, method, *args, **kwargs):
        self()
        result = method(*args, **kwargs)
        self()
        return result


def build(folder: str, *, rewards=None, rollout=None, **grpo):
    """A trainer of 4 videos, its journals in `folder/run`; `folder/start` must hold a policy."""
    values = {
        "per_device_train_batch_size": GROUP,  # one group: G rollouts are more than one micro-batch
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
        "num_iterations": 2,
        "max_steps": 7,
        "shuffle_dataset": True,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "learning_rate": 3e-3,
        **grpo,
    }
    if values.get("one_step_off"):
        policy = small_policy("internvl3")
        rollout = partial(LoggedRollout, policy)
    reward_list = rewards or [WeightedReward(reward=Lengths()), *trainer_runs.rewards("ranking")]
    trainer = trainer_runs.make_trainer(
        Path(folder), reward_list=reward_list, rollout=rollout, save_start=False, **values
    )
    trainer.add_callback(MetricsFile(Path(trainer.args.output_dir)))
    return trainer


def save_start(folder: str, backbone: str = "internvl3") -> None:
    small_policy(backbone, amplify=1.0).save(Path(folder) / "start")


def save_weights(trainer: ThinkerTrainer, path: Path) -> None:
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        tensors = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, path)


def train(folder: str, kill_at: int | None = None, rank: int = 0, **grpo) -> None:
    """Train, resuming if there is a checkpoint; `weights.safetensors` at the end."""
    trainer = build(folder, **grpo)
    kill = KillAt(kill_at, rank)
    kill.around(
        trainer, "_generate_single_turn", "_write_rollouts", "_compute_loss", "_get_grad_norm",
        "_save_checkpoint",
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=True)
    save_weights(trainer, Path(folder) / "weights.safetensors")
    if int(os.environ.get("RANK", "0")) == 0:
        (Path(folder) / "moments").write_text(str(kill.seen))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train_given(folder: str, **grpo) -> None:
    """Train on given rollouts, which do not depend on how many processes there are; resumes."""
    texts = lambda i, j: trainer_runs.answer(1.0 + 0.9 * i + 0.3 * j)  # noqa: E731
    tokenizer = small_policy("internvl3").tokenizer
    trainer = build(
        folder,
        rewards=trainer_runs.rewards("regression", "ranking"),
        rollout=lambda model: trainer_runs.ScriptedByPlace(tokenizer, texts, None),
        shuffle_dataset=False,
        lr_scheduler_type="constant",
        adam_epsilon=1e-2,  # a small one makes whole steps of rounding errors
        loss_type="grpo",
        **grpo,
    )
    trainer.train(resume_from_checkpoint=True)
    save_weights(trainer, Path(folder) / "weights.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train_supervised(folder: str, kill_at: int | None = None, lora: bool = False, **given) -> None:
    """Supervised training of a mixture, resuming if there is a checkpoint."""
    policy = load_policy(Path(folder) / "start")
    rates = {"language_model": 3e-3, "vision_projector": 1e-3}
    if lora:
        rates = {"lora": 1e-2, "motion_projector": 1e-3, "vision_tower": 1e-3, "slowfast": 1e-4}
    freeze_others(policy, rates)
    stage = SftStage(
        name="s", kind="sft", data=(SourceSettings(config="d.yaml"),), train=rates,
        lora=LoraSettings(r=2, dropout=0.1) if lora else None,
    )  # fmt: skip
    run = Path(folder) / "run"
    run.mkdir(exist_ok=True)
    args = TrainingArguments(
        **{
            "output_dir": str(run), "per_device_train_batch_size": 2, "max_steps": 5,
            "gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 2,
            "save_total_limit": 2, "logging_steps": 3, "report_to": [], "use_cpu": True,
            "disable_tqdm": True, **given,
        }
    )  # fmt: skip
    trainer = SupervisedTrainer(
        policy=policy,
        model=with_lora(policy, stage, is_autocast=False),
        args=args,
        sources=[
            Source(examples=lessons("blur", 3), weight=2),
            Source(examples=lessons("noise", 3)),
        ],
        read_clip=trainer_runs.ClipsByNumber(policy),
        rates=rates,
        callbacks=[MetricsFile(run)],
    )
    kill = KillAt(kill_at)
    kill.around(trainer, "training_step", "_get_grad_norm", "_save_checkpoint")
    trainer.train(resume_from_checkpoint=True)
    save_weights(trainer, Path(folder) / "weights.safetensors")
    (Path(folder) / "moments").write_text(str(kill.seen))


def lessons(name: str, count: int) -> tuple[Example, ...]:
    return tuple(
        Example(
            id=f"{name}/{i}", dataset=name, task="open", turns=ask("<video>\nWhat is it?"),
            media=(medium(f"/videos/{i}.mp4"),), reference=f"It is {name}.", content=str(i),
        )
        for i in range(count)
    )  # fmt: skip


class FileBoundaries:
    """Kills the process at the n-th file operation; without n, counts them.

    Operations: every open, rename, remove, mkdir and rmdir that Python announces to its audit
    hooks, every fsync, and, as the safetensors library opens its files itself, before a file of
    its, after half of it, and after it.
    """

    def __init__(self, folder: str, kill_at: int):
        self.folder, self.kill_at, self.seen = folder, kill_at, 0
        self.names: list[str] = []
        sys.addaudithook(self._audit)
        os.fsync = self._wrap(os.fsync, "fsync")
        for module in (modeling_utils, train_state):
            name = "safe_save_file" if hasattr(module, "safe_save_file") else "save_file"
            setattr(module, name, self._torn(getattr(module, name)))

    def _audit(self, event, arguments):
        if event == "open":
            if isinstance(arguments[0], str) and arguments[0].startswith(self.folder):
                self._step(event)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            self._step(event)

    def _step(self, name: str) -> None:
        self.seen += 1
        self.names.append(name)
        if self.seen == self.kill_at:
            die()

    def _wrap(self, function, name):
        def wrapped(*args):
            self._step(name)
            return function(*args)

        return wrapped

    def _torn(self, save):
        def wrapped(tensors, filename, *args, **kwargs):
            self._step("safetensors: before")
            save(tensors, filename, *args, **kwargs)
            if self.seen + 1 == self.kill_at:
                os.truncate(filename, os.path.getsize(filename) // 2)
            self._step("safetensors: half")
            self._step("safetensors: written")

        return wrapped


def in_fork(function, *arguments) -> int:
    """Exit code of a function run in a fork; negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = function(*arguments) or 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_every_save(folder: str) -> None:
    """Save the second checkpoint again and again, killed at its first, second, … file operation.

    Writes `kills.json`: for each kill, the newest valid checkpoint after it, what is passed over,
    and the newest after a second save in the same folder, which must work whatever the kill left.
    """
    trainer = build(folder, save_total_limit=1, max_steps=3)
    trainer.add_callback(StopAt(1))
    trainer.train()
    trainer.state.global_step = 2
    base = trainer.args.output_dir

    def save(target: str, kill_at: int | None) -> None:
        trainer.args.output_dir = target
        boundaries = FileBoundaries(target, kill_at or 0)
        trainer._save_checkpoint(trainer.model, None)
        (Path(folder) / "operations.json").write_text(json.dumps(boundaries.names))

    kills = []
    for kill_at in range(1, 1000):
        target = f"{folder}/kill{kill_at}"
        shutil.copytree(base, target)
        code = in_fork(save, target, kill_at)
        found, reasons = newest_valid(Path(target))
        again = in_fork(save, target, None)
        after = [path.name for path in sorted(Path(target).glob("*checkpoint-*"))]
        row = {"code": code, "newest": found and found.name, "passed_over": reasons}
        kills.append(row | {"again": again, "after": after})
        shutil.rmtree(target)
        if code == 0:
            break
    (Path(folder) / "kills.json").write_text(json.dumps(kills))


class StopAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def make_infinite(folder: str, step: int, rank: int) -> None:
    """Two processes; the loss of one is infinite at a step while all gradients are finite."""
    trainer = build(folder, steps_per_generation=2, max_steps=4, save_steps=1, save_total_limit=9)
    plain = trainer._compute_loss

    def compute_loss(model, inputs):
        loss = plain(model, inputs)
        here = trainer.state.global_step == step and trainer.accelerator.process_index == rank
        return loss + float("inf") if here else loss

    trainer._compute_loss = compute_loss
    trainer.train()
    digest = hashlib.sha256()
    for parameter in trainer.core.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    own = trainer.accelerator.process_index
    (Path(folder) / f"rank{own}").write_text(digest.hexdigest())
    torch.distributed.destroy_process_group()


def lack_memory(folder: str, capacity: int, rank: int) -> None:
    """Two processes with two groups each; on one, more than `capacity` groups do not fit."""
    settings = {"gradient_accumulation_steps": 1, "steps_per_generation": 1, "num_iterations": 1}
    # plain SGD: AdamW makes a step of full size out of a rounding error's sign
    settings |= {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    trainer = build(
        folder, per_device_train_batch_size=2 * GROUP, max_steps=2, save_strategy="no", **settings
    )
    if trainer.accelerator.process_index == rank:
        small_memory(trainer, capacity)
    trainer.train()
    save_weights(trainer, Path(folder) / "weights.safetensors")
    torch.distributed.destroy_process_group()


def small_memory(trainer: ThinkerTrainer, capacity: int) -> list[int]:
    """INJECTED fault: a forward of more than `capacity` groups raises as CUDA's allocator does.

    Returns the list that collects the number of groups of every forward.
    """
    sizes = []

    def count(kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > capacity:
            raise torch.OutOfMemoryError("INJECTED: no room for so many groups")

    before_logprobs(trainer, count)
    return sizes


def before_logprobs(trainer: ThinkerTrainer, call) -> None:
    """`call(kwargs)` before every forward for log-probabilities, recomputed ones included.

    The hook is the backbone's: TRL's fused head calls that, with `use_cache=False`, while the model
    above runs its chunks by its `forward`, past all hooks.
    """

    def hook(module, args, kwargs):
        if kwargs.get("use_cache") is False:  # True in generation
            call(kwargs)

    trainer.core.model.register_forward_pre_hook(hook, with_kwargs=True)


STAGES = ("start_policy", "train_sft", "folder_once", "json_once", "train_grpo", "held_out")


def demo_set(folder: str) -> None:
    """A few generated videos."""
    config = SyntheticConfig(num_train_contents=4, num_eval_contents=6, clips_per_content=2)
    generate_demo_set(Path(folder), config, num_workers=1)


def pipeline_run(demo: str, output: str, kill_at: int | None = None, overrides=()) -> int:
    """`run_training` of the smoke configuration; kills itself before or after a stage's work.

    Appends the names of the stages it went into to `stages.txt`.
    """
    from tests.helpers.pipeline_runs import run_config

    kill = KillAt(kill_at)

    def watched(name, method, *args, **kwargs):
        with open(Path(output).parent / "stages.txt", "a") as file:
            file.write(name + "\n")
        kill()
        result = method(*args, **kwargs)
        kill()
        return result

    for name in STAGES:
        setattr(pipeline, name, partial(watched, name, getattr(pipeline, name)))
    values = (
        *(f"stages.grpo.trainer.{setting}" for setting in (
            "max_steps=3", "save_strategy=steps", "save_steps=1", "entropy_coef=0.1",
            "report_to=[]",
        )),
        *(f"stages.warm_start.trainer.{setting}" for setting in (
            "max_steps=4", "save_strategy=steps", "save_steps=1", "logging_steps=1",
        )),
    )  # fmt: skip
    try:
        pipeline.run_training(run_config(Path(demo), output, *values, *overrides))
        return 0
    except ValueError as error:
        print("error:", error)
        return 2


def shell(command: list[str], folder: str) -> int:
    """A command line in a folder whose modules can be imported: `thinker`, `python FILE` or `python
    -m MODULE`. Worker processes are forks, too, which have their imports."""
    fork = multiprocessing.get_context("fork")
    worker_pool.multiprocessing.get_context = lambda kind: fork
    os.chdir(folder)
    sys.path.insert(0, folder)
    program, *sys.argv = command
    try:
        if program == "thinker":
            return command_line.main(sys.argv)
        if sys.argv[0] == "-m":
            sys.argv.pop(0)
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit:
        return exit.code
    return 0
