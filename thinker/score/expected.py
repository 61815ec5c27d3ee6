"""The expected score of an explanation: the policy reasons greedily, and where its answer begins,
every number that it may write there counts by its probability.

In: encoded prompts of task "score". Out: the greedy completions, and for each the distribution over
the scores that may stand in its `<answer>`, exact but for what is pruned. Greedy decoding keeps the
likeliest digit at each place, sampling many completions costs as many; a number has a few digits,
so a small tree over their tokens holds nearly all of the probability (`kept`). The tree grows from
the keys and values of the reasoning itself, so the prompt is not forwarded again.

The tree knows no tokenizer: a token may follow where the text that it adds can still become
`number</answer>`, as `rewards.parse_answer` reads it. So digits may have tokens of their own or
share some, and `<answer>` may end in the middle of a token. Ways to write one number add up.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

from rewards import Answer, parse_answer
from thinker.policies import Policy
from thinker.policies.encode import EncodedPrompt
from thinker.rollout.base import Completion, Rollout, Sampling
from thinker.rollout.hf import ROWS_AT_ONCE, HfRollout, hf_rollout
from thinker.rollout.tree import Node, Tree
from thinker.score.confidence import token_ends
from thinker.score.prediction import Distribution

OPEN, CLOSE = "<answer>", "</answer>"

PRUNED = 1e-2
"""What is less likely is not continued. A score differs by at most 4 · (1 - kept) from that of
the whole tree."""

MAX_TOKENS = 8
"""Of a number: "3.4375" with a token a digit has six. What is longer is left out."""

_NUMBER = re.compile(r"[ \t\n\r\f\v]*([0-9]*)(?:\.[0-9]*)?[ \t\n\r\f\v]*")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The scores that may stand in one answer."""

    distribution: Distribution
    """Normalised over what is kept; empty where that is nothing."""
    kept: float
    """Probability of all kept scores, 0..1; the rest was pruned, or is no score."""
    num_forwarded: int
    """Tokens of the tree that were forwarded, beside those of greedy decoding."""


@dataclass(eq=False)
class _Branch(Node):
    text: str = ""
    """What was written behind the root."""
    logprob: float = 0.0
    """Of that text behind the root."""


class AnswerTree:
    """The tokens that numbers and tags are written with, by one policy's tokenizer."""

    def __init__(self, policy: Policy):
        self.policy = policy
        characters = set(f" \t\n\r\f\v0123456789.{OPEN}{CLOSE}")
        (anchor,) = policy.tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        vocabulary = range(policy.model.get_output_embeddings().out_features)
        # Behind another token, as some tokenizers drop a blank at the beginning of a text.
        start = len(self._text([anchor]))
        texts = policy.processor.batch_decode(
            [[anchor, token] for token in vocabulary], skip_special_tokens=True
        )
        pieces = {token: text[start:] for token, text in zip(vocabulary, texts, strict=True)}
        self.pieces = {
            token: piece for token, piece in pieces.items() if piece and set(piece) <= characters
        }
        """The text that each of them adds, by id."""
        self._followers: dict[tuple[str, str], tuple[int, ...]] = {}

    def _text(self, ids: Sequence[int]) -> str:
        return self.policy.processor.decode(ids, skip_special_tokens=True)

    def followed(
        self, rollout: Rollout, requests: list[EncodedPrompt], max_new_tokens: int
    ) -> list[tuple[Completion, Expected | None]]:
        """The greedy completion of each prompt, and what may stand in its answer; None where it
        has no answer to begin with.

        With another back end than transformers' the policy reads prompts and completions once
        more, as that back end keeps its keys and values to itself.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
        found: list[tuple[Completion, Expected | None]] = []
        for first in range(0, len(requests), ROWS_AT_ONCE):
            found += self._chunk(rollout, requests[first : first + ROWS_AT_ONCE], sampling)
        return found

    def _chunk(
        self, rollout: Rollout, requests: list[EncodedPrompt], sampling: Sampling
    ) -> list[tuple[Completion, Expected | None]]:
        if isinstance(rollout, HfRollout):
            completions, kept = rollout.generate_kept(requests, sampling)
        else:
            groups = rollout.generate(requests, 1, sampling, seed=0)
            completions = [completion for (completion,) in groups]
            kept = hf_rollout(self.policy).read_kept(requests, completions)
        places = [self._answer_place(completion.token_ids) for completion in completions]
        starts = [1 if place is None else place[0] for place in places]
        tree = Tree(self.policy.model, kept, requests, starts)
        roots = [
            [] if place is None else [_Branch(token=completion.token_ids[start - 1])]
            for completion, start, place in zip(completions, starts, places, strict=True)
        ]
        given = ["" if place is None else place[1] for place in places]
        if any(roots):
            leaves = self._grown(tree, roots, given)
        else:
            leaves = [{} for _ in roots]
        counted = zip(leaves, tree.num_forwarded, roots, strict=True)
        expected = [_expected(own, count) if root else None for own, count, root in counted]
        return list(zip(completions, expected, strict=True))

    def _answer_place(self, ids: Sequence[int]) -> tuple[int, str] | None:
        """How many tokens stand before the answer, and what of `<answer>` is not in them; None
        where there is no such tag, or nothing before it ends."""
        text = self._text(ids)
        end = text.find(OPEN) + len(OPEN)
        if end < len(OPEN):
            return None
        ends = token_ends(self.policy.processor, ids)
        start = sum(one <= end for one in ends)
        return (start, text[ends[start - 1] : end]) if start else None

    def _grown(
        self, tree: Tree, levels: list[list[_Branch]], given: Sequence[str]
    ) -> list[dict[float, float]]:
        """Probability by score, of each row. given: what each row has to write first."""
        found: list[dict[float, float]] = [defaultdict(float) for _ in levels]
        for _ in range(MAX_TOKENS):
            rows = tree.grow(levels)
            following: list[list[_Branch]] = []
            for row, (nodes, logprobs) in enumerate(zip(levels, rows, strict=True)):
                branches = [
                    branch
                    for node, known in zip(nodes, logprobs, strict=True)
                    for branch in self._children(node, known, given[row])
                ]
                ended = [one for one in branches if "<" in one.text[len(given[row]) :]]
                for one in ended:
                    score = _score(one.text[len(given[row]) :])
                    if score is not None:
                        found[row][score] += exp(one.logprob)
                likely = [one for one in branches if exp(one.logprob) >= PRUNED]
                following.append([one for one in likely if one not in ended])
            levels = following
            if not any(levels):
                break
        return found

    def _children(self, node: _Branch, logprobs: Any, given: str) -> list[_Branch]:
        tokens = self._allowed(node.text, given)
        if not tokens:
            return []
        known = logprobs[list(tokens)].tolist()
        return [
            _Branch(
                token=token,
                parent=node,
                text=node.text + self.pieces[token],
                logprob=node.logprob + one,
            )
            for token, one in zip(tokens, known, strict=True)
        ]

    def _allowed(self, text: str, given: str) -> tuple[int, ...]:
        """Tokens after which the text can still become an answer."""
        if (text, given) not in self._followers:  # texts are short and few
            self._followers[text, given] = tuple(
                token for token, piece in self.pieces.items() if can_follow(text + piece, given)
            )
        return self._followers[text, given]


def can_follow(text: str, given: str = "") -> bool:
    """Whether a text is the beginning of `given`, a number from 1 to 5 and `</answer>`.

    >>> [can_follow(text) for text in ("3", "3.", "3.4</", "", "6", "3..", "</", "3 4", "3.</")]
    [True, True, True, True, False, False, False, False, False]
    >>> can_follow(">3", given=">"), can_follow("3", given=">")
    (True, False)
    """
    if not text.startswith(given):
        return given.startswith(text)
    number, closed, rest = text[len(given) :].partition("<")
    if closed:
        return CLOSE.startswith(f"<{rest}") and _score(f"{number}<") is not None
    match = _NUMBER.fullmatch(number)
    if match is None or int(match[1] or 0) > 5:
        return False
    # A blank ends a number, and a point needs a digit before it.
    written = number.strip(" \t\n\r\f\v")
    return not (written.startswith(".") or (number[-1:].isspace() and written.endswith(".")))


def _score(text: str) -> float | None:
    """The score before the closing tag, of which at least the first character is there."""
    answer = parse_answer(f"{OPEN}{text.partition('<')[0]}{CLOSE}")
    return answer.value if isinstance(answer, Answer) else None


def _expected(found: dict[float, float], num_forwarded: int) -> Expected:
    kept = sum(found.values())
    shares = tuple((score, found[score] / kept) for score in sorted(found)) if kept else ()
    return Expected(distribution=shares, kept=min(kept, 1.0), num_forwarded=num_forwarded)
