"""The checker of configurations: what it takes, what it refuses, and in which words."""

import dataclasses
import json
import math
import random
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BeforeValidator, FiniteFloat, ValidationInfo

from thinker.config.build import build
from thinker.config.run import LoraSettings
from thinker.config.yaml_file import load_yaml


def below(text: str, info: ValidationInfo) -> str:
    return f"{info.context}/{text}"


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: int = 1
    share: FiniteFloat = 0.5
    on: bool = False
    names: tuple[str, ...] = ()
    three: tuple[float, float, float] | None = None
    file: Annotated[Path, BeforeValidator(below)] | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}, expected at least 0")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    free: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def test_every_kind_of_field() -> None:
    values = {
        "name": "a",
        "inner": {"count": 10**20, "share": 1, "on": True, "names": ["x", "y"]},
        "maybe": {"three": [1, 2.5, -0.0]},
        "many": [{}, {"count": 2}],
        "free": {"list": [1, "1", None], "nan": math.inf},
        "texts": {"k": "v"},
    }
    built = build(Outer, values, "a.yaml")
    assert built == Outer(
        name="a",
        inner=Inner(count=10**20, share=1.0, on=True, names=("x", "y")),
        maybe=Inner(three=(1.0, 2.5, 0.0)),
        many=(Inner(), Inner(count=2)),
        free={"list": [1, "1", None], "nan": math.inf},
        texts={"k": "v"},
    )
    assert type(built.inner.share) is float
    assert built.maybe is not None and built.maybe.three is not None
    assert math.copysign(1, built.maybe.three[2]) == -1
    assert build(Outer, {"name": "a", "maybe": None}, "a.yaml") == Outer(name="a")
    assert build(Outer, dataclasses.asdict(built), "again") == built


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # types: nothing is bent
        ({"name": 3}, "name is 3, expected a valid string"),
        ({"name": None}, "name is None, expected a valid string"),
        ({"inner": {"count": "3"}}, "inner.count is '3', expected a valid integer"),
        ({"inner": {"count": 3.0}}, "inner.count is 3.0, expected a valid integer"),
        ({"inner": {"count": True}}, "inner.count is True, expected a valid integer"),
        ({"inner": {"share": "0.5"}}, "inner.share is '0.5', expected a valid number"),
        ({"inner": {"share": False}}, "inner.share is False, expected a valid number"),
        ({"inner": {"share": None}}, "inner.share is None, expected a valid number"),
        ({"inner": {"on": 1}}, "inner.on is 1, expected a valid boolean"),
        ({"inner": {"on": "yes"}}, "inner.on is 'yes', expected a valid boolean"),
        ({"inner": {"names": "slowfast"}}, "inner.names is 'slowfast', expected a list"),
        ({"inner": {"names": {"a": 1}}}, "inner.names is {'a': 1}, expected a list"),
        ({"inner": [1]}, "inner is [1], expected a mapping"),
        ({"free": []}, "free is [], expected a mapping"),
        ({"texts": {"k": 1}}, "texts.k is 1, expected a valid string"),
        ([1], "all of it is [1], expected a mapping"),
        # numbers that are none
        ({"inner": {"share": math.nan}}, "inner.share is nan, expected a finite number"),
        ({"inner": {"share": -math.inf}}, "inner.share is -inf, expected a finite number"),
        ({"inner": {"share": 10**400}}, ", expected a finite number"),
        ({"inner": {"count": math.nan}}, "inner.count is nan, expected a valid integer"),
        # places in tuples
        ({"many": [{}, {"names": ["x", 3]}]}, "many.1.names.1 is 3, expected a valid string"),
        ({"maybe": {"three": [1, 2]}}, "maybe.three.2 is missing"),
        ({"maybe": {"three": [1, 2, 3, 4]}}, "maybe.three is [1, 2, 3, 4], expected"),
        # keys
        ({"inner": {"cuont": 1}}, "unknown key 'inner.cuont'; did you mean 'count'?"),
        ({"maybe": {"shar": 1}}, "unknown key 'maybe.shar'; did you mean 'share'?"),
        ({"many": [{}, {"nmaes": []}]}, "unknown key 'many.1.nmaes'; did you mean 'names'?"),
        ({"qqq": 1}, "'qqq'; the keys are name, inner, maybe, many, free, texts"),
        ({}, "name is missing"),
        ({"old": {"a": 1}}, "old is no key any more; write texts: {…}"),
        ({"many": [{"count": -1}]}, "many.0: count is -1, expected at least 0"),
    ],
)
def test_what_is_refused(values: Any, message: str) -> None:
    if isinstance(values, dict) and values:
        values = {"name": "a"} | values
    with pytest.raises(ValueError) as caught:
        build(Outer, values, "a.yaml", replaced={"old": "write texts: {…}"})
    assert str(caught.value).startswith("a.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        build(Outer, {"nmae": "a", "inner": {"on": 3}}, "a.yaml")
    assert sorted(str(caught.value).split("\n")) == [
        "a.yaml: inner.on is 3, expected a valid boolean",
        "a.yaml: name is missing",
        "a.yaml: unknown key 'nmae'; did you mean 'name'?",
    ]


def test_the_example_of_the_docstring() -> None:
    with pytest.raises(ValueError, match=r"^run.yaml: r is '8', expected a valid integer$"):
        build(LoraSettings, {"r": "8"}, "run.yaml")


def test_a_validator_of_a_field_sees_the_context() -> None:
    built = build(Inner, {"file": "a.json"}, "a.yaml", context="/base")
    assert built.file == Path("/base/a.json")


def test_floats_keep_every_bit() -> None:
    draw = random.Random(0)
    drawn = (struct.unpack("d", draw.randbytes(8))[0] for _ in range(2000))
    floats = [value for value in drawn if math.isfinite(value)]
    built = build(Outer, {"name": "a", "free": {"floats": floats}}, "a.yaml")
    assert built.free["floats"] == floats
    assert [build(Inner, {"share": value}, "a.yaml").share for value in floats[:200]] == floats[
        :200
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 2020-01-01", "a value of tag:yaml.org,2002:timestamp; if it is meant as text, quote"),
        ("a: !!binary aGVsbG8=", "a value of tag:yaml.org,2002:binary"),
        ("a: !!set {x, y}", "a value of tag:yaml.org,2002:set"),
        ("on: 1", "the key True, expected text; quote it"),
        ("3: 1", "the key 3, expected text; quote it"),
    ],
)
def test_yaml_that_json_cannot_hold(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_yaml(text, "a.yaml")


def test_what_is_built_goes_back_to_json() -> None:
    """Run folders and model configurations hold settings as JSON."""
    built = build(Outer, {"name": "a", "many": [{"three": [1, 2, 3]}]}, "a.yaml")
    assert build(Outer, json.loads(json.dumps(dataclasses.asdict(built))), "a.yaml") == built
