"""Presets: how the label files of known data sets are laid out (`data_configs/presets/*.yaml`).

Each names the public source that states it; what has none is no preset.
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import FiniteFloat

from thinker.config.build import build
from thinker.config.shipped import DATA_CONFIGS
from thinker.config.yaml_file import read_settings

PRESETS = DATA_CONFIGS / "presets"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One label file as its authors give it out."""

    name: str
    """Name of the data set as tables print it."""
    file: str
    """What the label file is called there."""
    source: str
    """Address of what states the columns."""
    path_column: str
    """Column of the paths."""
    mos_column: str
    """Column of the MOS."""
    scale: tuple[FiniteFloat, FiniteFloat]
    """The lowest and the highest MOS that the scale can express."""
    content_column: str | None = None
    """Column of the source content, if it has one."""
    split_column: str | None = None
    """Column of the official parts, if it has one."""
    splits: dict[str, str] = field(default_factory=dict)
    """What the parts are called instead of what the file calls them."""
    add_suffix: str = ""
    """The ending of the files where the label file leaves it out."""
    is_transposed: bool = False
    """Whether each row of the file is what a column is elsewhere."""
    note: str = ""
    """What else to know."""

    def __post_init__(self) -> None:
        if not self.source.startswith("https://"):
            raise ValueError(f"source is {self.source!r}, expected the address of a public source")


def preset_names() -> list[str]:
    """Names of all presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """The preset of a name; raises ValueError for one that there is not."""
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no preset {name!r}; {hint}there are {', '.join(names)}")
    path: Path = PRESETS / f"{name}.yaml"
    return build(Preset, read_settings(path), str(path))
