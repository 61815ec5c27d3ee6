"""Open answers graded by a judge: a model behind any OpenAI-compatible endpoint.

The prompt is that of Q-Bench-Video (arXiv 2409.20063; the text as VLMEvalKit has it,
`vlmeval/dataset/utils/qbench_video.py`): 2 = fully, 1 = partly, 0 = not, on completeness, accuracy
and relevance. Each answer is graded `CALLS` times. A reply that gives none of the three numbers is
invalid: it is kept and counted, and no number is made up for it.

Every reply is a row of a journal as soon as it is there, so a run that goes on pays for none twice.
A try that failed has no reply and is made again.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker.utils.chat_client import CallCapError, ChatClient, ChatError
from thinker.utils.journal import RowJournal, claimed_folder, read_rows

CALLS = 5
"""Gradings of one answer, as published."""
TEMPERATURE = 1.0
"""The services' default. At 0 five calls would be one."""
MAX_REPLY_TOKENS = 64
"""The reply that is asked for has four; a reply that is longer is prose."""
WORKERS = 4
"""Answers that are graded at once."""
GIVE_UP = 3
"""Calls without an answer, one after the other, until no more are sent: the endpoint is gone."""

SYSTEM = (
    "You are a helpful assistant that grades answers related to visual video quality.\n"
    "There are a lot of special terms or keywords related to video processing and photography.\n"
    "You will pay attention to the context of `quality evaluation' when grading."
)
GRADE = (
    "Given the question {question}, evaluate whether the response {answer} completely matches the "
    "correct answer {reference}.\n"
    "First, check the response and please rate score 0 if the response is not a valid answer.\n"
    "Please rate score 2 if the response completely or almost completely matches the correct "
    "answer on completeness, accuracy, and relevance.\n"
    "Please rate score 1 if the response partly matches the correct answer on completeness, "
    "accuracy, and relevance.\n"
    "Please rate score 0 if the response doesn't match the correct answer on completeness, "
    "accuracy, and relevance at all.\n"
    "Please only provide the result in the following format: Score:'"
)

JUDGED, NO_VERDICT, NOT_JUDGED = "judged", "no_verdict", "not_judged"

_AROUND = r"[\s*_'\"`:=()\[\]]*"
_BARE = re.compile(rf"{_AROUND}(?:score)?{_AROUND}([0-2])(?:\.0+)?\.?{_AROUND}", re.IGNORECASE)
_LABELLED = re.compile(r"\bscore[ *_]*[:=]([^\n]*)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Graded:
    """An open answer to be graded."""

    place: int
    """Its number in its set; part of the journal's key."""
    question: str
    """What was asked, without prompts around it."""
    answer: str
    """What the policy answered."""
    reference: str
    """The right answer."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What the judge is sent."""
        # Not str.format: a question may hold braces.
        parts = {"question": self.question, "answer": self.answer, "reference": self.reference}
        text = re.sub(r"{(\w+)}", lambda match: parts[match[1]], GRADE)
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]

    @property
    def digest(self) -> str:
        """Stands for what is sent: a reply to something else does not count."""
        return hashlib.sha256(json.dumps(self.messages).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of grading one answer."""

    status: str
    """`JUDGED`; `NO_VERDICT`, where no more than half of the replies are scores; `NOT_JUDGED`,
    where replies are missing."""
    score: int | None = None
    """0, 1 or 2, the one of most replies; the lowest of those given equally often."""
    mean: float | None = None
    """Of the valid replies, in 0..2: what the published figure is made of."""
    replies: tuple[str, ...] = ()
    """As the judge wrote them."""
    num_invalid: int = 0
    """Replies that are no score."""
    reason: str = ""
    """Why there is no score, for a person."""


def parse_score(reply: str) -> int | None:
    """The score that a reply gives, or None: it is 0, 1 or 2, alone or behind "Score:".

    >>> [parse_score(text) for text in ("Score: 2", "1", "**Score:** 0.", "It is good. Score: 2")]
    [2, 1, 0, 2]
    >>> [parse_score(text) for text in ("It matches well.", "Score: 1.5", "3", "Score: 1 or 2", "")]
    [None, None, None, None, None]
    """
    parts = [reply] if _BARE.fullmatch(reply) else _LABELLED.findall(reply)
    found = [_BARE.fullmatch(part) for part in parts]
    scores = {None if match is None else int(match[1]) for match in found}
    return scores.pop() if len(scores) == 1 else None


def verdict(replies: Sequence[str], *, calls: int = CALLS, reason: str = "") -> Verdict:
    """The majority of the replies to one answer. More than half of the calls have to be scores; of
    scores given equally often the lowest counts.

    reason: why replies are missing, where some are.

    >>> verdict(["Score: 2", "Score: 1", "1", "2", "well"]).score
    1
    """
    scores = [score for score in map(parse_score, replies) if score is not None]
    common: dict[str, Any] = {
        "replies": tuple(replies),
        "num_invalid": len(replies) - len(scores),
        "mean": sum(scores) / len(scores) if scores else None,
    }
    if len(replies) < calls:
        why = f"{len(replies)} of {calls} replies are there: {reason or 'not asked'}"
        return Verdict(status=NOT_JUDGED, reason=why, **common)
    if 2 * len(scores) <= calls:
        why = f"{len(replies) - len(scores)} of {calls} replies are no score"
        return Verdict(status=NO_VERDICT, reason=why, **common)
    counts = Counter(scores)
    winner = min(counts, key=lambda score: (-counts[score], score))
    return Verdict(status=JUDGED, score=winner, **common)


class Judge:
    """Grades answers through an endpoint and remembers every reply in a folder."""

    def __init__(self, client: ChatClient, *, calls: int = CALLS) -> None:
        if calls < 1:
            raise ValueError(f"{calls} calls an answer, expected at least 1")
        self.client, self.calls = client, calls
        self.stopped = ""
        """Why nothing is asked any more; empty while it goes on."""
        self._lock = threading.Lock()
        self._num_lost = 0

    def probe(self) -> None:
        """One call, before anything slow starts. Raises ValueError where there is no answer."""
        example = Graded(
            place=0, question="Is it sharp?", answer="Yes.", reference="Yes, it is sharp."
        )
        try:
            self._ask(example)
        except ChatError as error:
            raise ValueError(
                f"the judge {self.client.model!r} does not answer: {error}; start it, name another "
                "endpoint (--judge-url), or leave it out: open questions are then not measured"
            ) from None

    def grade(
        self, folder: Path, key: str, answers: Sequence[Graded], progress: Callable[[], None]
    ) -> list[Verdict]:
        """The verdict on each answer. Only what the journal in `folder` lacks is asked.

        Raises ValueError where the folder holds replies of another judge.
        """
        path = folder / f"{key}.jsonl"
        mine = {
            "model": self.client.model,
            "calls": self.calls,
            "temperature": TEMPERATURE,
            "prompt": hashlib.sha256((SYSTEM + GRADE).encode()).hexdigest()[:16],
        }

        def has_rows() -> bool:
            return any(read_rows(one) for one in folder.glob("*.jsonl"))

        with claimed_folder(folder, mine, has_rows):
            journal = RowJournal(path)

        def graded(answer: Graded) -> Verdict:
            made = self._graded(answer, journal)
            progress()
            return made

        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            return list(pool.map(graded, answers))

    def _graded(self, answer: Graded, journal: RowJournal) -> Verdict:
        replies, reason = [], ""
        for call in range(self.calls):
            index = answer.place * self.calls + call
            row = journal.rows.get(index)
            if row is None or row["asked"] != answer.digest:
                reply, reason = self._reply(answer)
                if reply is None:
                    break
                row = {"id": answer.place, "call": call, "asked": answer.digest, "reply": reply}
                with self._lock:
                    journal.replace([(index, row)])
            replies.append(row["reply"])
        return verdict(replies, calls=self.calls, reason=reason)

    def _reply(self, answer: Graded) -> tuple[str | None, str]:
        """The judge's words, or None and why there are none."""
        if self.stopped:
            return None, self.stopped
        try:
            reply = self._ask(answer)
        except CallCapError as error:
            self.stopped = str(error)
            return None, self.stopped
        except ChatError as error:
            with self._lock:
                self._num_lost += 1
                if self._num_lost >= GIVE_UP:
                    self.stopped = f"{error}, {self._num_lost} calls in a row"
            return None, str(error)
        with self._lock:
            self._num_lost = 0
        return reply, ""

    def _ask(self, answer: Graded) -> str:
        return self.client.ask(
            answer.messages, temperature=TEMPERATURE, max_tokens=MAX_REPLY_TOKENS
        )
