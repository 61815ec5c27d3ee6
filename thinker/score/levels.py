"""Score by level words: one forward a video, no generation (VQA², arXiv 2411.03795, inference).

The assistant's turn is forced to begin with a prefix; the softmax over the logits of the five level
words that may follow gives a distribution over levels, and its mean the score. Words, weights,
question and prefix are part of the policy (`thinker.tasks.level.LevelConfig`).

Shapes: B videos, L padded length, D width.
"""

from collections.abc import Sequence

import torch

from thinker.policies import Policy
from thinker.policies.encode import EncodedPrompt, last_hidden


def level_ids(
    tokenizer, words: Sequence[str], prefix_text: str, *, blank_first: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids of the forced prefix, and the first id of each level word behind it.

    A word of several tokens is recognized by its first one. Without a prefix a word opens the
    answer, without a blank unless `blank_first`. Raises ValueError for a tokenizer that cannot tell
    the words apart that way, or that merges the prefix with them.
    """
    prefix = tokenizer(prefix_text, add_special_tokens=False)["input_ids"] if prefix_text else []
    firsts = []
    for word in words:
        text = f"{prefix_text} {word}" if prefix_text or blank_first else word
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids[: len(prefix)] != prefix:
            raise ValueError(f"the tokenizer cuts {text!r} across the prefix; mode level needs it")
        firsts.append(ids[len(prefix)])
    if len(set(firsts)) < len(firsts):
        raise ValueError(
            f"level words {', '.join(words)} begin with the tokens {firsts}, expected "
            "five different ones; use mode reason with this tokenizer"
        )
    return prefix, firsts


def shares_of_logits(logits: torch.Tensor) -> torch.Tensor:
    """Logits (…, 5) of the level words → their probabilities, in float32 whatever the type of the
    model; the largest is subtracted first, so that none overflows.

    Example: logits 1000, 1001 → .2689, .7311, as 1/(1 + e) and e/(1 + e).
    """
    logits = logits.float()
    powers = (logits - logits.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


@torch.no_grad()
def level_probabilities(
    policy: Policy, requests: list[EncodedPrompt], kinds: Sequence[str]
) -> torch.Tensor:
    """Probabilities (B, 5) of the policy's level words, float64 on the CPU, from one forward.

    requests: prompts that ask the policy's level question, each about a medium of a kind in
    `kinds`, "video" or "image".
    """
    levels = policy.inputs.levels
    forced = {
        kind: level_ids(
            policy.tokenizer, levels.words, levels.prefix(kind), blank_first=levels.blank_first
        )
        for kind in set(kinds)
    }
    prefixes = [forced[kind][0] for kind in kinds]
    firsts_B5 = torch.tensor([forced[kind][1] for kind in kinds])
    hidden_B1D = last_hidden(policy, requests, prefixes, keep=1)
    logits = policy.model.get_output_embeddings()(hidden_B1D[:, 0])
    return shares_of_logits(logits.gather(1, firsts_B5.to(logits.device))).double().cpu()
