"""Published results of reference systems (`data_configs/published.yaml`): data with its source."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from thinker.config.shipped import DATA_CONFIGS

PUBLISHED = DATA_CONFIGS / "published.yaml"
MARK = "published, not measured"
"""Stands over every published figure that is shown beside a measured one."""


@dataclass(frozen=True, kw_only=True)
class PublishedSystem:
    """One system and what a paper printed of it."""

    name: str
    """The system's name."""
    source: str
    """Where the figures were printed."""
    results: dict[str, tuple[float, float]]
    """From a set's key to (SRCC, PLCC)."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """All published figures."""

    note: str
    """What to know before quoting them."""
    systems: tuple[PublishedSystem, ...]
    """In the order in which they are shown."""


def load_published(path: Path = PUBLISHED) -> Published:
    """Raises ValueError for a figure outside -1..1 and for a system without a known source."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    systems = []
    for entry in raw["systems"]:
        if entry["source"] not in raw["sources"]:
            raise ValueError(f"{path}: {entry['name']} has the unknown source {entry['source']!r}")
        results = {key: (float(s), float(p)) for key, (s, p) in entry["results"].items()}
        for key, pair in results.items():
            if not all(-1 <= value <= 1 for value in pair):
                raise ValueError(f"{path}: {entry['name']} on {key} is {pair}, expected -1..1")
        source = raw["sources"][entry["source"]]
        systems.append(PublishedSystem(name=entry["name"], source=source, results=results))
    return Published(note=raw["note"], systems=tuple(systems))
