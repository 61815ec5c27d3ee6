"""Models whose weights are spread over processes: where they have to be whole, and how.

FSDP2 and ZeRO-3 give every process a part of each weight and put it together while the module that
owns it runs. Three things do not go through such a module:

- encoding and generation call parts of the policy, not the whole that was wrapped (`unsharded`,
  beside TRL's own context, which does it for ZeRO-3);
- the fused LM head reads the head's weight without calling the head (`head_at_hand`);
- policies are compared and saved by their weights (`gathered`, `named_tensors`, `whole_copy`).

`loaded_whole` keeps `zero3_init_flag` from sharding a policy that is loaded to be measured or
saved. Where nothing is sharded, all of them do nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers.integrations import deepspeed as hf_deepspeed


@contextmanager
def unsharded(model: Any) -> Iterator[None]:
    """Within, FSDP2 keeps all weights of the model whole in every process, also after a forward.
    All processes have to enter together."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not modules:
        yield
        return
    with torch.no_grad():
        model(in_chunks=lambda forward: None)  # its first forward has to go through the root
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        # accelerate's own choice: the root, which begins the backward pass, and the head stay whole
        kept = (model, model.get_output_embeddings())
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(module not in kept, recurse=False)


@contextmanager
def gathered(*modules: nn.Module) -> Iterator[None]:
    """Within, every process holds all weights that ZeRO-3 has partitioned; changes are lost. All
    processes have to enter together."""
    partitioned = [p for module in modules for p in module.parameters() if hasattr(p, "ds_id")]
    if not partitioned:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(partitioned):
        yield


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers, whole where FSDP2 has sharded them."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
    }


def whole_copy(model: Any, merge: Callable[[Any], Any]) -> Any:
    """The policy's own model on the CPU, to be saved, of one that is sharded in any way.

    merge: `merge_lora`. All processes have to call it; the sharded one cannot be trained
    afterwards.
    """
    with unsharded(model), gathered(model):
        merged = merge(model)
        with torch.device("meta"), loaded_whole():
            copy = type(merged)(merged.config)
        tensors = named_tensors(merged)
        weights = {name: tensors[name].detach().cpu().clone() for name in copy.state_dict()}
    copy.load_state_dict(weights, assign=True)
    copy.generation_config = merged.generation_config
    return copy


@contextmanager
def head_at_hand(core: Any) -> Iterator[None]:
    """Within, the LM head can be read and learns as if it had been called.

    FSDP2: read as a sharded weight, the head would keep the gradient of this process alone. ZeRO-3:
    TRL gathers the head's weight and bias; the bias that rules placeholders out is no parameter,
    and says so.
    """
    head = core.get_output_embeddings()
    if hasattr(head.weight, "ds_id"):
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        head.bias.ds_status = ZeroParamStatus.AVAILABLE
    is_sharded = isinstance(head, FSDPModule)
    if is_sharded:
        head.unshard()
    yield
    if is_sharded and not torch.is_grad_enabled():  # else the backward pass does
        head.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether a process holds parts of the weights only, so that all have to call the model
    together. model: without DDP's or DeepSpeed's wrapper."""
    return isinstance(model, FSDPModule) or hasattr(next(model.parameters()), "ds_id")


def local_part(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight."""
    if isinstance(weight, DTensor):
        return weight.to_local()
    return getattr(weight, "ds_tensor", weight)


@contextmanager
def loaded_whole() -> Iterator[None]:
    """Within, policies are built and loaded whole, whatever DeepSpeed's configuration says."""
    kept = hf_deepspeed._hf_deepspeed_config_weak_ref
    hf_deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        hf_deepspeed._hf_deepspeed_config_weak_ref = kept
