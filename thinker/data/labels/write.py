"""`Label`s → label files and the data set YAML that names them.

Rows to train on become a jsonl, rows to evaluate on a meta JSON: by the suffix of the output or,
where the sheet has parts, by the name of the part. Everything is known before the first file is
written, and each file appears whole.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from thinker.data.labels.collect import Label
from thinker.data.records import dataset_key
from thinker.data.scale import MosScale
from thinker.prompts import SHORT_SCORING
from thinker.utils.atomic import atomic_file, write_atomic

TRAIN_SUFFIX, META_SUFFIX = ".jsonl", ".json"
TRAIN_PARTS = ("train", "training")
"""Parts of these names are trained on, all others are evaluated on."""
UNKNOWN_ROOT = "${VIDEO_ROOT}"
_ENCODER = json.JSONEncoder(ensure_ascii=False)  # `json.dumps` would make one a line


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is written, and what it says of itself."""

    output: Path
    """Name of the label file; the YAML lies beside it, `set.yaml` beside `set.jsonl`."""
    name: str
    """Name of the data set in tables and messages."""
    scale: MosScale | None
    """The scale of the labels; None where it is not known, which only evaluation can do with."""
    media_root: Path | None
    """Where the files lie; None writes a variable in its place."""
    source: str
    """Where the labels are from."""

    def __post_init__(self) -> None:
        if self.output.suffix not in (TRAIN_SUFFIX, META_SUFFIX):
            raise ValueError(
                f"output {self.output}: expected a name that ends in {TRAIN_SUFFIX} (to train on) "
                f"or {META_SUFFIX} (to evaluate on)"
            )
        if not self.output.parent.is_dir():
            raise ValueError(f"output {self.output}: {self.output.parent} is no folder")
        if not dataset_key(self.name):
            raise ValueError(f"name {self.name!r} holds no letter or digit")

    @property
    def yaml(self) -> Path:
        """The data set YAML."""
        return self.output.with_suffix(".yaml")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The labels of one file."""

    path: Path
    """The file."""
    key: str
    """Key of the set that it is."""
    name: str
    """Name of the set that it is."""
    labels: Sequence[Label]
    """What it holds."""

    @property
    def is_trained(self) -> bool:
        """Whether it is a training jsonl."""
        return self.path.suffix == TRAIN_SUFFIX


def plan_parts(labels: Sequence[Label], target: Target) -> list[Part]:
    """One file, or one a part of the sheet: `set.jsonl` becomes `set_train.jsonl` and
    `set_test.json`.

    Raises ValueError for a file that is there already, and for labels to train on without a scale.
    """
    key = dataset_key(target.name)
    if labels[0].split is None:
        parts = [Part(path=target.output, key=key, name=target.name, labels=labels)]
    else:
        parts = [
            Part(
                path=target.output.with_name(f"{target.output.stem}_{dataset_key(name)}{suffix}"),
                key=f"{key}_{dataset_key(name)}",
                name=f"{target.name} {name}",
                labels=[label for label in labels if label.split == name],
            )
            for name, suffix in _part_suffixes(labels).items()
        ]
    paths = [*(part.path for part in parts), target.yaml]
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise ValueError(f"{', '.join(there)} is there; delete it, or choose another output")
    if len(set(paths)) < len(paths):
        raise ValueError(f"parts {', '.join(p.name for p in parts)}: two would be one file")
    if target.scale is None and any(part.is_trained for part in parts):
        raise ValueError(
            "labels to train on need the scale that they are on: the lowest and the highest that "
            "there can be, which the sheet does not say; give it as min:max"
        )
    return parts


def _part_suffixes(labels: Sequence[Label]) -> dict[str, str]:
    """Suffix of the file of each part. Raises ValueError for a part whose name makes no file."""
    names = [name for name in dict.fromkeys(label.split for label in labels) if name is not None]
    wrong = [name for name in names if not dataset_key(name)]
    if wrong:
        raise ValueError(f"part {wrong[0]!r} holds no letter or digit, so no file can be named so")
    trained = {name for name in names if name.lower() in TRAIN_PARTS}
    return {name: TRAIN_SUFFIX if name in trained else META_SUFFIX for name in names}


def write_parts(parts: Sequence[Part], target: Target) -> list[Path]:
    """Write the label files, then the YAML; returns their paths."""
    for part in parts:
        with atomic_file(part.path) as file:
            for text in _jsonl(part, target) if part.is_trained else _meta(part):
                file.write(text.encode())
    write_atomic(target.yaml, _yaml(parts, target))
    return [*(part.path for part in parts), target.yaml]


def _jsonl(part: Part, target: Target) -> Iterator[str]:
    """The form of the VQAThinker release (`thinker.data.read`), with the content where there is
    one."""
    for label in part.labels:
        yield _line(
            {
                "id": label.id,
                "dataset_name": target.name,
                "image": [label.path],
                "conversations": [
                    {"from": "human", "value": SHORT_SCORING},
                    {"from": "gpt", "value": label.mos},
                ],
            },
            label,
        )


def _meta(part: Part) -> Iterator[str]:
    yield '{"annotations": [\n'
    last = len(part.labels) - 1
    for number, label in enumerate(part.labels):
        annotation = {"image_id": label.path, "ann_type": "score", "score": label.mos}
        yield _line(annotation, label, end="\n" if number == last else ",\n")
    yield "]}\n"


def _line(fields: dict[str, Any], label: Label, end: str = "\n") -> str:
    if label.content is not None:
        fields["content"] = label.content
    return _ENCODER.encode(fields) + end


def _yaml(parts: Sequence[Part], target: Target) -> str:
    """The data set YAML: a single evaluation set is one mapping, everything else has `train` and
    `eval`."""
    root = UNKNOWN_ROOT if target.media_root is None else str(target.media_root.absolute())

    def place() -> dict[str, Any]:  # anew each time: PyYAML writes an alias for what it saw before
        scale = {} if target.scale is None else {"mos_scale": asdict(target.scale)}
        return {"video_root": root} | scale

    trained = [{"jsonl": part.path.name} | place() for part in parts if part.is_trained]
    evaluated = [
        {"name": part.name, "key": part.key, "meta": part.path.name}
        | place()
        | {"num_videos": len(part.labels)}
        for part in parts
        if not part.is_trained
    ]
    if len(parts) == 1 and evaluated:
        values = evaluated[0] | {"source": target.source}
    else:
        values = {"name": target.name}
        values |= {"train": trained} if trained else {}
        values |= {"eval": evaluated} if evaluated else {}
        values |= {"source": target.source}
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return f"# Written by `thinker import-labels`; data_configs/README.md explains it.\n{body}"
