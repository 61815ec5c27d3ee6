"""What all converters write: check that every tensor is known, then write one shard at a time.

In: the headers of the source's shards. Out: one output shard for each that holds something, and the
index. The headers of all shards are read, and every key is accounted for, before anything is
written.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig

from thinker.policies.card import model_card
from thinker.policies.hub import CARD
from thinker.policies.shards import Headers
from thinker.utils.atomic import atomic_folder

ConvertTensor = Callable[[str, Tensor], dict[str, Tensor]]
"""(their key, the tensor) → our tensors by name; none where the policy has no use for it."""


Renames = Sequence[tuple[str, str]]
"""Pairs of a name and what it becomes; {} stands for the same text in both."""


def rename(name: str, renames: Renames) -> str | None:
    """What the first pair that fits makes of the name; None where none fits.

    >>> rename("model.norm.weight", [("model.norm.{}", "model.language_model.norm.{}")])
    'model.language_model.norm.weight'
    """
    for old, new in renames:
        match = re.fullmatch(re.escape(old).replace(r"\{\}", "(.+)"), name)
        if match:
            return new.format(*match.groups())
    return None


def check_keys(headers: Headers, expected: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the source holds exactly the expected tensors, in their shapes."""
    given = all_shapes(headers)
    problems = [f"missing: {key}" for key in sorted(set(expected) - set(given))]
    problems += [f"unknown: {key}" for key in sorted(set(given) - set(expected))]
    problems += [
        f"shape of {key}: {given[key]}, expected {expected[key]} by config.json"
        for key in sorted(set(given) & set(expected))
        if given[key] != expected[key]
    ]
    if problems:
        folder = next(iter(headers)).parent
        raise ValueError(
            f"{folder} does not hold the weights of its config.json:\n" + "\n".join(problems)
        )


def all_shapes(headers: Headers) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by its key."""
    return {key: shape for shard in headers.values() for key, shape in shard.items()}


def write_policy(
    target: Path,
    headers: Headers,
    convert: ConvertTensor,
    model: Any,
    processor: Any,
    *,
    released: str,
    generation: GenerationConfig | None = None,
) -> int:
    """Write the new folder `target` whole or not at all; returns the number of tensors.

    model: on the meta device, for its configuration and its card. released: whose layout it was
    converted from, for the card. generation: None is what ends an answer by the tokenizer.
    """
    tokenizer, config = processor.tokenizer, model.config
    generation = generation or GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with atomic_folder(target) as folder:
        count = write_shards(headers, folder, convert)
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        generation.save_pretrained(folder)
        card = model_card(model, note=f"Converted from the released layout of {released}.")
        (folder / CARD).write_text(card, encoding="utf-8")
    return count


def write_shards(headers: Headers, folder: Path, convert: ConvertTensor) -> int:
    """Write one output shard a source shard, and the index; returns the number of tensors."""
    paths, total_size = list(headers), 0
    weight_map: dict[str, str] = {}
    for i, path in enumerate(paths, start=1):
        tensors = _converted_shard(path, convert)
        if not tensors:  # all that it holds is of no use
            continue
        many = len(paths) > 1
        name = f"model-{i:05d}-of-{len(paths):05d}.safetensors" if many else "model.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total_size += sum(tensor.nbytes for tensor in tensors.values())
        del tensors  # before the next shard is read: one shard is the peak
    if len(paths) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return len(weight_map)


def _converted_shard(path: Path, convert: ConvertTensor) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118
            converted |= convert(key, file.get_tensor(key))
    return converted
