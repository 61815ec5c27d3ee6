"""LoRA: the updates that lie beside the weights become part of them.

Training merges by itself. `merge_adapter` is for adapters that lie in a folder of their own, as
peft saves them: those of checkpoints in the middle of a run, or of another trainer.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinker.policies.four_bit import is_four_bit, merge_packed
from thinker.policies.policy import Policy, load_policy
from thinker.policies.shards import ADAPTER_CONFIG
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
    it kept the base in 4 bits, they are those that these stand for, with the updates. Raises
    ValueError where a folder holds no adapter in safetensors, one that does not fit the base, or
    weights that an adapter does not cover.
    """
    from peft import PeftConfig, PeftModel

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
    policy = load_policy(base, dtype="auto", quantization=_quantization(adapter))
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        config.inference_mode = True
        model = PeftModel.from_pretrained(policy.model, str(adapter), config=config)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"the adapter in {path_text(adapter)} does not fit {path_text(Path(base))}: {error}"
        ) from error
    return replace(policy, model=merge_lora(model))
