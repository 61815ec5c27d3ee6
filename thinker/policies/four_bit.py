"""A language model in 4 bits: loaded so, and made whole again.

bitsandbytes keeps each linear layer of the language model as nf4 codes of 4 bits, in blocks of 64
weights with a scale each, and the scales in 8 bits, in blocks of 256 with a scale each ("double
quantization", QLoRA, arXiv 2305.14314). A layer multiplies by what the codes stand for, in the
type of the model. Vision tower, projectors, motion branch, embeddings and head stay in that type.
Only LoRA learns on such a base.
"""

import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

BLOCK, SCALES = 64, 256
"""Weights that share a scale, and scales that share one."""
CODES = 4 * (16 + 256 + 1)
"""Bytes of what a layer holds whatever its size: what the codes of 4 and of 8 bits stand for, and
the mean of the scales, in float32."""


def check_installed() -> None:
    """Raises ValueError where there is no bitsandbytes."""
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "quantization: nf4 needs bitsandbytes, which is not installed; "
            "pip install 'vqa-thinker[four-bit]'"
        )


def loading_options(model: Any, device: Any) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a policy's language model in 4 bits.

    model: an outline, of which the names count. device: where the weights go; None is the GPU where
    there is one. Raises ValueError where there is no bitsandbytes.
    """
    check_installed()
    from transformers import BitsAndBytesConfig

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    children = [f"model.{name}" for name, _ in model.model.named_children()]
    return {
        "device_map": {"": device},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            # Whole names: of parts of them transformers takes no notice.
            llm_int8_skip_modules=[n for n in children if n != "model.language_model"]
            + ["lm_head"],
        ),
    }


def settle(model: Any) -> None:
    """To be called of a model that was just loaded in 4 bits.

    Its configuration becomes that of a plain policy again, which its engine and its copies are made
    by. Its layers compute in the type of the model. And they are told not to use bitsandbytes'
    kernel for CPUs with AVX512-BF16: the first pass without gradient would pack the weights in
    another order, compute in bfloat16, and let later ones with gradient fail.
    """
    model.hf_quantizer.remove_quantization_config(model)
    for layer in packed_layers(model).values():
        layer.compute_dtype, layer.compute_type_is_set = model.dtype, True
        layer.support_avx512bf16_for_cpu = False


def packed_layers(model: nn.Module) -> dict[str, Any]:
    """The layers in 4 bits, by name."""
    return {name: layer for name, layer in model.named_modules() if is_packed(layer)}


def is_packed(layer: nn.Module) -> bool:
    """Whether a layer holds its weight in 4 bits."""
    return isinstance(layer, nn.Linear) and hasattr(layer.weight, "quant_state")


def is_four_bit(model: nn.Module) -> bool:
    """Whether any layer does."""
    return any(map(is_packed, model.modules()))


def plain_weight(weight: torch.Tensor) -> torch.Tensor:
    """What a weight in 4 bits stands for, in the type that it was loaded in; another as it is."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)


@torch.no_grad()
def unpack(model: Any) -> None:
    """Put plain linear layers in the place of those in 4 bits. They are made on the CPU: where the
    base only fits in 4 bits, its whole weights do not fit beside it."""
    for name, layer in packed_layers(model).items():
        weight = plain_weight(layer.weight).cpu()
        with torch.device("meta"):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.detach().cpu(), requires_grad=False)
        model.set_submodule(name, plain)
    model.is_loaded_in_4bit = False


@torch.no_grad()
def merge_packed(model: Any) -> Any:
    """The policy's own model on the CPU, of one with LoRA on layers in 4 bits: what the codes stand
    for, plus the updates.

    peft's own merge puts the sum into 4 bits again, which loses most of the updates: they are
    smaller than the distance of two codes, and each weight lies on one.
    """
    unpack(model)
    for layer in model.modules():
        if hasattr(layer, "get_delta_weight"):
            weight = layer.get_base_layer().weight
            for adapter in set(layer.active_adapters) & set(layer.lora_A):
                weight += layer.get_delta_weight(adapter).to(weight)
                layer.merged_adapters.append(adapter)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All adapters are already merged")
        return model.cpu().merge_and_unload()


def packed_bytes(num_weights: int) -> int:
    """Bytes of a layer with so many weights: codes, scales, their scales.

    >>> packed_bytes(64 * 256)  # 8192 of codes, 256 scales and one of them in float32, constants
    9544
    """
    blocks = -(-num_weights // BLOCK)
    return -(-num_weights // 2) + blocks + 4 * -(-blocks // SCALES) + CODES


def packable(model: Any) -> list[int]:
    """Numbers of weights of the layers that would be in 4 bits, for a policy's model."""
    return [
        layer.in_features * layer.out_features
        for layer in model.model.language_model.modules()
        if isinstance(layer, nn.Linear)
    ]
