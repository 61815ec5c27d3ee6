"""Attention of completions as two calls, to the prompt and to themselves, that are merged.

One call would need the prompt's keys and values once for each completion, side by side with the
completion's own. Here all completions of a prompt are the queries of one call over it, and each
attends to itself in another; a softmax over both comes of the two by the logarithms of their sums
(FlashAttention, arXiv 2205.14135, section 3.1; as ring attention merges blocks, arXiv 2310.01889):

    lse = log(exp(lse_prompt) + exp(lse_own))
    output = exp(lse_prompt - lse) · output_prompt + exp(lse_own - lse) · output_own

The backward pass calls each kernel's own with the merged output and lse: the probabilities that it
makes of them are those of the whole softmax. Nothing is copied and nothing approximated.

The kernel is torch's fused one for a CPU, whose operators give the lse. They are not public: should
they go, and on other devices, `can_merge` is False, and attention.py copies the prompt.

Shapes: B groups, G completions of C tokens, N = G·C, P prompt length, Q heads, d head width.
"""

from typing import Any

import torch

from thinker.policies.shared_prompt.packing import SharedPromptMask

_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"
_forward: Any = getattr(torch.ops.aten, _KERNEL, None)
_backward: Any = getattr(torch.ops.aten, f"{_KERNEL}_backward", None)


def can_merge(query: torch.Tensor, mask: SharedPromptMask) -> bool:
    """Whether the kernel is there: on a CPU, and where every prompt has a token to attend to."""
    is_there = _forward is not None and _backward is not None
    return is_there and query.device.type == "cpu" and mask.all_have_prompts


def merged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prompt_key: torch.Tensor,
    prompt_value: torch.Tensor,
    mask: SharedPromptMask,
    scale: float | None,
) -> torch.Tensor:
    """query, key, value (B, Q, N, d) of completions, those of prompts (B, Q, P, d) → (B, Q, N, d).

    One query of ones, prompt keys of zeros, an own key of zeros: all have the same weight, so with
    the values 1 and 3 of the prompt and 5 of itself the output is 3.
    """
    bias_B11P = mask.prompt_bias(query.dtype)
    completions = (mask.num_completions, mask.completion_length)
    return _Merged.apply(query, key, value, prompt_key, prompt_value, bias_B11P, completions, scale)


class _Merged(torch.autograd.Function):
    """The two calls, and their backward passes."""

    @staticmethod
    def forward(
        ctx: Any, query, key, value, prompt_key, prompt_value, bias, completions, scale
    ) -> torch.Tensor:
        def alone(x):  # (B, Q, N, …) → (B·G, Q, C, …), a view where it can be one
            return x.unflatten(2, completions).transpose(1, 2).flatten(0, 1)

        def together(x):
            return x.unflatten(0, (len(query), -1)).transpose(1, 2).flatten(2, 3)

        seen, seen_lse = _forward(
            query, prompt_key, prompt_value, 0.0, False, attn_mask=bias, scale=scale
        )
        own, own_lse = _forward(alone(query), alone(key), alone(value), 0.0, True, scale=scale)
        own, own_lse = together(own), together(own_lse)
        lse = torch.logaddexp(seen_lse, own_lse)
        seen_share, own_share = ((part - lse).exp().unsqueeze(-1) for part in (seen_lse, own_lse))
        output = (seen * seen_share + own * own_share).to(query.dtype)
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, bias, output, lse)
        ctx.alone, ctx.together, ctx.scale = alone, together, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor):
        query, key, value, prompt_key, prompt_value, bias, output, lse = ctx.saved_tensors
        alone, together, scale = ctx.alone, ctx.together, ctx.scale
        of_query, of_prompt_key, of_prompt_value = _backward(
            gradient, query, prompt_key, prompt_value, output, lse, 0.0, False,
            attn_mask=bias, scale=scale,
        )  # fmt: skip
        own = (alone(x) for x in (gradient, query, key, value, output, lse))
        of_own = [together(x) for x in _backward(*own, 0.0, True, scale=scale)]
        of_query = of_query + of_own[0]
        return of_query, of_own[1], of_own[2], of_prompt_key, of_prompt_value, None, None, None
