"""Continuing after `kill -9` as if nothing had happened.

A checkpoint holds weights, optimizer and schedule, and for each process:
- the random streams;
- sums that are not logged yet;
- the sizes of the journals, which are cut back to these sizes on a restart;
- what else the trainer wants to find again (`Resumable.progress`), such as the rollouts of a batch
  that is not used up yet.

The order of the data follows from a seed and the number of batches. Everything is safetensors and
JSON.

`Resumable` goes before a trainer of transformers' or TRL's and hands these methods of theirs to
`Checkpoints`, which does the work:
- `_save_checkpoint`, `_get_output_dir`: written aside and renamed (checkpoint.py);
- `_save_optimizer_and_scheduler`, `_save_rng_state` and their loaders: no pickle;
- `_load_from_checkpoint`: by the policies' own key map, strictly;
- `_run_epoch`: transformers trains one step too many when it resumes at `max_steps`.
TRL's sampler forgets past epochs' draws on a restart; `EpochOrder` does not.

DeepSpeed and FSDP write and read their own sharded (pickled) state; that it appears as a whole
holds for them too, the rest is theirs.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer import TRAINING_ARGS_NAME
from trl.trainer.utils import RepeatSampler

from thinker.config.run import IN_PLACE
from thinker.policies import Policy, load_policy
from thinker.policies.adapters import IN_PLACE_WEIGHTS, merge_lora, write_base
from thinker.train import checkpoint as files
from thinker.train.checkpoint import CheckpointError
from thinker.train.parts import split_by_part, trained_in_place, without_norms
from thinker.train.processes.other_world import (
    check_processes,
    process_files,
    rows_of_update,
    state_here,
)
from thinker.train.processes.sharded import whole_copy
from thinker.train.processes.world import check_sharding
from thinker.train.run_log import JOURNALS
from thinker.train.state_file import load_tree, random_state, save_tree, set_random_state
from thinker.utils import atomic
from thinker.utils.seeds import derive_seed

OPTIMIZER = "optimizer.safetensors"

_UNSUPPORTED = {
    "load_best_model_at_end": "evaluate checkpoints with `thinker eval`",
    "save_only_model": "a run must be able to resume",
    "auto_find_batch_size": "it would change the update",
    "push_to_hub": "push the finished `final/` instead",
    "ignore_data_skip": "a resumed run must see the data of the uninterrupted one",
}


def check_settings(args: TrainingArguments) -> None:
    """Refuse settings under which a run could not resume exactly, or would not begin.

    Sets one that follows from ours: every process passes every part (`for_every_part`), so DDP need
    not look for unused parameters. Under LoRA transformers would let it, which reentrant
    checkpointing does not survive.
    """
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False
    for name, instead in _UNSUPPORTED.items():
        if getattr(args, name):
            raise ValueError(f"trainer.{name} is not supported: {instead}")
    if args.save_strategy == "best":
        raise ValueError("trainer.save_strategy is best, expected steps, epoch or no")
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"trainer.{name} is {getattr(args, name)}, expected at least 1")
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ValueError(
            f"trainer.num_train_epochs is {args.num_train_epochs} and max_steps {args.max_steps}, "
            "so no step would be made; give one of them above 0"
        )
    known, installed = INTEGRATION_TO_CALLBACK, get_available_reporting_integrations()
    for name in args.report_to or ():
        if name not in known:
            raise ValueError(f"trainer.report_to is {name!r}, expected some of {', '.join(known)}")
        if name not in installed and name != "flyte":  # which transformers does not look for
            raise ValueError(f"trainer.report_to names {name}, which is not installed")


class EpochOrder(RepeatSampler):
    """TRL's sampler whose order follows from (seed, epoch), not from what it drew before."""

    epoch = 0

    @classmethod
    def like(cls, plain: RepeatSampler) -> "EpochOrder":
        """With the settings of a sampler of TRL's."""
        return cls(
            data_source=plain.data_source,
            mini_repeat_count=plain.mini_repeat_count,
            batch_size=plain.batch_size,
            repeat_count=plain.repeat_count,
            shuffle=plain.shuffle,
            seed=plain.seed,
        )

    def __iter__(self):
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch):
                torch.randperm(self.num_samples, generator=self.generator)
        return super().__iter__()


class Checkpoints:
    """Writes and reads the checkpoints of one trainer, whose private state it knows."""

    def __init__(self, trainer: Any):
        self.trainer, self.accelerator = trainer, trainer.accelerator
        self.is_sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        self.staging: Path | None = None  # where transformers has to write now
        self._resumed_from: Path | None = None

    @property
    def folder(self) -> Path:
        """Where checkpoints lie."""
        return Path(self.trainer.args.output_dir)

    # Saving

    def save(self, write: Callable[[], None]) -> None:
        """Let transformers `write` the checkpoint of this step aside, and publish it whole."""
        step = self.trainer.state.global_step
        folder = self.folder / files.STAGING / f"checkpoint-{step}"
        main = self.accelerator.is_main_process

        def clear():
            if main:
                atomic.remove_tree(folder.parent)
                folder.parent.mkdir(parents=True)

        def write_aside():
            self.staging = folder.parent
            try:
                write()
                self._save_in_place(folder)
            finally:
                self.staging = None

        def publish():
            if main:
                (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle nobody reads
                files.write_manifest(folder, step, self.accelerator.num_processes)
                atomic.publish(folder, self.folder / folder.name)
                files.rotate(self.folder, step, self.trainer.args.save_total_limit)
                atomic.remove_tree(folder.parent)

        for action in (clear, write_aside, publish):
            self._together(action, folder)

    def _together(self, action: Callable[[], None], folder: Path) -> None:
        """Run on every process and wait; what fails on one ends all with the same message."""
        problem = None
        try:
            action()
        except (OSError, SafetensorError) as error:
            problem = f"{type(error).__name__}: {error}"
        problems = [text for text in gather_object([problem]) if text]
        if not problems:
            return
        if self.accelerator.is_main_process:
            atomic.remove_tree(folder.parent)  # gives the space back
        kept, _ = files.newest_valid(self.folder, pickles=self.is_sharded)
        left = f"{kept.name} is intact" if kept else "there is no earlier one"
        raise CheckpointError(
            f"{folder.name} could not be written to {self.folder}: {problems[0]}; {left}. "
            "Free space or mend the disk, then run the same command again to resume"
        )

    def _save_in_place(self, folder: Path) -> None:
        """What peft does not save: what is trained in place beside LoRA, and of which kind the base
        is."""
        trainer = self.trainer
        if trainer.has_adapter and not self.is_sharded and trainer.args.should_save:
            write_base(folder, trainer.core)
            weights = trained_in_place(trainer.core)
            if weights:
                save_tree(folder / IN_PLACE_WEIGHTS, {k: v.detach() for k, v in weights.items()})

    @torch.no_grad()
    def load_in_place(self, folder: str) -> None:
        """What `_save_in_place` wrote. Raises CheckpointError where a checkpoint holds others."""
        weights, path = trained_in_place(self.trainer.core), Path(folder) / IN_PLACE_WEIGHTS
        saved = load_tree(path) if path.is_file() else {}
        if saved.keys() != weights.keys():
            raise CheckpointError(
                f"{folder} holds {len(saved)} weights that are trained in place beside LoRA, this "
                f"run trains {len(weights)}; start over in another output_dir"
            )
        for name, weight in weights.items():
            weight.copy_(saved[name])

    def save_optimizer(self, folder: str) -> None:
        """Optimizer and schedule, from the main process."""
        trainer = self.trainer
        if trainer.args.should_save:
            state = {
                "optimizer": trainer.optimizer.state_dict(),
                "scheduler": trainer.lr_scheduler.state_dict(),
            }
            save_tree(Path(folder) / OPTIMIZER, state)

    def save_process(self, folder: str) -> None:
        """Everything of this process that is not weights, optimizer or trainer state."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_tree(Path(folder) / self._process_file, self._process_state())

    @property
    def _process_file(self) -> str:
        return f"process_{self.accelerator.process_index:05d}.safetensors"

    def _process_state(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "random": random_state(),
            "batch": rows_of_update(trainer.args, self.accelerator.num_processes),
            "loss_sum": trainer._tr_loss,
            "loss_total": trainer._total_loss_scalar,
            "last_logged_step": trainer._globalstep_last_logged,
            "journals": {name: files.journal_size(self.folder / name) for name in JOURNALS},
            "progress": trainer.progress(),
        }

    def save_last_step(self, save: Callable[[], None]) -> str:
        """Save what a run that cannot go on has reached; returns a sentence on where. Rollouts fail
        before a step begins, in every process, so the state is that of the last whole step."""
        step = self.trainer.state.global_step
        folder = self.folder / f"checkpoint-{step}"
        if step == 0:
            return "no step was done yet, so there is nothing to save"
        if not folder.exists():
            save()
        return f"step {step} is saved in {folder}"

    # Resuming

    def choose(self, resume_from_checkpoint: bool | str | None) -> str | None:
        """The checkpoint to resume from, checked; True takes the newest valid one, if any."""
        if resume_from_checkpoint is True:
            chosen = self.newest()
            if chosen is None and self.accelerator.is_main_process:
                for name in JOURNALS:  # lines of a run that died before its first checkpoint
                    files.cut_back(self.folder / name, 0)
        elif resume_from_checkpoint:
            chosen = Path(resume_from_checkpoint)
            files.check_checkpoint(chosen, pickles=self.is_sharded)
        else:
            chosen = None
        if chosen is None:
            return None
        self._resumed_from = chosen
        check_processes(chosen, self.trainer)
        return str(chosen)

    def newest(self) -> Path | None:
        """The newest valid checkpoint, chosen by the main process; others are named in the log."""
        choice: list = [None, []]
        if self.accelerator.is_main_process:
            choice = list(files.newest_valid(self.folder, pickles=self.is_sharded))
        broadcast_object_list(choice)
        for reason in choice[1] if self.accelerator.is_main_process else []:
            files.logger.warning("checkpoint passed over: %s", reason)
        return choice[0]

    def load_model(self, folder: str, model: Any) -> None:
        """Weights by the policies' own key map; another set of names is an error."""
        saved = load_policy(folder, dtype=next(model.parameters()).dtype)
        model.load_state_dict(saved.model.state_dict())

    def load_optimizer(self, folder: str) -> None:
        """Optimizer and schedule."""
        state = load_tree(Path(folder) / OPTIMIZER)
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        self.trainer.lr_scheduler.load_state_dict(state["scheduler"])

    def load_random_streams(self, folder: str) -> None:
        """The random streams of this process; new ones, which follow from seed, step and process,
        where another number of them wrote the checkpoint."""
        if self._is_other_world(Path(folder)):
            step, process = self.trainer.state.global_step, self.accelerator.process_index
            set_seed(derive_seed(self.trainer.args.seed, step, process, bits=31))
        else:
            set_random_state(load_tree(Path(folder) / self._process_file)["random"])

    def _is_other_world(self, folder: Path) -> bool:
        """Whether another number of processes wrote the checkpoint."""
        return len(process_files(folder)) != self.accelerator.num_processes

    def restore_progress(self) -> None:
        """To be called when transformers has reset its sums, before the first step."""
        if self._resumed_from is None:
            return
        trainer, folder = self.trainer, self._resumed_from
        if self._is_other_world(folder):
            state = state_here(folder, trainer)
        else:
            state = load_tree(folder / self._process_file)
        if self.accelerator.is_main_process:
            for name, size in state["journals"].items():
                files.cut_back(self.folder / name, size)
        trainer._tr_loss = state["loss_sum"].to(trainer.args.device)
        trainer._total_loss_scalar = state["loss_total"]
        trainer._globalstep_last_logged = state["last_logged_step"]
        trainer.set_progress(state["progress"])


class Moments(TrainerCallback):
    """The two moments of a run that only a callback is told of."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """After transformers' resets, before the first step."""
        self.trainer.checkpoints.restore_progress()

    def on_step_end(self, args, state, control, **kwargs):
        """A checkpoint that was due at a skipped step is made up for."""
        if self.trainer.save_is_due:
            control.should_save = True


class Resumable:
    """Mixin before a `Trainer` of transformers' or one that extends it: checkpoints as this module
    says, and a learning rate for each part.

    `begin` is to be called at the end of the constructor.
    """

    # of the host class
    args: Any
    model: Any
    optimizer: Any
    state: Any
    control: Any
    accelerator: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    add_callback: Callable[[TrainerCallback], None]

    def begin(self, rates: Mapping[str, float] | None) -> None:
        """rates: learning rates by part; None is `args.learning_rate` for all that is trained."""
        self.rates = rates
        check_sharding(self.is_fsdp_enabled, self.is_deepspeed_enabled)
        self.checkpoints = Checkpoints(self)
        if self.is_fsdp_enabled and self.has_adapter and trained_in_place(self.core):
            raise ValueError(
                f"{' and '.join(IN_PLACE)} cannot be trained beside lora under FSDP, which saves "
                "the adapter alone; use ZeRO-2 (run_scripts/configs/zero2.yaml)"
            )
        self.add_callback(Moments(self))

    @property
    def has_adapter(self) -> bool:
        """Whether LoRA is trained."""
        return hasattr(self.accelerator.unwrap_model(self.model), "peft_config")

    @property
    def core(self) -> Any:
        """The policy's own model under DDP, DeepSpeed and LoRA wrappers."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def trained_policy(self, policy: Policy) -> Policy:
        """The policy with the trained model in memory, LoRA merged; whole, and only to be saved by
        the main process, where the run was sharded. All processes have to call it."""
        model = self.accelerator.unwrap_model(self.model)
        if not self.checkpoints.is_sharded:
            return replace(policy, model=merge_lora(model))
        return replace(policy, model=whole_copy(model, merge_lora))

    # What a subclass adds

    def progress(self) -> dict[str, Any]:
        """What else a restart has to know, as a tree that state_file.py takes."""
        return {}

    def set_progress(self, state: dict[str, Any]) -> None:
        """Go on from what `progress` gave."""

    def check_other_world(self, before: Mapping[str, int]) -> None:
        """Raises ValueError where another number of processes cannot go on. before: of what an
        update consisted, as many rows as now."""

    def progress_of_other_world(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """What `progress` would have given here, of what it gave in each of other processes."""
        return states[0]

    @property
    def save_is_due(self) -> bool:
        """Whether a checkpoint that was put off can be written now."""
        return False

    # Methods of the host

    def get_decay_parameter_names(self, model):
        """As transformers', without those of any normalisation layer."""
        return without_norms(super().get_decay_parameter_names(model), model)  # type: ignore[misc]

    def create_optimizer(self, model=None):
        """As transformers', its groups divided by part."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)  # type: ignore[misc]
        if self.rates is not None and (is_new or not hasattr(optimizer, "param_groups")):
            split_by_part(optimizer, self.core, self.rates)
        return optimizer

    def train(self, resume_from_checkpoint=None, **kwargs):
        """As transformers'; True resumes from the newest valid checkpoint, if there is one."""
        checkpoint = self.checkpoints.choose(resume_from_checkpoint)
        if checkpoint is not None:
            self.args.eval_on_start = False  # that was before the first step
        return super().train(resume_from_checkpoint=checkpoint, **kwargs)  # type: ignore[misc]

    def _run_epoch(self, *, epoch, **kwargs):
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(epoch=epoch, **kwargs)  # type: ignore[misc]

    def _get_output_dir(self, trial):
        return str(self.checkpoints.staging or super()._get_output_dir(trial))  # type: ignore[misc]

    def _save_checkpoint(self, model, trial):
        write = super()._save_checkpoint  # type: ignore[misc]
        self.checkpoints.save(lambda: write(model, trial))

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.checkpoints.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        else:
            self.checkpoints.save_optimizer(output_dir)

    def _save_rng_state(self, output_dir):
        self.checkpoints.save_process(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        model = model or self.model
        if self.checkpoints.is_sharded or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            if not self.checkpoints.is_sharded:
                self.checkpoints.load_in_place(resume_from_checkpoint)
        else:
            self.checkpoints.load_model(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint):
        # finds no .pt files; TRL's restores its entropy controller
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None and not self.checkpoints.is_sharded:
            self.checkpoints.load_optimizer(checkpoint)

    def _load_rng_state(self, checkpoint):
        if checkpoint is not None:
            self.checkpoints.load_random_streams(checkpoint)
