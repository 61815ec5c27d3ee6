"""Which groups have a forward of their own."""

from itertools import product

import pytest

from thinker.train.grpo import bunches as module
from thinker.train.grpo.bunches import FORWARD_TOKENS, bunches


def tokens(found, prompts, completions, num_generations):
    """What the docstring of `bunches` counts."""
    return sum(
        FORWARD_TOKENS
        + len(groups)
        * (max(prompts[i] for i in groups) + num_generations * max(completions[i] for i in groups))
        for groups in found
    )


def partitions(groups):
    """All ways to divide groups."""
    if not groups:
        yield []
        return
    first, rest = groups[0], groups[1:]
    for chosen in product([False, True], repeat=len(rest)):
        own = [first, *(one for one, is_own in zip(rest, chosen, strict=True) if is_own)]
        others = [one for one, is_own in zip(rest, chosen, strict=True) if not is_own]
        for found in partitions(others):
            yield [own, *found]


@pytest.mark.parametrize("completions", [[3, 200, 3, 180, 60], [40, 40, 1, 300, 299], [7] * 5])
def test_no_division_takes_fewer_tokens(completions):
    prompts = [50] * 5
    found = bunches(prompts, completions, 8)
    assert sorted(group for groups in found for group in groups) == list(range(5))
    least = min(tokens(p, prompts, completions, 8) for p in partitions(list(range(5))))
    assert tokens(found, prompts, completions, 8) == least


def test_a_forward_has_its_price(monkeypatch):
    assert bunches([50, 50], [3, 60], 8) == [[0, 1]]
    monkeypatch.setattr(module, "FORWARD_TOKENS", 0)
    assert bunches([50, 50], [60, 3], 8) == [[1], [0]]
    assert bunches([50], [3], 8) == [[0]]
