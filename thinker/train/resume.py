"""Continuing after `kill -9` as if nothing had happened.

A checkpoint holds weights, optimizer and schedule, and for each process:
- the random streams;
- the rollouts of a batch that is not used up yet (`num_iterations`, `steps_per_generation`), and
  the place in it;
- sums that are not logged yet;
- the sizes of the journals, which are cut back to these sizes on a restart.

The order of the data follows from (seed, epoch). Everything is safetensors and JSON.

`Checkpoints` does the work; the trainer's overrides of transformers' and TRL's methods call it:
- `_save_checkpoint`, `_get_output_dir`: written aside and renamed (checkpoint.py);
- `_save_optimizer_and_scheduler`, `_save_rng_state` and their loaders: no pickle;
- `_load_from_checkpoint`: by the policies' own key map, strictly;
- `_get_train_sampler`: TRL's sampler forgets past epochs' draws on a restart (`EpochOrder`);
- `_run_epoch`: transformers trains one step too many when it resumes at `max_steps`.

DeepSpeed and FSDP write and read their own sharded (pickled) state; that it appears as a whole
holds for them too, the rest is theirs.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from trl.trainer.utils import RepeatSampler

from thinker.policies import load_policy
from thinker.train import checkpoint as files
from thinker.train.checkpoint import CheckpointError
from thinker.train.grpo.batch import prompt_of
from thinker.train.run_log import JOURNALS
from thinker.train.state_file import load_tree, random_state, save_tree, set_random_state
from thinker.utils import atomic

OPTIMIZER = "optimizer.safetensors"


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
    """Writes and reads the checkpoints of one GRPO trainer, whose private state it knows.

    extra, set_extra: what the trainer's other parts want to find again after a restart.
    """

    def __init__(
        self,
        trainer: Any,
        *,
        extra: Callable[[], dict[str, Any]],
        set_extra: Callable[[dict[str, Any]], None],
    ):
        self.trainer, self.accelerator = trainer, trainer.accelerator
        self.is_sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        self._extra, self._set_extra = extra, set_extra
        self.staging: Path | None = None  # where transformers has to write now
        self._resumed_from: Path | None = None
        self._saved_batches: list[dict[str, torch.Tensor]] | None = None

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
        every = trainer.args.steps_per_generation * trainer.num_iterations
        unused = trainer._step % every != 0
        return {
            "random": random_state(),
            "micro_step": trainer._step,
            "loss_sum": trainer._tr_loss,
            "loss_total": trainer._total_loss_scalar,
            "last_logged_step": trainer._globalstep_last_logged,
            "metrics": trainer._metrics,
            # prompts are left out: the data loader delivers the rows of a batch again
            "batches": [
                {key: value for key, value in batch.items() if key != "asked"}
                for batch in trainer._buffered_inputs
            ]
            if unused
            else None,
            "journals": {name: files.journal_size(self.folder / name) for name in JOURNALS},
            "extra": self._extra(),
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
        self._check_processes(chosen)
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

    def _check_processes(self, folder: Path) -> None:
        written = len(list(folder.glob("process_*.safetensors")))
        if written != self.accelerator.num_processes:
            raise CheckpointError(
                f"{folder} was written by {written} processes, this run has "
                f"{self.accelerator.num_processes}; resume with as many"
            )

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
        """The random streams of this process."""
        set_random_state(load_tree(Path(folder) / self._process_file)["random"])

    def restore_progress(self) -> None:
        """To be called when transformers has reset its sums, before the first step."""
        if self._resumed_from is None:
            return
        trainer, state = self.trainer, load_tree(self._resumed_from / self._process_file)
        if self.accelerator.is_main_process:
            for name, size in state["journals"].items():
                files.cut_back(self.folder / name, size)
        trainer._step = state["micro_step"]
        trainer._tr_loss = state["loss_sum"].to(trainer.args.device)
        trainer._total_loss_scalar = state["loss_total"]
        trainer._globalstep_last_logged = state["last_logged_step"]
        for mode, values in state["metrics"].items():
            trainer._metrics[mode] = defaultdict(list, values)
        self._saved_batches = state["batches"]
        self._set_extra(state["extra"])

    def saved_batches(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Rollouts of the checkpoint, joined with the prompts of the same rows; None where there
        are none, and after the first call."""
        if self._saved_batches is None:
            return None
        device, size = self.accelerator.device, len(rows) // len(self._saved_batches)
        batches = [
            {
                **{key: value.to(device) for key, value in batch.items()},
                "asked": [prompt_of(row) for row in rows[i * size : (i + 1) * size]],
            }
            for i, batch in enumerate(self._saved_batches)
        ]
        self._saved_batches = None
        return batches


class Moments(TrainerCallback):
    """The two moments of a run that only a callback is told of."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """After transformers' resets, before the first step."""
        self.trainer.checkpoints.restore_progress()

    def on_step_end(self, args, state, control, **kwargs):
        """A checkpoint that was due at a skipped step is made up for."""
        if self.trainer.guard.must_save:
            control.should_save = True
