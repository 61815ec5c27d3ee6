"""Shared-prompt log-probabilities at real size on a GPU: forward and backward, against plain rows.

    python benchmarks/gpu_step.py --output benchmarks/gpu_step.json
    python benchmarks/gpu_step.py --measure memory --models InternVL3-8B --prompts 5000
    python benchmarks/gpu_step.py --device cpu --models tiny-qwen2_5_vl --prompts 200

Language models in the shapes of InternVL3-8B and Qwen2.5-VL-7B, random bfloat16 weights, text in
the place of video tokens, gradient checkpointing on both sides. `--measure time`: a row holds the
milliseconds (median), the peak memory, the largest difference of log-probabilities from the plain
way (one row a completion), and how far the time is above the floor: the FLOPs of
`thinker.policies.cost` at the rate that a large matrix product reaches on the same device; in the
last layer prompt rows need keys and values only, and the floor leaves the rest out. `--measure
memory`: peak bytes of one forward and backward for groups of 2, 4, 8, …, and the largest that fits.
A side that does not fit is recorded as such. Made for one GPU of 80 GB or more; on a CPU it only
shows that it runs.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gpu_common import (
    Record,
    arguments,
    begin_peak,
    ceilings,
    model_names,
    peak_bytes,
    policy_of,
    seconds_of,
    weight_bytes,
)
from trl.trainer.utils import add_fused_lm_head

from thinker.policies.cost import language_flops
from thinker.policies.shared_prompt import enable_shared_prompt, pack_groups
from thinker.train.counters import LogprobTokens

MODELS = ("InternVL3-8B", "Qwen2.5-VL-7B")
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, kw_only=True)
class Group:
    """One prompt (1, P) and its completions (G, C)."""

    prompt: torch.Tensor
    completions: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        prompts = self.prompt.expand(len(self.completions), -1)
        return torch.cat([prompts, self.completions], dim=1)


def build_model(name: str, device: torch.device):
    """The policy's model, ready for both sides."""
    model = policy_of(name, device).model
    prepare(model)
    return model.train()


def prepare(model) -> None:
    """Both ways to compute log-probabilities, with gradient checkpointing."""
    enable_shared_prompt(model)  # plain rows pass through to PyTorch's own attention
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    model.gradient_checkpointing_enable({"use_reentrant": False})


def positions_of(model, length: int, device: torch.device) -> torch.Tensor:
    """Text positions, in three equal rows where the model rotates by three."""
    positions = torch.arange(length, device=device).unsqueeze(0)
    three = "mrope_section" in (model.config.get_text_config().rope_parameters or {})
    return positions.expand(3, 1, -1) if three else positions


def logprobs_plain(model, group: Group) -> torch.Tensor:
    length = group.completions.shape[1]
    labels = group.rows.clone()
    labels[:, :-length] = -100
    mask = torch.ones_like(labels)
    output = model(group.rows, attention_mask=mask, labels=labels, fused_lm_head=True)
    return output.log_probs[:, -length:]


def logprobs_shared(model, group: Group) -> torch.Tensor:
    num_prompt, device = group.prompt.shape[1], group.prompt.device
    packed = pack_groups(
        group.prompt,
        torch.ones_like(group.prompt),
        group.completions,
        torch.ones_like(group.completions),
        positions_of(model, num_prompt, device),
        torch.tensor([num_prompt], device=device),
    )
    output = model(**packed.inputs(), fused_lm_head=True)
    return output.log_probs.view(len(group.completions), -1)


SIDES: dict[str, Callable[[Any, Group], torch.Tensor]] = {
    "shared": logprobs_shared,
    "plain": logprobs_plain,
}


def make_group(num_prompt: int, num_group: int, length: int, device: torch.device) -> Group:
    """Random tokens."""
    draw = torch.Generator().manual_seed(0)
    return Group(
        prompt=torch.randint(20, 250, (1, num_prompt), generator=draw).to(device),
        completions=torch.randint(20, 250, (num_group, length), generator=draw).to(device),
    )


def train_once(model, name: str, group: Group) -> None:
    """Forward and backward of one side; the gradients are dropped."""
    SIDES[name](model, group).mean().backward()
    model.zero_grad(set_to_none=True)


# Time


def floor_flops(model, group: Group) -> int:
    """FLOPs of the shared side: forward, its recomputation under checkpointing, and twice that much
    backward."""
    masks = torch.ones_like(group.prompt), torch.ones_like(group.completions)
    tokens = LogprobTokens.shared(*masks, len(group.completions))
    unread = tokens.unread, tokens.unread_pairs
    return 4 * language_flops(model, tokens.positions, tokens.pairs, tokens.head, *unread)


def measure_side(model, name: str, group: Group, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds and peak bytes of forward and backward."""
    begin_peak(args.device)
    taken = seconds_of(lambda: train_once(model, name, group), args.device, args.repeats)
    return {
        "milliseconds": 1e3 * statistics.median(taken),
        "slowest": 1e3 * max(taken),
        "peak_bytes": peak_bytes(args.device),
    }


def measure(model, group: Group, args: argparse.Namespace, rate: float) -> dict[str, Any]:
    """A row of times; rate: FLOP/s that the device reaches."""
    row: dict[str, Any] = {}
    logps = {}
    for name, logprobs in SIDES.items():
        try:
            with torch.no_grad():
                logps[name] = logprobs(model, group).float()
            row[name] = measure_side(model, name, group, args)
        except torch.OutOfMemoryError:
            row[name] = OUT_OF_MEMORY
        model.zero_grad(set_to_none=True)
    if len(logps) == 2:
        row["max_logp_difference"] = float((logps["shared"] - logps["plain"]).abs().max())
    if isinstance(row["shared"], dict):
        seconds = row["shared"]["milliseconds"] / 1e3
        row["above_floor"] = seconds * rate / floor_flops(model, group)
    if all(isinstance(row[name], dict) for name in SIDES):
        row["speedup"] = row["plain"]["milliseconds"] / row["shared"]["milliseconds"]
    return row


# Memory


def measure_memory(model, name: str, num_prompt: int, args: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes of one side by the size of its group, doubled until it does not fit."""
    peaks: dict[str, int | str | None] = {}
    largest, size = 0, 2
    while size <= args.most:
        group = make_group(num_prompt, size, args.completion, args.device)
        begin_peak(args.device)
        try:
            train_once(model, name, group)
        except torch.OutOfMemoryError:
            peaks[str(size)] = OUT_OF_MEMORY
            break
        finally:
            model.zero_grad(set_to_none=True)
        peaks[str(size)] = peak_bytes(args.device)
        largest, size = size, 2 * size
    return {"weight_bytes": weight_bytes(model), "peak_bytes": peaks, "largest_group": largest}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=model_names())
    parser.add_argument("--measure", choices=("time", "memory"), default="time")
    parser.add_argument("--prompts", nargs="+", type=int, default=[1700, 5000])
    parser.add_argument("--groups", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--most", type=int, default=64, help="largest group tried for memory")
    parser.add_argument("--completion", type=int, default=400)
    args = parser.parse_args(argv)
    reached = ceilings(args.device, args.repeats)
    record = Record(args.output, args.device, ceilings=reached)
    for name in args.models:
        model = build_model(name, args.device)
        for num_prompt in args.prompts:
            row = {"model": name, "prompt": num_prompt, "completion": args.completion}
            if args.measure == "memory":
                for side in SIDES:
                    record.add(**row, side=side, **measure_memory(model, side, num_prompt, args))
                continue
            for size in args.groups:
                group = make_group(num_prompt, size, args.completion, args.device)
                figures = measure(model, group, args, reached["gemm_flops"])
                record.add(**row, group=size, **figures)
        del model


if __name__ == "__main__":
    main()
