"""Memory of one GPU in a training run, by phase and by the way in which weights are sharded.

Mixed-precision AdamW: 2 bytes a weight, 2 a gradient, 12 of optimizer state. A step has two phases
that do not overlap:

- rollouts: weights are whole on every process, however they are sharded, because encoding and
  generation call parts of the policy (thinker/train/processes/sharded.py). An engine of the
  process's own holds the language model once more, and the cache of keys and values. Servers hold
  both elsewhere; transformers holds the cache of all completions at once. The engine sleeps while
  the process trains (`rollout.sleep`).
- training: gradients, and the activations of one micro-batch with gradient checkpointing.
"""

from dataclasses import dataclass, replace

from thinker.plan.rates import Rates
from thinker.plan.step import Decoding, Job, StepPlan
from thinker.plan.traffic import SHARDINGS
from thinker.policies.cost import GRADIENT, OPTIMIZER, WEIGHT, activation_bytes, cache_bytes

NODE = 8
"""GPUs that a node usually has."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU that trains, by use in each phase, and what it may hold."""

    rollouts: dict[str, float]
    """While completions are drawn, with a cache of the completions of one video only."""
    training: dict[str, float]
    """While log-probabilities are computed, backward pass included."""
    limit: float
    """That can be filled."""

    @property
    def fits(self) -> bool:
        """Whether both phases do."""
        return max(sum(self.rollouts.values()), sum(self.training.values())) <= self.limit


def memory_of(plan: StepPlan) -> Memory:
    """What a GPU that trains holds."""
    job, traffic = plan.job, plan.traffic
    shards = job.trainers
    divided_state = 1 if job.sharding == "ddp" else shards
    divided_weights = shards if traffic.divides_weights else 1
    reference = WEIGHT * plan.parameters if job.with_reference and not job.lora else 0
    lasting = {
        "optimizer": OPTIMIZER * plan.trained / divided_state,
        "reference": reference / divided_weights,
        "layer out of 4 bits": float(plan.unpacked_bytes),
    }
    rollouts = {"weights": float(plan.weight_bytes), **lasting}
    if job.backend == "hf":
        rollouts["cache of all completions"] = float(cache_bytes(plan.model, job.size))
    elif not job.server_gpus:
        rollouts["engine's language model"] = float(plan.language_bytes)
        rollouts["cache of one video"] = float(one_video_bytes(plan))
    size = replace(job.size, num_videos=job.size.num_videos // job.micro_batches)
    gathered = 2 * plan.weight_bytes / plan.text.num_hidden_layers  # a layer, and the next one
    training = {
        "weights": plan.weight_bytes / divided_weights,
        "layers gathered": gathered if traffic.divides_weights and shards > 1 else 0.0,
        "gradients": GRADIENT * plan.trained / divided_state,
        **lasting,
        "activations": float(activation_bytes(plan.model, size, train_vision=not job.lora)),
    }
    return Memory(
        rollouts={name: size for name, size in rollouts.items() if size},
        training={name: size for name, size in training.items() if size},
        limit=plan.gpu.memory_bytes * plan.rates.reached.memory,
    )


def one_video_bytes(plan: StepPlan) -> int:
    """Keys and values of the completions of one video, each with its prompt's."""
    size = plan.job.size
    longest = plan.tokens.prompt + size.completion_tokens
    return plan.cache_token_bytes * longest * size.num_generations


def engine_of(plan: StepPlan) -> Decoding:
    """The engine of a process, or a server, with what its GPU has left for the cache."""
    if plan.job.server_gpus:
        limit = plan.gpu.memory_bytes * plan.rates.reached.memory
        return plan.decoding(limit - plan.language_bytes)
    memory = memory_of(plan)
    return plan.decoding(
        memory.limit - sum(memory.rollouts.values()) + memory.rollouts["cache of one video"]
    )


def check_memory(job: Job, rates: Rates) -> None:
    """Raises ValueError where a job does not fit, with the changes that would make it fit."""
    plan = StepPlan(job, rates)
    server = plan.language_bytes + one_video_bytes(plan)
    if job.server_gpus and server > plan.gpu.memory_bytes * rates.reached.memory:
        raise ValueError(
            f"a {job.gpu} cannot serve {job.model}: {server / 1e9:.1f} GB; servers of several GPUs "
            "are not planned here"
        )
    memory = memory_of(plan)
    if memory.fits:
        return
    phases = {"rollouts": memory.rollouts, "training": memory.training}
    phase, uses = max(phases.items(), key=lambda item: sum(item[1].values()))
    held = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in uses.items())
    others = what_fits(job, rates) or ["nothing that was tried: fewer keyframes or shorter answers"]
    raise ValueError(
        f"{job.model} does not fit a {job.gpu}: {sum(uses.values()) / 1e9:.1f} GB in {phase} "
        f"({held}), {memory.limit / 1e9:.1f} can be filled; it would fit with "
        + "; or ".join(others)
    )


def what_fits(job: Job, rates: Rates) -> list[str]:
    """Single changes with which a job fits, the cheapest first."""
    videos = job.size.num_videos
    changes: list[tuple[str, Job]] = [
        (f"--micro-batches {n}", replace(job, micro_batches=n))
        for n in range(job.micro_batches + 1, videos + 1)
        if videos % n == 0
    ]
    order = SHARDINGS.index
    changes += [
        (f"--sharding {name}", replace(job, sharding=name))
        for name in SHARDINGS
        if order(name) > order(job.sharding)
    ]
    if not job.lora:
        changes.append(("--lora", replace(job, lora=True)))
    if not job.server_gpus and job.gpus > 1:
        number = max(1, job.gpus // 4)
        changes.append((f"--server-gpus {number}", replace(job, server_gpus=number)))
    for times in (2, 4, 8):
        gpus = job.gpus * times
        nodes = 1 if gpus <= NODE else job.nodes * times
        more = replace(job, gpus=gpus, nodes=nodes)
        changes.append((f"--gpus {gpus} --nodes {nodes}", more))
    changes += [(f"--gpu {kind}", replace(job, gpu=kind)) for kind in rates.gpus if kind != job.gpu]
    return [said for said, other in changes if memory_of(StepPlan(other, rates)).fits]
