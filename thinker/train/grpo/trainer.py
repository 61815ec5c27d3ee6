"""GRPO on prompts with media: the one adapter between TRL's `GRPOTrainer` and this project.

Losses, advantages, KL, optimisation and logging are TRL's. A method that overrides one of TRL's or
transformers' hands the work to an object with one job:

| object | job | methods |
|---|---|---|
| `RolloutCollector` | each clip encoded once; the G rollouts of a prompt and those of its perturbed copy in one call | `_tokenize_prompts`, `_generate_single_turn` |
| `OneStepOff` | with `one_step_off`: the next batch drawn before this one is trained on | `_prepare_inputs`, `_generate_single_turn` |
| `RewardTable` | rewards over the rows of all processes | `_calculate_rewards` |
| `Logprobs` | one packed row a group; TRL's own forward knows no media | `_get_per_token_logps_and_entropies`, `_compute_loss` |
| `BackwardRetry` | a backward pass that does not fit is redone with half the groups | `training_step`, `compute_loss` |
| `StepGuard` | steps that are not finite are skipped | `_get_grad_norm`, `_save_checkpoint`, `log` |
| `Checkpoints` | whole or absent, nothing pickled, exact resume | the methods that save and load |
| `Counters`, `TrafficCounter` | frames, tokens, FLOPs, seconds by stage, bytes sent | `get_batch_samples`, `training_step` |

`_prepare_inputs` keeps groups whole and in order, because a packed row holds a group (TRL shuffles
rows). `evaluate` gives SRCC and PLCC on held-out videos. What a batch carries from one of these
methods to the next is one `BatchContext`. tests/helpers/upstream.py lists every private name that
is touched.
"""  # noqa: E501  (a table)

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from thinker.data.examples import Example
from thinker.data.rows import example_dataset
from thinker.policies import Policy
from thinker.policies.encode import eos_token_ids
from thinker.policies.four_bit import is_four_bit
from thinker.policies.shared_prompt import enable_shared_prompt
from thinker.rollout.base import Completion, Rollout, Sampling
from thinker.train.counters import Counters
from thinker.train.grpo.batch import BatchContext, JudgedRows, SavedBatches, drawn_facts
from thinker.train.grpo.features import VideoFeatureCache
from thinker.train.grpo.logprobs import Logprobs, takes_packed_rows
from thinker.train.grpo.one_step_off import AheadOrder, OneStepOff, check_one_step_off
from thinker.train.grpo.oom import BackwardRetry, GroupsAtOnce
from thinker.train.grpo.rewards import RewardTable, WeightedReward, check_tasks
from thinker.train.grpo.rollouts import RolloutCollector
from thinker.train.parts import undo_rounding
from thinker.train.processes.sharded import is_sharded, unsharded
from thinker.train.processes.traffic import TrafficCounter
from thinker.train.resume import EpochOrder, Resumable, check_settings
from thinker.train.run_log import ROLLOUTS, append_lines, rollout_lines
from thinker.train.step_guard import StepGuard
from thinker.utils.seeds import derive_seed
from thinker.video import Clip
from thinker.video.medium import Medium

MULTIPLES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo")
"""TRL's losses that are multiples of the advantage."""


class ThinkerTrainer(Resumable, GRPOTrainer):
    """Trains a motion-aware policy by GRPO; see the module docstring.

    policy: a loaded policy, saved on disk (TRL re-creates the reference model from there).
    read_clip: `Medium` → `Clip`, runs in data-loader workers.
    rollout: makes the back end from the model that is trained, LoRA included.
    evaluate_policy: held-out evaluation, metrics by name; None where `eval_strategy` is "no".
    rates: learning rates by part; None is that of `args` for all that is trained.
    logprobs: "shared" (one packed row a group, every video encoded once), or "plain", TRL's own
    forward with one row a completion: the same maths, slower (plain_logprobs.py). A policy whose
    packed rows would not have the same maths gets plain ones, with a warning.
    max_skipped_steps: see `StepGuard`.
    one_step_off: see one_step_off.py.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        args: GRPOConfig,
        rewards: Sequence[WeightedReward],
        samples: Sequence[Example],
        read_clip: Callable[[Medium], Clip],
        rollout: Callable[[Any], Rollout],
        perturbations: tuple[str, ...] = (),
        evaluate_policy: Callable[[Policy, Rollout], dict[str, float]] | None = None,
        peft_config: PeftConfig | None = None,
        rates: Mapping[str, float] | None = None,
        callbacks: list | None = None,
        logprobs: str = "shared",
        max_skipped_steps: int = 5,
        one_step_off: bool = False,
    ):
        check_settings(args)
        check_groups(args)
        self.is_shared = takes_packed_rows(policy.model, logprobs)
        needs_copies = any(weighted.reward.needs_perturbed for weighted in rewards)
        if needs_copies and not perturbations:
            raise ValueError("a reward needs perturbed rollouts but no perturbation kind is given")
        check_tasks([weighted.reward for weighted in rewards], (sample.task for sample in samples))
        args.reward_weights = [weighted.weight for weighted in rewards]
        if self.is_shared:
            enable_shared_prompt(policy.model)
        dataset = example_dataset(samples, read_clip)
        super().__init__(
            model=policy.model,
            args=args,
            reward_funcs=[weighted.reward for weighted in rewards],
            train_dataset=dataset,
            eval_dataset=dataset if args.eval_strategy != "no" else None,
            processing_class=policy.processor,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        if is_four_bit(policy.model):
            undo_rounding(self.model)
        self.begin(rates)
        self.reward_func_names = [weighted.reward.name for weighted in rewards]
        self.policy = replace(policy, model=self.core)
        self._evaluate_policy = evaluate_policy
        self._context = BatchContext(rows=[])
        self._build_parts(rewards, rollout, perturbations, max_skipped_steps)
        self.one_step_off = None
        if one_step_off:
            check_one_step_off(args, reports_logprobs=self.rollouts.backend.reports_logprobs)
            ids = [sample.id for sample in samples]
            self.one_step_off = OneStepOff(dataset, ids, self.accelerator)
        # From here on TRL reads it as "completions come with the logprobs they were drawn with", as
        # its importance-sampling correction needs; set earlier, it would start its own engine.
        self.use_vllm = self.rollouts.backend.reports_logprobs

    def _build_parts(self, rewards, rollout, perturbations, max_skipped_steps) -> None:
        """The objects that do the work."""
        core, accelerator, args = self.core, self.accelerator, self.args
        reference = None
        if self.ref_model is not None:
            reference = accelerator.unwrap_model(self.ref_model)
            reference.forbid_placeholders()
            if self.is_shared:
                enable_shared_prompt(reference)
        self.counters = Counters()
        for model in (core, reference):
            if model is not None:
                self.counters.watch(model.model)
        self.traffic = TrafficCounter(accelerator, core, self.counters)
        inputs = self.policy.inputs
        self.features = VideoFeatureCache(inputs, core, reference, accelerator.autocast)
        self.rollouts = RolloutCollector(
            self.policy,
            rollout(core),
            features=self.features,
            keep_features=self.is_shared,
            counters=self.counters,
            perturbations=perturbations,
            copied_tasks=[
                task for one in rewards if one.reward.needs_perturbed for task in one.reward.tasks
            ],
            run_seed=args.seed,
        )
        self.reward_table = RewardTable(
            rewards,
            num_generations=self.num_generations,
            accelerator=accelerator,
            note=self._note,
            told_all=self.traffic.told_all,
        )
        self.groups_at_once = GroupsAtOnce()
        self.logprobs = Logprobs(
            core=core,
            reference_model=self.ref_model,
            inputs=inputs,
            features=self.features,
            counters=self.counters,
            accelerator=accelerator,
            num_generations=self.num_generations,
            groups_at_once=self.groups_at_once,
            is_reentrant=args.gradient_checkpointing
            and (args.gradient_checkpointing_kwargs or {}).get("use_reentrant", True),
        )
        self.retry = BackwardRetry(
            self.groups_at_once,
            folder=Path(args.output_dir),
            num_groups=args.per_device_train_batch_size // self.num_generations,
            num_processes=accelerator.num_processes,
        )
        self.guard = StepGuard(accelerator, max_skipped_steps)
        self.saved_batches = SavedBatches()

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn, as TRL's configuration says."""
        return Sampling(
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
        )

    def _note(self, name: str, value: float) -> None:
        """A figure for the next line of the training log."""
        self._metrics["train"][name].append(value)

    # Batches

    def _prepare_inputs(self, generation_batch):
        """As TRL's in training, but groups stay whole and in order: a packed row holds a group."""
        due = self._step % self._batch_steps == 0 and not self.retry.redoing
        if self.one_step_off is not None:
            generation_batch = self.one_step_off.rows(
                generation_batch, is_due=due, order=self.order
            )
        saved = self.saved_batches.take(generation_batch, self.accelerator.device)
        if saved is not None:
            self._buffered_inputs: Any = saved
        if due or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(batch, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    @property
    def _batch_steps(self) -> int:
        """Micro-steps for which a generation batch is used."""
        return self.args.steps_per_generation * self.num_iterations

    def _generate_and_score_completions(self, inputs):
        context = self._context = BatchContext(rows=inputs)
        context.asked = asked = context.prompts
        self.features.begin()
        seen = {
            clip.key: read
            for row in inputs
            for clip, *read in zip(row["clips"], row["decoded"], row["decode_seconds"], strict=True)
        }
        self.counters.add("videos/seen", len(seen))
        self.counters.add("videos/decoded", sum(decoded for decoded, _ in seen.values()))
        self.counters.add("decode/seconds", sum(seconds for _, seconds in seen.values()))
        output = super()._generate_and_score_completions(inputs)
        self.features.release()
        assert context.judged is not None
        output["advantages"] = self.reward_table.zero_equal_groups(
            output["advantages"], context.judged, self._logs["advantages"]
        )
        output["asked"] = asked
        output["sample_id"] = [row["sample_id"] for row in inputs]
        self._write_rollouts(context.judged)
        return output

    def _write_rollouts(self, judged: JudgedRows) -> None:
        """Append the rollouts of all processes to `rollouts.jsonl` (main process)."""
        if self.accelerator.is_main_process:
            step = self.state.global_step + 1  # that of the log of the update they are trained in
            lines = rollout_lines(step, judged, self._logs)
            append_lines(Path(self.args.output_dir) / ROLLOUTS, lines)

    # Rollouts

    def _tokenize_prompts(self, prompts: list):
        return self.rollouts.prompt_ids(self._context), None, {}

    def _generate_single_turn(
        self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False
    ):
        """Rollouts of every prompt and of its perturbed copy, in one call of the back end."""
        self.traffic.gathered()
        with self._whole_policy():
            self._sync_rollout("train")
            completions = self._completions(num_generations)
        ends = eos_token_ids(self.policy)
        self._context.drawn = drawn_facts(self._context, completions, ends)
        logprobs = [completion.logprobs for completion in completions] if self.use_vllm else None
        return [completion.token_ids for completion in completions], logprobs

    def _completions(self, num_generations: int) -> list[Completion]:
        """Of the batch at hand."""
        step, process = self.state.global_step, self.accelerator.process_index

        def draw(context: BatchContext, is_ahead: bool) -> list[Completion]:
            used_at = self._step + (self._batch_steps if is_ahead else 0)
            return self.rollouts.collect(
                context,
                num_generations,
                self.sampling,
                step=step,
                seed=derive_seed(self.args.seed, step, used_at, process),
            )

        if self.one_step_off is None:
            return draw(self._context, False)
        batch_updates = self._batch_steps // self.args.gradient_accumulation_steps
        is_last = step + batch_updates >= self.state.max_steps
        completions = self.one_step_off.completions(self._context, draw, is_last=is_last)
        self.features.begin()  # those of the batch that comes next are not needed until then
        return completions

    @contextmanager
    def _whole_policy(self) -> Iterator[None]:
        """Within, encoding and generation can call parts of the policy, however it is sharded."""
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            unsharded(model),
        ):
            yield

    def _sync_rollout(self, mode: str) -> None:
        for name, value in self.rollouts.backend.sync(self.state.global_step).items():
            self._metrics[mode][f"rollout/{name}"].append(value)
            if name == "pushed_bytes":
                self.traffic.pushed(value)

    # Rewards

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Every reward over the rows of all processes; (rows of all processes, rewards), NaN =
        None."""
        with self.counters.stage("rewards"):
            judged = self.reward_table.judge(self._context, completions, self.state.global_step)
        self._context.judged = judged
        return judged.rewards

    # Log-probabilities

    @property
    def _first_pass_gives_old_logps(self) -> bool:
        """Whether the first forward with gradient over a batch runs with the weights that drew its
        rollouts.

        Its log-probabilities are then the old ones of all later updates, and TRL's separate pass is
        skipped. It is not skipped where several optimizer steps share the first pass, or where
        log-probabilities are corrected against the rollout engine's.
        """
        return (
            self.is_shared
            and self.args.steps_per_generation == self.args.gradient_accumulation_steps
            and not (self.use_vllm and self.vllm_importance_sampling_correction)
        )

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **media,
    ):
        """Log-probabilities of the completions; row i is of `BatchContext.asked[i]`."""
        del compute_aux_loss, media  # no mixture of experts; media come as clips
        context, rows = self._context, (model, input_ids, attention_mask, logits_to_keep)
        forwards = math.ceil(len(input_ids) / (batch_size or len(input_ids)))
        self.traffic.gathered(forwards * (2 if torch.is_grad_enabled() else 1))
        if not self.is_shared:
            by_trl = super()._get_per_token_logps_and_entropies
            return self.logprobs.plain(
                *rows,
                prompts=context.asked,
                by_trl=lambda *given: by_trl(*given, batch_size, compute_entropy),
            )
        stage = self.logprobs.pass_of(model)
        if self._first_pass_gives_old_logps and stage == "old":
            return None, None, None
        found = self.logprobs.shared(
            *rows,
            prompts=context.asked,
            batch_size=batch_size,
            with_entropy=compute_entropy,
            version=self.state.global_step,
            silent=context.silent if stage == "train" else None,
        )
        if stage == "train":
            context.trained_logps = found[0].detach()
        return found

    @property
    def _only_advantages_count(self) -> bool:
        """Whether the loss of a token is a multiple of its row's advantage, so that a group whose
        advantages are all 0 adds no gradient: without KL and entropy bonus. Sharded weights are
        left out, because all processes have to call the model as often."""
        args = self.args
        has_bonus = args.entropy_coef != 0 or args.use_adaptive_entropy
        is_exact = self.beta == 0 and not has_bonus and args.loss_type in MULTIPLES
        return is_exact and not is_sharded(self.accelerator.unwrap_model(self.model))

    def _compute_loss(self, model, inputs):
        self._context.asked = inputs["asked"]
        self._context.silent = None
        if self._only_advantages_count:
            groups = inputs["advantages"].view(-1, self.num_generations)
            self._context.silent = (groups == 0).all(dim=1)
        loss = super()._compute_loss(model, inputs)
        # The second pass over the batch finds them here. A step whose loss is not finite is skipped
        # and leaves the weights alone, so the second pass is then the first.
        if self._first_pass_gives_old_logps and torch.isfinite(loss):
            inputs.setdefault("old_per_token_logps", self._context.trained_logps)
        return loss

    # Steps

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As transformers' own, the wait for the data loader timed."""
        with self.counters.stage("data"):
            return super().get_batch_samples(epoch_iterator, num_batches, device)

    def training_step(self, model, inputs, num_items_in_batch):
        """As TRL's, tried again where memory runs out; what no inner stage claims is the pass
        "train"."""
        step = super().training_step
        with self.counters.stage("train"):
            loss = self.retry.run(
                lambda: step(model, inputs, num_items_in_batch),
                model,
                self._metrics,
                self.state.global_step,
            )
        self.guard.saw_loss(loss)
        if self._step % self.current_gradient_accumulation_steps == 0:
            self.traffic.updated(self.current_gradient_accumulation_steps)
            for name, value in self.counters.take_step(self.accelerator).items():
                self._note(name, value)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.retry.loss_begins(self._metrics)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_grad_norm(self, model, grad_norm=None):
        """The one place between the reduced gradient and the optimizer step."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.guard.check_gradient(model, norm, self.state.global_step)
        return norm

    def log(self, logs, start_time=None):
        logs["faults/skipped_steps"] = self.guard.num_skipped
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Held-out SRCC and PLCC of greedy answers, logged as `eval_*`."""
        assert self._evaluate_policy is not None, "eval_strategy is set without evaluate_policy"
        with self._whole_policy():
            self._sync_rollout("eval")
            scores = self._evaluate_policy(self.policy, self.rollouts.backend)
        self.counters.take()  # the counts of a step are not those of an evaluation
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # Order of the data

    def _get_train_sampler(self, dataset=None):
        order = EpochOrder if self.one_step_off is None else AheadOrder
        self.order: Any = order.like(super()._get_train_sampler(dataset))
        return self.order

    def _run_epoch(self, *, epoch, **kwargs):
        self.order.epoch = epoch
        super()._run_epoch(epoch=epoch, **kwargs)

    # Checkpoints

    def progress(self) -> dict[str, Any]:
        """Where the batch at hand stands, sums that are not logged yet, limits that were found."""
        is_used_up = self._step % self._batch_steps == 0
        return {
            "micro_step": self._step,
            "metrics": self._metrics,
            "batches": None if is_used_up else SavedBatches.state(self._buffered_inputs),
            "skipped": self.guard.num_skipped,
            "groups_at_once": self.groups_at_once.number,
            "one_step_off": None if self.one_step_off is None else self.one_step_off.state(),
        }

    def set_progress(self, state: dict[str, Any]) -> None:
        self._step = state["micro_step"]
        for mode, values in state["metrics"].items():
            self._metrics[mode] = defaultdict(list, values)
        self.saved_batches = SavedBatches(state["batches"])
        if self.one_step_off is not None:
            self.one_step_off.restore(state.get("one_step_off"), state["batches"])
        self.guard.num_skipped = state["skipped"]
        self.groups_at_once.at_most(state["groups_at_once"])

    def check_other_world(self, before: Mapping[str, int]) -> None:
        if self.args.steps_per_generation != self.args.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation is {self.args.steps_per_generation} and "
                f"gradient_accumulation_steps {self.args.gradient_accumulation_steps}: rollouts of "
                "several updates are divided among the processes that drew them"
            )
        if self.one_step_off is not None:
            raise ValueError("the rollouts of one_step_off belong to the processes that drew them")

    def progress_of_other_world(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """The rollouts at hand divided anew; a micro-step is another part of the same updates."""
        parts = self.args.steps_per_generation
        accelerator = self.accelerator
        limits = [s["groups_at_once"] for s in states if s["groups_at_once"] is not None]
        return states[0] | {
            "micro_step": self.state.global_step * parts,
            "batches": SavedBatches.divided_anew(
                [state["batches"] for state in states],
                accelerator.process_index,
                accelerator.num_processes,
                parts,
            ),
            "groups_at_once": min(limits, default=None),
        }

    @property
    def save_is_due(self) -> bool:
        return self.guard.must_save

    def _save_checkpoint(self, model, trial):
        if self.guard.may_save(model, self.state.global_step):
            super()._save_checkpoint(model, trial)
            self.guard.saved()

    def save_last_step(self) -> str:
        """Save what a run that cannot go on has reached; returns a sentence on where."""
        return self.checkpoints.save_last_step(
            lambda: self._save_checkpoint(self.model, trial=None)
        )


def check_groups(args: GRPOConfig) -> None:
    """Raises ValueError where a process would have a part of a group."""
    if args.per_device_train_batch_size % args.num_generations:
        raise ValueError(
            f"per_device_train_batch_size is {args.per_device_train_batch_size}, expected a "
            f"multiple of num_generations ({args.num_generations}): groups stay whole"
        )
