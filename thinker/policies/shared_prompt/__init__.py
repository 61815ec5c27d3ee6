"""Shared prompts: log-probabilities of G completions of a video by one forward over its prompt.

One packed row a group, P - 1 + G·C tokens instead of G·(P + C):

    [ prompt without its last token | last, c1[:-1] | last, c2[:-1] | … ]

The last prompt token heads every completion, so that each completion has exactly C positions that
predict its C tokens (`shift_labels` of TRL's fused LM head). Position ids restart after the prompt
for each completion. Prompt queries attend causally to the prompt; completion queries to the prompt
and, causally, to their own completion. Loss and gradients equal those of G unshared rows
(tests/policies/test_shared_prompt.py).

The mask takes the place of `attention_mask`. transformers asks the mask function that belongs to
the attention function for what the layers get of it; ours lets it pass as it is. Only the attention
function registered here understands it, so a language model that was not switched to it fails
loudly instead of ignoring the layout.

Shapes: B groups, G completions a group, P prompt length without its last token (left-padded), C
completion length (right-padded), Q heads, K key/value heads, d head width, D model width.
"""

from thinker.policies.shared_prompt.attention import (
    check_shared_prompt,
    enable_shared_prompt,
    why_not_shared,
)
from thinker.policies.shared_prompt.packing import (
    IGNORED_LABEL,
    PackedGroups,
    SharedPromptMask,
    pack_branches,
    pack_groups,
)

__all__ = [
    "IGNORED_LABEL",
    "PackedGroups",
    "SharedPromptMask",
    "check_shared_prompt",
    "enable_shared_prompt",
    "pack_branches",
    "pack_groups",
    "why_not_shared",
]
