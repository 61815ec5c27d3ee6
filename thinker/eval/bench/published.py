"""Published results on benchmarks (`data_configs/published_questions.yaml`), by protocol."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thinker.config.shipped import DATA_CONFIGS
from thinker.eval.bench.load import BENCHES, PROTOCOLS, SPLITS, Protocol

PUBLISHED = DATA_CONFIGS / "published_questions.yaml"


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """The results of several systems under one protocol."""

    bench: str
    """A key of `BENCHES`."""
    media: str
    """One of `PROTOCOLS`."""
    split: str
    """One of `SPLITS`."""
    source: str
    """Where the figures were printed."""
    note: str
    """What to know before quoting them."""
    columns: tuple[str, ...]
    """Question types and concerns, as the benchmark names them, "other" concerns, and "all"."""
    systems: dict[str, tuple[float | None, ...]]
    """Per cent in each column; None where none was published."""

    def is_of(self, protocol: Protocol) -> bool:
        """Whether figures measured under a protocol may stand beside these."""
        return (self.bench, self.media, self.split) == (
            protocol.bench,
            protocol.media,
            protocol.split,
        )


def load_tables(path: Path = PUBLISHED) -> list[PublishedTable]:
    """Raises ValueError for a table without a known source, benchmark, protocol or split, and for a
    figure that is no per cent."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [_table(entry, raw, path) for entry in raw["tables"]]


def _table(entry: dict[str, Any], raw: dict[str, Any], path: Path) -> PublishedTable:
    known = {
        "bench": BENCHES, "media": PROTOCOLS, "split": SPLITS, "source": raw["sources"]
    }  # fmt: skip
    for name, values in known.items():
        if entry[name] not in values:
            raise ValueError(
                f"{path}: {name} is {entry[name]!r}, expected one of {', '.join(values)}"
            )
    columns = tuple(entry["columns"])
    for name, figures in entry["systems"].items():
        if len(figures) != len(columns):
            raise ValueError(f"{path}: {name} has {len(figures)} figures, expected {len(columns)}")
        if not all(figure is None or 0 <= figure <= 100 for figure in figures):
            raise ValueError(f"{path}: {name} has {figures}, expected per cent")
    return PublishedTable(
        bench=entry["bench"],
        media=entry["media"],
        split=entry["split"],
        source=raw["sources"][entry["source"]],
        note=raw["note"],
        columns=columns,
        systems={name: tuple(figures) for name, figures in entry["systems"].items()},
    )
