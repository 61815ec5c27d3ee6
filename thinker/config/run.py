"""Run configuration: frozen dataclasses, mirrored 1:1 by YAML, overridden by `section.key=value`.

`load_run_config(path, overrides)` reads `run_scripts/configs/*.yaml`; every key stands below.
`grpo` and `warm_start.trainer` are passed on to TRL's `GRPOConfig` and transformers'
`TrainingArguments`, and have their keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from thinker.config.build import build
from thinker.config.yaml_file import load_yaml, read_settings

LOGPROBS = ("shared", "plain")
"""Ways to compute log-probabilities: one packed row a group, or one row a completion."""

RENAMED = {"scoring": "logprobs"}
"""Keys that had another name in earlier versions: the error names the new one."""

BACKENDS = ("auto", "hf", "vllm")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA on the language model (peft); the projectors are trained in full beside it."""

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


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is trained."""

    path: str = "tiny"
    """A folder or hub name, of a plain `-hf` checkpoint or of a saved policy. "tiny" builds the
    demo's random policy."""
    backbone: str = "internvl3"
    """Backbone of the tiny policy, "internvl3" or "qwen2_5_vl". A checkpoint names its own."""
    dtype: str = "float32"
    """Type of the weights, "float32" or "bfloat16"."""
    motion: dict[str, Any] = field(default_factory=dict)
    """Fields of `MotionConfig` for a new motion branch. A saved policy has its own, so this is for
    a plain checkpoint or the tiny policy (there: fields of `TinySize`)."""
    clip: dict[str, Any] = field(default_factory=dict)
    """Fields of `ClipConfig` for a new frame sampler. As with `motion`, a saved policy has its
    own."""
    slowfast: str | None = None
    """File of a SlowFast checkpoint to load into a new motion branch. None leaves it random."""
    freeze: tuple[str, ...] = ("slowfast",)
    """Parts that are not trained, of `vision_tower`, `vision_projector`, `language_model`,
    `slowfast` and `motion_projector`."""
    lora: LoraSettings | None = None
    """LoRA on the language model. None trains it in full."""

    def __post_init__(self):
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, expected float32 or bfloat16")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What it is trained and evaluated on."""

    config: str = "data_configs/train/lsvq.yaml"
    """The YAML file that describes the data set; data_configs/README.md shows its form."""
    variables: dict[str, str] = field(default_factory=dict)
    """Values of `${NAME}` in the paths of that file. They win over the environment's."""
    overrides: dict[str, str] = field(default_factory=dict)
    """Paths to put in place of those in that file, by their dotted place:
    `{"train.0.jsonl": "my.jsonl"}`."""
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
    """An engine that takes longer for one call counts as lost."""
    max_restarts: int = 2
    """How often a lost engine is started again within one call. After that the run saves a
    checkpoint and ends."""
    server_url: str | None = None
    """Address of the server; needed in mode "server"."""
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
        if self.mode == "server" and self.server_url is None:
            raise ValueError("mode is server, but server_url is not set")
        if self.mode == "server" and self.push == "disk" and self.sync_folder is None:
            raise ValueError(
                "push is disk, but sync_folder is not set; name a folder that the trainer and the "
                "server both see, or use push=nccl"
            )


@dataclass(frozen=True, kw_only=True)
class WarmStartSettings:
    """The supervised stage before GRPO, for a policy without pretraining."""

    level_share: FiniteFloat = 0.1
    """Share of the training clips, 0 to 1, whose coarse level word is taught. The distortion's name
    is taught of all of them."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Fields of transformers' `TrainingArguments`."""

    def __post_init__(self):
        if not 0 <= self.level_share <= 1:
            raise ValueError(f"level_share is {self.level_share}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run."""

    seed: int = 0
    """Seed of everything random in the run."""
    output_dir: str = "runs/demo"
    """Folder that the run writes to, and that the same command continues from."""
    model: ModelSettings = ModelSettings()
    """What is trained."""
    data: DataSettings = DataSettings()
    """What it is trained and evaluated on."""
    rewards: tuple[RewardSettings, ...] = ()
    """The rewards that are summed, each times its weight."""
    perturbations: tuple[str, ...] = (
        "shuffle", "local_shuffle", "reverse", "jitter", "duplicate", "drop",
    )  # fmt: skip
    """Kinds of perturbed copies that the temporal reward compares with. One is drawn for each
    video; `thinker.video.perturb` defines them."""
    rollout: RolloutSettings = RolloutSettings()
    """Where completions come from."""
    warm_start: WarmStartSettings | None = None
    """The supervised stage before GRPO. None where the model is pretrained."""
    grpo: dict[str, Any] = field(default_factory=dict)
    """Fields of TRL's `GRPOConfig`."""
    logprobs: str = "shared"
    """How log-probabilities of completions are computed. "shared" puts a prompt and all of its
    completions in one row. "plain" is TRL's own forward, one row a completion: the same maths,
    slower, for comparison."""
    max_skipped_steps: int = 5
    """A step whose loss or gradient is not finite is skipped. So many of them in a row end the
    run."""

    def __post_init__(self):
        if self.logprobs not in LOGPROBS:
            raise ValueError(f"logprobs is {self.logprobs!r}, expected {' or '.join(LOGPROBS)}")
        if self.max_skipped_steps < 1:
            raise ValueError(f"max_skipped_steps is {self.max_skipped_steps}, expected at least 1")


def load_run_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `section.key=value` overrides; values are parsed as YAML.

    Example: `load_run_config("run.yaml", ["grpo.num_generations=8", "seed=1"])`.
    """
    values = read_settings(Path(path))
    for override in overrides:
        apply_override(values, override)
    return build(RunConfig, values, str(path), renamed=RENAMED)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key in nested mappings. Example: `"grpo.beta=0.04"`."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"override {override!r} has no '='; expected section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ValueError(f"override {override!r}: {section} is {inner!r}, not a section")
        values = inner
    values[last] = load_yaml(text, f"override {override!r}")
