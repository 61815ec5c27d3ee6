"""Data sets as YAML describes them: `data_configs/*.yaml` goes in, samples and columns come out.

A YAML file mirrors `DatasetConfig` or, where it describes one evaluation set and nothing else,
`EvalSet`. `data_configs/README.md` shows both. Only paths know variables: `${NAME}` is looked up in
the variables the caller gives, then in the environment. A relative path is relative to the folder
of its YAML file.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, ValidationInfo

from thinker.config.build import build
from thinker.config.shipped import DATA_CONFIGS
from thinker.config.yaml_file import read_settings
from thinker.data.records import dataset_key, parse_mos
from thinker.data.samples import (
    Loaded,
    MosScale,
    compile_content_pattern,
    line_rules,
    read_meta_json,
    scan_train_jsonl,
    settle,
)

logger = logging.getLogger(__name__)

EVAL_CONFIGS = DATA_CONFIGS / "eval"
DOMAINS = ("in", "out")
PATH_KEYS = ("jsonl", "meta", "video_root")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Lookup(NamedTuple):
    """What turns the text of a path in a YAML file into a path."""

    base: Path
    """Folder of the YAML file, which relative paths start from."""
    variables: Mapping[str, str]
    """What `${NAME}` in a path stands for, by name."""


def _look_up(text: object, info: ValidationInfo) -> object:
    """A path as the YAML has it → the path itself; what is no text is pydantic's to refuse."""
    lookup = info.context
    assert isinstance(lookup, _Lookup)
    if not isinstance(text, str):
        return text
    if "${" in _VARIABLE.sub("", text):
        raise ValueError(f"given {text!r}, expected variables in the form ${{NAME}}")
    for name in _VARIABLE.findall(text):
        if not lookup.variables.get(name):
            raise ValueError(
                f"{text!r} needs the variable {name}, which is not set; set it, or give the path "
                "itself in place of the one in the YAML"
            )
    return str(lookup.base / _VARIABLE.sub(lambda match: lookup.variables[match[1]], text))


DataPath = Annotated[Path, BeforeValidator(_look_up)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSource:
    """One training jsonl and what its lines mean."""

    jsonl: DataPath
    """The label file; `thinker.data.samples` shows its form."""
    video_root: DataPath
    """The folder that the paths in the jsonl are relative to."""
    mos_scale: MosScale
    """The scale of the labels in the jsonl."""
    content_pattern: str | None = None
    """What finds the source content in a path, see `thinker.data.samples.compile_content_pattern`.
    None takes every video for a content of its own."""

    def __post_init__(self) -> None:
        if self.content_pattern is not None:
            compile_content_pattern(self.content_pattern)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSet:
    """One evaluation set: a meta JSON and what its scores mean."""

    name: str
    """Its name as tables print it, "KoNViD-1k"."""
    key: str
    """Its name in options and files, and the `dataset` of its samples: "konvid_1k"."""
    meta: DataPath
    """The meta JSON with the labels; `thinker.data.samples` shows its form."""
    video_root: DataPath
    """The folder that the `image_id`s of the meta are relative to."""
    mos_scale: MosScale
    """The scale of the scores in the meta."""
    domain: str | None = None
    """Whether it lies "in" the domain of LSVQ or "out" of it. None: not known."""
    num_videos: int | None = None
    """Number of videos that the meta is expected to hold; another number is a warning."""
    content_pattern: str | None = None
    """What finds the source content in a path, see `thinker.data.samples.compile_content_pattern`.
    None takes every video for a content of its own."""
    source: str | None = None
    """Where the scale and the content rule are from."""

    def __post_init__(self) -> None:
        if self.key != dataset_key(self.key) or not self.key:
            raise ValueError(
                f"key {self.key!r}: expected lower-case letters, digits and single underscores, "
                f"such as {dataset_key(self.name)!r}"
            )
        if self.domain not in (None, *DOMAINS):
            raise ValueError(f"domain {self.domain!r}: expected one of {', '.join(DOMAINS)}")
        if self.num_videos is not None and self.num_videos < 1:
            raise ValueError(f"num_videos {self.num_videos}: expected at least 1")
        if self.content_pattern is not None:
            compile_content_pattern(self.content_pattern)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What one YAML file describes: sources to train on, sets to evaluate on, or both."""

    name: str
    """Its name in messages."""
    train: tuple[TrainSource, ...] = ()
    """What to train on. Ids must differ across the sources within a data set."""
    eval: tuple[EvalSet, ...] = ()
    """Held-out sets to evaluate on."""
    source: str | None = None
    """Where the scales and the content rules are from."""

    def __post_init__(self) -> None:
        if not self.train and not self.eval:
            raise ValueError(
                f"data set {self.name!r}: expected entries in train, in eval, or in both"
            )
        keys = [eval_set.key for eval_set in self.eval]
        if len(set(keys)) != len(keys):
            raise ValueError(f"eval keys {', '.join(keys)}: expected each of them once")


def load_dataset_config(
    path: Path | str,
    *,
    variables: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> DatasetConfig:
    """The configuration in one YAML file; a file of a single evaluation set becomes its `eval`.

    `variables` are the values of `${NAME}` in paths and win over the environment. `overrides`
    replaces paths by their dotted place, `{"video_root": "/videos"}` or
    `{"train.0.jsonl": "my.jsonl"}`, before variables are looked up; a relative one is relative to
    the current folder. Raises ValueError with file, key, what was given and what was expected.
    """
    path = Path(path)
    raw = read_settings(path)
    for dotted, value in (overrides or {}).items():
        _override_path(raw, dotted, value, str(path))
    lookup = _Lookup(path.absolute().parent, {**os.environ, **(variables or {})})
    if "meta" not in raw:
        return build(DatasetConfig, raw, str(path), context=lookup)
    eval_set = build(EvalSet, raw, str(path), context=lookup)
    return DatasetConfig(name=eval_set.name, eval=(eval_set,), source=eval_set.source)


def load_train_samples(config: DatasetConfig, *, skip_bad_lines: bool = False) -> Loaded:
    """The samples of all `train` sources, in order.

    Raises BadLinesError with the bad lines of all of them; `skip_bad_lines` returns and logs them.
    """
    if not config.train:
        raise ValueError(f"data set {config.name!r} has no train sources; expected at least one")
    seen: dict[str, str] = {}
    parts = [
        scan_train_jsonl(
            source.jsonl,
            line_rules(
                source.video_root,
                source.mos_scale,
                source.content_pattern,
                require_files=True,
                seen=seen,
            ),
        )
        for source in config.train
    ]
    return settle(parts, skip_bad_lines)


def load_eval_samples(
    eval_set: EvalSet, *, skip_bad_lines: bool = False, require_files: bool = False
) -> Loaded:
    """The samples of one evaluation set.

    A video that is not there is a sample as well, so that evaluation can report it; with
    `require_files` (evaluation while training) it is a bad line.
    """
    loaded = read_meta_json(
        eval_set.meta,
        eval_set.video_root,
        eval_set.mos_scale,
        dataset=eval_set.key,
        content_pattern=eval_set.content_pattern,
        require_files=require_files,
        skip_bad_lines=skip_bad_lines,
    )
    if eval_set.num_videos not in (None, len(loaded.samples)):
        logger.warning(
            "%s: %s holds %d usable videos, expected %d",
            eval_set.name,
            eval_set.meta,
            len(loaded.samples),
            eval_set.num_videos,
        )
    return loaded


def eval_set_from_files(meta: Path, video_root: Path, mos_scale: MosScale | None = None) -> EvalSet:
    """An evaluation set without YAML.

    A meta with the file name of one of the ten sets in data_configs/eval takes everything but the
    two paths from there, also the scale unless one is given. Any other file needs `mos_scale`.
    """
    meta = Path(meta)
    for config_path in sorted(EVAL_CONFIGS.glob("*.yaml")):
        if Path(read_settings(config_path).get("meta", "")).name == meta.name:
            overrides = {"meta": str(meta), "video_root": str(video_root)}
            (known,) = load_dataset_config(config_path, overrides=overrides).eval
            return known if mos_scale is None else dataclasses.replace(known, mos_scale=mos_scale)
    if mos_scale is None:
        raise ValueError(
            f"the MOS scale of {meta} is not known: its name is none of those in {EVAL_CONFIGS}. "
            "Give one as min:max:mapping, such as 0:100:linear, or write a YAML as "
            "data_configs/README.md shows"
        )
    key = dataset_key(meta.stem)
    return EvalSet(
        name=meta.stem, key=key, meta=meta, video_root=Path(video_root), mos_scale=mos_scale
    )


def parse_mos_scale(text: str) -> MosScale:
    """The scale that a command line names.

    "0:100:linear" is MosScale(min=0.0, max=100.0, mapping="linear").
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"MOS scale {text!r}: expected min:max:mapping, such as 0:100:linear")
    try:
        return MosScale(min=parse_mos(parts[0]), max=parse_mos(parts[1]), mapping=parts[2])
    except ValueError as error:
        raise ValueError(f"MOS scale {text!r}: {error}") from None


def _override_path(raw: dict[str, Any], dotted: str, value: str, where: str) -> None:
    """Replaces the path at a dotted place, in place."""
    *parents, last = dotted.split(".")
    node: Any = raw
    for part in parents:
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, dict) else None
    if last not in PATH_KEYS or not isinstance(node, dict) or last not in node:
        raise ValueError(
            f"{where}: cannot override {dotted!r}: expected the place of an existing path, "
            f"ending in one of {', '.join(PATH_KEYS)}, such as video_root or train.0.jsonl"
        )
    node[last] = str(Path(value).absolute())
