"""A whole training run: its steps simulated, its hours and money.

In: a `Job`, `Rates`, the number of videos and epochs, how lengths of completions spread. Out: a
`TrainingPlan`. Stages come from `step.py`, the waiting from `simulate.py`.
"""

from dataclasses import dataclass

import numpy as np

from thinker.plan.memory import Memory, check_memory, engine_of, memory_of
from thinker.plan.rates import Rates
from thinker.plan.simulate import Lengths, Outcome, Work, simulate
from thinker.plan.step import Job, Stage, StepPlan

SIMULATED_STEPS = 20
"""Enough that the mean of a step of 512 processes moves by less than a per cent or two."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a run costs."""

    plan: StepPlan
    """Its work."""
    memory: Memory
    """Of one GPU that trains."""
    stages: tuple[Stage, ...]
    """Of a step, with equal completions and without waiting."""
    outcome: Outcome
    """Of simulated steps, with completions of drawn lengths."""
    steps: int
    """Optimizer steps of the run."""
    first_read_seconds: float
    """To decode every video once before the first step, which fills the frame cache."""

    @property
    def alone_seconds(self) -> float:
        """Of a step without waiting."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def hours(self) -> float:
        """Of the run; loading weights and evaluating are left out."""
        return (self.steps * self.outcome.mean_seconds + self.first_read_seconds) / 3600

    @property
    def dollars(self) -> float:
        """Of all GPUs for those hours."""
        return self.hours * self.plan.job.gpus * self.plan.gpu.dollars_per_hour

    @property
    def loader_wait_seconds(self) -> float:
        """Of a step in which all work is done and the next batch is not read yet."""
        return max(0.0, self.plan.loader_seconds() - self.alone_seconds)

    @property
    def straggler_seconds(self) -> float:
        """What drawn lengths add to a step."""
        added = self.outcome.mean_seconds - self.alone_seconds - self.loader_wait_seconds
        return max(0.0, added)

    def binding(self) -> list[tuple[str, float]]:
        """Seconds of a step by what they are spent on, the most first; "stragglers" is what drawn
        lengths add."""
        spent = {"stragglers": self.straggler_seconds, "storage": self.loader_wait_seconds}
        for stage in self.stages:
            spent[stage.limit] = spent.get(stage.limit, 0.0) + stage.seconds
        return sorted(spent.items(), key=lambda item: -item[1])


def training_plan(
    job: Job, rates: Rates, *, videos: int, epochs: int, lengths: Lengths, seed: int = 0
) -> TrainingPlan:
    """Raises ValueError where the job does not fit, or the videos make no step."""
    batch = job.trainers * job.size.num_videos
    if videos < batch:
        raise ValueError(
            f"a step takes {batch} videos ({job.trainers} processes with {job.size.num_videos} "
            f"each), the set has {videos}: use fewer GPUs or videos a process"
        )
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, expected at least 1")
    check_memory(job, rates)
    plan = StepPlan(job, rates)
    engine = engine_of(plan)
    before, after, together = plan.before(), plan.after(), plan.reduction()
    rewards = plan.rewards()
    work = Work(
        loader=plan.loader_seconds(),
        before=_sum(before),
        rewards=rewards.seconds,
        after=_sum(after),
        together=_sum(together),
    )
    shape = SIMULATED_STEPS, job.trainers, job.prompts, job.size.num_generations
    drawn = lengths.draw(np.random.default_rng(seed), shape)
    outcome = simulate(work, engine, drawn, num_servers=job.server_gpus)
    host = rates.host
    decode = videos * host.decode_seconds_per_clip / (host.cores_per_gpu * job.gpus)
    return TrainingPlan(
        plan=plan,
        memory=memory_of(plan),
        stages=(*before, *plan.rollouts(engine), rewards, *after, *together),
        outcome=outcome,
        steps=videos // batch * epochs,  # TRL drops the rest of an epoch
        first_read_seconds=decode,
    )


def _sum(stages: list[Stage]) -> float:
    return sum(stage.seconds for stage in stages)
