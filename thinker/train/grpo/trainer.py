"""GRPO on videos: a thin subclass of TRL's `GRPOTrainer`.

What differs from TRL, method by method:
- data: a row carries its `Clip` (TRL has no video column, and drops video from its scoring
  forward);
- `_tokenize_prompts`: the policy's own prompt builder;
- `_generate_single_turn`: each video is encoded once (encoding.py), its G rollouts and the G of its
  perturbed copy come from one call of a rollout back end;
- `_calculate_rewards`: rewards see the global batch of all processes;
- `_prepare_inputs`: micro-batches keep groups whole (TRL shuffles rows);
- `_get_per_token_logps_and_entropies`: one packed row a group, each video encoded once
  (shared_prompt.py); with `scoring="plain"` TRL's own (plain_scoring.py);
- `get_batch_samples`, `training_step`: timed and counted (counted_steps.py);
- `evaluate`: SRCC and PLCC on held-out videos.
Losses, advantages, KL, optimisation and logging are TRL's. Between the two stand `GuardedTrainer`
(faults.py: skipped steps, memory) and `ResumableTrainer` (resume.py: checkpoints).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from trl import GRPOConfig
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from rewards import Answer, Reward, parse_answer
from thinker.data.rows import video_dataset
from thinker.data.samples import VideoSample
from thinker.policies import Policy
from thinker.policies.encode import EncodedPrompt, encode_prompts
from thinker.policies.shared_prompt import enable_shared_prompt, pack_groups
from thinker.rollout.base import Rollout, Sampling
from thinker.train.counted_steps import CountedSteps
from thinker.train.counters import Counters, ScoredTokens
from thinker.train.grpo.features import EncodedVideos
from thinker.train.grpo.oom import ScoreGroups
from thinker.train.grpo.plain_logprobs import VideoRows
from thinker.train.run_log import ROLLOUTS, append_lines, rollout_lines
from thinker.train.step_guard import GuardedTrainer, equal_reward_rows, reward_fault
from thinker.utils.seeds import derive_seed
from thinker.video import Clip
from thinker.video.perturb import choose_perturbation, perturbation_seed

SCORING = ("shared", "plain")


@dataclass(frozen=True, kw_only=True)
class WeightedReward:
    """A reward and its weight in the sum."""

    reward: Reward
    weight: float = 1.0


class ThinkerTrainer(CountedSteps, GuardedTrainer):
    """Trains a motion-aware policy on video MOS by GRPO; see the module docstring.

    policy: a loaded policy, saved on disk (TRL re-creates the reference model from there).
    read_clip: path → `Clip`, runs in data-loader workers.
    rollout: makes the back end from the model that is trained, LoRA included.
    evaluate_policy: held-out evaluation, metrics by name; None where `eval_strategy` is "no".
    scoring: "shared" (one packed row a group, every video encoded once), or "plain", TRL's own
    forward with one row a completion: the same maths, slower (plain_scoring.py).
    max_skipped_steps: see `GuardedTrainer`.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        args: GRPOConfig,
        rewards: Sequence[WeightedReward],
        samples: Sequence[VideoSample],
        read_clip: Callable[[Path], Clip],
        rollout: Callable[[Any], Rollout],
        perturbations: tuple[str, ...] = (),
        evaluate_policy: Callable[[Policy, Rollout], dict[str, float]] | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list | None = None,
        scoring: str = "shared",
        max_skipped_steps: int = 5,
    ):
        check_batch_sizes(args)
        if scoring not in SCORING:
            raise ValueError(f"scoring is {scoring!r}, expected one of {', '.join(SCORING)}")
        self.scoring = scoring
        self._rewards = [weighted.reward for weighted in rewards]
        self._perturbations = perturbations
        if any(reward.needs_perturbed for reward in self._rewards) and not perturbations:
            raise ValueError("a reward needs perturbed rollouts but no perturbation kind is given")
        args.reward_weights = [weighted.weight for weighted in rewards]
        if scoring == "shared":
            enable_shared_prompt(policy.model)
        dataset = video_dataset(samples, read_clip)
        super().__init__(
            model=policy.model,
            args=args,
            reward_funcs=list(self._rewards),
            train_dataset=dataset,
            eval_dataset=dataset if args.eval_strategy != "no" else None,
            processing_class=policy.processor,
            peft_config=peft_config,
            callbacks=callbacks,
            max_skipped_steps=max_skipped_steps,
        )
        self.reward_func_names = [reward.name for reward in self._rewards]
        reference = None
        if self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model)
            reference.forbid_placeholders()
            if scoring == "shared":
                enable_shared_prompt(reference)
        self.policy = replace(policy, model=self.core)
        self.counters = Counters()
        for model in (self.core, reference):
            if model is not None:
                self.counters.watch(model.model)
        self.videos = EncodedVideos(
            self.policy.inputs, self.core, reference, self.accelerator.autocast
        )
        self.rollout = rollout(self.core)
        # From here on TRL reads it as "completions come with the logprobs they were drawn with", as
        # its importance-sampling correction needs; set earlier, it would start its own engine.
        self.use_vllm = self.rollout.reports_logprobs
        self._evaluate_policy = evaluate_policy
        self._rows: list[dict[str, Any]] = []  # of the generation batch at hand
        self._scored_clips: list[Clip] = []  # one a row of the tensors being scored
        self._perturbed_texts: list[str] = []

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
        )

    # Rollouts

    def _tokenize_prompts(self, prompts: list):
        ids = [self.policy.inputs.prompt_ids(row["clip"]) for row in self._rows]
        return ids, None, {}

    def _generate_single_turn(
        self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False
    ):
        """Rollouts of every video and of its perturbed copy, in one call of the back end."""
        rows = self._rows[::num_generations]
        clips = [row["clip"] for row in rows]
        if any(reward.needs_perturbed for reward in self._rewards):
            clips += [self._perturb(row) for row in rows]
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ):
            self._sync_rollout("train")
            requests = self._encode_prompts(clips)
            seed = derive_seed(
                self.args.seed, self.state.global_step, self._step, self.accelerator.process_index
            )
            with self.counters.stage("rollout"):
                groups = self.rollout.generate(requests, num_generations, self.sampling, seed)
                self.counters.count_rollouts(
                    self.core,
                    [len(request.token_ids) for request in requests],
                    [[len(completion.token_ids) for completion in group] for group in groups],
                )
        completions = [completion for group in groups for completion in group]
        own, perturbed = completions[: len(self._rows)], completions[len(self._rows) :]
        self._perturbed_texts = [
            self._tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            for completion in perturbed
        ]
        logprobs = [completion.logprobs for completion in own] if self.use_vllm else None
        return [completion.token_ids for completion in own], logprobs

    def _sync_rollout(self, mode: str) -> None:
        for name, value in self.rollout.sync(self.state.global_step).items():
            self._metrics[mode][f"rollout/{name}"].append(value)

    def save_last_step(self) -> str:
        """Save what a run that cannot go on has reached; returns a sentence on where. Rollouts fail
        before a step begins, in every process, so the state is that of the last whole step."""
        step = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        if step == 0:
            return "no step was done yet, so there is nothing to save"
        if not folder.exists():
            self._save_checkpoint(self.model, trial=None)
        return f"step {step} is saved in {folder}"

    def _encode_prompts(self, clips: list[Clip]) -> list[EncodedPrompt]:
        """Prompts of clips; their embeddings stay known to the scoring passes."""
        with self.counters.stage("encode"):
            if self.scoring == "plain":
                return encode_prompts(self.policy, clips)
            version = self.state.global_step
            return encode_prompts(
                self.policy,
                clips,
                encode=lambda some: (self.videos.layout(some), self.videos.embeds(some, version)),
            )

    def _perturb(self, row: dict[str, Any]) -> Clip:
        """The perturbed copy of a row's video; its kind and map follow from (seed, step,
        sample)."""
        seed = perturbation_seed(self.args.seed, self.state.global_step, row["sample_id"])
        kind = choose_perturbation(self._perturbations, seed)
        return self.videos.perturbed(row["clip"], kind, seed)

    def _generate_and_score_completions(self, inputs):
        self._rows = inputs
        self._scored_clips = [row["clip"] for row in inputs]
        self.videos.begin()
        seen = {id(row["clip"]): row.get("decoded", False) for row in inputs}
        self.counters.add("videos/seen", len(seen))
        self.counters.add("videos/decoded", sum(seen.values()))
        output = super()._generate_and_score_completions(inputs)
        self.videos.release()
        output["advantages"] = self.zero_equal_groups(output["advantages"], self._equal_rows)
        output["clip"] = self._scored_clips
        self._write_rollouts()
        return output

    def _prepare_inputs(self, generation_batch):
        """As TRL's in training, but groups stay whole and in order: scoring shares their prompt."""
        self.refill_batches(generation_batch)
        generate_every = self.args.steps_per_generation * self.num_iterations
        due = self._step % generate_every == 0 and not self.redoing_step
        if due or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs: Any = split_tensor_dict(batch, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    # Rewards

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Every reward over the rows of all processes; (rows of all processes, rewards), NaN =
        None."""
        perturbed: list[str | None] = [*self._perturbed_texts] or [None] * len(completions)
        local = [
            {
                "completions": completion,
                "sample_id": row["sample_id"],
                "mos": row["target"],
                "perturbed_completions": other,
            }
            for row, completion, other in zip(inputs, completions, perturbed, strict=True)
        ]
        rows = gather_object(local)
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        with self.counters.stage("rewards"):
            values = [self._reward_values(reward, columns) for reward in self._rewards]
        self._global_rows = rows
        self._answers = [parse_answer(text) for text in columns["completions"]]
        self._log_answers()
        table = torch.tensor(values, device=self.accelerator.device).T.contiguous()
        self._equal_rows = equal_reward_rows(table, self.reward_weights, self.num_generations)
        return table

    def _reward_values(self, reward: Reward, columns: dict[str, list]) -> list[float]:
        """One reward as floats; None and what is not finite become NaN, the latter counted."""
        try:
            values = reward(**columns)
        except Exception as error:
            raise reward_fault(reward, columns, self.state.global_step, error) from error
        if len(values) != len(columns["completions"]):
            raise ValueError(
                f"reward {reward.name!r} returned {len(values)} values for "
                f"{len(columns['completions'])} completions; expected one a completion"
            )
        bad = [v is not None and not math.isfinite(v) for v in values]
        self._metrics["train"][f"rewards/{reward.name}/non_finite"].append(float(sum(bad)))
        return [
            math.nan if value is None or is_bad else float(value)
            for value, is_bad in zip(values, bad, strict=True)
        ]

    def _log_answers(self) -> None:
        valid = [answer.value for answer in self._answers if isinstance(answer, Answer)]
        self._metrics["train"]["answers/valid_share"].append(len(valid) / len(self._answers))
        if valid:
            self._metrics["train"]["answers/mean"].append(sum(valid) / len(valid))

    def _write_rollouts(self) -> None:
        """Append the rollouts of all processes to `rollouts.jsonl` (main process)."""
        if not self.accelerator.is_main_process:
            return
        count = len(self._global_rows)
        lines = rollout_lines(
            self.state.global_step,
            self._global_rows,
            self._answers,
            {name: list(values)[-count:] for name, values in self._logs["rewards"].items()},
            list(self._logs["advantages"])[-count:],
        )
        append_lines(self.output_dir / ROLLOUTS, lines)

    # Scoring

    def _compute_loss(self, model, inputs):
        self._scored_clips = inputs["clip"]
        loss = super()._compute_loss(model, inputs)
        # The second pass over the batch finds them here. A step whose loss is not finite is skipped
        # and leaves the weights alone, so the second pass is then the first.
        if self._first_pass_gives_old_logps and torch.isfinite(loss):
            inputs.setdefault("old_per_token_logps", self._trained_logps)
        return loss

    @property
    def _first_pass_gives_old_logps(self) -> bool:
        """Whether a batch is scored for its first update with the weights it was generated with:
        then that forward's logps are the old ones of later updates, and need no pass of their
        own. Where several updates share the first pass over a batch, or where logps are corrected
        against the engine's before, TRL's own pass stays."""
        return (
            self.scoring == "shared"
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
        """Log-probabilities of the completions; rows belong to `_scored_clips` one to one."""
        del compute_aux_loss, media  # no mixture of experts; videos come as clips
        stage = self._scoring_stage(model)
        if self.scoring == "plain":
            by_row = VideoRows(
                model, self.core, self.policy.inputs, self._scored_clips, logits_to_keep
            )
            tokens = ScoredTokens.plain(attention_mask, logits_to_keep)
            with self.counters.stage(stage):
                self.counters.count_scoring(self.core, stage, tokens)
                return super()._get_per_token_logps_and_entropies(
                    by_row, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy
                )
        if stage == "old" and self._first_pass_gives_old_logps:
            return None, None, None
        group = self.num_generations
        batch_size = batch_size or len(input_ids)
        logps, entropies = [], []
        for start in range(0, len(input_ids), batch_size):
            rows = slice(start, start + batch_size)
            with self.counters.stage(stage):
                log_probs, entropy = self._score_groups(
                    model,
                    stage,
                    input_ids[rows],
                    attention_mask[rows],
                    logits_to_keep,
                    self._scored_clips[rows][::group],
                )
            logps.append(log_probs.view(-1, logits_to_keep))
            if compute_entropy:
                entropies.append(entropy.view(-1, logits_to_keep))
        all_logps = torch.cat(logps)
        if stage == "train":
            self._trained_logps = all_logps.detach()
        return all_logps, torch.cat(entropies) if compute_entropy else None, None

    def _scoring_stage(self, model) -> str:
        """Who is asked for logps: "train" (with gradient), "reference", or "old"."""
        if torch.is_grad_enabled():
            return "train"
        return "reference" if model is self.ref_model or adapters_are_off(model) else "old"

    def _score_groups(self, model, stage, input_ids, attention_mask, num_completion, clips):
        """Log-probabilities and entropies of whole groups, as many at once as fit (memory.py)."""
        group = self.num_generations
        # Counted here, once: `build` runs again where the memory runs out, and in recomputation.
        masks = attention_mask[::group, :-num_completion], attention_mask[:, -num_completion:]
        self.counters.count_scoring(self.core, stage, ScoredTokens.shared(*masks, group))

        def build(groups: slice):
            rows = slice(groups.start * group, groups.stop * group)
            return self._forward_inputs(
                stage, input_ids[rows], attention_mask[rows], num_completion, clips[groups]
            )

        with self.accelerator.autocast():
            return model(score_groups=ScoreGroups(len(clips), build))

    def _forward_inputs(
        self, stage, input_ids, attention_mask, num_completion, clips
    ) -> dict[str, Any]:
        """Arguments of the model's forward for whole groups, one packed row each."""
        group = self.num_generations
        num_prompt = input_ids.shape[1] - num_completion
        prompt_ids, prompt_mask = (x[::group, :num_prompt] for x in (input_ids, attention_mask))
        layout = self.videos.layout(clips)
        positions = self.core.model.prompt_positions(prompt_ids, prompt_mask, layout)
        packed = pack_groups(
            prompt_ids,
            prompt_mask,
            input_ids[:, num_prompt:],
            attention_mask[:, num_prompt:],
            positions.ids,
            positions.next,
        )
        video: dict[str, Any]
        if stage == "old":  # the embeddings that the rollouts saw
            video = {"media_embeds": self.videos.embeds(clips, self.state.global_step)}
        else:
            video = {"media_inputs": self.videos.media(clips, reference=stage == "reference")}
        return {**packed.inputs(), "fused_lm_head": True, **video}

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Held-out SRCC and PLCC of greedy answers, logged as `eval_*`."""
        assert self._evaluate_policy is not None, "eval_strategy is set without evaluate_policy"
        self._sync_rollout("eval")
        scores = self._evaluate_policy(self.policy, self.rollout)
        self.counters.take()  # the counts of a step are not those of an evaluation
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def adapters_are_off(model) -> bool:
    """Whether a peft model is asked for what it was before training, as TRL does for the
    reference."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    return any(layer.disable_adapters or layer.active_adapters == ["ref"] for layer in layers)


def check_batch_sizes(args: GRPOConfig) -> None:
    """Groups must not straddle processes or micro-batches."""
    if args.per_device_train_batch_size % args.num_generations:
        raise ValueError(
            f"per_device_train_batch_size is {args.per_device_train_batch_size}, expected a "
            f"multiple of num_generations ({args.num_generations}): groups stay whole"
        )
