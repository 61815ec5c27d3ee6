"""Training state as safetensors: nested Python values in, one file out, and back bit for bit.

Tensors become entries of the file, everything around them JSON in its header. Nothing is pickled,
so a file that someone else wrote can hold wrong numbers but no code.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree of dicts, lists, tuples, numbers, texts, None and tensors.

    Raises TypeError for anything else. Example: `{"step": 3, "state": {0: tensor}}` comes back from
    `load_tree` with the same keys (0 stays an int) and bits.
    """
    tensors: dict[str, torch.Tensor] = {}
    skeleton = json.dumps(_pack(tree, tensors))
    save_file(tensors, path, metadata={"tree": skeleton})


def load_tree(path: Path) -> Any:
    """What `save_tree` wrote, tensors on the CPU."""
    with safe_open(path, framework="pt") as file:
        skeleton = json.loads(file.metadata()["tree"])
        return _unpack(skeleton, file)


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON form of a value; its tensors are added to `tensors` and referred to by number."""
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        # a copy: slices of one storage are separate entries here
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"training state holds a {type(value).__name__}, which has no safe file form")


def _unpack(value: Any, file: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item, file) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return file.get_tensor(inner)
    if kind == "tuple":
        return tuple(_unpack(item, file) for item in inner)
    return {_unpack(k, file): _unpack(v, file) for k, v in inner}


def random_state() -> dict[str, Any]:
    """States of the random streams of Python, numpy and torch (CPU and all CUDA devices)."""
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = numpy_state
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), int(position), int(has_gauss), float(cached)),
        "torch": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.random.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put the streams back to a `random_state()`."""
    random.setstate(state["python"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.random.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.random.set_rng_state_all(state["cuda"])
