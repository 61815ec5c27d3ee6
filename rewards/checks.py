"""Checks that all rewards share: rows of a batch, numbers of a config. They raise ValueError."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from numbers import Real
from typing import Any


def check_columns(
    reward: str, text_columns: Mapping[str, Sequence[str]], **columns: Sequence[Any]
) -> None:
    """Columns of one length; plain strings in those of `text_columns`."""
    lengths = {name: len(column) for name, column in {**text_columns, **columns}.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"reward {reward!r}: got columns of lengths {lengths}; expected equal lengths; "
            "pass one entry per rollout in every column"
        )
    for name, column in text_columns.items():
        for row, text in enumerate(column):
            if not isinstance(text, str):
                raise ValueError(
                    f"reward {reward!r}: got {type(text).__name__} in {name}[{row}]; expected a "
                    "plain string; pass the assistant's text, not a list of chat messages"
                )


def check_rows(
    reward: str,
    completions: Sequence[str],
    sample_id: Sequence[Hashable],
    target: Sequence[float | None],
    **more_completions: Sequence[str],
) -> None:
    """Rows of scores: columns of one length, plain strings, finite targets, one target a sample."""
    text_columns = {"completions": completions, **more_completions}
    check_columns(reward, text_columns, sample_id=sample_id, target=target)
    target_of: dict[Hashable, float | None] = {}
    for row, (video, label) in enumerate(zip(sample_id, target, strict=True)):
        if not _is_finite_number(label):
            raise ValueError(
                f"reward {reward!r}: got {label!r} in target[{row}] (sample {video!r}); expected a "
                "finite number; convert or drop the label when the data set is read"
            )
        if target_of.setdefault(video, label) != label:
            raise ValueError(
                f"reward {reward!r}: got targets {target_of[video]!r} and {label!r} for sample "
                f"{video!r}; expected one target a sample; give different videos different "
                "sample ids"
            )


def check_number(field: str, given: object, expected: str, accept: Callable[[float], bool]) -> None:
    """Checks one numeric config field; `expected` puts into words what `accept` tests ("> 0")."""
    if not (_is_finite_number(given) and accept(given)):  # type: ignore[arg-type]
        raise ValueError(
            f"{field}: got {given!r}; expected a finite number {expected}; correct the config"
        )


def _is_finite_number(given: object) -> bool:
    return not isinstance(given, bool) and isinstance(given, Real) and math.isfinite(given)
