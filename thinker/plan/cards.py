"""Which card holds which recipe: memory of one GPU that trains alone, and sizes of cards.

In: a public backbone and the size of a step. Out: for each recipe the bytes of its larger phase, by
use (memory.py), and the text of `thinker estimate`.
"""

from dataclasses import replace
from typing import Any

from thinker.plan.memory import Memory, memory_of
from thinker.plan.rates import Rates
from thinker.plan.step import Job, StepPlan
from thinker.policies.cost import WEIGHT, StepSize, cache_bytes

CARDS = (8, 12, 16, 24, 40, 48, 80, 96, 141)
"""GB of cards that are sold."""

GB = 1e9

WAYS: dict[str, dict[str, Any]] = {
    "all but SlowFast": {},
    "all but SlowFast, KL": {"with_reference": True},
    "LoRA": {"lora": True},
    "LoRA on 4 bits": {"lora": True, "quantization": "nf4"},
}
"""What is trained, as fields of `Job`. With LoRA the projectors are, too, and KL costs nothing."""
ENGINES = {"hf": "transformers", "vllm": "vLLM"}
WHOLE = "measured or scored, whole"
CAVEATS = """
Estimates. Tests hold the bytes of weights, in 4 bits too, and of LoRA to those of real policies;
activations and caches are formulas, and no peak was measured on a GPU. A run measures held-out sets
by the whole policy: where that does not fit, leave data.eval and data.held_out empty, and measure
final/ elsewhere."""


def recipes(job: Job, rates: Rates) -> dict[str, dict[str, float]]:
    """Bytes by use, of the phase that needs more, for each recipe.

    job: what does not follow from a recipe: model, size of a step, side of keyframes.
    """
    found = {}
    for way, fields in WAYS.items():
        if "with_reference" not in fields:
            one = replace(job, size=replace(job.size, num_generations=1), **fields)
            found[f"SFT, {way}"] = _memory(one, rates).training
    for way, fields in WAYS.items():
        for backend, engine in ENGINES.items():
            memory = _memory(replace(job, backend=backend, **fields), rates)
            phases = (memory.rollouts, memory.training)
            found[f"GRPO, {way}, {engine}"] = max(phases, key=lambda uses: sum(uses.values()))
    plan = StepPlan(job, rates)
    one_answer = replace(job.size, num_generations=1, num_videos=1)
    found[WHOLE] = {
        "weights": float(WEIGHT * plan.parameters),
        "cache of one answer": float(cache_bytes(plan.model, one_answer)),
    }
    return found


def _memory(job: Job, rates: Rates) -> Memory:
    return memory_of(StepPlan(job, rates))


def holds(card: float, needed: float, rates: Rates) -> bool:
    """Whether a card of so many GB holds so many bytes."""
    return needed <= card * GB * rates.reached.memory


def cards_text(model: str, size: StepSize, px: int | None, rates: Rates) -> str:
    """The tables of `thinker estimate` that say what fits where."""
    found = recipes(Job(model=model, size=size, gpus=1, sharding="ddp", px=px), rates)
    lines = [
        "GB on one GPU, nothing sharded, gradient checkpointing; a column is a card of so many GB,",
        f"of which {rates.reached.memory:.0%} can be filled (the rest: CUDA's context, fragments)",
        f"  {'recipe':<42}{'GB':>6}" + "".join(f"{card:>5}" for card in CARDS),
    ]
    for name, uses in found.items():
        needed = sum(uses.values())
        marks = ("yes" if holds(card, needed, rates) else "-" for card in CARDS)
        lines.append(f"  {name:<42}{needed / GB:>6.1f}" + "".join(f"{mark:>5}" for mark in marks))
    lines += ["", "GB by use, in the phase that needs more"]
    for name, uses in found.items():
        detail = ", ".join(f"{use} {size / GB:.1f}" for use, size in uses.items() if size)
        lines.append(f"  {name:<42}{detail}")
    return "\n".join(lines) + "\n" + CAVEATS
