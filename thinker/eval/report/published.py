"""Published results of reference systems (`data_configs/published.yaml`): data with its source."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from thinker.config.shipped import DATA_CONFIGS

PUBLISHED = DATA_CONFIGS / "published.yaml"
MARK = "published, not measured"
"""Stands over every published figure that is shown beside a measured one."""


@dataclass(frozen=True, kw_only=True)
class SubsetResult:
    """Figures of a part of a set, which compare with none of the whole set."""

    srcc: float
    """SRCC on the part."""
    plcc: float
    """PLCC on the part."""
    num_videos: int
    """Number of videos of the part."""
    of: int
    """Number of videos of the set."""


@dataclass(frozen=True, kw_only=True)
class PublishedSystem:
    """One system and what a paper printed of it."""

    name: str
    """The system's name."""
    source: str
    """Where the figures were printed."""
    results: dict[str, tuple[float, float]]
    """From a set's key to (SRCC, PLCC), both on the whole set."""
    subsets: dict[str, SubsetResult] = field(default_factory=dict)
    """From a set's key to figures of a part of it; such a set has none in `results`."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """All published figures."""

    note: str
    """What to know before quoting them."""
    systems: tuple[PublishedSystem, ...]
    """In the order in which they are shown."""


def load_published(path: Path = PUBLISHED) -> Published:
    """Raises ValueError for a figure outside -1..1, for a part that is no part, for a set with
    figures of both its whole and a part, and for a system without a known source."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Published(
        note=raw["note"],
        systems=tuple(_system(entry, raw["sources"], path) for entry in raw["systems"]),
    )


def _system(entry: dict[str, Any], sources: dict[str, str], path: Path) -> PublishedSystem:
    name = entry["name"]
    if entry["source"] not in sources:
        raise ValueError(f"{path}: {name} has the unknown source {entry['source']!r}")
    results = {key: (float(s), float(p)) for key, (s, p) in entry["results"].items()}
    subsets = {key: SubsetResult(**values) for key, values in entry.get("subsets", {}).items()}
    pairs = [*results.items(), *((key, (one.srcc, one.plcc)) for key, one in subsets.items())]
    for key, pair in pairs:
        if not all(-1 <= value <= 1 for value in pair):
            raise ValueError(f"{path}: {name} on {key} is {pair}, expected -1..1")
    for key, one in subsets.items():
        if key in results or not 0 < one.num_videos < one.of:
            raise ValueError(
                f"{path}: {name} on {key} has {one.num_videos} of {one.of} videos, expected a part "
                "of the set, and no figures of the whole set beside it"
            )
    return PublishedSystem(
        name=name, source=sources[entry["source"]], results=results, subsets=subsets
    )
