"""Data sets as YAML describes them: `data_configs/*.yaml` goes in, examples come out.

A YAML file mirrors `DatasetConfig` or, where it describes one evaluation set and nothing else,
`EvalSet` or `RecordSet`; LLaVA's lists of files are read, too. `data_configs/README.md` shows them.
Only paths know variables: `${NAME}` is looked up in the variables the caller gives, then in the
environment. A relative path is relative to the folder of its YAML file.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Discriminator, Tag, ValidationInfo

from thinker.config.build import build
from thinker.config.shipped import DATA_CONFIGS
from thinker.config.yaml_file import read_settings
from thinker.data.bad_lines import Loaded, settle
from thinker.data.paths import compile_content_pattern, media_rules
from thinker.data.published import sources_of_list
from thinker.data.read import (
    RecordRules,
    line_rules,
    read_meta_json,
    read_records,
    scan_records,
    scan_train_jsonl,
)
from thinker.data.records import dataset_key, parse_mos
from thinker.data.sampling import parse_sampling
from thinker.data.scale import MosScale
from thinker.tasks import TASKS
from thinker.utils.names import path_text

logger = logging.getLogger(__name__)

EVAL_CONFIGS = DATA_CONFIGS / "eval"
DOMAINS = ("in", "out")
MOS = "MOS"
"""What labels are unless a YAML names them."""
PATH_KEYS = ("jsonl", "meta", "video_root", "media_root", "json_path")
PATHS_KEY = "records"
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
    return str(lookup.base / _filled_in(text, lookup.variables))


def _filled_in(text: str, variables: Mapping[str, str]) -> str:
    """The text with the values of its `${NAME}`. Raises ValueError for one without a value."""
    if "${" in _VARIABLE.sub("", text):
        raise ValueError(f"given {text!r}, expected variables in the form ${{NAME}}")
    for name in _VARIABLE.findall(text):
        if not variables.get(name):
            raise ValueError(
                f"{text!r} needs the variable {name}, which is not set; set it, or give the path "
                "itself in place of the one in the YAML"
            )
    return _VARIABLE.sub(lambda match: variables[match[1]], text)


DataPath = Annotated[Path, BeforeValidator(_look_up)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSource:
    """One training jsonl and what its lines mean."""

    jsonl: DataPath
    """The label file; `thinker.data.read` shows its form."""
    video_root: DataPath
    """The folder that the paths in the jsonl are relative to."""
    mos_scale: MosScale
    """The scale of the labels in the jsonl."""
    content_pattern: str | None = None
    """What finds the source content in a path, see `thinker.data.paths.compile_content_pattern`.
    None takes every video for a content of its own."""

    def __post_init__(self) -> None:
        if self.content_pattern is not None:
            compile_content_pattern(self.content_pattern)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSource:
    """Files of records to train on: questions of any task."""

    records: tuple[DataPath, ...]
    """The files, jsonl or JSON lists; `thinker.data.conversations` shows their forms."""
    media_root: DataPath
    """The folder that the paths of their media are relative to."""
    task: str | None = None
    """The task of records that do not name theirs. None goes by the form of each record."""
    mos_scale: MosScale | None = None
    """The scale of labels that are numbers. None: there are no scores among the records."""
    content_pattern: str | None = None
    """As in `TrainSource`, for the paths of all media."""
    sampling_strategy: str = "all"
    """Which records of each file are taken: all, first:N, end:N or random:N, see
    `thinker.data.sampling`."""
    sampling_seed: int = 0
    """Of the draw of random:N."""

    def __post_init__(self) -> None:
        _check_records(self)
        parse_sampling(self.sampling_strategy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSet:
    """One evaluation set: a meta JSON and what its scores mean."""

    name: str
    """Its name as tables print it, "KoNViD-1k"."""
    key: str
    """Its name in options and files, and the `dataset` of its examples: "konvid_1k"."""
    meta: DataPath
    """The meta JSON with the labels; `thinker.data.read` shows its form."""
    video_root: DataPath
    """The folder that the `image_id`s of the meta are relative to."""
    mos_scale: MosScale | None = None
    """The scale of the scores in the meta. None: not known. Predictions then stay on the answer
    scale, 1..5, and figures that need one scale (RMSE) are left out."""
    label_name: str = MOS
    """What its labels are, as reports and plots call them: ratings (MOS), or what was measured in
    their place, such as "vmaf"."""
    domain: str | None = None
    """Whether it lies "in" the domain of LSVQ or "out" of it. None: not known."""
    num_videos: int | None = None
    """Number of videos that the meta is expected to hold; another number is a warning."""
    content_pattern: str | None = None
    """What finds the source content in a path, see `thinker.data.paths.compile_content_pattern`.
    None takes every video for a content of its own."""
    source: str | None = None
    """Where the scale and the content rule are from."""

    def __post_init__(self) -> None:
        _check_key(self)
        if self.domain not in (None, *DOMAINS):
            raise ValueError(f"domain {self.domain!r}: expected one of {', '.join(DOMAINS)}")
        if self.num_videos is not None and self.num_videos < 1:
            raise ValueError(f"num_videos {self.num_videos}: expected at least 1")
        if self.content_pattern is not None:
            compile_content_pattern(self.content_pattern)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSet:
    """One evaluation set of questions. Where it holds several tasks, each is reported apart."""

    name: str
    """Its name as tables print it, "Q-Bench-Video dev"."""
    key: str
    """Its name in options and files, and the `dataset` of records that do not name theirs."""
    records: tuple[DataPath, ...]
    """The files, jsonl or JSON lists; `thinker.data.conversations` shows their forms."""
    media_root: DataPath
    """The folder that the paths of their media are relative to."""
    task: str | None = None
    """The task of records that do not name theirs. None goes by the form of each record."""
    mos_scale: MosScale | None = None
    """The scale of labels that are numbers. None: as in `EvalSet`, and levels are words only."""
    label_name: str = MOS
    """What its labels are, as reports and plots call them: ratings (MOS), or what was measured in
    their place, such as "vmaf"."""
    content_pattern: str | None = None
    """As in `EvalSet`, for the paths of all media."""
    source: str | None = None
    """Where the records are from."""

    def __post_init__(self) -> None:
        _check_key(self)
        _check_records(self)


def _check_key(named: EvalSet | RecordSet) -> None:
    if named.key != dataset_key(named.key) or not named.key:
        raise ValueError(
            f"key {named.key!r}: expected lower-case letters, digits and single underscores, "
            f"such as {dataset_key(named.name)!r}"
        )
    if not named.label_name.strip() or not named.label_name.isprintable():
        raise ValueError(f"label_name {named.label_name!r}: expected a word, such as MOS or vmaf")


def _check_records(given: RecordSource | RecordSet) -> None:
    if not given.records:
        raise ValueError("records is empty, expected at least one file")
    if given.task is not None and given.task not in TASKS:
        raise ValueError(f"task {given.task!r}: expected one of {', '.join(TASKS)}")
    if given.content_pattern is not None:
        compile_content_pattern(given.content_pattern)


def _is_of_records(entry: object) -> str:
    """Which of two classes an entry of `train` or `eval` is meant to be, by its key `records`."""
    return "records" if isinstance(entry, dict) and "records" in entry else "mos"


Sources = Annotated[
    Annotated[TrainSource, Tag("mos")] | Annotated[RecordSource, Tag("records")],
    Discriminator(_is_of_records),
]
Sets = Annotated[
    Annotated[EvalSet, Tag("mos")] | Annotated[RecordSet, Tag("records")],
    Discriminator(_is_of_records),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What one YAML file describes: sources to train on, sets to evaluate on, or both."""

    name: str
    """Its name in messages."""
    train: tuple[Sources, ...] = ()
    """What to train on. Ids must differ across the sources within a data set."""
    eval: tuple[Sets, ...] = ()
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
    replaces paths by their dotted place, `{"video_root": "/videos"}`, `{"train.0.jsonl":
    "my.jsonl"}` or `{"train.0.records.0": "${DEMO_ROOT}/my.jsonl"}`, before variables of the paths
    beside them are looked up; a relative one is relative to the current folder. Raises ValueError
    with file, key, what was given and what was expected.
    """
    path = Path(path)
    raw = read_settings(path)
    lookup = _Lookup(path.absolute().parent, {**os.environ, **(variables or {})})
    for dotted, value in (overrides or {}).items():
        try:
            _override_path(raw, dotted, _filled_in(value, lookup.variables))
        except ValueError as error:
            raise ValueError(f"{path}: cannot override {dotted!r}: {error}") from None
    if "datasets" in raw:
        raw = sources_of_list(raw, path)
    if "meta" not in raw and "records" not in raw:
        return build(DatasetConfig, raw, str(path), context=lookup)
    eval_set: EvalSet | RecordSet
    if "meta" in raw:
        eval_set = build(EvalSet, raw, str(path), context=lookup)
    else:
        eval_set = build(RecordSet, raw, str(path), context=lookup)
    return DatasetConfig(name=eval_set.name, eval=(eval_set,), source=eval_set.source)


def load_train_examples(
    config: DatasetConfig, *, skip_bad_lines: bool = False, require_answers: bool = True
) -> Loaded:
    """The examples of all `train` sources, in order.

    require_answers: whether a question without an answer is a bad line. Raises BadLinesError with
    the bad lines of all sources; `skip_bad_lines` returns and logs them.
    """
    if not config.train:
        raise ValueError(f"data set {config.name!r} has no train sources; expected at least one")
    seen: dict[str, str] = {}
    parts: list[Loaded] = []
    for source in config.train:
        if isinstance(source, TrainSource):
            rules = line_rules(
                source.video_root,
                source.mos_scale,
                source.content_pattern,
                require_files=True,
                seen=seen,
            )
            parts.append(scan_train_jsonl(source.jsonl, rules))
            continue
        media = media_rules(source.media_root, source.content_pattern, require_files=True)
        for path in source.records:
            record_rules = RecordRules(
                media=media,
                dataset=dataset_key(path.stem) or "records",
                task=source.task,
                scale=source.mos_scale,
                require_answers=require_answers,
                sampling=parse_sampling(source.sampling_strategy, source.sampling_seed),
                seen=seen,
            )
            parts.append(scan_records(path, record_rules))
    return settle(parts, skip_bad_lines)


def load_eval_examples(
    eval_set: EvalSet | RecordSet, *, skip_bad_lines: bool = False, require_files: bool = False
) -> Loaded:
    """The examples of one evaluation set.

    A medium that is not there is an example as well, so that evaluation can report it; with
    `require_files` (evaluation while training) it is a bad line. A question without an answer is
    an example that no figure counts.
    """
    if isinstance(eval_set, RecordSet):
        return read_records(
            eval_set.records,
            eval_set.media_root,
            dataset=eval_set.key,
            task=eval_set.task,
            scale=eval_set.mos_scale,
            content_pattern=eval_set.content_pattern,
            require_files=require_files,
            skip_bad_lines=skip_bad_lines,
        )
    loaded = read_meta_json(
        eval_set.meta,
        eval_set.video_root,
        eval_set.mos_scale,
        dataset=eval_set.key,
        content_pattern=eval_set.content_pattern,
        require_files=require_files,
        skip_bad_lines=skip_bad_lines,
    )
    if eval_set.num_videos not in (None, len(loaded.examples)):
        logger.warning(
            "%s: %s holds %d usable videos, expected %d",
            eval_set.name,
            eval_set.meta,
            len(loaded.examples),
            eval_set.num_videos,
        )
    return loaded


def eval_set_from_files(meta: Path, video_root: Path, mos_scale: MosScale | None = None) -> EvalSet:
    """An evaluation set without YAML.

    A meta with the file name of one of the ten sets in data_configs/eval takes everything but the
    two paths from there, also the scale unless one is given. Of any other file without `mos_scale`
    the scale is not known.
    """
    meta = Path(meta)
    for config_path in sorted(EVAL_CONFIGS.glob("*.yaml")):
        if Path(read_settings(config_path).get("meta", "")).name == meta.name:
            overrides = {"meta": str(meta), "video_root": str(video_root)}
            (known,) = load_dataset_config(config_path, overrides=overrides).eval
            assert isinstance(known, EvalSet)
            return known if mos_scale is None else dataclasses.replace(known, mos_scale=mos_scale)
    key = dataset_key(meta.stem)
    return EvalSet(
        name=path_text(meta.stem),
        key=key,
        meta=meta,
        video_root=Path(video_root),
        mos_scale=mos_scale,
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


def _override_path(raw: dict[str, Any], dotted: str, value: str) -> None:
    """Replaces the path at a dotted place, in place."""
    *parents, last = dotted.split(".")
    node: Any = raw
    for part in parents:
        node = node.get(part) if isinstance(node, dict) else _entry(node, part)
    if isinstance(node, dict) and last in PATH_KEYS and last in node:
        node[last] = str(Path(value).absolute())
    elif parents and parents[-1] == PATHS_KEY and _entry(node, last) is not None:
        node[int(last)] = str(Path(value).absolute())
    else:
        raise ValueError(
            f"expected the place of an existing path, ending in one of {', '.join(PATH_KEYS)}, "
            f"such as video_root or train.0.jsonl, or the number of one of {PATHS_KEY}, such as "
            f"train.0.{PATHS_KEY}.0"
        )


def _entry(node: Any, number: str) -> Any:
    """The entry of a list by its number; None where there is none."""
    if isinstance(node, list) and number.isdecimal() and int(number) < len(node):
        return node[int(number)]
    return None
