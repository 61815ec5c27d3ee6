"""What a rollout engine gets of a policy: a plain checkpoint folder and language model weights.

The engine has no vision tower and no motion branch: it is fed with embeddings. So its folder names
the plain architecture, and only `model.language_model.*` and `lm_head.*` are written or pushed.

`python -m thinker.rollout.vllm.folder POLICY FOLDER` writes the folder that a vLLM server starts
from (docs/rollouts.md).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from thinker.policies import Policy, load_policy, plain_config
from thinker.policies.four_bit import plain_weight
from thinker.rollout.vllm.engine import ENGINE_ARCHITECTURES

LANGUAGE_PREFIXES = ("model.language_model.", "lm_head.")
WEIGHTS_FILE = "model.safetensors"


def write_engine_folder(policy: Policy, folder: str | Path, *, weights: bool) -> None:
    """Write configuration, tokenizer and processor; with `weights`, the language model too."""
    config = plain_config(policy.model.config)
    # vLLM 0.31 on a CPU keeps a packed copy of a tied head, which no reload reaches; a head of its
    # own is pushed like every other weight.
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    [plain] = config.architectures
    config.architectures = [ENGINE_ARCHITECTURES.get(plain, plain)]
    config.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    if weights:
        save_language_weights(policy.model, folder)


def save_language_weights(model, folder: str | Path) -> None:
    """Write `language_weights` as one safetensors file."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in language_weights(model)}
    save_file(tensors, Path(folder) / WEIGHTS_FILE, metadata={"format": "pt"})


def trains_language(model) -> bool:
    """Whether any parameter that the engine holds is trained, LoRA matrices included."""
    return any(
        parameter.requires_grad
        for name, parameter in model.named_parameters()
        if name.startswith(LANGUAGE_PREFIXES)
    )


@torch.no_grad()
def language_weights(model) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a plain checkpoint's language model, one at a time.

    LoRA layers come merged (the model itself is left alone), layers in 4 bits as the weights that
    these stand for, one at a time, and a tied head as a tensor of its own.
    Sharded tensors are gathered: every process must iterate to the end.
    """
    merged_layers = []
    for name, module in model.named_modules():
        if name.startswith(LANGUAGE_PREFIXES) and hasattr(module, "get_delta_weight"):
            merged_layers.append(name + ".")
            yield f"{name}.weight", _merged_weight(name, module)
            if module.get_base_layer().bias is not None:
                yield f"{name}.bias", _whole(module.get_base_layer().bias)
    for name, parameter in model.named_parameters():
        if name.startswith(LANGUAGE_PREFIXES) and not name.startswith(tuple(merged_layers)):
            yield name, _whole(parameter)
    head = model.get_output_embeddings().weight
    if head is model.get_input_embeddings().weight:
        yield "lm_head.weight", _whole(head).clone()


def _merged_weight(name: str, layer) -> torch.Tensor:
    """Base weight plus the deltas of the active adapters, as peft's merge computes it."""
    weight = _whole(layer.get_base_layer().weight)
    if layer.merged:
        return weight
    for adapter in layer.active_adapters:
        if adapter not in layer.lora_A:
            continue
        if layer.use_dora.get(adapter, False):
            raise ValueError(f"{name} uses DoRA, which is not merged for rollouts; use plain LoRA")
        weight = weight + layer.get_delta_weight(adapter).to(weight)
    return weight


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """A detached tensor, gathered where it is an FSDP2 shard, plain where it is in 4 bits."""
    tensor = plain_weight(tensor).detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m thinker.rollout.vllm.folder POLICY FOLDER")
    write_engine_folder(load_policy(sys.argv[1]), sys.argv[2], weights=True)
