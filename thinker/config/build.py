"""The one checker of configurations: plain values in, a frozen dataclass out.

`build` turns what YAML or JSON holds into a settings dataclass. pydantic does the checking,
strictly and by the annotations of the dataclass: an int is taken for a float, a list for a tuple
and a text for a path; nothing else is converted. `foreign_values` does what it can for the
configuration classes of TRL and transformers, whose annotations are too loose to check against.
"""

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

T = TypeVar("T")

# Where pydantic's own words are those of JSON or of Python rather than of YAML.
_EXPECTED = {"dataclass_type": "a mapping", "dict_type": "a mapping", "tuple_type": "a list"}

# Words in the annotations of fields that hold one number, or true or false, and perhaps nothing.
_SCALARS = {"int", "float", "bool"}
_ABSENT = {"class", "None", "NoneType", "Optional", "Union", "typing"}


def build(
    cls: type[T],
    values: Any,
    where: str,
    *,
    replaced: Mapping[str, str] | None = None,
    context: Any = None,
) -> T:
    """An instance of the dataclass `cls` from a mapping of its fields.

    where: the file or section that every message opens with. replaced: what to write instead
    of keys of earlier versions, by their dotted place. context: what validators in the annotations
    of `cls` find in `info.context`.

    Raises ValueError with a line for each thing that is wrong: its dotted place, in which an entry
    of a list goes by its `name` as in overrides, what was given and what was expected.
    `build(LoraSettings, {"r": "8"}, "run.yaml")` says "run.yaml: r is '8', expected a valid
    integer".
    """
    # By way of JSON, because pydantic's strict mode takes mappings for dataclasses, and lists for
    # tuples, from JSON only. Every float survives it: Python writes the digits that identify it.
    try:
        return TypeAdapter(cls).validate_json(
            json.dumps(values), strict=True, extra="forbid", context=context
        )
    except ValidationError as error:
        complaints = [_complaint(cls, found, values, replaced or {}) for found in error.errors()]
        raise ValueError("\n".join(f"{where}: {text}" for text in complaints)) from None


def foreign_values(cls: type, values: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Values for a configuration class of TRL or transformers, as their author meant them.

    The keys are checked. To YAML, `1e-6` is a text and `no` is false: a text becomes a float where
    the class declares one, and false becomes "no" where it declares a strategy. section: the place
    of the values in the run configuration, for messages.
    """
    declared = {field.name: str(field.type) for field in dataclasses.fields(cls)}

    def meant(key: str, value: Any) -> Any:
        if key not in declared:
            raise ValueError(_unknown_key(f"{section}.{key}", declared))
        words = set(re.findall(r"[A-Za-z]+", declared[key]))
        if value is not None and words & _SCALARS and words <= _SCALARS | _ABSENT:
            return _number(value, words, f"{section}.{key}")
        return "no" if value is False and "Strategy" in declared[key] else value

    return {key: meant(key, value) for key, value in values.items()}


def _number(value: Any, declared: Collection[str], place: str) -> bool | int | float:
    """The number, or true or false, that a value stands for where nothing else is declared."""
    if isinstance(value, bool) and "bool" in declared:
        return value
    if not isinstance(value, bool):
        try:
            if "float" in declared and isinstance(value, str | int | float):
                return value if isinstance(value, int) else float(value)
            if "int" in declared and isinstance(value, int | float) and value == int(value):
                return int(value)
        except (ValueError, OverflowError):  # a text that is no number; infinity
            pass
    wanted = {"bool": "true or false", "float": "a number", "int": "a whole number"}
    expected = next(text for name, text in wanted.items() if name in declared)
    raise ValueError(f"{place} is {value!r:.80}, expected {expected}")


def _complaint(cls: type, found: ErrorDetails, values: Any, replaced: Mapping[str, str]) -> str:
    """One of pydantic's findings in our words."""
    holder, names = _walk(cls, found["loc"])
    place, given, message = ".".join(_called(names, values)), found["input"], found["msg"]
    kind = found["type"]
    if kind == "unexpected_keyword_argument":
        if place in replaced:
            return f"{place} is no key any more; {replaced[place]}"
        return _unknown_key(place, [field.name for field in dataclasses.fields(holder)])
    if kind == "missing":
        return f"{place} is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = found["ctx"]["discriminator"].strip("'")
        hint = typing.get_type_hints(holder, include_extras=True)[str(names[-2])]
        is_given = f"is {given[key]!r}" if key in given else "is missing"
        return f"{place}.{key} {is_given}, expected {' or '.join(dict(_classes(hint)))}"
    if kind == "value_error":  # raised by the dataclass itself, or by a validator of ours
        return f"{place}: {found['ctx']['error']}".removeprefix(": ")
    expected = _EXPECTED.get(kind) or message.removeprefix("Input should be ")
    return f"{place or 'all of it'} is {given!r:.80}, expected {expected}"


def _walk(cls: Any, place: Iterable[int | str]) -> tuple[Any, list[int | str]]:
    """The dataclass that holds the last name of a place inside `cls`, and the place as YAML has it:
    without the tags by which pydantic says which class of a union is meant."""
    names: list[int | str] = []
    holder, classes = cls, {"": cls}
    for name in place:
        if not isinstance(name, str):  # the number in a tuple, whose entries are of these classes
            names.append(name)
        elif len(classes) > 1 and name in classes:
            classes = {"": classes[name]}
        else:
            names.append(name)
            (holder,) = classes.values()
            hint = typing.get_type_hints(holder, include_extras=True).get(name)
            classes = dict(_classes(hint)) or {"": holder}
    return holder, names


def _called(place: Iterable[int | str], values: Any) -> Iterable[str]:
    """The names of a place, those of the entries of a list in place of their numbers, as overrides
    take them; the number where an entry has no name, or shares it."""
    inner = values
    for name in place:
        called = str(name)
        if isinstance(name, int) and isinstance(inner, list):
            names = [one.get("name") if isinstance(one, Mapping) else None for one in inner]
            own = names[name] if name < len(names) else None
            if isinstance(own, str) and names.count(own) == 1:
                called = own
        try:
            inner = inner[name]
        except (KeyError, IndexError, TypeError):  # what is missing has no entries
            inner = None
        yield called


def _classes(hint: Any, tag: str = "") -> Iterable[tuple[str, type]]:
    """The dataclasses in an annotation, by their tag in a union."""
    for extra in getattr(hint, "__metadata__", ()):
        tag = extra.tag if isinstance(extra, Tag) else tag
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield tag or _own_tag(hint), hint
    for part in typing.get_args(hint):
        yield from _classes(part, tag)


def _own_tag(cls: type) -> str:
    """The value of the field of a dataclass that can have one value only, if it has such a one."""
    hints = typing.get_type_hints(cls).values()
    tags = [typing.get_args(h)[0] for h in hints if typing.get_origin(h) is typing.Literal]
    return tags[0] if tags else ""


def _unknown_key(place: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(place.rpartition(".")[2], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
    return f"unknown key {place!r:.200}; {hint}"
