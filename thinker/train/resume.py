"""A GRPO trainer that continues after `kill -9` as if nothing had happened.

Next to weights, optimizer and schedule a checkpoint holds, for each process: the random streams,
the rollouts of a batch that is not used up yet (`num_iterations`, `steps_per_generation`), the
position in it, sums that are not logged yet, and the sizes of the journals, which are cut back to
them. The order of the data follows from (seed, epoch). Everything is safetensors and JSON.

What differs from transformers and TRL, method by method:
- `_save_checkpoint`, `_get_output_dir`: written aside and renamed (checkpoint.py);
- `_save_optimizer_and_scheduler`, `_save_rng_state` and their loaders: no pickle;
- `_load_from_checkpoint`: by the policies' own key map, strictly;
- `_get_train_sampler`: TRL's sampler forgets past epochs' draws on a restart;
- `_run_epoch`: transformers trains one step too many when it resumes at `max_steps`.

DeepSpeed and FSDP write and read their own sharded (pickled) state; atomicity holds for them too,
the rest is theirs.
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
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from thinker.policies import load_policy
from thinker.train import checkpoint as files
from thinker.train.checkpoint import CheckpointError
from thinker.train.run_log import JOURNALS
from thinker.train.state_file import load_tree, random_state, save_tree, set_random_state
from thinker.utils import atomic

OPTIMIZER = "optimizer.safetensors"
_UNSUPPORTED = {
    "load_best_model_at_end": "evaluate checkpoints with `thinker eval`",
    "save_only_model": "a run must be able to resume",
    "auto_find_batch_size": "it would change the update",
    "push_to_hub": "push the finished `final/` instead",
    "ignore_data_skip": "a resumed run must see the data of the uninterrupted one",
}


class EpochOrder(RepeatSampler):
    """TRL's sampler whose order follows from (seed, epoch), not from what it drew before."""

    epoch = 0

    def __iter__(self):
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch):
                torch.randperm(self.num_samples, generator=self.generator)
        return super().__iter__()


class ResumableTrainer(GRPOTrainer):
    """See the module docstring."""

    def __init__(self, *, args: GRPOConfig, callbacks: list | None = None, **kwargs):
        check_supported(args)
        self._staging: Path | None = None
        self._resumed_from: Path | None = None
        self._saved_batches: list[dict[str, torch.Tensor]] | None = None
        super().__init__(args=args, callbacks=[*(callbacks or []), _Progress(self)], **kwargs)

    @property
    def output_dir(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def _is_sharded(self) -> bool:
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    # Saving

    def _get_output_dir(self, trial):
        return str(self._staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model, trial):
        step = self.state.global_step
        folder = self.output_dir / files.STAGING / f"checkpoint-{step}"
        main = self.accelerator.is_main_process

        def clear():
            if main:
                atomic.remove_tree(folder.parent)
                folder.parent.mkdir(parents=True)

        def write():
            self._staging = folder.parent
            try:
                GRPOTrainer._save_checkpoint(self, model, trial)
            finally:
                self._staging = None

        def publish():
            if main:
                (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle nobody reads
                files.write_manifest(folder, step, self.accelerator.num_processes)
                atomic.publish(folder, self.output_dir / folder.name)
                files.rotate(self.output_dir, step, self.args.save_total_limit)
                atomic.remove_tree(folder.parent)

        for action in (clear, write, publish):
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
        kept, _ = files.newest_valid(self.output_dir, pickles=self._is_sharded)
        left = f"{kept.name} is intact" if kept else "there is no earlier one"
        raise CheckpointError(
            f"{folder.name} could not be written to {self.output_dir}: {problems[0]}; {left}. "
            "Free space or mend the disk, then run the same command again to resume"
        )

    def _save_optimizer_and_scheduler(self, output_dir):
        if self._is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            state = {
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.lr_scheduler.state_dict(),
            }
            save_tree(Path(output_dir) / OPTIMIZER, state)

    def _save_rng_state(self, output_dir):
        """Everything of this process that is not weights, optimizer or trainer state."""
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_tree(Path(output_dir) / self._process_file, self._process_state())

    @property
    def _process_file(self) -> str:
        return f"process_{self.accelerator.process_index:05d}.safetensors"

    def _process_state(self) -> dict[str, Any]:
        every = self.args.steps_per_generation * self.num_iterations
        unused = self._step % every != 0
        return {
            "random": random_state(),
            "micro_step": self._step,
            "loss_sum": self._tr_loss,
            "loss_total": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
            "metrics": self._metrics,
            # clips are left out: the data loader delivers the rows of a batch again
            "batches": [
                {key: value for key, value in batch.items() if key != "clip"}
                for batch in self._buffered_inputs
            ]
            if unused
            else None,
            "journals": {name: files.journal_size(self.output_dir / name) for name in JOURNALS},
            "extra": self.extra_state(),
        }

    def extra_state(self) -> dict[str, Any]:
        """What a subclass wants to find again after a restart, as `set_extra_state` gets it."""
        return {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put `extra_state` back."""

    # Resuming

    def train(self, resume_from_checkpoint=None, **kwargs):
        """As transformers'; True resumes from the newest valid checkpoint, if there is one."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self.newest_checkpoint()
            if resume_from_checkpoint is None and self.accelerator.is_main_process:
                for name in JOURNALS:  # lines of a run that died before its first checkpoint
                    files.cut_back(self.output_dir / name, 0)
        elif resume_from_checkpoint:
            files.check_checkpoint(Path(resume_from_checkpoint), pickles=self._is_sharded)
        if resume_from_checkpoint:
            self._resumed_from = Path(resume_from_checkpoint)
            self._check_processes()
            self.args.eval_on_start = False  # that was before the first step
            resume_from_checkpoint = str(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def newest_checkpoint(self) -> Path | None:
        """The newest valid checkpoint, chosen by the main process; others are named in the log."""
        choice: list = [None, []]
        if self.accelerator.is_main_process:
            choice = list(files.newest_valid(self.output_dir, pickles=self._is_sharded))
        broadcast_object_list(choice)
        for reason in choice[1] if self.accelerator.is_main_process else []:
            files.logger.warning("checkpoint passed over: %s", reason)
        return choice[0]

    def _check_processes(self) -> None:
        assert self._resumed_from is not None
        written = len(list(self._resumed_from.glob("process_*.safetensors")))
        if written != self.accelerator.num_processes:
            raise CheckpointError(
                f"{self._resumed_from} was written by {written} processes, this run has "
                f"{self.accelerator.num_processes}; resume with as many"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        model = model or self.model
        if self._is_sharded or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = load_policy(resume_from_checkpoint, dtype=next(model.parameters()).dtype)
        model.load_state_dict(saved.model.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)  # finds no .pt files; entropy controller
        if checkpoint is not None and not self._is_sharded:
            state = load_tree(Path(checkpoint) / OPTIMIZER)
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["scheduler"])

    def _load_rng_state(self, checkpoint):
        if checkpoint is not None:
            set_random_state(load_tree(Path(checkpoint) / self._process_file)["random"])

    def restore_progress(self) -> None:
        """Called when transformers has reset its sums, before the first step."""
        if self._resumed_from is None:
            return
        state = load_tree(self._resumed_from / self._process_file)
        if self.accelerator.is_main_process:
            for name, size in state["journals"].items():
                files.cut_back(self.output_dir / name, size)
        self._step = state["micro_step"]
        self._tr_loss = state["loss_sum"].to(self.args.device)
        self._total_loss_scalar = state["loss_total"]
        self._globalstep_last_logged = state["last_logged_step"]
        for mode, values in state["metrics"].items():
            self._metrics[mode] = defaultdict(list, values)
        self._saved_batches = state["batches"]
        self.set_extra_state(state["extra"])

    def refill_batches(self, rows: list[dict[str, Any]]) -> None:
        """Rollouts of the checkpoint, joined with the clips of the same rows."""
        if self._saved_batches is None:
            return
        device, size = self.accelerator.device, len(rows) // len(self._saved_batches)
        self._buffered_inputs = [
            {
                **{key: value.to(device) for key, value in batch.items()},
                "clip": [row["clip"] for row in rows[i * size : (i + 1) * size]],
            }
            for i, batch in enumerate(self._saved_batches)
        ]
        self._saved_batches = None

    def _get_train_sampler(self, dataset=None):
        plain = super()._get_train_sampler(dataset)
        self.order = EpochOrder(
            data_source=plain.data_source,
            mini_repeat_count=plain.mini_repeat_count,
            batch_size=plain.batch_size,
            repeat_count=plain.repeat_count,
            shuffle=plain.shuffle,
            seed=plain.seed,
        )
        return self.order

    def _run_epoch(self, *, epoch, **kwargs):
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        self.order.epoch = epoch
        super()._run_epoch(epoch=epoch, **kwargs)


class _Progress(TrainerCallback):
    """`on_train_begin` is the one moment between transformers' resets and the first step."""

    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore_progress()


def check_supported(args: GRPOConfig) -> None:
    """Refuse settings under which a run could not resume exactly."""
    for name, instead in _UNSUPPORTED.items():
        if getattr(args, name):
            raise ValueError(f"grpo.{name} is not supported: {instead}")
    if args.save_strategy == "best":
        raise ValueError("grpo.save_strategy is best, expected steps, epoch or no")
