"""LoRA: the updates that lie beside the weights become part of them.

Training merges by itself. `merge_adapter` is for adapters that lie in a folder of their own, as
peft saves them: those of checkpoints in the middle of a run, or of another trainer.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinker.policies.four_bit import is_four_bit, merge_packed
from thinker.policies.hub import local_folder
from thinker.policies.policy import Policy, load_policy, outline_policy
from thinker.policies.shards import ADAPTER_CONFIG, read_header
from thinker.utils.names import path_text

ADAPTER_WEIGHTS = "adapter_model.safetensors"
IN_PLACE_WEIGHTS = "in_place.safetensors"
"""What a checkpoint holds beside its adapter where parts are trained in full."""
BASE = "base.json"
"""What it holds beside it where the weights under it are not those of the base's files, as
`write_base` has it."""


def merge_lora(model: Any) -> Any:
    """The policy's own model, of one with LoRA or without, with the updates in its weights and all
    of these in the type of the language model's. A language model in 4 bits is made whole, on the
    CPU."""
    if not hasattr(model, "merge_and_unload"):
        return model
    if is_four_bit(model):
        model = merge_packed(model)
        model.config.quantized_base = "nf4"
    else:
        model = model.merge_and_unload()
    dtype = model.get_output_embeddings().weight.dtype  # frozen beside LoRA
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def write_base(folder: Path, model: Any) -> None:
    """Write down beside an adapter of `model` how its base was loaded, if not as its files are."""
    if is_four_bit(model):
        text = json.dumps({"quantization": "nf4"}) + "\n"
        (folder / BASE).write_text(text, encoding="utf-8")


def _quantization(adapter: Path) -> Any:
    """What `write_base` wrote. Raises ValueError for anything else."""
    path = adapter / BASE
    if not path.exists():
        return None
    try:
        [(key, value)] = json.loads(path.read_text(encoding="utf-8")).items()
    except (ValueError, AttributeError):
        key = value = None
    if (key, value) != ("quantization", "nf4"):
        raise ValueError(f'{path_text(path)} does not say {{"quantization": "nf4"}}')
    return value


def merge_adapter(base: str | Path, adapter: str | Path) -> Policy:
    """The policy of the folder or hub name `base` with the adapter of the folder `adapter` in it.

    `base` is what training began with: for a stage of a run, what the stage before left. Weights
    are those that the run itself would have saved, in the type in which the base is stored; where
    it kept the base in 4 bits, they are those that these stand for, with the updates.

    Raises ValueError where a folder holds no adapter in safetensors, weights that an adapter does
    not cover, or an adapter that does not fit the base: the tensors of its file must be all finite,
    and by name and shape exactly those that its configuration stands for on this base. An adapter
    that the base already holds is refused where that shows: it is of 4 bits and so is the base's
    origin, or the parts that were trained in full beside LoRA are those of the base.
    """
    from peft import PeftModel

    adapter = Path(adapter)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter / name).is_file():
            raise ValueError(
                f"{path_text(adapter)} holds no {name}, expected the folder of an adapter that "
                "peft saved as safetensors"
            )
    if (adapter / IN_PLACE_WEIGHTS).exists():
        raise ValueError(
            f"{path_text(adapter)} holds {IN_PLACE_WEIGHTS} too: its run trained whole parts "
            "beside LoRA; continue the run, which merges both at its end"
        )
    quantization, config = _quantization(adapter), _lora_config(adapter)
    folder = local_folder(base)
    outline = outline_policy(folder)
    with _said_of(base, adapter):
        if quantization and outline.config.quantized_base:
            raise ValueError(
                "it was trained on 4 bits, but LoRA of a training on 4 bits is in this policy "
                "already; give the policy that training began with"
            )
        updates = _read_updates(outline, adapter / ADAPTER_WEIGHTS, config)
    policy = load_policy(folder, dtype="auto", quantization=quantization)
    with _said_of(base, adapter):
        _refuse_merged(policy.model.state_dict(), updates)
        model = PeftModel.from_pretrained(policy.model, str(adapter), config=config)
    return replace(policy, model=merge_lora(model))


@contextmanager
def _said_of(base: str | Path, adapter: Path) -> Iterator[None]:
    """What peft raises for settings that it cannot use, as a ValueError that names both folders."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, re.error) as error:
        raise ValueError(
            f"the adapter in {path_text(adapter)} does not fit {path_text(Path(base))}: {error}"
        ) from error


def _lora_config(adapter: Path) -> Any:
    """peft's configuration of the adapter. Raises ValueError where it is damaged, or not LoRA's."""
    from peft import PeftConfig

    path = adapter / ADAPTER_CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path_text(path)} is no JSON ({error}), expected the configuration that peft saved "
            "with the adapter"
        ) from error
    kind = values.get("peft_type") if isinstance(values, dict) else None
    if kind != "LORA":
        raise ValueError(
            f"{path_text(path)} has peft_type {kind!r}, expected 'LORA': no other kind is merged"
        )
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path_text(path)} cannot be used: {error}") from error
    config.inference_mode = True
    config.base_model_name_or_path = None  # peft would look for its vocabulary on the hub
    return config


def _read_updates(outline: Any, path: Path, config: Any) -> Mapping[str, Any]:
    """The tensors of the adapter's file, by the names that peft saves them under.

    outline: the base's model on the meta device. Raises ValueError unless they are exactly those of
    this model with LoRA, and finite: peft draws what is missing and drops what is unknown to it.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    given = read_header(path)
    adapted = PeftModel(outline, deepcopy(config), low_cpu_mem_usage=True)
    saved = get_peft_model_state_dict(adapted)
    expected = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if given != expected:
        missing = sorted(expected.keys() - given.keys())
        unexpected = sorted(given.keys() - expected.keys())
        both = sorted(given.keys() & expected.keys())
        shapes = [(n, given[n], expected[n]) for n in both if given[n] != expected[n]]
        raise ValueError(
            f"{path.name} does not hold what {ADAPTER_CONFIG} stands for on this model: "
            f"missing {missing[:5]}, unexpected {unexpected[:5]}, of another shape (given, "
            f"expected) {shapes[:5]}; give the policy that training began with, and both files as "
            "peft saved them"
        )
    updates = load_file(path)
    broken = sorted(name for name, tensor in updates.items() if not tensor.isfinite().all())
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(updates)} tensors in {path.name} hold NaN or infinity: "
            f"{broken[:5]}, expected finite numbers; take an earlier checkpoint"
        )
    return updates


def _refuse_merged(weights: Mapping[str, Any], updates: Mapping[str, Any]) -> None:
    """Raises ValueError where a base with these weights holds the updates already.

    It shows by the parts that were trained in full beside LoRA. A merged policy does not say which
    adapters are in it, so LoRA alone can be merged twice.
    """
    names = {name: name.removeprefix("base_model.model.") for name in updates}
    whole = [name for name in updates if names[name] in weights]
    has_learnt = any(tensor.any() for name, tensor in updates.items() if ".lora_B." in name)
    if whole and has_learnt and all(_is_in(weights[names[n]], updates[n]) for n in whole):
        raise ValueError(
            "it is merged into this policy already: the policy's own "
            f"{[names[name] for name in whole[:5]]} are those of the adapter; give the policy that "
            "training began with"
        )


def _is_in(weight: Any, update: Any) -> bool:
    return bool((update.to(weight) == weight).all())
