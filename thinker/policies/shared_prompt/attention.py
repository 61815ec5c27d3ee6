"""The attention function of packed rows, and the switch that gives a policy's language model to it.

Shapes as in the package's docstring.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from thinker.policies.shared_prompt.last_layer import cut_last_layer
from thinker.policies.shared_prompt.merged import can_merge, merged_attention
from thinker.policies.shared_prompt.packing import SharedPromptMask

ATTENTION = "thinker_shared_prompt"


def shared_prompt_attention(module, query, key, value, attention_mask, **kwargs):
    """Attention function: scaled dot product, split by `SharedPromptMask` when one is given.

    query (B, Q, P + G·C, d), key and value (B, K, P + G·C, d) → (B, P + G·C, Q, d).
    """
    if not isinstance(attention_mask, SharedPromptMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("dropout", 0.0):
        raise ValueError(
            f"attention dropout is {kwargs['dropout']}, expected 0: completions of one prompt "
            "would share its noise, and differ from rows that do not"
        )
    scale = kwargs.get("scaling")
    query, key, value = (_cast(x) for x in (query, key, value))
    repeats = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    num_prompt = attention_mask.prompt_BP.shape[1]
    sizes = [num_prompt, query.shape[2] - num_prompt]
    # Not by slices: the gradient of each is a row of zeros with a part filled in.
    parts = (x.split(sizes, dim=2) for x in (query, key, value))
    (prompt_q, own_q), (prompt_k, own_k), (prompt_v, own_v) = parts
    own = _attend_completions(own_q, own_k, own_v, prompt_k, prompt_v, attention_mask, scale)
    if not num_prompt:
        return own, None
    if getattr(module, "skips_prompt", False):  # last_layer.py
        return torch.nn.functional.pad(own, (0, 0, 0, 0, num_prompt, 0)), None
    prompt = _attend(prompt_q, prompt_k, prompt_v, attention_mask.of_prompt, scale)
    return torch.cat([prompt.transpose(1, 2), own], dim=1), None


def shared_prompt_mask(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
    """Mask function: a `SharedPromptMask` as it is, else what scaled dot-product attention gets."""
    if isinstance(attention_mask, SharedPromptMask):
        return attention_mask
    return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


def _cast(x: torch.Tensor) -> torch.Tensor:
    """Cast as autocast does for dot-product attention, but before a prompt's keys are copied.

    Rotary positions leave keys in float32, and autocast would keep a cast version of every copy.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(device))


def _attend(query, key, value, mask, scale):
    """mask: bool, or None for plain causal attention, which the fastest kernels take."""
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale
    )


def _attend_completions(query, key, value, prompt_key, prompt_value, mask, scale):
    """Attention of completion queries to the prompt's keys and their own completion's: (B, G·C, Q,
    d)."""
    if can_merge(query, mask):
        merged = merged_attention(query, key, value, prompt_key, prompt_value, mask, scale)
        return merged.transpose(1, 2)
    group_and_length = (mask.num_completions, mask.completion_length)

    def own(x):  # (B, Q, G·C, d) → (B, G, Q, C, d), a view
        return x.unflatten(2, group_and_length).transpose(1, 2)

    def behind_prompt(prompt, x):  # → (B·G, Q, P + C, d): a copy of the prompt for each completion
        prompt = prompt.unsqueeze(1).expand(-1, mask.num_completions, -1, -1, -1)
        return torch.cat([prompt, own(x)], dim=3).flatten(0, 1)

    keys, values = behind_prompt(prompt_key, key), behind_prompt(prompt_value, value)
    again: list[tuple[torch.Tensor, Callable[[], torch.Tensor]]] = [
        (keys, partial(behind_prompt, prompt_key.detach(), key.detach())),
        (values, partial(behind_prompt, prompt_value.detach(), value.detach())),
    ]
    with _kept_as_recipe(again):
        output = _attend(own(query).flatten(0, 1), keys, values, mask.of_completions, scale)
    return output.transpose(1, 2).unflatten(0, (len(query), -1)).flatten(1, 2)


@contextmanager
def _kept_as_recipe(made: list[tuple[torch.Tensor, Callable[[], torch.Tensor]]]) -> Iterator[None]:
    """Within, autograd keeps how to make these tensors instead of the tensors, which would hold the
    prompt G times in every layer; the backward pass makes them again.

    Where somebody else decides what is kept (gradient checkpointing, offloading), it is left to
    them: only the innermost hooks are asked.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        yield
        return

    def pack(kept: torch.Tensor) -> Any:
        for tensor, make in made:
            if _is_same(kept, tensor):
                return make
        return kept

    def unpack(kept: Any) -> torch.Tensor:
        return kept if isinstance(kept, torch.Tensor) else kept()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
    made.clear()  # autograd keeps `pack`, too


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same memory in the same layout: not some other view of it."""
    return (a.data_ptr(), a.shape, a.stride()) == (b.data_ptr(), b.shape, b.stride())


def why_not_shared(model) -> str | None:
    """Why packed rows of a policy would not have the maths of plain ones; None where they have.

    Every layer of its language model has to attend to all that a token may see: a window would be
    counted in places of the row instead of positions.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    other = sorted(kinds - {"full_attention"})
    if other:
        return (
            f"the language model is a {config.model_type} with layers of {', '.join(other)}; "
            "packed rows need full_attention in all of them, as in Qwen2 and Qwen3"
        )
    return None


def check_shared_prompt(model) -> None:
    """Raises ValueError as `why_not_shared` says."""
    reason = why_not_shared(model)
    if reason is not None:
        raise ValueError(f"{reason}. Supervised stages have packed rows only; grpo stages have not")


def enable_shared_prompt(model) -> None:
    """Switch the language model of a policy to the shared-prompt attention function, for good, and
    leave prompt rows out of its last layer (last_layer.py).

    It stays switched: going back between forward and backward would give reentrant checkpointing
    another function to recompute with. Rows without a `SharedPromptMask` get plain scaled
    dot-product attention. Raises ValueError as `check_shared_prompt`.
    """
    check_shared_prompt(model)
    model.model.language_model.set_attn_implementation(ATTENTION)
    cut_last_layer(model.model.language_model)


AttentionInterface.register(ATTENTION, shared_prompt_attention)
AttentionMaskInterface.register(ATTENTION, shared_prompt_mask)
