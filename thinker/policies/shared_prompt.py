"""Shared prompts: log-probabilities of G completions of a video by one forward over its prompt.

One packed row a group, P - 1 + G·C tokens instead of G·(P + C):

    [ prompt without its last token | last, c1[:-1] | last, c2[:-1] | … ]

The last prompt token heads every completion, so that each completion has exactly C positions that
predict its C tokens (`shift_labels` of TRL's fused LM head). Position ids restart after the prompt
for each completion. Prompt queries attend causally to the prompt; completion queries to the prompt
and, causally, to their own completion. Loss and gradients equal those of G unshared rows
(tests/policies/test_shared_prompt.py).

The mask travels as the value of transformers' ready-made mask mapping (`{"full_attention": mask}`),
which every decoder layer hands to the attention function unread. Only the function registered here
understands it, so a language model that was not switched to it fails loudly instead of ignoring the
layout.

Shapes: B groups, G completions a group, P prompt length without its last token (left-padded), C
completion length (right-padded), Q heads, K key/value heads, d head width, D model width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from thinker.policies.last_layer import cut_last_layer

ATTENTION = "thinker_shared_prompt"

IGNORED_LABEL = -100
"""The label of positions without loss, as torch's cross entropy has it."""


@dataclass(frozen=True, kw_only=True)
class SharedPromptMask:
    """Which tokens of a packed row see which; one object serves all layers."""

    prompt_BP: torch.Tensor
    """bool, True for real prompt tokens."""

    num_completions: int
    """G, the completions behind each prompt."""

    completion_length: int
    """C, padding included."""

    @cached_property
    def is_padded(self) -> bool:
        return not bool(self.prompt_BP.all())

    @cached_property
    def of_prompt(self) -> torch.Tensor | None:
        """Keys that a prompt query may see: (B, 1, P, P), or None where they are plainly itself and
        those before it. A padding query sees itself, lest softmax be NaN."""
        if not self.is_padded:
            return None
        length, device = self.prompt_BP.shape[1], self.prompt_BP.device
        eye = torch.eye(length, dtype=torch.bool, device=device)
        return _causal(length, device) & (self.prompt_BP[:, None, None, :] | eye)

    @cached_property
    def of_completions(self) -> torch.Tensor:
        """Keys that a completion's query may see, the prompt's and its own up to itself: (C, P + C)
        or, where prompts are padded, (B·G, 1, C, P + C)."""
        length, device = self.completion_length, self.prompt_BP.device
        causal = _causal(length, device)
        if not self.is_padded:
            prompt = causal.new_ones(length, self.prompt_BP.shape[1])
            return torch.cat([prompt, causal], dim=-1)
        visible = self.prompt_BP[:, None, None, :].expand(-1, self.num_completions, length, -1)
        causal = causal.expand(*visible.shape[:2], -1, -1)
        return torch.cat([visible, causal], dim=-1).flatten(0, 1).unsqueeze(1)


def _causal(length: int, device: torch.device) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


@dataclass(frozen=True, kw_only=True)
class PackedGroups:
    """Model inputs of B packed rows."""

    input_ids: torch.Tensor
    """(B, P + G·C)."""

    position_ids: torch.Tensor
    """(B, P + G·C), or (3, B, P + G·C) for M-RoPE."""

    labels: torch.Tensor
    """(B, G·C), the token that each completion position predicts, -100 where padded. The hidden
    states they belong to start at packed position P (`num_prompt`): the head never sees the
    prompt's."""

    mask: SharedPromptMask
    """Which positions see which."""

    @property
    def num_prompt(self) -> int:
        return self.mask.prompt_BP.shape[1]

    def inputs(self) -> dict[str, Any]:
        """Arguments of a policy's forward, except for the video."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": {"full_attention": self.mask},
            "position_ids": self.position_ids,
            "hidden_from": self.num_prompt,
            "shift_labels": self.labels,
        }


def pack_groups(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    positions: torch.Tensor,
    next_position: torch.Tensor,
) -> PackedGroups:
    """Pack B groups.

    prompt_ids, prompt_mask: (B, P + 1), left-padded. completion_ids, completion_mask: (B·G, C),
    right-padded, group by group. positions: (B, P + 1), or (3, B, P + 1) for M-RoPE; next_position
    (B,): the position of a completion's first token.
    """
    num_groups = len(prompt_ids)
    group_size, length = len(completion_ids) // num_groups, completion_ids.shape[1]
    completions_BGC = completion_ids.view(num_groups, group_size, length)
    last = prompt_ids[:, -1].view(-1, 1, 1).expand(-1, group_size, 1)
    inputs_BGC = torch.cat([last, completions_BGC[..., :-1]], dim=-1)
    labels_BGC = completions_BGC.masked_fill(
        completion_mask.view_as(completions_BGC) == 0, IGNORED_LABEL
    )
    # the heading prompt token keeps its own position, completion token j takes next_position + j
    steps = torch.arange(length - 1, device=prompt_ids.device)
    tail = next_position.unsqueeze(1) + steps
    if positions.dim() == 3:
        tail = tail.expand(3, -1, -1)
    per_completion = torch.cat([positions[..., -1:], tail], dim=-1)
    repeats = [1] * (positions.dim() - 1) + [group_size]
    return PackedGroups(
        input_ids=torch.cat([prompt_ids[:, :-1], inputs_BGC.flatten(1)], dim=1),
        position_ids=torch.cat([positions[..., :-1], per_completion.repeat(*repeats)], dim=-1),
        labels=labels_BGC.flatten(1),
        mask=SharedPromptMask(
            prompt_BP=prompt_mask[:, :-1].bool(),
            num_completions=group_size,
            completion_length=length,
        ),
    )


def pack_branches(
    *,
    prefix_ids: torch.Tensor,
    prefix_mask: torch.Tensor,
    prefix_positions: torch.Tensor,
    branch_ids: torch.Tensor,
    branch_positions: torch.Tensor,
    labels: torch.Tensor,
) -> PackedGroups:
    """Pack B rows of G branches whose tokens and labels are given one by one.

    prefix_ids, prefix_mask: (B, P), left-padded. branch_ids, labels: (B·G, C), right-padded, row by
    row; a branch begins with the last token that all branches of its row share, and `labels` are
    the tokens that its positions predict. Positions: as the ids, with a first axis of 3 for M-RoPE.
    """
    num_rows = len(prefix_ids)

    def of_row(branches):  # (…, B·G, C) → (…, B, G·C)
        return branches.unflatten(-2, (num_rows, -1)).flatten(-2)

    return PackedGroups(
        input_ids=torch.cat([prefix_ids, of_row(branch_ids)], dim=-1),
        position_ids=torch.cat([prefix_positions, of_row(branch_positions)], dim=-1),
        labels=of_row(labels),
        mask=SharedPromptMask(
            prompt_BP=prefix_mask,
            num_completions=len(branch_ids) // num_rows,
            completion_length=branch_ids.shape[-1],
        ),
    )


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


def check_shared_prompt(model) -> None:
    """Raises ValueError for a policy whose language model takes no mask mapping, as those that know
    one kind of attention only (Llama) do not, or that has layers of another kind of attention."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ("none named",))
    if kinds != {"full_attention"}:
        raise ValueError(
            f"the language model is a {config.model_type}, whose kinds of layers are "
            f"{', '.join(sorted(kinds))}; packed rows need one that names all of its layers "
            "full_attention, such as Qwen2. Train it by a grpo stage with logprobs: plain"
        )


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
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
