"""One record of a question, from a JSON value to checked fields.

Three forms, which may be mixed in a file, and whose other keys are ignored:

- a conversation, as LLaVA, VQA² and ViDA write it:
  `{"id": 1, "video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhy?"},
  {"from": "gpt", "value": "It stalls."}]}`. Media stand under `image`, `images`, `video` or
  `videos`, a path or a list, or there are none; turns are `conversations` or `messages` of `from`
  or `role` and `value` or `content`. A last assistant turn is the answer.
- a flat question, as benchmarks write it: `{"image": "a.png", "question": "Which?", "candidates":
  ["blur", "noise"], "correct_ans": "blur", "concern": "type"}`

- a rated file, as VQA²'s scorer lists them, which asks the policy's own question: `{"video_path":
  "a.mp4", "mos": 61.2}`; `gt_score`, or an id "a.mp4->61.2", stand for `mos`.

All take `system_prompt`, `task`, `options`, an answer field, `dataset_name`, `start` and `end` in
seconds, `crop`, `stalls` with `stall_form`, and tags. data_configs/README.md has the table.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinker.data.published import VIDEO_KEY, one_place_a_video
from thinker.data.records import (
    BadValueError,
    dataset_key,
    file_name,
    label_number,
    mapping,
    parse_mos,
    prose,
    show,
    tag_pairs,
    text,
)
from thinker.prompts import Turn, ask, check_turns, count_placeholders
from thinker.tasks import TASKS
from thinker.video.file import IMAGE_SUFFIXES
from thinker.video.medium import Crop
from thinker.video.stalls.intervals import Stalls, stalls_of_sequence

MEDIA_KEYS = {
    "image": "image", "images": "image", "img_path": "image",
    "video": "video", "videos": "video", "video_path": "video",
}  # fmt: skip
"""Where paths stand, and the placeholder of what stands there. The kind of a medium follows from
its file, as VQA² writes `image` for videos, too."""

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
ROLES |= {"system": "system"}
ASKED_KEYS = ("conversations", "messages", "question")
LABEL_KEYS = ("mos", "gt_score")
"""Where the label stands in a list of rated files, which asks nothing; beside a conversation these
fields are ignored, as VQA²'s records give the score behind their level there."""
ANSWER_KEYS = ("answer", "reference", "correct_ans", "correct_choice")
TAG_KEYS = {
    "type": "type", "question_type": "type", "concern": "concern", "quality_concern": "concern",
    "content_type": "content_type", "split": "split",
}  # fmt: skip
"""Fields that are tags without being listed under `tags`, and the names of the tags."""

_PLACEHOLDER = re.compile(r"<(image|video)>")
# Whether a number that answers it is a score.
_ASKS_FOR_A_SCORE = re.compile(r"\b(?:rate|rating|score)\b", re.IGNORECASE)


# ViDA's questions about places (MIPI challenge, ICCV 2025), whose answers are boxes.
_ASKS_FOR_BOXES = re.compile(
    r"\bbounding box coordinates\b|\bwhat distortion affects this region\b", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class MediumName:
    """A medium as a record names it."""

    path: str
    """Relative path, not yet looked up."""
    start_seconds: float | None = None
    """Where the part that is meant begins."""
    end_seconds: float | None = None
    """Where it ends."""
    crop: Crop | None = None
    """The part of the picture that is meant."""
    stalls: Stalls | None = None
    """Where the video stalls, if the record says so."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The checked fields of a record."""

    id: str | None
    """What the file calls it, if anything."""
    dataset: str | None
    """Key of the data set it names, if any."""
    task: str | None
    """The task it names, not yet looked up."""
    media: tuple[MediumName, ...]
    """In the order of their placeholders."""
    turns: tuple[Turn, ...]
    """What is asked: the last turn is the user's."""
    answer: Any
    """The last assistant turn or the answer field: a text, a number or a bool; None without one."""
    options: tuple[str, ...]
    """Those of the record's own list."""
    tags: tuple[tuple[str, str], ...]
    """Name and value."""

    @property
    def text(self) -> str:
        """The words of the last turn, without placeholders."""
        return _PLACEHOLDER.sub("", self.turns[-1].text).strip()

    @property
    def form(self) -> str:
        """The task that its form speaks of, where neither it nor its file names one."""
        if self.options or self._names_a_listed_option():
            return "choice"
        if self._is_answered_with_boxes():
            return "boxes"
        is_score = not self.text or _ASKS_FOR_A_SCORE.search(self.text)
        try:
            label_number(self.answer)
        except BadValueError:
            return "open"
        return "score" if is_score else "open"

    def _is_answered_with_boxes(self) -> bool:
        """Whether it asks for places of one picture, as ViDA does, and the answer can be read."""
        if not (isinstance(self.answer, str) and _ASKS_FOR_BOXES.search(self.text)):
            return False
        if [Path(one.path).suffix.lower() in IMAGE_SUFFIXES for one in self.media] != [True]:
            return False
        try:
            TASKS["boxes"].read_reference(self.answer, ())
        except ValueError:
            return False
        return True

    def _names_a_listed_option(self) -> bool:
        """Whether the question lists options itself, and the answer is one of them."""
        choice = TASKS["choice"]
        try:
            listed = choice.options(self.text, ())
            return bool(
                listed and self.answer and choice.read_reference(self.answer, listed).answer
            )
        except ValueError:
            return False


def question_of(value: object) -> Question:
    """The fields of one record; raises BadValueError with the reason."""
    fields = mapping(value, "the record")
    turns, answer = _turns(fields)
    turns = _one_place_a_video(fields, turns)
    return Question(
        id=_id(fields),
        dataset=_dataset(fields),
        task=None if fields.get("task") is None else text(fields["task"], "task"),
        media=_media(fields, turns),
        turns=turns,
        answer=_answer(fields, answer),
        options=_options(fields),
        tags=_tags(fields),
    )


def _id(fields: dict[str, Any]) -> str | None:
    value = fields.get("id")
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(value, "id")


def _dataset(fields: dict[str, Any]) -> str | None:
    if fields.get("dataset_name") is None:
        return None
    name = text(fields["dataset_name"], "dataset_name")
    if not dataset_key(name):
        raise BadValueError(f"dataset_name {show(name)} holds no letter or digit")
    return dataset_key(name)


def _turns(fields: dict[str, Any]) -> tuple[tuple[Turn, ...], Any]:
    """The turns up to the last user's, and the assistant's answer to it where there is one."""
    if not any(key in fields for key in ASKED_KEYS):
        label = _label_of_list(fields)
        if label is not None:
            return ask(""), label
        if isinstance(fields.get("error"), str):  # as `thinker stalls` writes what it cannot read
            raise BadValueError(f"asks nothing and says an error: {fields['error']:.200}")
    key = _one_of(fields, ASKED_KEYS, "what is asked")
    if key == "question":
        spoken: list[tuple[str, Any]] = [("user", fields["question"])]
    else:
        given = fields[key]
        if not isinstance(given, list) or not given:
            raise BadValueError(f"{key} is {show(given)}, expected a list of turns")
        spoken = [_turn(turn, f"{key}[{number}]") for number, turn in enumerate(given)]
    answer = None
    if len(spoken) > 1 and spoken[-1][0] == "assistant":
        answer = spoken.pop()[1]
    if fields.get("system_prompt") is not None:
        spoken.insert(0, ("system", fields["system_prompt"]))
    turns = tuple(Turn(role=role, text=prose(said, f"the {role} turn")) for role, said in spoken)
    for turn in turns[:-1]:
        if not _PLACEHOLDER.sub("", turn.text).strip():
            raise BadValueError(f"a {turn.role} turn is empty")
    try:
        check_turns(turns, last="user")
    except ValueError as error:
        raise BadValueError(str(error)) from None
    return turns, answer


def _one_place_a_video(fields: dict[str, Any], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns of a published record of videos, which marks two places for each of them, with one
    place each (published.py)."""
    if VIDEO_KEY not in fields:
        return turns
    given = [fields[key] for key in MEDIA_KEYS if fields.get(key) is not None]
    num_media = sum(len(paths) if isinstance(paths, list) else 1 for paths in given)
    if count_placeholders(turns) != 2 * num_media:
        return turns
    return tuple(
        Turn(role=turn.role, text=one_place_a_video(turn.text, count_placeholders([turn]) // 2))
        if turn.role == "user"
        else turn
        for turn in turns
    )


def _label_of_list(fields: dict[str, Any]) -> Any:
    """The label of an entry of a list of rated files, as VQA² scores them: `mos`, `gt_score`, or
    an id of the form "name->score". None where there is none."""
    given = [key for key in LABEL_KEYS if fields.get(key) is not None]
    named = fields.get("id")
    arrow = named.rpartition("->") if isinstance(named, str) else ("", "", "")
    if len(given) + bool(arrow[1]) > 1:
        places = [*given, *(["id"] if arrow[1] else [])]
        raise BadValueError(f"the label stands in {' and in '.join(places)}; expected it once")
    label = fields[given[0]] if given else arrow[2] or None
    return None if label is None else parse_mos(label)


def _turn(turn: object, where: str) -> tuple[str, Any]:
    turn = mapping(turn, where)
    role = turn[_one_of(turn, ("from", "role"), f"who speaks in {where}")]
    if not isinstance(role, str) or role not in ROLES:
        raise BadValueError(f"{where} is from {show(role)}, expected one of {', '.join(ROLES)}")
    return ROLES[role], turn[_one_of(turn, ("value", "content"), f"what is said in {where}")]


def _one_of(fields: dict[str, Any], keys: Sequence[str], what: str) -> str:
    """The one key of several that is there."""
    found = [key for key in keys if key in fields]
    if len(found) != 1:
        given = f"both {' and '.join(found)}" if found else "none"
        raise BadValueError(f"{what}: expected one of the fields {', '.join(keys)}, got {given}")
    return found[0]


def _answer(fields: dict[str, Any], said: Any) -> Any:
    """The last assistant turn, or the value of the one answer field."""
    given = [key for key in ANSWER_KEYS if fields.get(key) is not None]
    if len(given) + (said is not None) > 1:
        places = [*(["a last assistant turn"] if said is not None else []), *given]
        raise BadValueError(f"the answer stands in {' and in '.join(places)}; expected it once")
    answer = fields[given[0]] if given else said
    if isinstance(answer, str):
        if not prose(answer, "the answer").strip():
            raise BadValueError("the answer is empty")
    elif answer is not None and not isinstance(answer, int | float):
        raise BadValueError(f"the answer is {show(answer)}, expected a text or a number")
    return answer


def _options(fields: dict[str, Any]) -> tuple[str, ...]:
    given = [key for key in ("options", "candidates") if fields.get(key) is not None]
    if not given:
        return ()
    if len(given) > 1:
        raise BadValueError("options and candidates are both given; expected one of them")
    options = fields[given[0]]
    if not isinstance(options, list) or not options:
        raise BadValueError(f"{given[0]} is {show(options)}, expected a list of texts")
    texts = tuple(text(o, f"{given[0]}[{number}]") for number, o in enumerate(options))
    for number, option in enumerate(texts):
        if _PLACEHOLDER.search(option):
            raise BadValueError(
                f"{given[0]}[{number}] {show(option)} marks a place for a medium; write such "
                "options into the question, as lines 'A. <image>'"
            )
    return texts


def _tags(fields: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Those of `tags`, then the well-known fields; a name that is given twice is an error."""
    known = {name: fields[key] for key, name in TAG_KEYS.items() if fields.get(key) is not None}
    tags = tag_pairs(fields.get("tags")) + tag_pairs(known)
    names = [name for name, _ in tags]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BadValueError(f"tag {twice[0]!r} is given twice")
    return tags


def _media(fields: dict[str, Any], turns: tuple[Turn, ...]) -> tuple[MediumName, ...]:
    """The media in the order of their placeholders."""
    paths: dict[str, list[str]] = {}
    for key, word in MEDIA_KEYS.items():
        if fields.get(key) is not None:
            given = fields[key] if isinstance(fields[key], list) else [fields[key]]
            paths.setdefault(word, []).extend(file_name(path, key) for path in given)
    ordered = _in_order({word: found for word, found in paths.items() if found}, turns)
    part = _part(fields)
    if part and len(ordered) != 1:
        raise BadValueError(
            f"{', '.join(part)} of a record with {len(ordered)} media; expected one medium"
        )
    return tuple(
        MediumName(
            path=path,
            start_seconds=part.get("start"),
            end_seconds=part.get("end"),
            crop=part.get("crop"),
            stalls=part.get("stalls"),
        )
        for path in ordered
    )


def _in_order(paths: dict[str, list[str]], turns: tuple[Turn, ...]) -> list[str]:
    num_media, num_places = sum(map(len, paths.values())), count_placeholders(turns)
    if len(paths) < 2:
        if num_places not in (0, num_media):
            raise BadValueError(
                f"the turns hold {num_places} placeholders <image> or <video> for {num_media} "
                "media; expected one for each of them, or none at all"
            )
        return [path for found in paths.values() for path in found]
    asked = " ".join(turn.text for turn in turns if turn.role == "user")
    words = _PLACEHOLDER.findall(asked)
    for word, found in paths.items():
        if words.count(word) != len(found):
            raise BadValueError(
                f"the turns hold {words.count(word)} placeholders <{word}> for {len(found)} paths "
                f"under {word}; a record of images and videos needs one for each of them"
            )
    waiting = {word: iter(found) for word, found in paths.items()}
    return [next(waiting[word]) for word in words]


def _part(fields: dict[str, Any]) -> dict[str, Any]:
    """`start` and `end` in seconds, `crop` and `stalls`, where they are given."""
    part: dict[str, Any] = {}
    for key in ("start", "end"):
        value = fields.get(key)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BadValueError(f"{key} is {show(value)}, expected a number of seconds")
        try:
            part[key] = float(value)
        except OverflowError:
            raise BadValueError(f"{key} is {show(value)}, expected a number of seconds") from None
    crop = fields.get("crop")
    if crop is not None:
        if not isinstance(crop, list) or len(crop) != 4:
            raise BadValueError(f"crop is {show(crop)}, expected [left, top, right, bottom]")
        left, top, right, bottom = crop
        try:
            part["crop"] = Crop(left=left, top=top, right=right, bottom=bottom)
        except ValueError as error:
            raise BadValueError(str(error)) from None
    stalls = _stalls(fields)
    return part if stalls is None else part | {"stalls": stalls}


def _stalls(fields: dict[str, Any]) -> Stalls | None:
    """`stalls` as [start, end] in seconds each, or as a 0/1 sequence; `stall_form` is how they are
    told."""
    given, form = fields.get("stalls"), fields.get("stall_form") or "sentences"
    if given is None:
        return None
    is_list = isinstance(given, list) and all(isinstance(one, list) for one in given)
    try:
        if is_list:
            if any(len(one) != 2 for one in given):
                raise ValueError("a stall has a start and an end, [1.5, 3.25]")
            return Stalls(intervals=tuple((one[0], one[1]) for one in given), form=form)
        if isinstance(given, list | str):
            return stalls_of_sequence(given, form)
    except ValueError as error:
        raise BadValueError(f"stalls: {error}") from None
    raise BadValueError(
        f"stalls is {show(given)}, expected a list of [start, end] in seconds, or a 0/1 sequence"
    )
