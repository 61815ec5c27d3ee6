"""Rewards for GRPO: completions and references of the global batch → a number, or None, a rollout.

A new reward is one file with a config and a class, one line in `REWARDS`, and one test. One that
lives elsewhere is named by its dotted path. The package needs the standard library, numpy and
scipy only.
"""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from rewards.answer import Answer, InvalidAnswer, parse_answer, shown_reasoning
from rewards.boxes import BoxesConfig, BoxesReference, BoxesReward, parse_boxes
from rewards.choice import ChoiceReference, ChoiceReward, parse_choice
from rewards.distortion import (
    DistortionConfig,
    DistortionReference,
    DistortionReward,
    parse_distortion,
)
from rewards.format import FormatReward
from rewards.level import LevelReference, LevelReward, parse_level
from rewards.ranking import RankingReward
from rewards.reasoning import ReasoningReward
from rewards.regression import RegressionConfig, RegressionReward
from rewards.temporal import TemporalConfig, TemporalReward

__all__ = [
    "REWARDS",
    "Answer",
    "BoxesReference",
    "ChoiceReference",
    "DistortionReference",
    "InvalidAnswer",
    "LevelReference",
    "Reward",
    "build_reward",
    "parse_answer",
    "parse_boxes",
    "parse_choice",
    "parse_distortion",
    "parse_level",
    "shown_reasoning",
]


class Reward(Protocol):
    """What the trainer calls, once a step, with the rows of all processes that are of its tasks.

    A reward that needs tags may have `check_tags(tags)`, which is called before training with those
    of all examples of its tasks and raises ValueError for what it cannot judge.
    """

    name: str
    """What metrics call it."""
    needs_perturbed: bool
    """True where `columns` has to hold `perturbed_completions`, aligned with the rows."""
    tasks: tuple[str, ...]
    """The tasks whose rows it judges, such as ("score",); it is not shown any other row."""

    def __call__(
        self,
        completions: Sequence[str],
        sample_id: Sequence[str],
        target: Any,
        **columns: Any,
    ) -> Sequence[float | None]:
        """One reward per row; None = cannot be judged, 0.0 = judged, badly.

        `target` holds floats for the rows of scores, None for others. `columns` has `task`,
        `reference` (as the task parsed it), `options` and `tags` (name to value), too; a reward
        ignores what it does not know.
        """
        ...


# name: (configuration, None where there is nothing to set; reward)
REWARDS: dict[str, tuple[type | None, type]] = {
    "format": (None, FormatReward),
    "regression": (RegressionConfig, RegressionReward),
    "ranking": (None, RankingReward),
    "temporal": (TemporalConfig, TemporalReward),
    "choice": (None, ChoiceReward),
    "distortion": (DistortionConfig, DistortionReward),
    "boxes": (BoxesConfig, BoxesReward),
    "level": (None, LevelReward),
    "reasoning": (DistortionConfig, ReasoningReward),
}


def build_reward(name: str, config: Mapping[str, Any] | None = None) -> Reward:
    """Builds a reward by its name in `REWARDS` or by a dotted path `package.module.Class`.

    `config` holds the fields of the reward's config; for a user's own class, its keyword arguments.
    Raises ValueError for an unknown name, an unknown key, a value out of range, or a class that is
    not a `Reward`.

    >>> build_reward("regression", {"sigma": 0.4}).config
    RegressionConfig(sigma=0.4, short_factor=0.8)
    """
    config = dict(config or {})
    if name in REWARDS:
        config_class, reward_class = REWARDS[name]
        _check_keys(name, config, config_class or reward_class)
        return reward_class(config_class(**config)) if config_class else reward_class()
    if "." not in name:
        raise ValueError(
            f"got reward {name!r}; expected one of {list(REWARDS)} or a dotted path "
            f"package.module.Class{_nearest(name, REWARDS)}"
        )
    return _build_own(name, config)


def _build_own(path: str, config: dict[str, Any]) -> Reward:
    reward_class = _import_class(path)
    # On the class, before it is called: a configuration can name any class there is, and merely
    # building some (subprocess.Popen) does what their arguments say.
    missing = [
        what
        for what, found in (
            ("a method __call__", any("__call__" in vars(cls) for cls in reward_class.__mro__)),
            ("a str name", isinstance(getattr(reward_class, "name", None), str)),
            (
                "a bool needs_perturbed",
                isinstance(getattr(reward_class, "needs_perturbed", None), bool),
            ),
            (
                'the tasks that it judges, such as `tasks = ("score",)`',
                _are_tasks(getattr(reward_class, "tasks", None)),
            ),
        )
        if not found
    ]
    if missing:
        raise ValueError(
            f"got reward {path!r} without {' and '.join(missing)}; expected a rewards.Reward; "
            "add what is missing to the class"
        )
    if "mos" in inspect.signature(reward_class.__call__).parameters:
        raise ValueError(
            f"got reward {path!r}, whose __call__ takes `mos`; the label on the answer scale is "
            "called `target` now: rename the argument"
        )
    _check_keys(path, config, reward_class)
    return reward_class(**config)


def _are_tasks(given: object) -> bool:
    return isinstance(given, tuple) and bool(given) and all(isinstance(t, str) for t in given)


def _import_class(path: str) -> type:
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Something that the user's module itself fails to import keeps its own traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"got reward {path!r}, but there is no module {error.name!r}; expected "
            "package.module.Class; check the spelling and that the package is on PYTHONPATH"
        ) from error
    if not hasattr(module, class_name):
        raise ValueError(
            f"got reward {path!r}, but module {module_name!r} has no {class_name!r}; expected "
            f"the name of a class there{_nearest(class_name, vars(module))}"
        )
    found = getattr(module, class_name)
    if not inspect.isclass(found):
        raise ValueError(
            f"got reward {path!r}, which is a {type(found).__name__}; expected a class; wrap it in "
            "a class with name, needs_perturbed, tasks and __call__"
        )
    return found


def _check_keys(reward: str, config: Mapping[str, Any], cls: type) -> None:
    """The keys must be arguments of `cls`."""
    parameters = inspect.signature(cls).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    for key in config:
        if key not in known:
            raise ValueError(
                f"reward {reward!r}: got config key {key!r}; expected one of {known}"
                f"{_nearest(str(key), known)}"
            )


def _nearest(given: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
