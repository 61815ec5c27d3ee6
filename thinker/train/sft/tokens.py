"""A conversation → its tokens, and which of them are taught.

Taught are the tokens of every assistant turn and the token that ends it, nothing else. L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from thinker.policies import Policy, Prompt
from thinker.prompts import Turn, ask
from thinker.video import Clip


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """The tokens of one conversation."""

    ids: list[int]
    """L ids, the end token of the last answer included."""

    taught: list[bool]
    """L, whether the token is taught."""


def tokenise(policy: Policy, clips: Sequence[Clip], turns: Sequence[Turn]) -> Lesson:
    """The tokens of a conversation whose last turn is the assistant's; where that is the only one,
    it answers the policy's own scoring question.

    Raises ValueError where a turn holds the token that ends turns.
    """
    *asked, answer = turns
    tokenizer, end = policy.tokenizer, policy.tokenizer.eos_token_id
    prompt = policy.inputs.prompt_ids(Prompt(clips=tuple(clips), turns=tuple(asked)))
    taught = [False] * len(prompt)
    if any(turn.role == "assistant" for turn in asked):
        # a chat template may add a system turn of its own
        bare = policy.inputs.prompt_ids(Prompt(turns=ask("?"))).count(end)
        num_added = 0 if asked[0].role == "system" else bare - 1
        _teach_earlier(taught, prompt, [turn.role for turn in asked], end, num_added)
    said = [*tokenizer(answer.text)["input_ids"], end]
    if end in said[:-1]:
        raise ValueError(f"an answer holds {tokenizer.eos_token!r}, the token that ends turns")
    return Lesson(ids=[*prompt, *said], taught=[*taught, *[True] * len(said)])


def _teach_earlier(
    taught: list[bool], prompt: list[int], roles: list[str], end: int, num_added: int
) -> None:
    """Mark the assistant turns within a prompt, found by the end tokens of all turns."""
    stops = [place + 1 for place, token in enumerate(prompt) if token == end]
    assert len(stops) == len(roles) + num_added, "every turn has one token that ends it"
    header = prompt[stops[-1] :]  # what comes before an answer
    starts = [0, *stops][num_added:]
    for role, start, stop in zip(roles, starts, stops[num_added:], strict=False):
        if role == "assistant":
            # Counted, as white space at the head of an answer may join the end of the header.
            both = zip(prompt[start:stop], header, strict=False)
            first = start + len(list(takewhile(lambda pair: pair[0] == pair[1], both)))
            taught[first:stop] = [True] * (stop - first)
