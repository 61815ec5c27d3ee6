"""A tree of continuations of completions, in one cache: what may follow, without writing each
continuation anew.

In: the keys and values of prompts and of what was written behind them (`Kept`). Out: for every node
of a tree the log-probabilities of its next token. A node is a token behind its parent's; it attends
to the prompt, to the completion up to where the tree begins, and to its own ancestors. All nodes of
one depth are forwarded together, as one row of queries a prompt, and no cache is copied (tree
attention, as in SpecInfer, arXiv 2305.09781).

Shapes: B prompts, P longest prompt, C longest completion, L columns of the cache, F nodes of one
depth, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thinker.policies.encode import EncodedPrompt
from thinker.policies.releases import CACHE


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Keys and values of prompts, padded on the left, and of the completions behind them."""

    cache: Any
    """transformers' cache; column P + i holds token i of each completion."""
    mask_BP: torch.Tensor
    """1 where a column is a token of the prompt."""


@dataclass(eq=False)
class Node:
    """A token that may follow, and what is known of it once it was forwarded."""

    token: int
    """Its id."""
    parent: "Node | None" = None
    """The one before it; None of the root, which is the last token that is taken for granted."""
    column: int = -1
    """Its place in the cache; -1 before it was forwarded."""

    def path(self) -> list[int]:
        """Columns of its ancestors."""
        columns, node = [], self.parent
        while node is not None:
            columns.append(node.column)
            node = node.parent
        return columns

    @property
    def depth(self) -> int:
        """0 of the root."""
        return len(self.path())


class Tree:
    """Grows the trees of all prompts at once.

    starts: how many tokens of each completion are taken for granted, at least 1; the root is the
    last of them.
    """

    def __init__(
        self, model: Any, kept: Kept, requests: Sequence[EncodedPrompt], starts: Sequence[int]
    ):
        assert min(starts) >= 1, "a root is a token of the completion"
        self.model, self._cache = model, kept.cache
        self.num_forwarded = [0] * len(starts)
        """Nodes of each prompt that were forwarded so far."""
        self._positions = [r.next_position + n - 1 for r, n in zip(requests, starts, strict=True)]
        self._has_axes = requests[0].positions.dim() == 2  # M-RoPE
        num_prompt = kept.mask_BP.shape[1]
        length = num_prompt + max(starts) - 1
        # What was written behind the latest root goes; negative: so many tokens.
        self._cache.crop(length - self._cache.get_seq_length())
        columns = torch.arange(length - num_prompt, device=kept.mask_BP.device)
        counts = torch.tensor(starts, device=kept.mask_BP.device)[:, None] - 1
        self._granted_BL = torch.cat([kept.mask_BP.bool(), columns < counts], dim=1)

    @torch.no_grad()
    def grow(self, levels: Sequence[Sequence[Node]]) -> list[torch.Tensor]:
        """Forward nodes of each prompt, all of one depth, whose parents were forwarded before; the
        log-probabilities (nodes, V) of what follows each, in float32."""
        width = max(map(len, levels))
        length, device = self._cache.get_seq_length(), self._granted_BL.device
        ids = torch.zeros(len(levels), width, dtype=torch.long, device=device)
        positions = torch.zeros_like(ids)
        seen = torch.zeros(len(levels), width, length + width, dtype=torch.bool, device=device)
        own = torch.arange(width, device=device)
        seen[:, own, length + own] = True  # itself; of a place without a node nothing else
        for row, nodes in enumerate(levels):
            self.num_forwarded[row] += len(nodes)
            for place, node in enumerate(nodes):
                ids[row, place] = node.token
                positions[row, place] = self._positions[row] + node.depth
                seen[row, place, : self._granted_BL.shape[1]] = self._granted_BL[row]
                seen[row, place, node.path()] = True
                node.column = length + place
        hidden_BFD = self._forward(ids, positions, seen)
        head = self.model.get_output_embeddings()
        rows = zip(hidden_BFD, levels, strict=True)
        return [head(hidden[: len(nodes)]).float().log_softmax(-1) for hidden, nodes in rows]

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        output = self.model.model(
            input_ids=ids,
            attention_mask=seen[:, None],  # ready-made: with four axes it is handed on as it is
            position_ids=positions.expand(3, -1, -1) if self._has_axes else positions,
            use_cache=True,
            **{CACHE: self._cache},
        )
        return output.last_hidden_state
