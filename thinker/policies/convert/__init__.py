"""Checkpoints in layouts that others released → policies.

A new layout is one file with a converter, and one line in `LAYOUTS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thinker.policies.convert import vqathinker


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How checkpoints of one layout become policies."""

    convert: Callable[[Path, Path, str], int]
    """(source folder, new target folder, setting) → tensors written; ValueError for a source that
    is not of the layout."""

    settings: tuple[str, ...]
    """Ways to run the weights that the converter knows; the first is the default."""


LAYOUTS = {
    "vqathinker": Layout(
        convert=vqathinker.convert_checkpoint, settings=tuple(vqathinker.SETTINGS)
    ),
}
