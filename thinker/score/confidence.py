"""How sure a policy is of each box that it wrote: the probabilities of the tokens that say it.

In: prompts, the token ids that the policy answered with, the rows that they made. Out: the same
rows, each box with its confidence. One forward over prompt and answer gives the probabilities, so
they are the same whichever back end generated, and training pays nothing for them. Answers without
boxes are not forwarded again.

A confidence orders boxes by how sure they are, which average precision needs (`eval/bench/vida`);
it is no probability that the box is right.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rewards.boxes import Span
from thinker.policies import Policy
from thinker.policies.encode import EncodedPrompt, last_hidden
from thinker.score.prediction import Prediction
from thinker.tasks.boxes import said_boxes

TOKENS_AT_ONCE = 256
"""Logits of so many tokens are held at a time."""


def with_confidence(
    policy: Policy,
    requests: Sequence[EncodedPrompt],
    answers: Sequence[Sequence[int]],
    rows: Sequence[Prediction],
    references: Sequence[Any],
) -> list[Prediction]:
    """Rows whose boxes have a confidence: the geometric mean of the probabilities of its label's
    tokens times that of its corners' tokens (of the corners alone where there is no label).

    answers: the token ids of each completion. references: what `parse` read them by.

    Example: a label of one token at .5 and corners of two at .8 and .2 make .5 · √.16 = .2.
    """
    rows = list(rows)
    found = [place for place, row in enumerate(rows) if row.boxes]
    logprobs = completion_logprobs(
        policy, [requests[place] for place in found], [answers[place] for place in found]
    )
    for place, known in zip(found, logprobs, strict=True):
        row, ends = rows[place], token_ends(policy.processor, answers[place])
        said = said_boxes(row.task, row.completion or "", references[place]).boxes
        rows[place] = replace(
            row,
            boxes=tuple(
                replace(box, confidence=confidence(one.spans, ends, known) if one.spans else None)
                for box, one in zip(row.boxes, said, strict=True)
            ),
        )
    return rows


def confidence(spans: Sequence[Span], ends: Sequence[int], logprobs: Sequence[float]) -> float:
    """The product, over pieces of a text, of the geometric mean of their tokens' probabilities.

    spans: characters of the pieces. ends: behind which character each token ends.

    >>> halves = [math.log(0.5), math.log(0.8), math.log(0.2)]
    >>> round(confidence([(0, 5), (6, 12)], [5, 9, 12], halves), 6)
    0.2
    """
    total = 0.0
    for start, end in spans:
        first, last = bisect.bisect_right(ends, start), bisect.bisect_left(ends, end)
        piece = logprobs[first : last + 1]
        total += sum(piece) / len(piece) if piece else 0.0
    return math.exp(total)


def token_ends(processor: Any, token_ids: Sequence[int]) -> list[int]:
    """How many characters of the text are written once each token is there."""
    prefixes = [token_ids[: count + 1] for count in range(len(token_ids))]
    texts = processor.batch_decode(prefixes, skip_special_tokens=True)
    ends: list[int] = []
    for text in texts:
        ends.append(max(len(text), ends[-1] if ends else 0))
    return ends


@torch.no_grad()
def completion_logprobs(
    policy: Policy, requests: Sequence[EncodedPrompt], answers: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The log-probability of every token of each answer behind its prompt, in float32."""
    if not requests:
        return []
    said = [answer[:-1] for answer in answers]
    hidden_BCD = last_hidden(policy, requests, said, keep=max(map(len, answers)))
    rows = zip(hidden_BCD, answers, strict=True)
    return [_logprobs(policy.model, hidden[-len(answer) :], answer) for hidden, answer in rows]


def _logprobs(model: Any, hidden_CD: torch.Tensor, answer: Sequence[int]) -> list[float]:
    said: list[float] = []
    ids = torch.tensor(answer, device=hidden_CD.device)
    for start in range(0, len(answer), TOKENS_AT_ONCE):
        part = slice(start, start + TOKENS_AT_ONCE)
        logits = model.get_output_embeddings()(hidden_CD[part]).float()
        said += logits.log_softmax(-1).gather(1, ids[part, None])[:, 0].tolist()
    return said
