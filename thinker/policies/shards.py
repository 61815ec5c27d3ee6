"""The files of a checkpoint folder: what those of the weights hold, without reading their data, and
whether there is a tokenizer.

This finds what is missing, truncated or pickled before a model is built, and names it.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from thinker.utils.atomic import PICKLE_SUFFIXES
from thinker.utils.json_file import read_json_object
from thinker.utils.names import path_text

ADAPTER_CONFIG = "adapter_config.json"
Headers = dict[Path, dict[str, tuple[int, ...]]]
"""Shape of every tensor of every shard."""


def read_headers(folder: Path) -> Headers:
    """Keys and shapes of all shards, in order.

    Raises ValueError where there are none, one is damaged, or they differ from their index.
    """
    check_whole(folder)
    index_path, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index_path.is_file():
        weight_map = _weight_map(index_path)
        paths = [folder / name for name in sorted(set(weight_map.values()))]
    elif single.is_file():
        weight_map, paths = None, [single]
    else:
        pickles = [p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLE_SUFFIXES]
        hint = f"; {pickles} may run code when read and are refused" if pickles else ""
        raise ValueError(
            f"{folder} holds neither {single.name} nor {index_path.name}{hint}: save the "
            "checkpoint as safetensors first"
        )
    headers = {path: read_header(path) for path in paths}
    found = {key: path.name for path, shapes in headers.items() for key in shapes}
    twice = {key for path, shapes in headers.items() for key in shapes if found[key] != path.name}
    if weight_map is not None and (twice or found != weight_map):
        wrong = {k for k in {*found, *weight_map} if found.get(k) != weight_map.get(k)} | twice
        raise ValueError(
            f"{index_path} and the shards disagree about:\n" + "\n".join(sorted(wrong))
        )
    return headers


def check_whole(folder: Path) -> None:
    """Raises ValueError for the folder of an adapter: transformers would load the model that it
    names in place of the folder's own."""
    if (folder / ADAPTER_CONFIG).exists():
        raise ValueError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}), expected whole weights: merge it first"
        )


def check_tokenizer_files(folder: Path) -> None:
    """Raises ValueError where files of a Qwen2 tokenizer are missing, of which transformers would
    make one without any words, and where one of them is no JSON."""
    there = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in there and not {"vocab.json", "merges.txt"} <= there:
        raise ValueError(
            f"{path_text(folder)} holds no Qwen2 tokenizer, expected tokenizer.json, or vocab.json "
            "and merges.txt"
        )
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "added_tokens.json"):
        if name in there:
            read_json_object(folder / name)


def _weight_map(index_path: Path) -> dict[str, str]:
    """Key → file name of an index, whose files lie beside it."""
    try:
        weight_map = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
        names = set(weight_map.values())
        is_sound = all(n == Path(n).name and n not in ("", "..") for n in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise ValueError(
            f"{index_path}: expected a weight_map of keys to names of files in the same folder"
        )
    return weight_map


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of one safetensors file; a ValueError where it is missing or cut off."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path} is listed in the index but does not exist") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no complete safetensors file: {error}") from None
