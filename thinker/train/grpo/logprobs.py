"""Log-probabilities of a batch's completions: one packed row a group, each clip encoded once,
groups of similar length in one forward.

TRL asks for them up to three times a batch: of the policy before its update ("old"), of the
reference, and of the policy with gradient ("train"). All three go through here. `Logprobs.plain`
is TRL's own forward with one row a completion: the same maths, slower, the oracle of the tests.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from peft.tuners.tuners_utils import BaseTunerLayer

from thinker.config.run import LOGPROBS
from thinker.policies.inputs import PolicyInputs, Prompt, distinct_clips
from thinker.policies.shared_prompt import pack_groups, why_not_shared
from thinker.train.counters import Counters, LogprobTokens
from thinker.train.grpo.bunches import bunches
from thinker.train.grpo.features import VideoFeatureCache
from thinker.train.grpo.oom import GroupChunks, GroupsAtOnce
from thinker.train.grpo.plain_logprobs import VideoRows
from thinker.train.processes.sharded import head_at_hand, is_sharded

LogprobsAndEntropies = tuple[torch.Tensor, torch.Tensor | None, None]
"""What TRL expects: log-probabilities (rows, C), entropies (rows, C) or None, no auxiliary loss."""

logger = logging.getLogger(__name__)


def takes_packed_rows(model: Any, logprobs: str) -> bool:
    """Whether log-probabilities of a policy come from packed rows: where `logprobs` is "shared" and
    they have the maths of plain ones. Where they have not, the log says why. Raises ValueError for
    another word."""
    if logprobs not in LOGPROBS:
        raise ValueError(f"logprobs is {logprobs!r}, expected one of {', '.join(LOGPROBS)}")
    if logprobs == "plain":
        return False
    reason = why_not_shared(model)
    if reason is not None:
        logger.warning("log-probabilities by logprobs: plain, one row a completion: %s", reason)
    return reason is None


class Logprobs:
    """Computes log-probabilities for the trainer.

    core: the policy without wrappers. reference_model: the model that TRL asks for reference
    log-probabilities, None where LoRA adapters are switched off instead, or where beta is 0.
    is_reentrant: whether activations are checkpointed in torch's reentrant way.
    """

    def __init__(
        self,
        *,
        core: Any,
        reference_model: Any,
        inputs: PolicyInputs,
        features: VideoFeatureCache,
        counters: Counters,
        accelerator: Accelerator,
        num_generations: int,
        groups_at_once: GroupsAtOnce,
        is_reentrant: bool,
    ):
        self.core, self.reference_model, self.inputs = core, reference_model, inputs
        self.features, self.counters, self.accelerator = features, counters, accelerator
        self.num_generations, self.groups_at_once = num_generations, groups_at_once
        # Under DDP a parameter's gradient may come once a backward pass; reentrant checkpoints
        # bring it once a forward.
        self._ddp_needs_one = accelerator.num_processes > 1 and is_reentrant

    def pass_of(self, model: Any) -> str:
        """Which of its three passes TRL is in: "train" (with gradient), "reference", or "old"."""
        if torch.is_grad_enabled():
            return "train"
        is_reference = model is self.reference_model or adapters_are_off(model)
        return "reference" if is_reference else "old"

    def _head(self, stage: str) -> AbstractContextManager[None]:
        """In which the LM head of a pass can be read, where weights are sharded."""
        is_other = stage == "reference" and self.reference_model is not None
        model = self.accelerator.unwrap_model(self.reference_model) if is_other else self.core
        return head_at_hand(model)

    def shared(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_completion: int,
        *,
        prompts: list[Prompt],
        batch_size: int | None,
        with_entropy: bool,
        version: int,
        silent: torch.Tensor | None = None,
    ) -> LogprobsAndEntropies:
        """One packed row a group, `batch_size` rows at once.

        input_ids, attention_mask: (rows, P + C), prompts left-padded, completions right-padded to
        `num_completion` = C. prompts: what each row asks. version: number of the weights, under
        which embeddings are kept. silent: (groups,) bool, True for those that add no gradient,
        whose pass is then without, in a call that other processes need not make; None where all
        may.
        """
        stage = self.pass_of(model)

        def run(model: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            found = []
            for some in rows.split(batch_size or len(input_ids)):
                with self.counters.stage(stage):
                    asked = [prompts[i] for i in some[:: self.num_generations].tolist()]
                    given = input_ids[some], attention_mask[some], num_completion, asked, version
                    found.append(self._groups(model, stage, *given))
            logps = torch.cat([log_probs.view(-1, num_completion) for log_probs, _ in found])
            if not with_entropy:
                return logps, None
            return logps, torch.cat([entropy.view(-1, num_completion) for _, entropy in found])

        quiet, loud = self._divided(len(input_ids), silent, input_ids.device)
        if not len(quiet):
            return *run(model, loud), None
        with torch.no_grad():
            quietly = run(self.accelerator.unwrap_model(model), quiet)
        back = torch.cat([quiet, loud]).argsort()
        joined = [
            None if one is None or other is None else torch.cat([one, other])[back]
            for one, other in zip(quietly, run(model, loud), strict=True)
        ]
        assert joined[0] is not None
        return joined[0], joined[1], None

    def _divided(
        self, num_rows: int, silent: torch.Tensor | None, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of groups without and with a gradient; one of the latter at least, because every
        process has to make a backward pass."""
        rows = torch.arange(num_rows, device=device).view(-1, self.num_generations)
        if silent is None:
            return rows[:0].flatten(), rows.flatten()
        silent = silent.clone()
        silent[0] &= not bool(silent.all())
        return rows[silent].flatten(), rows[~silent].flatten()

    def _groups(self, model, stage, input_ids, attention_mask, num_completion, prompts, version):
        """Log-probabilities and entropies of whole groups, as many at once as fit (oom.py)."""
        group, num_prompt = self.num_generations, input_ids.shape[1] - num_completion
        lengths_BG2 = torch.stack(
            [part.sum(dim=1) for part in attention_mask.split([num_prompt, num_completion], dim=1)],
            dim=-1,
        ).unflatten(0, (-1, group))
        longest = lengths_BG2.amax(dim=1).tolist()
        together = self._bunches(longest, prompts)

        def cut(groups: list[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
            """Ids and mask of some groups without what is padding in all of them; C of these."""
            prompt, length = (max(1, *(longest[i][part] for i in groups)) for part in (0, 1))
            inside = slice(num_prompt - prompt, num_prompt + length)
            rows = [row for i in groups for row in range(i * group, (i + 1) * group)]
            return input_ids[rows, inside], attention_mask[rows, inside], length

        # Counted here, once: `build` runs again where the memory runs out, and in recomputation.
        for groups in together:
            _, mask, length = cut(groups)
            tokens = LogprobTokens.shared(mask[::group, :-length], mask[:, -length:], group)
            self.counters.count_logprobs(self.core, stage, tokens)

        def build(groups: list[int]) -> dict[str, Any]:
            asked = [prompts[i] for i in groups]
            return self._forward_inputs(stage, *cut(groups), asked, version)

        chunks = GroupChunks(together, build, self.groups_at_once, (group, num_completion))
        with self.accelerator.autocast(), self._head(stage):
            return model(in_chunks=chunks)

    def _bunches(self, longest: list[list[int]], prompts: list[Prompt]) -> list[list[int]]:
        """Groups by forward. All have one where they would show a clip in several, which is encoded
        once, and where weights are sharded, since processes then need as many forwards, or DDP
        allows no other.

        longest: tokens of the prompt and of the longest completion of each group.
        """
        prompt_tokens, completion_tokens = zip(*longest, strict=True)
        found = bunches(prompt_tokens, completion_tokens, self.num_generations)
        shown = [{clip.key for i in groups for clip in prompts[i].clips} for groups in found]
        is_apart = sum(map(len, shown)) == len(set().union(*shown))
        if is_apart and not self._ddp_needs_one and not is_sharded(self.core):
            return found
        return [list(range(len(prompts)))]

    def _forward_inputs(
        self, stage, input_ids, attention_mask, num_completion, prompts, version
    ) -> dict[str, Any]:
        """Arguments of the model's forward for whole groups, one packed row each."""
        group = self.num_generations
        num_prompt = input_ids.shape[1] - num_completion
        prompt_ids, prompt_mask = (x[::group, :num_prompt] for x in (input_ids, attention_mask))
        clips, media_rows = distinct_clips(prompts)
        if self.accelerator.num_processes > 1:
            clips = self.inputs.for_every_part(clips)
        layout = self.features.layout(clips)
        positions = self.core.model.prompt_positions(prompt_ids, prompt_mask, layout, media_rows)
        packed = pack_groups(
            prompt_ids,
            prompt_mask,
            input_ids[:, num_prompt:],
            attention_mask[:, num_prompt:],
            positions.ids,
            positions.next,
        )
        media: dict[str, Any] = {"media_rows": media_rows}
        if stage == "old":  # the embeddings that the rollouts saw
            media["media_embeds"] = self.features.embeds(clips, version)
        else:
            media["media_inputs"] = self.features.media(clips, reference=stage == "reference")
        return {**packed.inputs(), "fused_lm_head": True, **media}

    def plain(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_completion: int,
        *,
        prompts: list[Prompt],
        by_trl: Callable[..., LogprobsAndEntropies],
    ) -> LogprobsAndEntropies:
        """TRL's own forward `by_trl`, one row a completion, every row with its own media."""
        stage = self.pass_of(model)
        rows = VideoRows(
            model,
            self.core,
            self.inputs,
            prompts,
            num_completion,
            every_part=self.accelerator.num_processes > 1,
        )
        with self.counters.stage(stage), self._head(stage):
            tokens = LogprobTokens.plain(attention_mask, num_completion)
            self.counters.count_logprobs(self.core, stage, tokens)
            return by_trl(rows, input_ids, attention_mask, num_completion)


def adapters_are_off(model) -> bool:
    """Whether a peft model is asked for what it was before training, as TRL does for the
    reference."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    return any(layer.disable_adapters or layer.active_adapters == ["ref"] for layer in layers)
