"""Published results on ViDA's benchmark (`data_configs/published_vida.yaml`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from thinker.config.shipped import DATA_CONFIGS

PUBLISHED = DATA_CONFIGS / "published_vida.yaml"


@dataclass(frozen=True, kw_only=True)
class PublishedVida:
    """The results of systems on the whole test release."""

    source: str
    """Where the figures were printed."""
    note: str
    """What to know before quoting them."""
    questions: Mapping[str, int]
    """How many questions each part of the release has."""
    systems: Mapping[str, Mapping[str, Mapping[str, float]]]
    """By system, rule ("official", "may") and figure: per cent; `final` is a sum of shares."""

    def is_of(self, sizes: Mapping[str, int]) -> bool:
        """Whether figures of so many questions may stand beside these.

        sizes: by part; other parts do not matter.
        """
        return all(sizes.get(part) == count for part, count in self.questions.items())

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(system, rule) of each column."""
        return [(name, rule) for name, rules in self.systems.items() for rule in rules]

    def cells(self, figure: str) -> list[str]:
        """What stands in each column in the line of a figure."""
        found = [self.systems[name][rule].get(figure) for name, rule in self.columns]
        digits = 4 if figure == "final" else 2
        return ["–" if value is None else f"{value:.{digits}f}" for value in found]


def load_published(path: Path = PUBLISHED) -> PublishedVida:
    """Raises ValueError for a figure that is no per cent."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, rules in raw["systems"].items():
        values = [value for figures in rules.values() for value in figures.values()]
        if not all(0 <= value <= 100 for value in values):
            raise ValueError(f"{path}: {name} has {values}, expected per cent")
    return PublishedVida(**raw)
