"""What all rewards share: building by name or path, checks of the rows, the dependency rule."""

import ast
import dataclasses
import doctest
import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest

import rewards
from rewards import (
    REWARDS,
    BoxesReference,
    ChoiceReference,
    DistortionReference,
    LevelReference,
    Reward,
    build_reward,
)
from rewards.level import LEVELS

OWN_REWARD = """
import numpy as np

class Length:
    name = "length"
    needs_perturbed = False
    tasks = ("score",)

    def __init__(self, max_chars=10):
        self.max_chars = max_chars

    def __call__(self, completions, sample_id, target, **columns):
        return [float(len(completion) <= self.max_chars) for completion in completions]

class AnyKey(Length):
    def __init__(self, **config):
        self.config = config

class NotCallable:
    name = "not_callable"
    needs_perturbed = False
    tasks = ("score",)

class Taskless(Length):
    tasks = "score"

class Nameless:
    def __call__(self, completions, sample_id, target, **columns):
        return []

def function(completions, **columns):
    return []
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_rewards.py").write_text(OWN_REWARD)
    (tmp_path / "broken_rewards.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("own_rewards", None)
    return "own_rewards"


SHOWN = {
    "choice": ChoiceReference(options=("blur", "noise"), answer="A"),
    "distortion": DistortionReference(name="noise", severity="severe"),
    "boxes": BoxesReference(boxes=()),
    "level": LevelReference(levels=LEVELS, answer="fair"),
}
"""References by task."""


def every_reward() -> list[Reward]:
    return [build_reward(name) for name in REWARDS]


def call(reward: Reward, completions: Any, sample_id: Any, target: Any, **columns: Any) -> Any:
    reference = SHOWN.get(reward.tasks[0])
    rows = len(completions)
    columns = {"reference": [reference] * rows, "tags": [{"distortion": "noise"}] * rows, **columns}
    return reward(completions, sample_id, target, perturbed_completions=completions, **columns)


def test_config_keys_are_frozen() -> None:
    """Users' YAML files hold these keys; change them here and in the documentation together."""
    assert {
        name: {field.name: field.default for field in dataclasses.fields(config_class)}
        if config_class
        else {}
        for name, (config_class, _) in REWARDS.items()
    } == {
        "format": {},
        "regression": {"sigma": 0.5, "short_factor": 0.8},
        "ranking": {},
        "temporal": {
            "rule": "per_video",
            "margin": 0.02,
            "threshold": 0.9,
            "bonus": 0.3,
            "sigma": 0.5,
        },
        "choice": {},
        "distortion": {"severity_part": 0.5},
        "boxes": {"thresholds": (0.1, 0.3, 0.5, 0.7, 0.9)},
        "level": {},
        "reasoning": {"severity_part": 0.5},
    }


def test_names_and_perturbed() -> None:
    assert [reward.name for reward in every_reward()] == list(REWARDS)
    assert [reward.name for reward in every_reward() if reward.needs_perturbed] == ["temporal"]
    assert {reward.name: reward.tasks for reward in every_reward()} == {
        "format": ("score", "level", "choice", "distortion", "boxes"),
        "regression": ("score",),
        "ranking": ("score",),
        "temporal": ("score",),
        "choice": ("choice",),
        "distortion": ("distortion",),
        "boxes": ("boxes",),
        "level": ("level",),
        "reasoning": ("score",),
    }


def test_build_with_config() -> None:
    reward = build_reward("regression", {"sigma": 1.0})
    # exp(-1² / (2 · 1²)) = exp(-0.5)
    assert reward(["<answer>3.00</answer>"], ["a"], [4.0]) == [pytest.approx(math.exp(-0.5))]


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "rankng",
            None,
            r"'choice', 'distortion', 'boxes', 'level', 'reasoning'\].*mean 'ranking'\?",
        ),
        ("xyz", None, r"expected one of \[[^]]*\] or a dotted path package\.module\.Class$"),
        ("regression", {"sgima": 1}, r"key 'sgima'; expected one of .*; did you mean 'sigma'\?"),
        ("format", {"sigma": 1}, r"key 'sigma'; expected one of \[\]$"),
        ("regression", {"sigma": -1}, r"regression\.sigma: got -1; expected a finite number > 0"),
    ],
)
def test_build_errors(name: str, config: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_reward(name, config)


def test_a_users_own_reward(own_module: str) -> None:
    reward = build_reward(f"{own_module}.Length", {"max_chars": 3})
    assert (reward.name, reward.needs_perturbed) == ("length", False)
    assert reward(["abc", "abcd"], ["a", "b"], [1.0, 2.0]) == [1.0, 0.0]
    assert build_reward(f"{own_module}.Length")(["abcd"], ["a"], [1.0]) == [1.0]
    assert build_reward(f"{own_module}.AnyKey", {"x": 1}).config == {"x": 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "config", "message"),
    [
        ("no_such_package.Class", None, r"no module 'no_such_package'"),
        ("own_rewards.sub.Class", None, r"no module 'own_rewards\.sub'"),
        ("own_rewards.Lenght", None, r"has no 'Lenght'.*mean 'Length'\?"),
        ("own_rewards.Length", {"max_char": 3}, r"key 'max_char'.*mean 'max_chars'\?"),
        ("own_rewards.NotCallable", None, r"without a method __call__; expected"),
        ("own_rewards.Nameless", None, r"without a str name and a bool needs_perturbed"),
        ("own_rewards.Taskless", None, r"without the tasks that it .* `tasks = \(\"score\",\)`;"),
        ("own_rewards.function", None, r"is a function; expected a class"),
    ],
)
def test_errors_of_a_users_own_reward(
    own_module: str, path: str, config: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_reward(path, config)


def test_an_import_error_inside_a_users_module_is_shown_as_it_is(own_module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        build_reward("broken_rewards.Class")


@pytest.mark.parametrize("name", REWARDS)
def test_rows_are_checked(name: str) -> None:
    reward = build_reward(name)
    text = "<think>a</think><answer>3.50</answer>"
    with pytest.raises(ValueError, match=r"'completions': 2.*'target': 1.*equal lengths"):
        call(reward, [text, text], ["a", "b"], [3.0])
    with pytest.raises(ValueError, match=r"'sample_id': 1.*equal lengths"):
        call(reward, [text, text], ["a"], [3.0, 3.0])
    with pytest.raises(ValueError, match=r"got list in completions\[0\].*plain string"):
        call(reward, [[{"role": "assistant", "content": text}]], ["a"], [3.0])
    if reward.tasks[0] in SHOWN:
        return  # what has a reference has no target
    for bad in (math.nan, math.inf, "3.0", None, True):
        with pytest.raises(ValueError, match=r"target\[1\] \(sample 'b'\).*finite number"):
            call(reward, [text, text], ["a", "b"], [3.0, bad])
    with pytest.raises(ValueError, match=r"got targets 3\.0 and 4\.0 for sample 'a'"):
        call(reward, [text, text], ["a", "a"], [3.0, 4.0])


@pytest.mark.parametrize("name", REWARDS)
def test_columns_a_reward_does_not_know_are_ignored(name: str) -> None:
    """TRL passes prompts, completion ids and its own state along."""
    reward = build_reward(name)
    rows = (["<answer>3.50</answer>", "<answer>2.50</answer>"], ["a", "b"], [3.0, 2.0])
    assert call(reward, *rows) == call(reward, *rows, prompts=[], trainer_state=object(), dataset=0)


@pytest.mark.parametrize("name", REWARDS)
def test_none_or_a_finite_float_whatever_the_text(name: str) -> None:
    texts = ["", "1e999", "NaN", "٣.٥", "9" * 400, "-3", "3", "3.50", "5.00", "\ud800", "\x00"]
    completions = [f"<think>a</think><answer>{text}</answer>" for text in texts] + texts
    sample_id = [f"v{row % 5}" for row in range(len(completions))]
    target = [[0.0, 3, 3.0, 1e308, -1e308][row % 5] for row in range(len(completions))]
    scores = call(build_reward(name), completions, sample_id, target)
    assert len(scores) == len(completions)
    assert all(r is None or (type(r) is float and math.isfinite(r)) for r in scores)
    assert scores[len(texts) :] == [0.0 if name == "format" else None] * len(texts)


MODULES = (
    "answer",
    "boxes",
    "choice",
    "describe",
    "distortion",
    "format",
    "level",
    "parts",
    "ranking",
    "regression",
    "temporal",
    "text",
)


@pytest.mark.parametrize("module", ["", *(f".{name}" for name in MODULES)])
def test_examples_in_docstrings(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"rewards{module}"))
    assert results.attempted > 0 and results.failed == 0


def test_needs_the_standard_library_numpy_and_scipy_only() -> None:
    files = sorted(Path(rewards.__file__).parent.glob("*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "rewards", "scipy"}


class OldArguments:
    name = "old"
    needs_perturbed = False
    tasks = ("score",)

    def __call__(self, completions, sample_id, mos, **columns):
        return [0.0] * len(completions)


def test_the_old_name_of_the_target_is_an_error_that_says_the_new_one(monkeypatch):
    monkeypatch.setattr(rewards, "OldArguments", OldArguments, raising=False)
    with pytest.raises(ValueError, match=r"takes `mos`; .* called `target` now"):
        build_reward("rewards.OldArguments")
