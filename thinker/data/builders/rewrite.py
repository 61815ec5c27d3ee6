"""Drafts in other words: an endpoint rewrites each turn, and what it says is checked.

A rewriting is taken where every fact of the turn is still in it and no other has come in: names of
distortions, levels, degrees, numbers. What fails is refused, the template's words stay, and it is
counted. Letters, yes and no, and lists of options never leave the house. Every answer of the
endpoint, taken or refused, is a row of a journal, so a run that was stopped goes on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rewards.describe import LEVEL_OF
from rewards.distortion import DISTORTIONS, NONE, SEVERITY_WORDS
from thinker.data.builders.draft import Asked, Draft
from thinker.tasks import TASKS
from thinker.utils.chat_client import ChatClient, ChatError
from thinker.utils.journal import Row, RowJournal, claimed_folder

CONNECTIONS = 8
"""Calls at a time."""
CHUNK = 32
"""Turns between two writes of the journal."""
MAX_LENGTH = 6
"""A rewriting of more than this times the length of what was given says more than it."""
TEMPERATURE = 0.7
PROMPT = (
    "Rewrite a question about the quality of a {medium}, and its answer, in other words. Change "
    "nothing that is said, add nothing, and keep these words exactly: {keep}.\n"
    "{fixed}"
    'Reply with one JSON object and nothing else: {{"question": "…", "answer": "…"}}\n\n'
    "Question: {question}\nAnswer: {answer}"
)
FIXED = "The answer is fixed; repeat it as it is.\n"

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MARKS = re.compile(r"<[^>]*>|\n[ \t]*\(?[A-Z][.):]")


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What came of it."""

    drafts: list[Draft]
    """In the order that was given; refused turns in the template's words."""
    num_taken: int
    """Turns in new words."""
    refused: tuple[str, ...]
    """Why each refused turn was refused."""


def rewrite(drafts: Sequence[Draft], client: ChatClient, folder: Path, words: tuple[str, ...] = ()
            ) -> Rewritten:  # fmt: skip
    """Every turn of every draft in the endpoint's words, where they hold.

    folder: of the journal; one of other drafts, another model or another endpoint is refused.
    words: the set's level words. Raises ValueError, with what is done kept, for an endpoint that
    does not answer or calls that are used up.
    """
    turns = [
        # What comes before the last answer is talk: only that one is of the draft's task.
        (asked, draft.task if asked is draft.asked[-1] else "open", draft.medium)
        for draft in drafts
        for asked in draft.asked
    ]
    digest = hashlib.sha256(json.dumps([asdict(draft) for draft in drafts]).encode()).hexdigest()
    fingerprint = {"drafts": digest, "model": client.model, "url": client.url, "prompt": PROMPT}
    path = folder / "rewritten.jsonl"
    with claimed_folder(folder, fingerprint, lambda: path.exists() and path.stat().st_size > 0):
        journal = RowJournal(path)
        waiting = [number for number in range(len(turns)) if number not in journal.rows]

        def ask(number: int) -> Row | ChatError:
            try:
                return _ask(client, *turns[number], words)
            except ChatError as error:
                return error

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for first in range(0, len(waiting), CHUNK):
                numbers = waiting[first : first + CHUNK]
                rows = list(zip(numbers, pool.map(ask, numbers), strict=True))
                journal.append((n, row) for n, row in rows if not isinstance(row, ChatError))
                failed = [row for _, row in rows if isinstance(row, ChatError)]
                if failed:
                    raise ValueError(
                        f"{failed[0]}; {len(journal.rows)} of {len(turns)} turns are done and "
                        f"kept in {folder}; the same command goes on from there"
                    )
    return _applied(drafts, [journal.rows[number] for number in range(len(turns))])


def _applied(drafts: Sequence[Draft], rows: Sequence[Row]) -> Rewritten:
    waiting = iter(rows)
    new = []
    for draft in drafts:
        turns = []
        for asked in draft.asked:
            row = next(waiting)
            if "refused" not in row:
                asked = replace(asked, question=row["question"], answer=row["answer"])
            turns.append(asked)
        new.append(replace(draft, asked=tuple(turns)))
    refused = tuple(row["refused"] for row in rows if "refused" in row)
    return Rewritten(drafts=new, num_taken=len(rows) - len(refused), refused=refused)


def _ask(client: ChatClient, asked: Asked, task: str, medium: str, words: tuple[str, ...]) -> Row:
    """The row of one turn: its new words, or why they are refused and what was said."""
    is_fixed = task == "choice" or bool(_MARKS.search(asked.answer))  # a letter, or a tagged score
    kept = ", ".join(f'"{word}"' for word in dict.fromkeys(asked.keep)) or "none"
    prompt = PROMPT.format(
        medium=medium,
        keep=kept,
        fixed=FIXED if is_fixed else "",
        question=asked.question,
        answer=asked.answer,
    )
    said = client.ask([{"role": "user", "content": prompt}], temperature=TEMPERATURE)
    try:
        new = _parsed(said)
        if is_fixed:
            new["answer"] = asked.answer
        rewritten = replace(asked, question=new["question"], answer=new["answer"])
        check_rewriting(asked, rewritten, task, words)
    except ValueError as error:
        return {"refused": str(error), "said": said}
    return new


def _parsed(said: str) -> dict[str, str]:
    """Question and answer of a reply, which may be fenced as code."""
    begin, end = said.find("{"), said.rfind("}")
    try:
        value = json.loads(said[begin : end + 1])
    except (ValueError, RecursionError):
        value = None
    texts = value if isinstance(value, dict) else {}
    found = {key: texts.get(key) for key in ("question", "answer")}
    if not all(isinstance(text, str) and text.strip() for text in found.values()):
        raise ValueError("it is no JSON object with a question and an answer")
    return {key: str(text).strip() for key, text in found.items()}


def check_rewriting(old: Asked, new: Asked, task: str, words: tuple[str, ...] = ()) -> None:
    """Raises ValueError with the reason where a fact was lost or has come in.

    words: the set's level words. Of "It is severe noise.", "Severe noise is what one sees." is
    taken; "It is noise.", "It is severe noise and blur." and "It is severe noise at 3 s." are not.
    """
    both = f"{old.question} {old.answer}"
    for what, before, after, known in (
        ("question", old.question, new.question, old.question),  # the answer must not stand in it
        ("answer", old.answer, new.answer, both),
    ):
        if _MARKS.search(after) and after != before:
            raise ValueError(f"the {what} holds a tag or a list of options")
        if len(after) > MAX_LENGTH * len(before) + 100:
            raise ValueError(f"the {what} is {len(after)} characters long, was {len(before)}")
        for word in old.keep:
            if _holds(before, word) and not _holds(after, word):
                raise ValueError(f"the {what} has lost {word!r}")
        gained = sorted(_facts(after, (*words, *old.keep)) - _facts(known, (*words, *old.keep)))
        if gained:
            raise ValueError(f"the {what} has gained {gained[0]!r}")
    _same(task, lambda asked: TASKS[task].read_reference(asked.answer, asked.options), old, new)


def _same(task: str, read: Callable[[Asked], object], old: Asked, new: Asked) -> None:
    """The task reads the same answer; only texts may differ."""
    before, after = (getattr(read(asked), "answer", None) for asked in (old, new))
    if before != after:
        raise ValueError(f"as task {task} reads it, the answer was {before!r} and is {after!r}")


def _holds(text: str, word: str) -> bool:
    """Whether the word stands in the text: whole, but for endings ("stall" in "stalls")."""
    return re.search(rf"(?<!\w){re.escape(word.lower())}", text.lower()) is not None


def _facts(text: str, words: tuple[str, ...]) -> set[str]:
    """Names of distortions, levels, severities and numbers in a text."""
    known = {*DISTORTIONS, *SEVERITY_WORDS, *LEVEL_OF, *words} - {NONE}
    low = text.lower()
    named = {word for word in known if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", low)}
    return named | set(_NUMBER.findall(low))
