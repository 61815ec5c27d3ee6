"""Data sets as YAML describes them: `data_configs/*.yaml` goes in, samples and columns come out.

A YAML file mirrors `DatasetConfig` or, where it describes one evaluation set and nothing else,
`EvalSet`. `data_configs/README.md` shows both. Only paths know variables: `${NAME}` is looked up in
the variables the caller gives, then in the environment. A relative path is relative to the folder
of its YAML file.
"""

import dataclasses
import difflib
import logging
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from thinker.config.shipped import DATA_CONFIGS
from thinker.config.yaml_file import load_yaml
from thinker.data.records import dataset_key, parse_mos
from thinker.data.samples import (
    Loaded,
    MosScale,
    VideoSample,
    compile_content_pattern,
    line_rules,
    pair_with_roots,
    read_meta_json,
    scan_train_jsonl,
    settle,
)

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

EVAL_CONFIGS = DATA_CONFIGS / "eval"
DOMAINS = ("in", "out")
PATH_KEYS = ("jsonl", "meta", "video_root")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSource:
    """One training jsonl and what its lines mean."""

    jsonl: Path
    video_root: Path  # the folder that the paths in the jsonl are relative to
    mos_scale: MosScale  # of the labels in the jsonl
    content_pattern: str | None = None  # see thinker.data.samples.compile_content_pattern

    def __post_init__(self) -> None:
        if self.content_pattern is not None:
            compile_content_pattern(self.content_pattern)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSet:
    """One evaluation set: a meta JSON and what its scores mean."""

    name: str  # as tables print it, "KoNViD-1k"
    key: str  # `dataset` of its samples and its name in options and files, "konvid_1k"
    meta: Path
    video_root: Path  # the folder that the image_ids of the meta are relative to
    mos_scale: MosScale
    domain: str | None = None  # "in" or "out" of the domain of LSVQ; None: not known
    num_videos: int | None = None  # what the meta is expected to hold; another number is a warning
    content_pattern: str | None = None  # see thinker.data.samples.compile_content_pattern
    source: str | None = None  # where scale and content rule are from

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
    train: tuple[TrainSource, ...] = ()  # ids must differ across them within a data set
    eval: tuple[EvalSet, ...] = ()  # held out
    source: str | None = None  # where scale and content rule are from

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
    raw = _read_yaml(path)
    for dotted, value in (overrides or {}).items():
        _override_path(raw, dotted, value, str(path))
    lookup = _Lookup(path.absolute().parent, {**os.environ, **(variables or {})})
    if "meta" not in raw:
        return _build(DatasetConfig, raw, str(path), lookup)
    eval_set = _build(EvalSet, raw, str(path), lookup)
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


def train_config_from_files(
    jsonls: Sequence[Path],
    video_roots: Sequence[Path],
    mos_scale: MosScale,
    *,
    content_pattern: str | None = None,
) -> DatasetConfig:
    """A configuration without YAML: one video root per jsonl or one for all, one scale for all."""
    sources = tuple(
        TrainSource(
            jsonl=Path(jsonl),
            video_root=Path(root),
            mos_scale=mos_scale,
            content_pattern=content_pattern,
        )
        for jsonl, root in pair_with_roots(jsonls, video_roots)
    )
    return DatasetConfig(name=Path(jsonls[0]).stem, train=sources)


def eval_set_from_files(meta: Path, video_root: Path, mos_scale: MosScale | None = None) -> EvalSet:
    """An evaluation set without YAML.

    A meta with the file name of one of the ten sets in data_configs/eval takes everything but the
    two paths from there, also the scale unless one is given. Any other file needs `mos_scale`.
    """
    meta = Path(meta)
    for config_path in sorted(EVAL_CONFIGS.glob("*.yaml")):
        if Path(_read_yaml(config_path).get("meta", "")).name == meta.name:
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


def to_hf_dataset(samples: Sequence[VideoSample]) -> "datasets.Dataset":
    """Columns sample_id, dataset, path, mos, target, content, one row a sample, in order.

    `mos` is on the data set's own scale, `target` on the answer scale. Mind the rewards: what they
    call `mos` is `target` here.
    """
    import datasets  # needed for training only, and slow to import

    text, number = datasets.Value("string"), datasets.Value("float64")
    features = datasets.Features(
        sample_id=text, dataset=text, path=text, mos=number, target=number, content=text
    )
    columns = {
        "sample_id": [sample.id for sample in samples],
        "dataset": [sample.dataset for sample in samples],
        "path": [str(sample.path) for sample in samples],
        "mos": [sample.mos for sample in samples],
        "target": [sample.target for sample in samples],
        "content": [sample.content for sample in samples],
    }
    return datasets.Dataset.from_dict(columns, features=features)


class _Lookup(NamedTuple):
    """What turns the text of a path in YAML into a path."""

    base: Path
    variables: Mapping[str, str]

    def path(self, text: str, where: str) -> Path:
        def value(match: re.Match[str]) -> str:
            found = self.variables.get(match[1], "")
            if not found:
                raise ValueError(
                    f"{where}: {text!r} needs the variable {match[1]}, which is not set; "
                    f"set it, or give the path itself in place of the one in the YAML"
                )
            return found

        if "${" in _VARIABLE.sub("", text):
            raise ValueError(f"{where}: given {text!r}, expected variables in the form ${{NAME}}")
        return self.base / _VARIABLE.sub(value, text)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; give an existing YAML") from None
    raw = load_yaml(content, str(path))
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: given {_kind(raw)}, expected a mapping of keys")
    return raw


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


def _build(cls: type[Any], raw: object, where: str, lookup: _Lookup) -> Any:
    """An instance of the dataclass `cls` from a YAML mapping of exactly its fields."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(raw, dict):
        raise ValueError(
            f"{where}: given {_kind(raw)}, expected a mapping with {', '.join(fields)}"
        )
    for key in raw:
        if key not in fields:
            nearest = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{where}: unknown key {key!r}; did you mean {nearest!r}? "
                f"The keys are {', '.join(fields)}"
            )
    for name, field in fields.items():
        if name not in raw and field.default is dataclasses.MISSING:
            raise ValueError(f"{where}: missing key {name!r}")
    hints = typing.get_type_hints(cls)
    values = {
        key: _convert(value, hints[key], f"{where}: {key}", lookup) for key, value in raw.items()
    }
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _convert(value: object, hint: Any, where: str, lookup: _Lookup) -> Any:
    """`value` as the type `hint` of a field; raises ValueError naming key, given and expected."""
    if isinstance(hint, types.UnionType):  # "… | None"
        (hint,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
        return None if value is None else _convert(value, hint, where, lookup)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}: given {_kind(value)}, expected a list")
        item = typing.get_args(hint)[0]
        return tuple(
            _convert(entry, item, f"{where}.{index}", lookup) for index, entry in enumerate(value)
        )
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, value, where, lookup)
    accepted: dict[Any, tuple[type, ...]] = {Path: (str,), float: (int, float)}
    if isinstance(value, bool) or not isinstance(value, accepted.get(hint, (hint,))):
        name = "path" if hint is Path else hint.__name__
        raise ValueError(f"{where}: given {_kind(value)}, expected {name}")
    if hint is Path:
        return lookup.path(str(value), where)
    try:
        return hint(value)
    except OverflowError:  # an integer beyond the range of float
        raise ValueError(f"{where}: given {_kind(value)}, expected a finite float") from None


def _kind(value: object) -> str:
    return f"{value!r:.80} ({type(value).__name__})"
