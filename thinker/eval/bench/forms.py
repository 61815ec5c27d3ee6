"""One record of a benchmark's own file → the fields of a flat question (data/conversations.py).

- Q-Bench-Video (Q-Future/Q-Bench-Video, `GPT_test.py`): `{"video_name": "a.mp4", "question":
  "Which …?", "answers": ["blur", "noise"], "question_type": "what/how", "quality_concern":
  "Technical", "context": "Global", "video_type": "…", "correct_choice": "A"}`. A pair is one name,
  `a.mp4_cat_b.mp4.mp4`: two names, then four characters that belong to neither.
- Q-Bench (LLVisionQA) for images: `{"img_path": "a.jpg", "question": …, "candidates": […],
  "correct_ans": "noise", "type": 1, "concern": 0}`, and for pairs (Q-Bench2) `"img_path":
  "folder\\\\00079.jpg_cat_09769.jpg.jpg"` with `correct_choice`.
"""

import re
from string import ascii_uppercase as LETTERS
from typing import Any

from thinker.data.records import BadValueError, mapping, member, prose, show, text

PAIR_MARK = "_cat_"
PAIR_END = 4
"""Characters behind the second name of a pair (".mp4", ".jpg"), which the published programs cut
off."""
PAIR_CONTEXTS = ("compare", "joint")
OPEN = "open"
"""What the type of an open question contains ("open_ended")."""

IMAGE_TYPES = ("yes-or-no", "what", "how")
IMAGE_CONCERNS = ("distortion", "other", "in-context distortion", "in-context other")
"""What the numbers 0, 1, … of Q-Bench's `type` and `concern` stand for: the order of the columns of
its README's tables."""

SINGLE, PAIR = "single", "pair"

# "at 3 seconds", "the 2nd second", "second 4", "1-2 s"
_TIME_MARK = re.compile(
    r"\b\d+(?:\.\d+)?(?:st|nd|rd|th)?\s*(?:seconds?|secs?|s)\b|\bseconds?\s+\d", re.IGNORECASE
)


def video_fields(value: object) -> dict[str, Any]:
    """The fields of a question of Q-Bench-Video. Raises BadValueError with the reason."""
    raw = mapping(value, "the record")
    name = text(member(raw, "video_name"), "video_name")
    question = _asked(raw)
    kind = _words(raw, "question_type")
    context = _words(raw, "context") if raw.get("context") is not None else None
    is_pair = _is_pair(name, context)
    answers = raw.get("answers")
    fields: dict[str, Any] = _question(
        raw, question, _pair(name) if is_pair else [name], "video", kind, is_pair, context
    )
    if raw.get("quality_concern") is not None:
        fields["quality_concern"] = _words(raw, "quality_concern")
    said = [str(one) for one in answers] if isinstance(answers, list) else [str(answers)]
    if has_time_marks(question, *said):
        fields["tags"]["time"] = "yes"
    if OPEN in kind:
        return fields | {"task": "open", "answer": _open_reference(answers)}
    if not isinstance(answers, list):
        raise BadValueError(f"answers is {show(answers)}, expected the list of options")
    options = [_option(option, f"answers[{number}]") for number, option in enumerate(answers)]
    return _choice(fields, options, raw)


def image_fields(value: object) -> dict[str, Any]:
    """The fields of a question of Q-Bench or Q-Bench2. Raises BadValueError with the reason."""
    raw = mapping(value, "the record")
    name = text(member(raw, "img_path"), "img_path")
    is_pair = PAIR_MARK in name
    # Q-Bench2 names the folder of the joined pictures, written under Windows; the single ones lie
    # in one folder of their own.
    names = _pair(name.rpartition("\\")[2]) if is_pair else [name.replace("\\", "/")]
    kind = _numbered(raw, "type", IMAGE_TYPES)
    question = _asked(raw)
    fields = _question(raw, question, names, "image", kind, is_pair, None)
    if raw.get("concern") is not None:
        fields["concern"] = _numbered(raw, "concern", IMAGE_CONCERNS)
    candidates = member(raw, "candidates")
    if not isinstance(candidates, list):
        raise BadValueError(f"candidates is {show(candidates)}, expected the list of options")
    options = [_option(option, f"candidates[{n}]") for n, option in enumerate(candidates)]
    return _choice(fields, options, raw)


def has_time_marks(*texts: str) -> bool:
    """Whether a question or its options speak of a certain second of the video.

    >>> has_time_marks("Is it blurred at 3 seconds?"), has_time_marks("Is the second video better?")
    (True, False)
    """
    return any(_TIME_MARK.search(one) for one in texts)


def _question(
    raw: dict[str, Any],
    question: str,
    names: list[str],
    medium: str,
    kind: str,
    is_pair: bool,
    context: str | None,
) -> dict[str, Any]:
    """What questions of all kinds have in common."""
    tags = {"media": PAIR if is_pair else SINGLE}
    if context is not None:
        tags["context"] = context
    if raw.get("video_type") is not None:
        tags["video_type"] = _words(raw, "video_type")
    fields = {medium: names, "question": question, "type": kind, "tags": tags}
    return fields | {key: raw[key] for key in ("id",) if raw.get(key) is not None}


def _choice(fields: dict[str, Any], options: list[str], raw: dict[str, Any]) -> dict[str, Any]:
    fields = fields | {"task": "choice", "options": options}
    letter, said = raw.get("correct_choice"), raw.get("correct_ans")
    if letter is not None:
        shown = text(letter, "correct_choice").strip().rstrip(".")
        number = LETTERS.find(shown) if len(shown) == 1 else -1
        if not 0 <= number < len(options):
            raise BadValueError(
                f"correct_choice is {show(letter)}, expected one of the letters of "
                f"{len(options)} options"
            )
        if said is not None and said != options[number]:
            raise BadValueError(
                f"correct_choice {shown} is {show(options[number])}, correct_ans {show(said)}; "
                "expected the same"
            )
        return fields | {"correct_choice": shown}
    return fields if said is None else fields | {"correct_ans": text(said, "correct_ans")}


def _asked(raw: dict[str, Any]) -> str:
    question = prose(member(raw, "question"), "question").strip()
    if not question:
        raise BadValueError("question is empty")
    return question


def _option(value: object, what: str) -> str:
    """The text of an option; numbers count as written."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text(value, what).strip()


def _open_reference(answers: object) -> str | None:
    """The reference text of an open question: a text, or a list that holds one."""
    if answers is None or answers == [] or answers == "":
        return None
    if isinstance(answers, list) and len(answers) == 1:
        answers = answers[0]
    return text(answers, "answers of an open question").strip()


def _words(raw: dict[str, Any], key: str) -> str:
    """A text, or a list of some, joined."""
    value = member(raw, key)
    if isinstance(value, list) and value:
        return ", ".join(text(one, key).strip() for one in value)
    return text(value, key).strip()


def _numbered(raw: dict[str, Any], key: str, names: tuple[str, ...]) -> str:
    """The name that a number stands for; a text stands for itself."""
    value = member(raw, key)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(names):
            raise BadValueError(f"{key} is {value}, expected 0 to {len(names) - 1}")
        return names[value]
    return text(value, key)


def _is_pair(name: str, context: str | None) -> bool:
    """As the published program has it, by the context; where there is none, by the name."""
    if context is None:
        return PAIR_MARK in name
    return any(word in context.lower() for word in PAIR_CONTEXTS)


def _pair(name: str) -> list[str]:
    """The two names of a pair. Raises BadValueError where there are not two."""
    parts = name[:-PAIR_END].split(PAIR_MARK)
    if len(parts) != 2 or not all(parts):
        raise BadValueError(
            f"{show(name)} is asked of a pair; expected two names as 'a.mp4{PAIR_MARK}b.mp4.mp4'"
        )
    return parts
