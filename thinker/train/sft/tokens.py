"""A conversation → its tokens, and which of them are taught.

Taught are the tokens of every assistant turn and the token that ends it, nothing else. L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from thinker.policies import Policy, Prompt
from thinker.prompts import Turn
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
    taught = _earlier_answers(prompt, [turn.role for turn in asked], end)
    said = [*tokenizer(answer.text)["input_ids"], end]
    return Lesson(ids=[*prompt, *said], taught=[*taught, *[True] * len(said)])


def _earlier_answers(prompt: list[int], roles: list[str], end: int) -> list[bool]:
    """Which tokens of a prompt are those of earlier assistant turns, found by the end tokens."""
    taught = [False] * len(prompt)
    if "assistant" not in roles:
        return taught
    stops = [place + 1 for place, token in enumerate(prompt) if token == end]
    if len(stops) not in (len(roles), len(roles) + 1):  # some chat templates add a system turn
        raise ValueError(
            f"a conversation of {len(roles)} turns has {len(stops)} tokens that end one: one of "
            "its texts holds that token"
        )
    header = prompt[stops[-1] :]  # what comes before an answer
    starts = [0, *stops]
    for role, start, stop in reversed(
        list(zip(roles, starts[-len(roles) - 1 :], stops[-len(roles) :], strict=False))
    ):
        if role == "assistant":
            # Counted, as white space at the head of an answer may join the end of the header.
            both = zip(prompt[start:stop], header, strict=False)
            first = start + len(list(takewhile(lambda pair: pair[0] == pair[1], both)))
            taught[first:stop] = [True] * (stop - first)
    return taught
