"""Packing: prompts and their completions → rows, and which tokens of a row see which."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

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

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the dense mask that it stands for, (B, 1, P + G·C, P + G·C). transformers reads
        off the last how many keys there are."""
        length = self.prompt_BP.shape[1] + self.num_completions * self.completion_length
        return len(self.prompt_BP), 1, length, length

    @property
    def ndim(self) -> int:
        """By which transformers tells a mask of padding, which has two axes, from others."""
        return len(self.shape)

    @cached_property
    def is_padded(self) -> bool:
        return not bool(self.prompt_BP.all())

    @cached_property
    def all_have_prompts(self) -> bool:
        """Whether every group has at least one real prompt token."""
        return self.prompt_BP.shape[1] > 0 and bool(self.prompt_BP.any(dim=1).all())

    def prompt_bias(self, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to the scores of prompt keys, for every query: (B, 1, 1, P), 0 and -inf of
        padding; None where nothing is padded."""
        if not self.is_padded:
            return None
        bias = torch.zeros(self.prompt_BP.shape, dtype=dtype, device=self.prompt_BP.device)
        return bias.masked_fill(~self.prompt_BP, -torch.inf)[:, None, None, :]

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
            "attention_mask": self.mask,
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
