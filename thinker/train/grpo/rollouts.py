"""Collecting rollouts: G completions of every video, and G of its perturbed copy where a reward
asks for them, in one call of the back end.

In: the rows of a batch. Out: token ids, and the log-probabilities they were drawn with where the
back end reports them. The prompts' embeddings stay in the feature cache for the log-probabilities.
"""

from collections.abc import Sequence
from typing import Any

from thinker.policies import Policy
from thinker.policies.encode import EncodedPrompt, encode_prompts
from thinker.rollout.base import Completion, Rollout, Sampling
from thinker.train.counters import Counters
from thinker.train.grpo.batch import BatchContext
from thinker.train.grpo.features import VideoFeatureCache
from thinker.video import Clip
from thinker.video.perturb import choose_perturbation, perturbation_seed


class RolloutCollector:
    """Draws the completions of a batch.

    features: makes the perturbed copies. keep_features: whether it also keeps the embeddings of the
    prompts for the log-probabilities; `logprobs: plain` encodes them anew. perturbations: kinds of
    which one is drawn for each video's perturbed copy; empty where no reward asks for copies.
    run_seed: of the run, from which the copies follow.
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
        run_seed: int,
    ):
        self.policy, self.backend, self.counters = policy, backend, counters
        self.features, self.keep_features = features, keep_features
        self.perturbations, self.run_seed = perturbations, run_seed

    def prompt_ids(self, context: BatchContext) -> list[list[int]]:
        """Token ids of each row's prompt."""
        return [self.policy.inputs.prompt_ids(clip) for clip in context.clips]

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
        rows = context.rows[::num_generations]
        clips = [row["clip"] for row in rows]
        if self.perturbations:
            clips += [self._perturbed(row, step) for row in rows]
        prompts = self._encode(clips, step)
        with self.counters.stage("rollout"):
            groups = self.backend.generate(prompts, num_generations, sampling, seed)
            self.counters.count_rollouts(
                self.policy.model,
                [len(prompt.token_ids) for prompt in prompts],
                [[len(completion.token_ids) for completion in group] for group in groups],
            )
        completions = [completion for group in groups for completion in group]
        own, perturbed = completions[: len(context.rows)], completions[len(context.rows) :]
        context.perturbed_texts = [
            self.policy.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            for completion in perturbed
        ]
        return own

    def _perturbed(self, row: dict[str, Any], step: int) -> Clip:
        """The perturbed copy of a row's video; it follows from (seed, step, sample)."""
        seed = perturbation_seed(self.run_seed, step, row["sample_id"])
        kind = choose_perturbation(self.perturbations, seed)
        return self.features.perturbed(row["clip"], kind, seed)

    def _encode(self, clips: list[Clip], version: int) -> list[EncodedPrompt]:
        features = self.features
        with self.counters.stage("encode"):
            if not self.keep_features:
                return encode_prompts(self.policy, clips)
            return encode_prompts(
                self.policy,
                clips,
                encode=lambda some: (features.layout(some), features.embeds(some, version)),
            )
