"""Run configuration: frozen dataclasses, mirrored 1:1 by YAML, overridden by `section.key=value`.

`load_run_config(path, overrides)` reads `run_scripts/configs/*.yaml`. An unknown key is an error
that names the nearest one. `grpo` and `sft.trainer` are passed to TRL's and transformers' own
configuration classes and have their keys; everything else is here.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinker.config.yaml_file import load_yaml


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA on the language model (peft); the projectors are trained in full beside it.

    r, alpha, dropout: as in peft. target_modules: names of the language model's linear layers.
    """

    r: int = 64
    alpha: int = 128
    dropout: float = 0.0
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is trained.

    path: a folder or hub name, plain `-hf` or a saved policy; "tiny" builds the demo's random
    policy. backbone: of the tiny policy, "internvl3" or "qwen2_5_vl"; a checkpoint names its own.
    dtype: of the weights, "float32" or "bfloat16". motion, clip: settings of a new motion branch
    and frame sampler (`MotionConfig`, `ClipConfig` fields); for a plain checkpoint or the tiny
    policy only. slowfast: SlowFast checkpoint to load into a new motion branch; None leaves it
    random. freeze: parts that are not trained (`vision_tower`, `vision_projector`,
    `language_model`, `slowfast`, `motion_projector`). lora: LoRA instead of full fine-tuning of the
    language model.
    """

    path: str = "tiny"
    backbone: str = "internvl3"
    dtype: str = "float32"
    motion: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    slowfast: str | None = None
    freeze: tuple[str, ...] = ("slowfast",)
    lora: LoraSettings | None = None

    def __post_init__(self):
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype is {self.dtype!r}, expected float32 or bfloat16")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What it is trained and evaluated on.

    config: data set YAML (`data_configs/`). variables, overrides: values of `${NAME}` in it, and
    paths replaced by their dotted place (see `load_dataset_config`). cache: folder of
    the frame cache; None decodes every time. num_workers: decoding processes. max_failed_share:
    training stops at start when a larger share of the videos cannot be decoded. skip_bad_lines:
    continue past bad label lines.
    """

    config: str = "data_configs/train/lsvq.yaml"
    variables: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    cache: str | None = None
    num_workers: int = 2
    max_failed_share: float = 0.01
    skip_bad_lines: bool = False

    def __post_init__(self):
        if self.num_workers < 0 or not 0 <= self.max_failed_share <= 1:
            raise ValueError(
                f"data.num_workers is {self.num_workers} and data.max_failed_share "
                f"{self.max_failed_share}, expected at least 0 and 0 to 1"
            )


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """One reward: name or dotted path, weight in the sum, and its own configuration."""

    name: str
    weight: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)


BACKENDS = ("auto", "hf", "vllm")


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """Where completions come from (docs/rollouts.md).

    backend: "hf", "vllm" or "auto" (vLLM where it is installed and usable). The rest is for vLLM.
    mode: "colocate" (an engine in the training process) or "server" (a running `vllm serve`).
    memory_share: of the GPU's memory that a colocated engine takes, weights and cache together.
    sleep: a colocated engine gives that memory back between rollout phases (GPU only).
    timeout_seconds: an engine that takes longer for one call is lost. max_restarts: of the engine
    in one call, before the run saves a checkpoint and ends. server_url: of mode "server".
    push: how weights reach a server, "disk" (through sync_folder, a folder that trainer and server
    both see) or "nccl" (GPUs only).
    """

    backend: str = "auto"
    mode: str = "colocate"
    memory_share: float = 0.3
    sleep: bool = True
    timeout_seconds: float = 1800.0
    max_restarts: int = 2
    server_url: str | None = None
    push: str = "disk"
    sync_folder: str | None = None

    def __post_init__(self):
        choices = {
            "backend": BACKENDS,
            "mode": ("colocate", "server"),
            "push": ("disk", "nccl"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"rollout.{name} is {getattr(self, name)!r}, expected "
                    f"{', '.join(allowed[:-1])} or {allowed[-1]}"
                )
        if not 0 < self.memory_share < 1:
            raise ValueError(f"rollout.memory_share is {self.memory_share}, expected 0 to 1")
        if self.timeout_seconds <= 0:
            raise ValueError(f"rollout.timeout_seconds is {self.timeout_seconds}, expected above 0")
        if self.max_restarts < 0:
            raise ValueError(f"rollout.max_restarts is {self.max_restarts}, expected at least 0")
        if self.mode == "server" and self.server_url is None:
            raise ValueError("rollout.mode is server, but rollout.server_url is not set")
        if self.mode == "server" and self.push == "disk" and self.sync_folder is None:
            raise ValueError(
                "rollout.push is disk, but rollout.sync_folder is not set; name a folder that the "
                "trainer and the server both see, or use push=nccl"
            )


@dataclass(frozen=True, kw_only=True)
class WarmStartSettings:
    """The supervised stage before GRPO, for a policy without pretraining.

    level_share: share of the training clips whose coarse level word is used. trainer: fields of
    transformers' TrainingArguments.
    """

    level_share: float = 0.1
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not 0 <= self.level_share <= 1:
            raise ValueError(f"warm_start.level_share is {self.level_share}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run.

    seed: of everything. output_dir: where the run writes. perturbations: kinds drawn for the
    temporal reward's perturbed copies. rewards: summed with their weights. warm_start: None where
    the model is pretrained. grpo: fields of TRL's GRPOConfig. scoring: "shared", or "plain" for
    TRL's own forward, one row a completion (the same maths, for comparison). max_skipped_steps: a
    step whose loss or gradient is not finite is skipped; so many in a row end the run.
    """

    seed: int = 0
    output_dir: str = "runs/demo"
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    rewards: tuple[RewardSettings, ...] = ()
    perturbations: tuple[str, ...] = (
        "shuffle", "local_shuffle", "reverse", "jitter", "duplicate", "drop",
    )  # fmt: skip
    rollout: RolloutSettings = RolloutSettings()
    warm_start: WarmStartSettings | None = None
    grpo: dict[str, Any] = field(default_factory=dict)
    scoring: str = "shared"
    max_skipped_steps: int = 5

    def __post_init__(self):
        if self.scoring not in ("shared", "plain"):
            raise ValueError(f"scoring is {self.scoring!r}, expected shared or plain")
        if self.max_skipped_steps < 1:
            raise ValueError(f"max_skipped_steps is {self.max_skipped_steps}, expected at least 1")


def load_run_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `section.key=value` overrides; values are parsed as YAML.

    Example: `load_run_config("run.yaml", ["grpo.num_generations=8", "seed=1"])`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no run configuration at {path}")
    values = load_yaml(path.read_bytes(), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, expected a mapping of settings")
    for override in overrides:
        apply_override(values, override)
    return from_mapping(RunConfig, values, where="")


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


def check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise for a key that is not known, naming the nearest known one."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {sorted(known)}"
            raise ValueError(f"unknown key {(where + '.' + str(key)).lstrip('.')!r}{hint}")


def from_mapping(cls: type, values: Any, where: str) -> Any:
    """Build a settings dataclass from plain YAML values, checking keys and types."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or 'configuration'} is {values!r}, expected a mapping")
    hints = typing.get_type_hints(cls)
    check_keys(values, [f.name for f in dataclasses.fields(cls)], where)
    built = {
        key: _convert(hints[key], value, f"{where}.{key}".lstrip("."))
        for key, value in values.items()
    }
    return cls(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """One YAML value as the annotated type; int is taken for float, nothing else is bent."""
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        hint = next(arg for arg in hint.__args__ if arg is not type(None))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is {value!r}, expected a list")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    expected = origin or hint
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}, expected a finite number")
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"{where} is {value!r}, expected {expected.__name__}")
    return dict(value) if expected is dict else value
