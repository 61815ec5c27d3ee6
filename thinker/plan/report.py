"""The text of `thinker plan`."""

from thinker.plan.memory import Memory
from thinker.plan.rates import Rates
from thinker.plan.scoring import ArchivePlan
from thinker.plan.training import TrainingPlan


def training_text(found: TrainingPlan) -> str:
    """Time, memory, network and money of a training run."""
    job, outcome = found.plan.job, found.outcome
    size = job.size
    where = (
        f"{job.trainers} train, {job.server_gpus} serve rollouts (push: {job.push})"
        if job.server_gpus
        else "each trains and draws its rollouts"
    )
    lines = [
        f"{job.model}, {'LoRA' if job.lora else 'all but SlowFast trained'}, {job.sharding}: "
        f"{job.gpus} {job.gpu} in {job.nodes} node(s), {where}",
        f"{size.num_videos} videos a process and step in {job.micro_batches} micro-batch(es), "
        f"{size.num_generations} completions of {size.completion_tokens} tokens, prompts of "
        f"{found.plan.tokens.prompt}",
        "",
        f"{'a step of one process':<40}{'seconds':>9}{'TFLOPs':>10}{'GB sent':>9}  spent on",
    ]
    lines += [
        f"  {stage.name:<38}{stage.seconds:>9.2f}{stage.flops / 1e12:>10.1f}"
        f"{stage.sent_bytes / 1e9:>9.2f}  {stage.limit}"
        for stage in found.stages
    ]
    lines += [
        f"  {'waiting for the frame cache':<38}{found.loader_wait_seconds:>9.2f}{'':>19}  storage",
        f"  {'the longest completions':<38}{found.straggler_seconds:>9.2f}{'':>19}  stragglers",
        f"  {'a step':<38}{outcome.mean_seconds:>9.2f}",
        "",
        "spent on: " + ", ".join(f"{name} {s:.2f} s" for name, s in found.binding() if s >= 0.005),
        f"at barriers {outcome.waiting:.0%} of the processes' time; engines busy "
        f"{sum(outcome.busy) / len(outcome.busy):.0%} of it",
        "",
        *memory_lines(found.memory),
        "",
        f"{found.steps:,} steps, {found.hours:,.1f} hours, {found.hours * job.gpus:,.0f} GPU hours,"
        f" ${found.dollars:,.0f}",
    ]
    return "\n".join(lines)


def memory_lines(memory: Memory) -> list[str]:
    """GB of one GPU by phase and use."""
    lines = [f"GB on a GPU that trains, {memory.limit / 1e9:.0f} can be filled"]
    for phase, uses in (("rollouts", memory.rollouts), ("training", memory.training)):
        held = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in uses.items())
        lines.append(f"  {phase:<10}{sum(uses.values()) / 1e9:>7.1f}  ({held})")
    return lines


def archive_text(found: ArchivePlan) -> str:
    """Time and money of scoring an archive."""
    lines = [f"scoring {found.videos:,} videos, mode {found.mode}, {found.gpus} GPUs"]
    lines += [
        f"  {stage.name:<38}{stage.videos_per_second:>14,.0f} videos/s  {stage.limit}"
        for stage in found.stages
    ]
    slowest = found.slowest
    lines.append(
        f"  {slowest.name} binds ({slowest.limit}): {found.hours:,.1f} hours, "
        f"${found.dollars:,.0f}; {found.cores_needed:,.1f} decoding cores keep a GPU busy"
    )
    return "\n".join(lines)


def assumptions_text(rates: Rates, kind: str) -> str:
    """Every rate that was used and where it is from."""
    used = {
        name: source
        for name, source in rates.sources.items()
        if not name.startswith("gpus.") or name.startswith(f"gpus.{kind}.")
    }
    values = {
        **{f"gpus.{kind}.{name}": value for name, value in vars(rates.gpu(kind)).items()},
        **{f"reached.{name}": value for name, value in vars(rates.reached).items()},
        **{f"host.{name}": value for name, value in vars(rates.host).items()},
    }
    lines = ["rates (change them with --rates FILE, docs/scale.md)"]
    lines += [f"  {name:<42}{values[name]:>12.4g}  {source}" for name, source in used.items()]
    return "\n".join(lines)
