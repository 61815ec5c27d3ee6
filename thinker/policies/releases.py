"""The releases of transformers that Thinker works with, and what is called otherwise in some of
them.

`thinker.policies` imports this before its other files, which import names that other releases may
not have.
"""

import re
from dataclasses import fields

import transformers
from transformers.modeling_outputs import BaseModelOutputWithPast

OLDEST, NEXT = "5.15.1", "5.25"
"""The first release that is supported and the first one behind them, as in pyproject.toml."""

CACHE = {"cache", "past_key_values"}.intersection(
    field.name for field in fields(BaseModelOutputWithPast)
).pop()
"""What a forward calls the keys and values of earlier tokens, among its arguments and in what it
returns: `past_key_values`, and `cache` from 5.24 on, where the older name gives warnings."""


def check_release(version: str) -> None:
    """Raises ValueError for a release of transformers that is not supported.

    >>> check_release("5.17.0")
    >>> check_release("5.10.4")
    Traceback (most recent call last):
    ...
    ValueError: transformers 5.10.4 is installed, expected one that is tested: pip install \
'transformers>=5.15.1,<5.25'
    """
    if not _numbers(OLDEST) <= _numbers(version) < _numbers(NEXT):
        raise ValueError(
            f"transformers {version} is installed, expected one that is tested: "
            f"pip install 'transformers>={OLDEST},<{NEXT}'"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


check_release(transformers.__version__)
