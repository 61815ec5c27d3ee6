"""Scoring an archive: videos a second by stage, what binds, hours and money.

The stages of different videos run beside each other (decoding processes read ahead, the GPU works),
so the slowest one gives the rate of the whole; encoder and language model share the GPU and add up.
Mode `level` reads one prompt a video, mode `reason` also writes a completion.
"""

from dataclasses import dataclass

from thinker.plan.step import StepPlan
from thinker.policies.cost import WEIGHT, causal_pairs, language_flops

MODES = ("level", "reason")
BATCH = 64
"""Questions that `QualityScorer` answers together (`--window`), where the cache holds as many."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """How fast one stage of all machines is."""

    name: str
    """What is done."""
    videos_per_second: float
    """If all else took no time."""
    limit: str
    """What its time is spent on."""


@dataclass(frozen=True, kw_only=True)
class ArchivePlan:
    """An archive by all GPUs of a job."""

    mode: str
    """One of MODES."""
    videos: int
    """How many."""
    stages: tuple[Throughput, ...]
    """In the order in which a video passes them."""
    gpus: int
    """All that score."""
    dollars_per_hour: float
    """Of one GPU with its share of the node."""
    cores_needed: float
    """CPU cores a GPU with which decoding keeps up with the GPU."""

    @property
    def slowest(self) -> Throughput:
        """The stage that binds."""
        return min(self.stages, key=lambda stage: stage.videos_per_second)

    @property
    def hours(self) -> float:
        """Of all videos, loading the model and listing files left out."""
        return self.videos / self.slowest.videos_per_second / 3600

    @property
    def dollars(self) -> float:
        """Of those hours; reading from a store may cost extra."""
        return self.hours * self.gpus * self.dollars_per_hour


def archive_plan(plan: StepPlan, videos: int, mode: str) -> ArchivePlan:
    """Scoring by all GPUs of the plan's job, each with a model of its own. Raises ValueError for
    another mode or a number below 1."""
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    if videos < 1:
        raise ValueError(f"{videos} videos to score, expected at least 1")
    job, rates, host = plan.job, plan.rates, plan.rates.host
    decoding = host.cores_per_gpu / host.decode_seconds_per_clip
    encode = plan.computing(plan.flops.encode, rates.reached.encode)
    language = _language_seconds(plan, mode)
    per_node = host.storage_bytes_per_second * job.nodes
    stages = (
        Throughput(
            name="read files", videos_per_second=per_node / host.file_bytes, limit="storage"
        ),
        Throughput(name="decode", videos_per_second=decoding * job.gpus, limit="CPU"),
        Throughput(
            name="encode and answer",
            videos_per_second=job.gpus / (encode + language),
            limit="compute" if mode == "level" else "memory rate",
        ),
        Throughput(name="write rows", videos_per_second=per_node / host.row_bytes, limit="storage"),
    )
    return ArchivePlan(
        mode=mode,
        videos=videos,
        stages=stages,
        gpus=job.gpus,
        dollars_per_hour=plan.gpu.dollars_per_hour,
        cores_needed=host.decode_seconds_per_clip / (encode + language),
    )


def _language_seconds(plan: StepPlan, mode: str) -> float:
    """Of the language model, a video."""
    prompt, tokens = plan.tokens.prompt, plan.job.size.completion_tokens
    reached = plan.rates.reached.prefill
    flops = language_flops(plan.model, prompt, causal_pairs(prompt), 1)
    seconds = plan.computing(flops, reached)
    if mode == "level":
        return seconds
    behind = tokens * prompt + causal_pairs(tokens)
    seconds += plan.computing(language_flops(plan.model, tokens, behind, tokens), reached)
    seconds += plan.reading(plan.cache_token_bytes * tokens * (prompt + tokens / 2))
    step = plan.rates.host.token_step_seconds + plan.reading(plan.language_bytes)
    return seconds + tokens * step / batch_size(plan)


def batch_size(plan: StepPlan) -> int:
    """Questions that are answered together: BATCH, or as many as memory holds. Raises ValueError
    where that is none."""
    free = plan.gpu.memory_bytes * plan.rates.reached.memory - WEIGHT * plan.parameters
    one = plan.cache_token_bytes * (plan.tokens.prompt + plan.job.size.completion_tokens)
    fitting = int(free // one)
    if fitting < 1:
        raise ValueError(
            f"{plan.job.model} with one answer does not fit a {plan.job.gpu}: "
            f"{WEIGHT * plan.parameters / 1e9:.1f} GB of weights"
        )
    return min(BATCH, fitting)
