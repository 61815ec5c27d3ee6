"""Collecting rollouts: G completions of every prompt, and G of its perturbed copy where a reward
asks for them, in one call of the back end.

In: the rows of a batch. Out: token ids, and the log-probabilities they were drawn with where the
back end reports them. The prompts' embeddings stay in the feature cache for the log-probabilities.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from thinker.policies import Policy, Prompt
from thinker.policies.encode import EncodedPrompt, encode_prompts
from thinker.policies.inputs import moves
from thinker.rollout.base import Completion, Rollout, Sampling
from thinker.train.counters import Counters
from thinker.train.grpo.batch import BatchContext
from thinker.train.grpo.features import VideoFeatureCache
from thinker.video.perturb import choose_perturbation, perturbation_seed


class RolloutCollector:
    """Draws the completions of a batch.

    features: makes the perturbed copies. keep_features: whether it also keeps the embeddings of the
    prompts for the log-probabilities; `logprobs: plain` encodes them anew. perturbations: kinds of
    which one is drawn for each perturbed copy. copied_tasks: tasks whose rows get a copy; empty
    where no reward asks for copies. run_seed: of the run, from which the copies follow.
    """

    def __init__(
        self,
        policy: Policy,
        backend: Rollout,
        *,
        features: VideoFeatureCache,
        keep_features: bool,
        counters: Counters,
        perturbations: Sequence[str],
        copied_tasks: Collection[str],
        run_seed: int,
    ):
        self.policy, self.backend, self.counters = policy, backend, counters
        self.features, self.keep_features = features, keep_features
        self.perturbations, self.run_seed = perturbations, run_seed
        self.copied_tasks = frozenset(copied_tasks)

    def prompt_ids(self, context: BatchContext) -> list[list[int]]:
        """Token ids of each row's prompt."""
        return [self.policy.inputs.prompt_ids(prompt) for prompt in context.prompts]

    def collect(
        self,
        context: BatchContext,
        num_generations: int,
        sampling: Sampling,
        *,
        step: int,
        seed: int,
    ) -> list[Completion]:
        """One completion a row; the texts of the perturbed copies go into the context.

        step: number of the weights that generate, from which the perturbed copies follow, too.
        """
        context.seed = seed
        rows, prompts = context.rows[::num_generations], context.prompts[::num_generations]
        copied = [i for i, row in enumerate(rows) if self.needs_copy(row)]
        kinds = [self._perturbation(rows[i], step) for i in copied]
        copies = [
            self._perturbed(prompts[i], kind, seed)
            for i, (kind, seed) in zip(copied, kinds, strict=True)
        ]
        encoded = self._encode([*prompts, *copies], step)
        with self.counters.stage("rollout"):
            groups = self.backend.generate(encoded, num_generations, sampling, seed)
            self.counters.count_rollouts(
                self.policy.model,
                [len(prompt.token_ids) for prompt in encoded],
                [[len(completion.token_ids) for completion in group] for group in groups],
            )
        own, perturbed = groups[: len(prompts)], groups[len(prompts) :]
        context.perturbed_texts = [None] * len(context.rows)
        context.perturbations = [None] * len(context.rows)
        for i, (kind, _), group in zip(copied, kinds, perturbed, strict=True):
            own_rows = slice(i * num_generations, (i + 1) * num_generations)
            context.perturbations[own_rows] = [kind] * num_generations
            context.perturbed_texts[own_rows] = [
                self.policy.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
                for completion in group
            ]
        return [completion for group in own for completion in group]

    def needs_copy(self, row: dict[str, Any]) -> bool:
        """Whether a row gets rollouts of a perturbed copy: where a reward judges its task by them,
        and there is a video. A still has no order of frames."""
        return row["task"] in self.copied_tasks and any(moves(clip) for clip in row["clips"])

    def _perturbation(self, row: dict[str, Any], step: int) -> tuple[str, int]:
        """The kind of a row's copy, and its seed, which follows from (seed, step, sample)."""
        seed = perturbation_seed(self.run_seed, step, row["sample_id"])
        return choose_perturbation(self.perturbations, seed), seed

    def _perturbed(self, prompt: Prompt, kind: str, seed: int) -> Prompt:
        """The prompt with a perturbed copy of each video, all of one kind."""
        clips = (
            self.features.perturbed(clip, kind, seed) if moves(clip) else clip
            for clip in prompt.clips
        )
        return replace(prompt, clips=tuple(clips))

    def _encode(self, prompts: list[Prompt], version: int) -> list[EncodedPrompt]:
        keep = partial(self.features.embeds, version=version) if self.keep_features else None
        with self.counters.stage("encode"):
            return encode_prompts(self.policy, prompts, encode=keep)
