"""Run configuration: frozen dataclasses, mirrored 1:1 by YAML, overridden by `section.key=value`.

`load_run_config(path, overrides)` reads `run_scripts/configs/*.yaml`; every key stands below. A run
is a list of stages, each supervised ("sft") or by reinforcement ("grpo"). `trainer` of a stage is
passed on to transformers' `TrainingArguments` or TRL's `GRPOConfig`, and has their keys.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat

from thinker.config.build import build
from thinker.config.yaml_file import load_yaml, read_settings

LOGPROBS = ("shared", "plain")
"""Ways to compute log-probabilities: one packed row a group, or one row a completion."""

GRPO_STAGE = "stages: [{name: grpo, kind: grpo, …}]"

RENAMED = {
    "scoring": "write logprobs: … in a grpo stage",
    "logprobs": f"write it in a stage: {GRPO_STAGE}",
    "rewards": f"write it in a stage: {GRPO_STAGE}",
    "perturbations": f"write it in a stage: {GRPO_STAGE}",
    "max_skipped_steps": f"write it in a stage: {GRPO_STAGE}",
    "grpo": f"write its keys under trainer of a stage: {GRPO_STAGE}",
    "warm_start": "write a stage before the grpo stage: stages: [{name: warm_start, kind: sft, …}]",
    "model.freeze": "name the parts that are trained instead, with their learning rates, under "
    "train of each stage",
    "model.lora": "write it in the stage that trains it, with a rate for lora under train",
    "data.config": "name data sets under data of each stage, those to evaluate on under data.eval",
    "data.overrides": "write overrides beside the config that they change, in data of a stage or "
    "in data.eval",
}
"""What to write instead of keys of earlier versions, by their dotted place."""

PARTS = (
    "vision_tower", "vision_projector", "slowfast", "motion_projector", "language_model", "lora",
)  # fmt: skip
"""What a stage can train. The language model includes its embeddings and its head."""

IN_PLACE = ("vision_tower", "slowfast")
"""Parts that are trained in place beside LoRA: nothing of them as they were is kept."""

RESERVED = ("start", "final", "work", "held_out", "cache", "data", "runs")
"""Names in a run's folder that no stage can have."""

BACKENDS = ("auto", "hf", "vllm")

DTYPES = ("auto", "float32", "bfloat16")

QUANTIZATIONS = (None, "nf4")


def _number(value: object) -> object:
    """YAML 1.1 takes `1e-6` for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Rate = Annotated[FiniteFloat, BeforeValidator(_number)]


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA on the language model (peft); other parts are trained in full beside it."""

    r: int = 64
    """Rank of the update of each layer."""
    alpha: int = 128
    """The update is scaled by alpha / r."""
    dropout: FiniteFloat = 0.0
    """Share of a layer's inputs that the update does not see, drawn anew in each pass."""
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Names of the language model's linear layers that get an update."""
    quantization: str | None = None
    """"nf4" keeps the language model's linear layers in 4 bits while the stage lasts, by
    bitsandbytes (docs/policies.md). None keeps them in `model.dtype`."""

    def __post_init__(self):
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(
                f"quantization is {self.quantization!r}, expected nf4, or null for none"
            )
        if self.r < 1 or self.alpha < 1 or not 0 <= self.dropout < 1 or not self.target_modules:
            raise ValueError(
                f"r is {self.r}, alpha {self.alpha}, dropout {self.dropout} and target_modules "
                f"{list(self.target_modules)}, expected at least 1, at least 1, 0 to below 1, and "
                "at least one name"
            )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The policy that a run starts from."""

    path: str = "tiny"
    """A folder or hub name, of a plain `-hf` checkpoint or of a saved policy. "tiny" builds the
    demo's random policy."""
    backbone: str = "internvl3"
    """Backbone of the tiny policy, a key of `thinker.policies.BACKBONES` such as "internvl3" or
    "qwen3_vl". A checkpoint names its own."""
    dtype: str = "auto"
    """Type of the weights, "float32", "bfloat16", or "auto": bfloat16 on a GPU, float32 on a CPU.
    `bf16` of a stage's trainer goes by it unless it is given."""
    motion: dict[str, Any] = field(default_factory=dict)
    """Fields of `MotionConfig` for a new motion branch. A saved policy has its own, so this is for
    a plain checkpoint or the tiny policy (there: fields of `TinySize`)."""
    clip: dict[str, Any] = field(default_factory=dict)
    """Fields of `ClipConfig` in place of those that the backbone of a plain checkpoint has. A saved
    policy has its own, of which only the bounds of stills can be changed: `min_patches` and
    `max_patches`, or `image_min_pixels` and `image_max_pixels`. So has the tiny policy (there:
    fields of `TinySize`, too)."""
    levels: dict[str, Any] = field(default_factory=dict)
    """Fields of `LevelConfig`: words, weights, question and prefix by which mode "level" scores the
    policy from now on. Empty keeps those of the policy that the run starts from."""
    slowfast: str | None = None
    """File of a SlowFast checkpoint to load into a new motion branch. None leaves it random."""
    texts: str | None = None
    """File of texts, one a line, whose words the tokenizer of the tiny policy knows; `${NAME}` in
    it is looked up as in data sets. None: the questions and answers of the run's sft stages."""

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}")


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Held-out sets."""

    config: str
    """A YAML file whose `eval` sets are measured; data_configs/README.md shows its form."""
    overrides: dict[str, str] = field(default_factory=dict)
    """Paths to put in place of those in that file, by their dotted place:
    `{"eval.0.meta": "my.json"}`."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One source of a stage's data."""

    config: str
    """The YAML file that describes the data set; data_configs/README.md shows its form."""
    weight: Rate = 1.0
    """Its share of what the stage sees, relative to the other sources."""
    overrides: dict[str, str] = field(default_factory=dict)
    """Paths to put in place of those in that file, by their dotted place:
    `{"train.0.jsonl": "my.jsonl"}`."""

    def __post_init__(self):
        if self.weight <= 0:
            raise ValueError(f"weight is {self.weight}, expected above 0")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How a run reads data, and what it is evaluated on."""

    eval: tuple[EvalSettings, ...] = ()
    """Where the held-out sets are described that are measured after every stage."""
    held_out: Rate = 0.0
    """Share of the contents of every training source, 0 to below 1, that is not trained on but
    measured like the sets of `eval`. 0 holds nothing out."""
    variables: dict[str, str] = field(default_factory=dict)
    """Values of `${NAME}` in the paths of data sets. They win over the environment's."""
    cache: str | None = None
    """Folder in which decoded clips are kept. None decodes a video each time it is needed."""
    num_workers: int = 2
    """Number of processes that read clips during training. 0 reads them in the training process."""
    max_failed_share: FiniteFloat = 0.01
    """Share of the videos, 0 to 1, that may fail to decode: they are left out. The run ends at its
    start where more of them fail."""
    skip_bad_lines: bool = False
    """Whether bad lines of the label files are left out. If not, they end the run at its start."""

    def __post_init__(self):
        if self.num_workers < 0 or not 0 <= self.max_failed_share <= 1:
            raise ValueError(
                f"num_workers is {self.num_workers} and max_failed_share "
                f"{self.max_failed_share}, expected at least 0 and 0 to 1"
            )
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}, expected 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """One reward of the sum that a rollout earns."""

    name: str
    """Its name in `rewards.REWARDS`, or the dotted path of a class, `package.module.Class`."""
    weight: FiniteFloat = 1.0
    """Its weight in the sum."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of the reward's own configuration, or keyword arguments of the class."""


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """Where completions come from (docs/rollouts.md)."""

    backend: str = "auto"
    """Transformers ("hf"), vLLM ("vllm"), or "auto": vLLM where it is installed and usable. All
    other fields are for vLLM."""
    mode: str = "colocate"
    """Where the engine is: in the training process ("colocate"), or a running `vllm serve`
    ("server")."""
    memory_share: FiniteFloat = 0.3
    """Share of the GPU's memory, above 0 and below 1, that a colocated engine takes for its weights
    and its cache together."""
    sleep: bool = True
    """Whether a colocated engine gives that memory back between the phases of generation. This
    matters on a GPU only."""
    timeout_seconds: FiniteFloat = 1800.0
    """An engine that takes longer for one call, or a server for one prompt, counts as lost."""
    max_restarts: int = 2
    """How often a lost engine is started again within one call. After that the run saves a
    checkpoint and ends."""
    server_url: str | tuple[str, ...] | None = None
    """Address of the server, or a list of them: several share the work, and one that fails is left
    out until it takes a later push. Needed in mode "server"."""
    push: str = "disk"
    """How new weights reach a server: "disk", through `sync_folder`, or "nccl", between GPUs."""
    sync_folder: str | None = None
    """A folder that the trainer and the server both see; needed where weights go by "disk"."""

    def __post_init__(self):
        choices = {
            "backend": BACKENDS,
            "mode": ("colocate", "server"),
            "push": ("disk", "nccl"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected "
                    f"{', '.join(allowed[:-1])} or {allowed[-1]}"
                )
        if not 0 < self.memory_share < 1:
            raise ValueError(f"memory_share is {self.memory_share}, expected 0 to 1")
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}, expected above 0")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts is {self.max_restarts}, expected at least 0")
        if self.mode == "server" and not self.server_urls:
            raise ValueError("mode is server, but server_url is not set")
        if len({url.rstrip("/") for url in self.server_urls}) < len(self.server_urls):
            raise ValueError(f"server_url names a server twice: {', '.join(self.server_urls)}")
        if self.mode == "server" and self.push == "disk" and self.sync_folder is None:
            raise ValueError(
                "push is disk, but sync_folder is not set; name a folder that the trainer and the "
                "server both see, or use push=nccl"
            )

    @property
    def server_urls(self) -> tuple[str, ...]:
        """The addresses of `server_url`, however many it holds."""
        given = self.server_url
        return (given,) if isinstance(given, str) else tuple(given or ())


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What every stage of a run has."""

    name: str
    """Its name: the folder of its result unless it is the last, and its place in overrides."""
    data: tuple[SourceSettings, ...]
    """What it is trained on."""
    train: dict[str, Rate]
    """The parts that are trained, of `PARTS`, with their learning rates; all others are frozen.
    "lora" trains low-rank updates of the language model in place of its weights."""
    lora: LoraSettings | None = None
    """How lora is set up where it is trained; None takes the defaults."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Fields of the trainer's own configuration, except for `learning_rate`."""

    def __post_init__(self):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in RESERVED:
            raise ValueError(
                f"name is {self.name!r}, expected lower-case letters, digits and underscores, "
                f"and none of {', '.join(RESERVED)}"
            )
        if not self.data:
            raise ValueError("data is empty, expected at least one data set")
        self._check_train()
        for key in ("output_dir", "seed"):
            if key in self.trainer:
                raise ValueError(f"trainer has {key}, which is a key of the run; write it there")
        if "learning_rate" in self.trainer:
            raise ValueError(
                "trainer has a learning_rate; rates are given by part, write "
                f"train: {{language_model: {self.trainer['learning_rate']}, …}}"
            )

    def _check_train(self):
        unknown = sorted(set(self.train) - set(PARTS))
        if unknown or not self.train:
            raise ValueError(
                f"train names {', '.join(unknown) or 'no part'}, expected some of "
                f"{', '.join(PARTS)}"
            )
        if any(rate <= 0 for rate in self.train.values()):
            raise ValueError(
                f"train is {self.train}, expected rates above 0; leave out what is to stay as it is"
            )
        if {"lora", "language_model"} <= set(self.train):
            raise ValueError(
                "train names language_model beside lora, which is trained in its place; leave one "
                "of them out"
            )
        if self.quantization and "lora" not in self.train:
            raise ValueError(
                f"lora.quantization is {self.quantization}, but train gives lora no rate, and "
                "weights in 4 bits cannot be trained themselves; write train: {lora: …}"
            )
        if self.lora is not None and "lora" not in self.train:
            raise ValueError("lora is set up, but train gives it no rate; write train: {lora: …}")

    @property
    def quantization(self) -> str | None:
        """In which the language model is kept while LoRA is trained on it."""
        return self.lora.quantization if self.lora is not None else None


@dataclass(frozen=True, kw_only=True)
class SftStage(StageSettings):
    """A supervised stage: it learns the answers of its records."""

    kind: Literal["sft"]
    """Says that it is one."""


@dataclass(frozen=True, kw_only=True)
class GrpoStage(StageSettings):
    """A stage of reinforcement learning by GRPO."""

    kind: Literal["grpo"]
    """Says that it is one."""
    rewards: tuple[RewardSettings, ...]
    """The rewards that are summed, each times its weight."""
    perturbations: tuple[str, ...] = (
        "shuffle", "local_shuffle", "reverse", "jitter", "duplicate", "drop",
    )  # fmt: skip
    """Kinds of perturbed copies that the temporal reward compares with. One is drawn for each
    video; `thinker.video.perturb` defines them."""
    logprobs: str = "shared"
    """How log-probabilities of completions are computed. "shared" puts a prompt and all of its
    completions in one row. "plain" is TRL's own forward, one row a completion: the same maths,
    slower, for comparison, and for policies of which one row for all would not be the same (a
    language model with sliding windows), which get it by themselves."""
    one_step_off: bool = False
    """Whether each batch of rollouts is drawn before the trainer works on the batch before it, as
    where both happen at the same time. Older weights are then corrected for by importance sampling,
    which needs `rollout.backend` "vllm"."""
    max_skipped_steps: int = 5
    """A step whose loss or gradient is not finite is skipped. So many of them in a row end the
    run."""

    def __post_init__(self):
        super().__post_init__()
        moving = [part for part in IN_PLACE if part in self.train]
        if "lora" in self.train and moving:
            raise ValueError(
                f"train names {', '.join(moving)} beside lora in a grpo stage, whose reference is "
                "the policy with lora switched off and would move with them; train them in an sft "
                "stage"
            )
        if self.logprobs not in LOGPROBS:
            raise ValueError(f"logprobs is {self.logprobs!r}, expected {' or '.join(LOGPROBS)}")
        if self.max_skipped_steps < 1:
            raise ValueError(f"max_skipped_steps is {self.max_skipped_steps}, expected at least 1")


Stage = Annotated[SftStage | GrpoStage, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run."""

    seed: int = 0
    """Seed of everything random in the run."""
    output_dir: str = "runs/demo"
    """Folder that the run writes to, and that the same command continues from."""
    model: ModelSettings = ModelSettings()
    """The policy that it starts from."""
    data: DataSettings = DataSettings()
    """How it reads data, and what it is evaluated on."""
    rollout: RolloutSettings = RolloutSettings()
    """Where completions come from."""
    stages: tuple[Stage, ...]
    """What is done, in order: each stage starts from what the one before left."""

    def __post_init__(self):
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"the stages are called {', '.join(names) or 'nothing'}, expected at least one, "
                "each with a name of its own"
            )
        for stage in self.stages:
            if getattr(stage, "one_step_off", False) and self.rollout.backend != "vllm":
                raise ValueError(
                    f"stage {stage.name}: one_step_off needs the log-probabilities that "
                    "completions were drawn with, which transformers does not report, and "
                    f"rollout.backend is {self.rollout.backend}; write rollout.backend=vllm"
                )
        four_bit = [stage.name for stage in self.stages if stage.quantization]
        if len(four_bit) > 1:
            raise ValueError(
                f"stages {' and '.join(four_bit)} have lora.quantization, expected one at most: "
                "weights that came out of 4 bits lie on their codes, so that rounding them again "
                "loses what was learnt between; leave it out of all but the last"
            )


def load_run_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `section.key=value` overrides; values are parsed as YAML.

    Example: `load_run_config("run.yaml", ["stages.grpo.trainer.beta=0.02", "seed=1"])`.
    """
    values = read_settings(Path(path))
    for override in overrides:
        apply_override(values, override)
    return build(RunConfig, values, str(path), replaced=RENAMED)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key in nested mappings; an entry of a list is called by its number or by its
    `name`, and null leaves it out. Examples: `"stages.grpo.trainer.beta=0.04"`,
    `"stages.grpo.rewards.ranking=null"`."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"override {override!r} has no '='; expected section.key=value")
    *sections, last = key.split(".")
    place: dict[Any, Any] | list[Any] = values
    for section in sections:
        place, index = _entry(place, section, override)
        if isinstance(place, dict):
            place.setdefault(index, None)
        inner = place[index]
        if inner is None:
            inner = place[index] = {}
        if not isinstance(inner, dict | list):
            raise ValueError(f"override {override!r}: {section} is {inner!r}, not a section")
        place = inner
    place, index = _entry(place, last, override)
    value = load_yaml(text, f"override {override!r}")
    if value is None and isinstance(place, list):
        del place[index]
    else:
        place[index] = value


def _entry(place: Any, name: str, override: str) -> tuple[Any, Any]:
    """The mapping or list with what `name` calls in it."""
    if not isinstance(place, list):
        return place, name
    names = [entry.get("name") if isinstance(entry, Mapping) else None for entry in place]
    if name in names:
        return place, names.index(name)
    if name.isdecimal() and int(name) < len(place):
        return place, int(name)
    known = ", ".join(str(n) for n in names if n is not None)
    raise ValueError(
        f"override {override!r}: no entry {name!r} among {len(place)}; expected a number below "
        f"that{f', or a name of {known}' if known else ''}"
    )
