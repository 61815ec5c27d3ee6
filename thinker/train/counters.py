"""Exact counts of what a GRPO step does: videos, frames, tokens, FLOPs and seconds by stage.

Forward hooks count every frame that passes the vision tower or SlowFast of a watched backbone, the
trainer reports every token that passes the language model; both count under the stage that the
trainer has opened. Once an optimizer step `Counters.take` gives them as a flat dict for
`metrics.jsonl`:

- `seconds/<stage>`: wall clock spent in a stage, inner stages excluded, mean of the processes;
- `seconds_max/<stage>`: the same of the process that spent most: a straggler stands out against the
  mean;
- `frames/no_grad`, `frames/grad`: keyframes through the vision tower (a frame pair is 2);
- `motion_frames/no_grad`, `motion_frames/grad`: frames through SlowFast;
- `tokens/<stage>/prompt`, `tokens/<stage>/completion`: real tokens, padding left out; a prompt that
  G completions share counts once;
- `flops/<stage>`: by the formulas of `thinker.policies.cost`, padding included, backward included;
- `videos/seen`, `videos/decoded`: distinct videos of the batch, and those no cache held;
- `decode/seconds`: clock seconds that the reads of the latter took in the data loader's workers,
  which run beside the training, so they are no part of `seconds/data`;
- `bytes/gradients`, `bytes/weights`, `bytes/other`: what processes send to each other and to vLLM
  servers, by the formulas of `thinker.train.processes.traffic`.

Counts are the sums of all processes where nothing else is said. Recomputation under gradient
checkpointing adds FLOPs, not frames or tokens.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn

from thinker.policies.backbone import MotionBackbone
from thinker.policies.cost import (
    VideoTokens,
    causal_pairs,
    language_flops,
    motion_flops,
    vision_flops,
)
from thinker.policies.motion import MotionEncoder

STAGES = ("data", "encode", "rollout", "old", "reference", "rewards", "train")
"""data: waiting for the loader; encode: videos without gradient, for rollouts; old, reference,
train: log-probabilities of the completions, by the policy before the update, the reference, and the
policy with gradient (forward and backward)."""
GRAD = {False: "no_grad", True: "grad"}


def counter_names() -> list[str]:
    """All names, in one order on every process."""
    names = [f"seconds/{stage}" for stage in STAGES] + [f"flops/{stage}" for stage in STAGES]
    for stage in ("rollout", "old", "reference", "train"):
        names += [f"tokens/{stage}/prompt", f"tokens/{stage}/completion"]
    for kind in ("frames", "motion_frames"):
        names += [f"{kind}/{grad}" for grad in GRAD.values()]
    names += [f"seconds_max/{stage}" for stage in STAGES]
    names += ["bytes/gradients", "bytes/weights", "bytes/other"]
    return [*names, "videos/seen", "videos/decoded", "decode/seconds"]


class Counters:
    """Counts of one process since the last `take`.

    Example: `with counters.stage("train"): counters.add("frames/grad", 6)`, then
    `counters.take()["frames/grad"] == 6.0`, and 0.0 at the next `take`.
    """

    def __init__(self) -> None:
        self._values = dict.fromkeys(counter_names(), 0.0)
        self._open: list[str] = []  # stages, innermost last
        self._since = 0.0

    def add(self, name: str, amount: float) -> None:
        """Add to one of `counter_names()`; another name is a KeyError."""
        self._values[name] += amount

    def add_flops(self, amount: float) -> None:
        """Add to the FLOPs of the innermost open stage."""
        if self._open:
            self.add(f"flops/{self._open[-1]}", amount)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Spend the time and FLOPs inside on stage `name`; stages nest, each second counts once."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def _settle(self) -> None:
        """Give the time since the last change of stage to the stage that was open."""
        now = time.perf_counter()
        if self._open:
            self.add(f"seconds/{self._open[-1]}", now - self._since)
        self._since = now

    def take(self) -> dict[str, float]:
        """All counts since the last call, and start again from zero. Of one process the slowest is
        itself."""
        self._settle()
        taken = self._values
        self._values = dict.fromkeys(taken, 0.0)
        return taken | {f"seconds_max/{stage}": taken[f"seconds/{stage}"] for stage in STAGES}

    def take_step(self, accelerator: Accelerator) -> dict[str, float]:
        """The counts of one optimizer step of all processes: their sums, of `seconds/` the mean, of
        `seconds_max/` the largest. Every process must call it."""
        taken = self.take()
        own = torch.tensor([[taken[name] for name in counter_names()]], dtype=torch.float64)
        everyone = accelerator.gather(own.to(accelerator.device))  # (processes, names)
        columns = zip(counter_names(), everyone.T, strict=True)
        return {name: _of_all(name, column) for name, column in columns}

    def watch(self, backbone: MotionBackbone) -> None:
        """Count every frame that passes the vision tower or SlowFast of `backbone` from now on.

        Layers that gradient checkpointing runs again lie inside these two modules, whose own calls
        are counted: recomputation adds no frames.
        """
        _Hook(partial(self._count_frames, backbone)).put_on(backbone.tower)
        if backbone.motion is not None:
            _Hook(partial(self._count_motion, backbone.motion)).put_on(backbone.motion.slowfast)

    def _count_frames(self, backbone: MotionBackbone, args: tuple, kwargs: dict) -> None:
        """`backbone.tower` is called with these arguments."""
        grad = torch.is_grad_enabled() and _is_trained(backbone.vision_part)
        for num_slots, num_patches in backbone.tower_load(args, kwargs):
            self.add(f"frames/{GRAD[grad]}", num_slots * backbone.frames_per_slot)
            tokens = VideoTokens(
                slots=num_slots,
                patches=num_patches,
                visual=num_slots * backbone.visual_tokens(num_patches),
                motion=0,
                text=0,
            )
            self.add_flops(vision_flops(backbone, tokens) * (3 if grad else 1))

    def _count_motion(self, motion: MotionEncoder, args: tuple, kwargs: dict) -> None:
        """`motion.slowfast` is called with these arguments, the first of them (N, 3, T, H, W)."""
        grad = torch.is_grad_enabled() and _is_trained(motion.slowfast)
        num_clips, _, num_frames, height, width = args[0].shape
        self.add(f"motion_frames/{GRAD[grad]}", num_clips * num_frames)
        one = motion_flops(motion.config, (num_frames, 3, height, width))
        self.add_flops(num_clips * one * (3 if grad else 1))

    # What the trainer reports

    def count_rollouts(self, model, prompt_lengths: list[int], lengths: list[list[int]]) -> None:
        """Prompts forwarded once each, and their completions token by token."""
        self.add("tokens/rollout/prompt", sum(prompt_lengths))
        self.add("tokens/rollout/completion", sum(map(sum, lengths)))
        for prompt, group in zip(prompt_lengths, lengths, strict=True):
            pairs = causal_pairs(prompt) + sum(n * prompt + causal_pairs(n) for n in group)
            self.add_flops(language_flops(model, prompt + sum(group), pairs, sum(group)))

    def count_logprobs(self, model, stage: str, tokens: "LogprobTokens") -> None:
        """A pass of the language model that computes log-probabilities, backward included where
        gradients are on."""
        self.add(f"tokens/{stage}/prompt", tokens.prompt)
        self.add(f"tokens/{stage}/completion", tokens.completion)
        passes = 1
        if torch.is_grad_enabled():
            language = model.model.language_model
            # a weight that is frozen (LoRA's base) has no gradient, but hands on that of its input
            own = (p for name, p in language.named_parameters() if "lora_" not in name)
            passes += 2 if any(parameter.requires_grad for parameter in own) else 1
            passes += bool(getattr(language, "gradient_checkpointing", False) and language.training)
        unread = tokens.unread, tokens.unread_pairs
        flops = language_flops(model, tokens.positions, tokens.pairs, tokens.head, *unread)
        self.add_flops(flops * passes)


@dataclass(frozen=True, kw_only=True)
class LogprobTokens:
    """Tokens of one pass that computes log-probabilities."""

    prompt: int
    """Real tokens of the prompts, padding left out."""
    completion: int
    """Real tokens of the completions."""
    positions: int
    """Positions that pass the language model, padding included."""
    pairs: int
    """(query, key) pairs of its attention, padding included."""
    head: int
    """Rows that reach the LM head, padding included."""
    unread: int = 0
    """Positions that need keys and values only in the last layer, padding included."""
    unread_pairs: int = 0
    """(query, key) pairs that are left out there."""

    @classmethod
    def shared(cls, prompt_mask, completion_mask, group: int) -> "LogprobTokens":
        """Of packed rows: masks (B, P) of the prompts and (B·G, C) of the completions."""
        (groups, prompt), (rows, length) = prompt_mask.shape, completion_mask.shape
        own = rows * (length * (prompt - 1) + causal_pairs(length))
        return cls(
            prompt=int(prompt_mask.sum()),
            completion=int(completion_mask.sum()),
            positions=groups * (prompt - 1) + rows * length,
            pairs=groups * causal_pairs(prompt - 1) + own,
            head=rows * length,
            unread=groups * (prompt - 1),
            unread_pairs=groups * causal_pairs(prompt - 1),
        )

    @classmethod
    def plain(cls, attention_mask, num_completion: int) -> "LogprobTokens":
        """Of one row a completion: mask (R, P + C); TRL's head sees every position but the last."""
        rows, length = attention_mask.shape
        return cls(
            prompt=int(attention_mask[:, :-num_completion].sum()),
            completion=int(attention_mask[:, -num_completion:].sum()),
            positions=rows * length,
            pairs=rows * causal_pairs(length),
            head=rows * (length - 1),
        )


def _of_all(name: str, values: torch.Tensor) -> float:
    """One figure of what each process has counted."""
    if name.startswith("seconds_max/"):
        return values.max().item()
    return (values.mean() if name.startswith("seconds/") else values.sum()).item()


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


class _Hook:
    """A forward pre-hook that hands the arguments of each call of a module to `count`.

    Only the module that it was put on is counted: a copy of that module (deepcopy, pickle) holds a
    hook that counts nothing. Nor does a call on the meta device count, which only tries shapes.
    """

    def __init__(self, count: Callable[[tuple, dict], None] | None = None) -> None:
        self._count = count

    def put_on(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if self._count is not None and not tensors[0].is_meta:
            self._count(args, kwargs)

    def __reduce__(self) -> tuple[type["_Hook"], tuple[()]]:
        return _Hook, ()
