"""One record of a label file, from bytes to checked values.

In go the bytes of a jsonl line or of a whole meta JSON, out come plain fields (id, path, MOS).
Whatever is not exactly of the form raises `BadValueError` with a reason; nothing is repaired or
guessed. `read.py` describes the forms and adds what needs the file system and the scale;
`conversations.py` checks the records of questions with the means of this file.
"""

import json
import math
import re
import reprlib
import unicodedata
from typing import Any, NamedTuple

from rewards.answer import Located, locate_tagged
from thinker.utils.names import path_text

# ASCII digits only: float() would also take "1_0", "NaN" and the digits of other scripts.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_JSON_SPACE = re.compile(r"[ \t\n\r]*")
_OPEN, _CLOSE = "<answer>", "</answer>"
# Control characters, half surrogates, line and paragraph separators: they break tables and paths.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
MAX_SHOWN_CHARACTERS = 80  # of a bad value in its reason: a reason is one readable line


class BadValueError(ValueError):
    """Why a record cannot be a sample, and on which line of the given bytes."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.line = line


class Record(NamedTuple):
    """What a file says of one video."""

    dataset: str
    """Key of the data set."""
    id: str
    """What the file calls the video."""
    video: str
    """Relative path, not yet looked up."""
    mos: float
    """Finite, on the data set's own scale."""
    content: str | None = None
    """The source content that the file names, if it does; None leaves it to the path."""
    tags: tuple[tuple[str, str], ...] = ()
    """Name and value of each tag, by which figures are broken down; "distortion" is what the
    reward `reasoning` compares with."""


def train_record(raw: bytes) -> Record:
    """The record of one line of a training jsonl."""
    line = mapping(load_json(raw), "the line")
    name = text(member(line, "dataset_name"), "dataset_name")
    key = dataset_key(name)
    if not key:
        raise BadValueError(f"dataset_name {show(name)} holds no letter or digit")
    value = member(line, "id")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    image = member(line, "image")
    if isinstance(image, list):
        if len(image) != 1:
            raise BadValueError(f"image is a list of {len(image)} paths, expected exactly one")
        image = image[0]
    return Record(
        dataset=key,
        id=text(value, "id"),
        video=file_name(image, "image"),
        mos=_label(member(line, "conversations")),
        content=_content(line),
        tags=tag_pairs(line.get("tags")),
    )


def json_lines(data: bytes) -> list[bytes]:
    """The lines of a jsonl; empty ones at its end do not count."""
    data = data.rstrip(b"\r\n")
    return data.split(b"\n") if data else []


def json_list(raw: bytes) -> list[tuple[int, Any]]:
    """(line from 1, value) of each entry of a JSON list; the values are not yet checked."""
    entries = load_json(raw)
    if not isinstance(entries, list) or not entries:
        raise BadValueError(f"the file is {show(entries)}, expected a list with records")
    text = raw.decode()
    return list(zip(_entry_lines(text, _skip(text, 0)), entries, strict=True))


def meta_annotations(raw: bytes) -> list[tuple[int, Any]]:
    """(line from 1, value) of each annotation of a meta JSON; the values are not yet checked."""
    document = mapping(load_json(raw), "the file")
    annotations = member(document, "annotations")
    if not isinstance(annotations, list) or not annotations:
        raise BadValueError(f"annotations is {show(annotations)}, expected a list with entries")
    return list(zip(_annotation_lines(raw.decode()), annotations, strict=True))


def meta_record(annotation: object, dataset: str) -> Record:
    """The record of one annotation; its id is its path, as outputs write it."""
    annotation = mapping(annotation, "the annotation")
    image_id = file_name(member(annotation, "image_id"), "image_id")
    if member(annotation, "ann_type") != "score":
        raise BadValueError(f"ann_type is {show(annotation['ann_type'])}, expected 'score'")
    mos = parse_mos(member(annotation, "score"))
    return Record(
        dataset=dataset,
        id=path_text(image_id),
        video=image_id,
        mos=mos,
        content=_content(annotation),
        tags=tag_pairs(annotation.get("tags")),
    )


def parse_mos(value: object) -> float:
    """A finite float from an int, a float, or a string in decimal notation.

    "67.75", 67.75 and " 1e1\\n" are numbers; True, None, "NaN", "1_0", "٣.٥" and 10**400 are not.
    """
    if isinstance(value, str):
        text = value.strip(" \t\r\n")
        if not _NUMBER.fullmatch(text):
            raise BadValueError(f"mos {show(value)} is not a decimal number")
        number = float(text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        raise BadValueError(f"mos is {show(value)}, expected a number or a string holding one")
    if not math.isfinite(number):
        raise BadValueError(f"mos {show(value)} is not finite")
    return number


def label_number(answer: object) -> float:
    """The number that an answer is, or that its one `<answer>…</answer>` encloses."""
    if isinstance(answer, str):
        located = locate_tagged(answer)
        answer = located.text if isinstance(located, Located) else answer
    return parse_mos(answer)


def dataset_key(name: str) -> str:
    """The key of a display name: "KoNViD-1k" → "konvid_1k"; empty for a name of signs only."""
    return re.sub(r"\W+", "_", name.casefold()).strip("_")


def show(value: object) -> str:
    """A short repr of any JSON value, also of one nested deeper than repr itself can follow."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = MAX_SHOWN_CHARACTERS
    return short.repr(value)


def load_json(raw: bytes) -> object:
    """The JSON value of UTF-8 bytes. A key given twice in one object is an error, too."""
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique_keys)
    except BadValueError:
        raise
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadValueError(f"not UTF-8: {error.reason} at byte {error.start}", line) from None
    except json.JSONDecodeError as error:
        reason = f"broken JSON: {error.msg} at column {error.colno}"
        raise BadValueError(reason, error.lineno) from None
    except RecursionError:
        raise BadValueError("broken JSON: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadValueError(f"broken JSON: {error}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadValueError(f"key {show(twice)} is given twice")
    return members


def _content(fields: dict[str, Any]) -> str | None:
    return text(fields["content"], "content") if "content" in fields else None


def tag_pairs(given: object) -> tuple[tuple[str, str], ...]:
    """Name and value of each tag of a mapping; a number is its text, None stands for no tags."""
    return tuple(
        (name, text(str(value) if isinstance(value, int | float) else value, f"tag {show(name)}"))
        for name, value in mapping({} if given is None else given, "tags").items()
    )


def _label(conversations: object) -> float:
    """The MOS of a conversation: one human turn, then one gpt turn whose value is the label."""
    if not isinstance(conversations, list) or len(conversations) != 2:
        raise BadValueError(
            f"conversations is {show(conversations)}, expected a list of a human and a gpt turn"
        )
    values = []
    for turn, speaker in zip(conversations, ("human", "gpt"), strict=True):
        turn = mapping(turn, f"the {speaker} turn")
        if member(turn, "from") != speaker:
            raise BadValueError(f"turn is from {show(turn['from'])}, expected {speaker!r}")
        values.append(member(turn, "value"))
    question, label = values
    if not isinstance(question, str):
        raise BadValueError(f"the human value is {show(question)}, expected a string")
    if isinstance(label, str):
        text = label.strip(" \t\r\n")
        if text.startswith(_OPEN) and text.endswith(_CLOSE):
            label = text[len(_OPEN) : -len(_CLOSE)]
    return parse_mos(label)


def _annotation_lines(text: str) -> list[int]:
    """The line (from 1) on which each element of the top-level "annotations" list starts.

    `text` is known to be a JSON object with that list, so this only looks for offsets.
    """
    decode = json.JSONDecoder().raw_decode
    at = _skip(text, _skip(text, 0) + 1)  # behind "{"
    while True:
        key, at = decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # behind ":"
        if key == "annotations":
            return _entry_lines(text, at)
        at = decode(text, at)[1]
        at = _skip(text, _skip(text, at) + 1)  # behind ","


def _entry_lines(text: str, at: int) -> list[int]:
    """The line (from 1) on which each entry of the list at offset `at` starts."""
    decode = json.JSONDecoder().raw_decode
    at = _skip(text, at + 1)  # behind "["
    lines, line, counted = [], 1, 0
    while text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        lines.append(line)
        at = _skip(text, decode(text, at)[1])
        if text[at] == ",":
            at = _skip(text, at + 1)
    return lines


def _skip(text: str, at: int) -> int:
    """The offset of what follows the white space at `at`."""
    match = _JSON_SPACE.match(text, at)
    assert match is not None  # it matches the empty string
    return match.end()


def mapping(value: object, what: str) -> dict[str, Any]:
    """A JSON object; `what` names it in the reason."""
    if not isinstance(value, dict):
        raise BadValueError(f"{what} is {show(value)}, expected a JSON object")
    return value


def member(fields: dict[str, Any], key: str) -> Any:
    """A field that must be there."""
    if key not in fields:
        raise BadValueError(f"missing field {key!r}")
    return fields[key]


def text(value: object, what: str) -> str:
    """A string that can be printed, put in a table and encoded as UTF-8."""
    if not isinstance(value, str):
        raise BadValueError(f"{what} is {show(value)}, expected a string")
    if not value.strip():
        raise BadValueError(f"{what} is empty")
    if any(unicodedata.category(character) in _UNPRINTABLE for character in value):
        raise BadValueError(f"{what} {show(value)} holds a character that is not printable")
    return value


def file_name(value: object, what: str) -> str:
    """A path: any characters but NUL. What is no UTF-8 stands as Python's JSON writes it: byte 0xff
    as half a surrogate, \\udcff."""
    if not isinstance(value, str):
        raise BadValueError(f"{what} is {show(value)}, expected a string")
    if not value.strip():
        raise BadValueError(f"{what} is empty")
    if "\0" in value or any("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" for c in value):
        raise BadValueError(f"{what} {show(value)} holds a character that is not printable")
    return value


def prose(value: object, what: str) -> str:
    """A text of one or several lines, which may be empty; it can be printed and encoded."""
    if not isinstance(value, str):
        raise BadValueError(f"{what} is {show(value)}, expected a string")
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t" for c in value):
        raise BadValueError(f"{what} {show(value)} holds a character that is not printable")
    return value
