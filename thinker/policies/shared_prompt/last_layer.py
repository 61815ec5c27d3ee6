"""In the last layer the tokens of a shared prompt need keys and values only.

Nobody reads what the last layer makes of them: the head begins behind the prompt. So their queries,
the output projection and the MLP are left out there. Hooks cut their rows off before these modules
and put zeros in their place behind, so that the layer is transformers' own, and so are LoRA,
checkpointing and sharding around it.

A forward without a `SharedPromptMask` is not touched.
"""

from typing import Any

import torch
from torch import nn

PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""What prompt rows do not pass in the last layer."""


def skipped_parts(language_model: Any) -> list[nn.Module]:
    """The modules that prompt rows do not pass. LoRA's own of a projection see all rows."""
    parts = [language_model.layers[-1].get_submodule(name) for name in PARTS]
    return [getattr(part, "base_layer", part) for part in parts]


class _Cut:
    """The hooks of one model's last layer, and the length of the prompt while it runs."""

    def __init__(self) -> None:
        self.num_prompt = 0

    def begin(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before the layer: the prompt's length, 0 where it is not a packed row."""
        prompt_BP = getattr(kwargs.get("attention_mask"), "prompt_BP", None)
        self.num_prompt = 0 if prompt_BP is None else prompt_BP.shape[1]

    def cut(self, part: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Before a part: rows behind the prompt."""
        return (args[0][:, self.num_prompt :], *args[1:])

    def pad(self, part: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        """Behind a part: zeros where the prompt stood."""
        return torch.nn.functional.pad(output, (0, 0, self.num_prompt, 0))


def cut_last_layer(language_model: Any) -> None:
    """Leave prompt rows out of the last layer of a language model, for good."""
    layer = language_model.layers[-1]
    if getattr(layer.self_attn, "skips_prompt", False):
        return
    layer.self_attn.skips_prompt = True  # read by the attention function
    hooks = _Cut()
    layer.register_forward_pre_hook(hooks.begin, with_kwargs=True)
    for part in skipped_parts(language_model):
        part.register_forward_pre_hook(hooks.cut)
        part.register_forward_hook(hooks.pad)
