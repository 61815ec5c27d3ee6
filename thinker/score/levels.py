"""Score by level words: one forward a video, no generation (VQA², arXiv 2411.03795, inference).

The assistant's turn is forced to begin with `LEVEL_PREFIX`; the softmax over the logits of
the five level words that may follow gives a distribution over levels, and its mean the score. VQA²
weighs its levels 1, .75, .5, .25, 0; see `LEVEL_SCORES`.

Shapes: B videos, L padded length, D width.
"""

import torch

from thinker.policies import Policy
from thinker.policies.encode import EncodedPrompt
from thinker.tasks import level
from thinker.utils.tensors import left_pad


def level_ids(tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of the forced prefix, and the first id of each level word behind it.

    A word of several tokens is recognized by its first one. Raises ValueError for a tokenizer that
    cannot tell the words apart that way, or that merges the prefix with them.
    """
    prefix = tokenizer(level.LEVEL_PREFIX, add_special_tokens=False)["input_ids"]
    firsts = []
    for word in level.LEVELS:
        text = f"{level.LEVEL_PREFIX} {word}"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids[: len(prefix)] != prefix:
            raise ValueError(f"the tokenizer cuts {text!r} across the prefix; mode level needs it")
        firsts.append(ids[len(prefix)])
    if len(set(firsts)) < len(firsts):
        raise ValueError(
            f"level words {', '.join(level.LEVELS)} begin with the tokens {firsts}, expected "
            "five different ones; use mode reason with this tokenizer"
        )
    return prefix, firsts


@torch.no_grad()
def level_probabilities(policy: Policy, requests: list[EncodedPrompt]) -> torch.Tensor:
    """Probabilities (B, 5) of `level.LEVELS`, float64 on the CPU, from one forward.

    requests: prompts that ask `level.LEVEL_QUESTION`.
    """
    prefix, firsts = level_ids(policy.tokenizer)
    model = policy.model
    device = model.device
    rows = [torch.tensor([*r.token_ids, *prefix], device=device) for r in requests]
    positions = [_extended(request, len(prefix)) for request in requests]
    training = model.training
    model.eval()
    try:
        hidden_BLD = model.model(
            input_ids=left_pad(rows, policy.tokenizer.pad_token_id),
            attention_mask=left_pad([torch.ones_like(row) for row in rows]),
            position_ids=left_pad(positions),
            media_embeds=[request.embeds for request in requests],
            hidden_from=-1,
            use_cache=False,
        ).last_hidden_state
        logits = model.get_output_embeddings()(hidden_BLD[:, -1])
    finally:
        model.train(training)
    return logits[:, firsts].double().softmax(-1).cpu()


def _extended(request: EncodedPrompt, count: int) -> torch.Tensor:
    """The request's positions and those of `count` tokens after it, (…, P + count)."""
    positions = request.positions
    after = torch.arange(count, device=positions.device, dtype=positions.dtype)
    after = (request.next_position + after).expand(*positions.shape[:-1], count)
    return torch.cat([positions, after], dim=-1)
