"""What one GRPO step asks of a GPU, by stage, and how long that takes at stated rates.

In: a `Job` (policy, batch, GPUs, sharding) and `Rates`. Out: `Stage`s whose seconds are those of a
process that waits for nobody; `simulate.py` adds the waiting. Work is this package's own schedule
(`thinker.policies.cost`); what one stage computes and what it sends are taken one after the other,
so overlap of communication with computation, which there is, makes a step faster than planned.

Rollouts are decoded token by token. Each of them reads the language model's weights once for the
whole batch and keys and values once a sequence, which is more time than its FLOPs take until
batches are of hundreds of sequences.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from thinker.config.run import LoraSettings
from thinker.plan.rates import Gpu, Rates
from thinker.plan.traffic import Traffic, push_bytes
from thinker.policies.card import count_parameters
from thinker.policies.cost import (
    OPTIMIZER,
    WEIGHT,
    StepSize,
    cache_bytes_a_token,
    lora_parameters,
    meta_policy,
    video_flops,
    video_tokens,
)
from thinker.policies.four_bit import packable, packed_bytes

CHECKPOINT_STEPS = 200
"""`save_steps` of run_scripts/configs/grpo_lsvq.yaml."""
OPTIMIZER_TRAFFIC = 2 * OPTIMIZER + 2 * WEIGHT
"""Bytes a trained parameter that an optimizer step reads and writes: its state both ways, the
gradient, the weight."""
PUSHES = ("disk", "nccl")
"""Ways to hand weights to servers (`rollout.push`)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run."""

    model: str
    """A public backbone, as `thinker estimate` takes it."""
    size: StepSize
    """Of one process and step: its videos, their completions."""
    gpus: int
    """All of them."""
    nodes: int = 1
    """Machines that hold as many GPUs each."""
    gpu: str = "H100-SXM"
    """Kind of all GPUs."""
    server_gpus: int = 0
    """Of the GPUs, those that hold a vLLM server each; 0: each process has an engine of its own."""
    push: str = "disk"
    """How servers get weights, one of PUSHES."""
    sharding: str = "fsdp2"
    """One of SHARDINGS."""
    lora: bool = False
    """Whether LoRA is trained, and the projectors; else all but SlowFast."""
    quantization: str | None = None
    """"nf4" where LoRA is trained on a language model in 4 bits. Only memory is planned then."""
    backend: str = "vllm"
    """What draws completions, as `rollout.backend`. "hf" needs no language model of its own, and
    keeps the keys and values of all completions of a step. Only memory is planned then."""
    micro_batches: int = 1
    """Parts in which a process goes through its videos (`gradient_accumulation_steps`)."""
    with_reference: bool = False
    """Whether there is a KL term (beta > 0)."""
    with_copies: bool = False
    """Whether a reward draws rollouts of perturbed copies (temporal)."""
    px: int | None = None
    """Side of a keyframe; None is the backbone's."""

    def __post_init__(self):
        if self.gpus < 1 or self.nodes < 1 or self.gpus % self.nodes:
            raise ValueError(
                f"gpus is {self.gpus} and nodes {self.nodes}, expected nodes of as many GPUs each"
            )
        if not 0 <= self.server_gpus < self.gpus:
            raise ValueError(
                f"server_gpus is {self.server_gpus}, expected fewer than all {self.gpus} GPUs"
            )
        if self.quantization and not self.lora:
            raise ValueError(f"quantization is {self.quantization!r}, expected lora with it")
        if self.push not in PUSHES:
            raise ValueError(f"push is {self.push!r}, expected one of {', '.join(PUSHES)}")
        if self.micro_batches < 1 or self.size.num_videos % self.micro_batches:
            raise ValueError(
                f"micro_batches is {self.micro_batches}, expected a divisor of the "
                f"{self.size.num_videos} videos of a process"
            )

    @property
    def trainers(self) -> int:
        """GPUs that train."""
        return self.gpus - self.server_gpus

    @property
    def prompts(self) -> int:
        """Prompts of a process and step, perturbed copies included."""
        return self.size.num_videos * (2 if self.with_copies else 1)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a step in one process."""

    name: str
    """What is done."""
    seconds: float
    """Without waiting for others."""
    limit: str
    """What its seconds are spent on: compute, memory rate, network, storage, CPU, launching."""
    flops: float = 0.0
    """Computed by this GPU."""
    sent_bytes: float = 0.0
    """Sent by this process to others."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an engine draws completions. `seconds` is the time of one batch: prompts are read one
    after the other, then every token costs `token_seconds`, and `sequence_seconds` more for each
    completion that is not at its end."""

    prompt_seconds: float
    """To read a prompt."""
    token_seconds: float
    """Of a token of the batch, whatever its size."""
    sequence_seconds: float
    """Of a token, for each completion in the batch."""
    slots: float
    """Completions at once; more wait. At least G, which stay together."""

    def seconds(self, prompts: float, group: int, tokens: float) -> float:
        """Of prompts with G completions of equal length.

        >>> engine = Decoding(
        ...     prompt_seconds=0.5, token_seconds=0.01, sequence_seconds=0.001, slots=8)
        >>> round(engine.seconds(prompts=2, group=4, tokens=100), 9)  # 2 * .5 + 100 * .018
        2.8
        >>> round(engine.seconds(prompts=4, group=4, tokens=100), 9)  # in two waves
        5.6
        """
        completions = prompts * group
        waves = max(1.0, completions / self.slots)
        per_token = waves * self.token_seconds + completions * self.sequence_seconds
        return prompts * self.prompt_seconds + tokens * per_token


@lru_cache(maxsize=4)
def _model(name: str, num_keyframes: int, px: int | None):
    """Without weights, so that it can be kept while other ways to train it are looked at."""
    return meta_policy(name, num_keyframes, px)


class StepPlan:
    """The work of a step of a job."""

    def __init__(self, job: Job, rates: Rates):
        self.job, self.rates = job, rates
        self.gpu: Gpu = rates.gpu(job.gpu)
        self.model = _model(job.model, job.size.num_keyframes, job.px)
        self.text = self.model.config.get_text_config()
        self.tokens = video_tokens(self.model)
        self.flops = video_flops(self.model, self.tokens, job.size)
        counts = count_parameters(self.model)
        self.parameters = counts["total"]
        self.language_bytes = WEIGHT * (counts["language_model"] + counts["lm_head"])
        adapters = lora_parameters(self.model, LoraSettings()) if job.lora else 0
        self.trained = adapters if job.lora else counts["total"] - counts["slowfast"]
        self.weight_bytes = WEIGHT * (counts["total"] + adapters)
        self.unpacked_bytes = 0
        """Of the layer in 4 bits that is made whole while it computes."""
        if job.quantization:
            layers = packable(self.model)
            self.weight_bytes += sum(packed_bytes(n) - WEIGHT * n for n in layers)
            self.unpacked_bytes = WEIGHT * max(layers)
        self.traffic = Traffic(
            sharding=job.sharding,
            processes=job.trainers,
            weights=self.weight_bytes,
            gradients=WEIGHT * self.trained,
        )
        self.cache_token_bytes = cache_bytes_a_token(self.text, itemsize=2)

    # Rates

    @cached_property
    def collective_rate(self) -> float:
        """Bytes a second that a process sends in a collective. Between nodes all adapters of a node
        carry what one ring needs, so that a node's rate counts, up to that of its links."""
        job, gpu = self.job, self.gpu
        between = gpu.network_bytes_per_second * (job.gpus // job.nodes)
        slowest = gpu.link_bytes_per_second
        if job.nodes > 1:
            slowest = min(slowest, between)
        return slowest * self.rates.reached.network

    def computing(self, flops: float, reached: float) -> float:
        """Seconds of so many FLOPs."""
        return flops / (self.gpu.peak_flops * reached)

    def reading(self, size: float) -> float:
        """Seconds in which the GPU reads or writes so many bytes of its memory."""
        return size / (self.gpu.hbm_bytes_per_second * self.rates.reached.hbm)

    def decoding(self, free_bytes: float) -> Decoding:
        """Of an engine that has so much memory for keys and values."""
        size, flops = self.job.size, self.flops
        longest = self.tokens.prompt + size.completion_tokens
        mean = self.tokens.prompt + size.completion_tokens / 2
        a_token = flops.decode / (size.num_generations * size.completion_tokens)
        reached = self.rates.reached.prefill
        return Decoding(
            prompt_seconds=self.computing(flops.prefill, reached),
            token_seconds=self.rates.host.token_step_seconds + self.reading(self.language_bytes),
            sequence_seconds=self.reading(self.cache_token_bytes * mean)
            + self.computing(a_token, reached),
            slots=max(
                float(size.num_generations), free_bytes // (self.cache_token_bytes * longest)
            ),
        )

    # Stages

    def before(self) -> list[Stage]:
        """Up to the rollouts."""
        job, reached = self.job, self.rates.reached
        encoded = job.prompts * self.flops.encode
        stages = [
            self._sending("gather weights for rollouts", self.traffic.gather()),
            Stage(
                name="encode videos",
                seconds=self.computing(encoded, reached.encode),
                limit="compute",
                flops=encoded,
            ),
        ]
        return [*stages, *self._push()]

    def _push(self) -> list[Stage]:
        """Process 0 sends, all wait."""
        job = self.job
        if not job.server_gpus:
            return []
        size = push_bytes(self.language_bytes, job.server_gpus)
        if job.push == "nccl":  # one server after the other
            rate = self.gpu.network_bytes_per_second * self.rates.reached.network
            seconds, limit = size / rate, "network"
        else:  # written once, then read once by each node
            seconds = 2 * self.language_bytes / self.rates.host.storage_bytes_per_second
            limit = "storage"
        return [Stage(name="push weights", seconds=seconds, limit=limit, sent_bytes=size)]

    def rollouts(self, engine: Decoding) -> list[Stage]:
        """Of a process with an engine of its own, or of its share of the servers. Lengths are equal
        here; the simulation draws them."""
        job, size = self.job, self.job.size
        share = job.trainers / job.server_gpus if job.server_gpus else 1.0
        prompts, group = job.prompts * share, size.num_generations
        prefill = prompts * engine.prompt_seconds
        decode = engine.seconds(prompts, group, size.completion_tokens) - prefill
        return [
            Stage(
                name="rollouts: prompts",
                seconds=prefill,
                limit="compute",
                flops=prompts * self.flops.prefill,
            ),
            Stage(
                name="rollouts: completions",
                seconds=decode,
                limit="memory rate",
                flops=prompts * self.flops.decode,
            ),
        ]

    def rewards(self) -> Stage:
        """Every process judges the rollouts of all; ranking and temporal reward compare each with
        each, so their time grows with the square of the number (extrapolated above 2,048)."""
        size = self.job.size
        rollouts = self.job.trainers * size.num_videos * size.num_generations
        seconds = self.rates.host.rewards_seconds_of_2048 * (rollouts / 2048) ** 2
        return Stage(name="rewards", seconds=seconds, limit="CPU")

    def after(self) -> list[Stage]:
        """Log-probabilities, backward pass. vLLM's completions are corrected by importance
        sampling, which takes the old log-probabilities."""
        job, flops = self.job, self.flops
        full = flops.encode + flops.logprobs
        # LoRA: towers without gradient; through frozen weights goes the input's gradient only
        train = flops.encode + 3 * flops.logprobs if job.lora else 4 * full
        passes = {"old log-probabilities": flops.logprobs}
        if job.with_reference:
            passes["reference log-probabilities"] = flops.logprobs if job.lora else full
        passes["training forward and backward"] = train
        return [
            Stage(
                name=name,
                seconds=self.computing(job.size.num_videos * count, self.rates.reached.train),
                limit="compute",
                flops=job.size.num_videos * count,
            )
            for name, count in passes.items()
        ]

    def reduction(self) -> list[Stage]:
        """What all do together behind the last backward pass, and what a step costs beside."""
        job, traffic, host = self.job, self.traffic, self.rates.host
        passes = (4 if job.with_reference else 3) * job.micro_batches  # train: forward and backward
        shards = 1 if job.sharding == "ddp" else job.trainers
        checkpoint = self.weight_bytes + OPTIMIZER * self.trained
        return [
            self._sending("gather weights for log-probabilities", passes * traffic.gather()),
            self._sending(
                "sum gradients", traffic.sum_gradients(job.micro_batches) + traffic.update()
            ),
            Stage(
                name="optimizer",
                seconds=self.reading(OPTIMIZER_TRAFFIC * self.trained / shards),
                limit="memory rate",
            ),
            Stage(
                name="checkpoints",
                seconds=checkpoint / host.storage_bytes_per_second / CHECKPOINT_STEPS,
                limit="storage",
            ),
            Stage(name="launching, logging", seconds=host.step_seconds, limit="launching"),
        ]

    def _sending(self, name: str, size: float) -> Stage:
        seconds = size / self.collective_rate
        return Stage(name=name, seconds=seconds, limit="network", sent_bytes=size)

    def clip_bytes(self) -> int:
        """Of a decoded clip in the frame cache: keyframes as the vision tower sees them, and motion
        frames, uint8 RGB."""
        config = self.model.model.motion.config
        keyframes = self.tokens.slots * self.tokens.patches * self._patch_pixels()
        return 3 * (keyframes + config.num_motion_frames * config.motion_px**2)

    def _patch_pixels(self) -> int:
        return int(self.model.model.tower_work(self.tokens.patches).patch_pixels)

    def loader_seconds(self) -> float:
        """In which the loader reads a process's videos from the frame cache, beside the step."""
        job = self.job
        size = self.clip_bytes() * job.size.num_videos * math.ceil(job.trainers / job.nodes)
        return size / self.rates.host.storage_bytes_per_second
