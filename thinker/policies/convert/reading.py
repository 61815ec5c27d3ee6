"""What all converters read: configuration and tokenizer of a released checkpoint.

Whatever is wrong with them is a ValueError of one line that names the file, and the field where it
is one, before anything is written.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Qwen2TokenizerFast
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from thinker.policies.shards import check_tokenizer_files
from thinker.utils.json_file import read_json_object
from thinker.utils.names import path_text

Required = Sequence[tuple[tuple[str, ...], Any]]
"""Keys of a value in config.json, from the outside in, and the value that a converter follows."""

SECTIONS = {"llm_config", "text_config", "vision_config", "rope_scaling", "rope_parameters"}
SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "image_size", "patch_size", "depth",
    "embed_dim", "num_heads", "spatial_merge_size", "temporal_patch_size",
}  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16", None)
ROPES = (*ROPE_INIT_FUNCTIONS, "default", "mrope")
NAMES: Mapping[str, Collection[str | None]] = {
    "torch_dtype": DTYPES,
    "dtype": DTYPES,
    "hidden_act": tuple(ACT2FN),
    "norm_type": ("layer_norm", "rms_norm"),
    "type": ROPES,
    "rope_type": ROPES,
}
"""Fields that name a thing, and the names that there are; "type" is that of `rope_scaling`."""


def read_config(source: Path) -> dict[str, Any]:
    """What config.json of a checkpoint's folder holds. Raises ValueError where there is none, and
    for every field of `SIZES` and `NAMES` whose value is none."""
    path = source / "config.json"
    if not path.is_file():
        raise ValueError(f"{source} holds no config.json; expected the folder of a checkpoint")
    released = read_json_object(path)
    problems = _wrong_values(released, "")
    if problems:
        raise ValueError(f"{path_text(path)}: " + "; ".join(problems))
    return released


def _wrong_values(values: Mapping[str, Any], outer: str) -> list[str]:
    problems = []
    for key, value in values.items():
        given = f"{outer}{key} is {value!r:.80}"
        if key in SECTIONS and isinstance(value, dict):
            problems += _wrong_values(value, f"{outer}{key}.")
        elif key in SECTIONS and value is not None:
            problems.append(f"{given}, expected an object")
        elif key in SIZES and not (type(value) is int and value > 0):
            problems.append(f"{given}, expected a whole number above 0")
        elif key in NAMES and value not in NAMES[key]:
            known = ", ".join(name for name in NAMES[key] if name)
            problems.append(f"{given}, expected one of {known}")
    return problems


def unlike(released: dict[str, Any], required: Required) -> list[str]:
    """A sentence for each value of a configuration that is not the required one."""
    problems = []
    for keys, expected in required:
        value: Any = released
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value != expected:
            problems.append(f"{'.'.join(keys)} is {value!r}, expected {expected!r}")
    return problems


@contextmanager
def errors_in_a_line(failed: str) -> Iterator[None]:
    """What transformers and tokenizers raise, as a ValueError that says what failed, and why.

    failed: with the path of the file or folder whose values are in use.
    """
    try:
        yield
    except Exception as error:  # their checks have no class in common; tokenizers raises just this
        reason = " ".join(str(error).split())
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{failed}: {kind}{reason}") from error


def read_tokenizer(
    source: Path, size: int, named: dict[str, str], words: Sequence[str]
) -> Qwen2TokenizerFast:
    """The checkpoint's Qwen2 tokenizer, whose answers end with <|im_end|>.

    size: rows of the embedding. named: tokens that transformers' processor asks for, by name.
    words: the tokens that prompts consist of; a ValueError names one that has no row.
    """
    check_tokenizer_files(source)
    with errors_in_a_line(f"{path_text(source)} holds no Qwen2 tokenizer"):
        tokenizer = Qwen2TokenizerFast.from_pretrained(
            source, extra_special_tokens=named, padding_side="left"
        )
    for token in (*words, "<|im_start|>", "<|im_end|>"):
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or number >= size or len(tokenizer.encode(token)) != 1:
            raise ValueError(
                f"the tokenizer in {source} does not know {token}, or gives it an id of {size} or "
                "more, which the embedding does not have"
            )
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer
