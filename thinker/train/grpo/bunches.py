"""Which groups of a micro-batch pass the model together: those of similar length.

Groups of one forward are padded to the longest prompt and the longest completion among them. In a
batch of several tasks a choice of three tokens would be padded to the boxes or the reasoning of
another group, so groups of similar length have a forward of their own where that saves more tokens
than the forward costs. Every group is computed as before, so the update is the same.
"""

from collections.abc import Sequence

FORWARD_TOKENS = 512
"""What one more forward costs, in tokens: about where a tiny policy on a CPU and a large one on a
GPU take as long for a call as for its tokens."""


def bunches(
    prompts: Sequence[int], completions: Sequence[int], num_generations: int
) -> list[list[int]]:
    """Groups (numbers in order) by forward: of all divisions by the length of completions, the one
    whose forwards together take the fewest tokens.

    prompts: real tokens of the prompt of each group; completions: those of its longest completion.
    A forward of n groups takes n · (longest prompt + G · longest completion) + `FORWARD_TOKENS`.

    >>> bunches([50, 50, 50, 50], [3, 200, 3, 180], num_generations=8)
    [[0, 2], [1, 3]]
    >>> bunches([50, 50], [3, 20], num_generations=8)  # 136 tokens are not worth a forward
    [[0, 1]]
    """
    order = sorted(range(len(completions)), key=lambda group: completions[group])
    least, first = [0], [0]  # of the first n groups in order; where their last forward begins
    for end in range(1, len(order) + 1):
        longest, tried = 0, []
        for begin in range(end - 1, -1, -1):
            longest = max(longest, prompts[order[begin]])
            tokens = longest + num_generations * completions[order[end - 1]]
            total = least[begin] + (end - begin) * tokens + FORWARD_TOKENS
            tried.append((total, begin))
        total, begin = min(tried)
        least.append(total)
        first.append(begin)
    found = []
    end = len(order)
    while end:
        found.append(sorted(order[first[end] : end]))
        end = first[end]
    return found[::-1]
