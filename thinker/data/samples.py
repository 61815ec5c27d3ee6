"""Labelled videos: a training jsonl or a meta JSON goes in, `Example`s come out.

Two forms are read, those of the VQAThinker release (arXiv 2508.06051):

- training jsonl, one line a video:
  `{"id": 0, "dataset_name": "LSVQ", "image": ["a/1.mp4"], "conversations":
  [{"from": "human", "value": Q}, {"from": "gpt", "value": 3.418571}]}`
- meta JSON: `{"annotations": [{"image_id": "a/1.mp4", "ann_type": "score", "score": "67.75"}]}`

A line is either a sample or a `BadLine` with its reason. All bad lines of all files are found
before anything starts.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import FiniteFloat

from thinker.data.examples import Example, is_finite_number
from thinker.data.records import (
    BadValueError,
    Record,
    meta_annotations,
    meta_record,
    show,
    train_record,
)
from thinker.video.medium import medium

logger = logging.getLogger(__name__)

ANSWER_MIN, ANSWER_MAX = 1.0, 5.0  # the scale the prompt asks for
# LSVQ's training labels are MOS/20 of a MOS in 0..100, so identity labels start at 0, not at 1.
IDENTITY_MIN, IDENTITY_MAX = 0.0, 5.0
MAPPINGS = ("linear", "identity")
MAX_PRINTED_BAD_LINES = 50  # a screen; the attribute holds all
MAX_NAME_BYTES = 255  # common file systems take no longer name


@dataclass(frozen=True, kw_only=True)
class MosScale:
    """The scale the labels of a data set are on, and how it maps to the answer scale.

    `linear` maps the declared range [min, max] to 1..5: on 0..100, a MOS of 67.75 is
    1 + 4 * 67.75 / 100 = 3.71 on the answer scale. `identity` says that labels already live on the
    answer scale (LSVQ's training labels, MOS/20 in 0..5): they are kept, also below 1.
    """

    min: FiniteFloat
    """Lowest MOS that the scale can express, which is not the lowest observed."""
    max: FiniteFloat
    """Highest MOS that the scale can express."""
    mapping: str
    """How it maps to the answer scale, "linear" or "identity"."""

    def __post_init__(self) -> None:
        given = f"mos_scale min {self.min!r}, max {self.max!r}, mapping {self.mapping!r}"
        if not all(is_finite_number(value) for value in (self.min, self.max)):
            raise ValueError(f"{given}: expected finite numbers for min and max")
        if not self.min < self.max:
            raise ValueError(f"{given}: expected min < max")
        if self.mapping not in MAPPINGS:
            raise ValueError(f"{given}: expected mapping to be one of {', '.join(MAPPINGS)}")
        if self.mapping == "identity" and not IDENTITY_MIN <= self.min < self.max <= IDENTITY_MAX:
            raise ValueError(
                f"{given}: identity is for labels on the answer scale, expected a range inside "
                f"{IDENTITY_MIN:g}..{IDENTITY_MAX:g}; use mapping linear for any other scale"
            )

    def to_answer(self, mos: float) -> float:
        """`mos` on the answer scale. Raises ValueError outside [min, max], and for NaN."""
        if not self.min <= mos <= self.max:
            raise ValueError(
                f"mos {mos!r} is outside the declared range {self.min:g}..{self.max:g}"
            )
        if self.mapping == "identity":
            return mos
        return ANSWER_MIN + (ANSWER_MAX - ANSWER_MIN) * ((mos - self.min) / (self.max - self.min))

    def from_answer(self, score: float) -> float:
        """Inverse of `to_answer`; a score outside 1..5 is extrapolated, never clipped."""
        if self.mapping == "identity":
            return score
        unit = (score - ANSWER_MIN) / (ANSWER_MAX - ANSWER_MIN)
        return self.min + unit * (self.max - self.min)


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line that is no sample."""

    file: Path
    """The label file."""
    line: int
    """Number of the line, from 1; in a meta JSON, the line that the annotation starts on."""
    reason: str
    """What was given there and what was expected."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class BadLinesError(ValueError):
    """Raised with every bad line of every file that was read."""

    def __init__(self, bad_lines: Sequence[BadLine]) -> None:
        super().__init__(list(bad_lines))
        self.bad_lines: list[BadLine] = list(bad_lines)

    def __str__(self) -> str:
        shown = [f"  {bad}" for bad in self.bad_lines[:MAX_PRINTED_BAD_LINES]]
        num_hidden = len(self.bad_lines) - len(shown)
        if num_hidden:
            shown.append(f"  … and {num_hidden} more")
        head = f"{len(self.bad_lines)} bad line(s); mend them or set skip_bad_lines to drop them:"
        return "\n".join([head, *shown])


class Loaded(NamedTuple):
    """What was read."""

    samples: list[Example]
    """The good lines, in file order."""
    bad_lines: list[BadLine]
    """The bad ones, which are raised instead unless they were asked to be skipped."""


@dataclass(frozen=True, kw_only=True)
class LineRules:
    """What every line of one file is held to."""

    root: Path
    """The video root, symbolic links resolved."""
    scale: MosScale
    """The scale of the labels."""
    content_pattern: re.Pattern[str] | None
    """What finds the source content in a path, see `compile_content_pattern`."""
    require_files: bool
    """Whether a line whose video is not there is bad."""
    seen: dict[str, str] = field(default_factory=dict)
    """Where each sample id was used first, "file:line"."""
    folders: dict[Path, Path] = field(default_factory=dict)
    """Folders resolved so far: resolving every path anew is most of the time of reading a jsonl."""

    def sample(self, record: Record, place: str) -> Example:
        """The validated sample of the record at `place`; raises BadValueError with the reason."""
        sample_id = f"{record.dataset}/{record.id}"
        if sample_id in self.seen:
            raise BadValueError(
                f"duplicate id {record.id!r} in data set {record.dataset!r}, "
                f"first used at {self.seen[sample_id]}"
            )
        self.seen[sample_id] = place
        try:
            target = self.scale.to_answer(record.mos)
        except ValueError as error:
            raise BadValueError(str(error)) from None
        return Example(
            id=sample_id,
            dataset=record.dataset,
            media=(medium(_locate(record.video, self)),),
            mos=record.mos,
            target=target,
            content=_content(record.video, self.content_pattern),
        )


def read_meta_json(
    path: Path,
    root: Path,
    scale: MosScale,
    *,
    dataset: str,
    content_pattern: str | None = None,
    require_files: bool = False,
    skip_bad_lines: bool = False,
) -> Loaded:
    """Samples of one meta JSON, in file order; the id is "<dataset>/<image_id>".

    Without `require_files` a video that is not there is still a sample (evaluation writes a row
    with status `missing`). Raises BadLinesError, or ValueError for a file or root that is not
    there. With `skip_bad_lines` bad lines are logged and returned instead; if no good line is left
    they are raised all the same. A bad annotation is reported with the line it starts on and, as
    some of these files are a single line, its index from 0: `annotations[17]: …`.
    """
    rules = line_rules(root, scale, content_pattern, require_files=require_files)
    return settle([scan_meta_json(path, rules, dataset)], skip_bad_lines)


def line_rules(
    root: Path,
    scale: MosScale,
    content_pattern: str | None,
    *,
    require_files: bool,
    seen: dict[str, str] | None = None,
) -> LineRules:
    """Rules for the files of one video root; pass one `seen` to all files whose ids must differ."""
    resolved = Path(root).resolve()
    if not resolved.is_dir():
        raise ValueError(
            f"video root {root} is not a folder; give the one that video paths are relative to"
        )
    pattern = None if content_pattern is None else compile_content_pattern(content_pattern)
    return LineRules(
        root=resolved,
        scale=scale,
        content_pattern=pattern,
        require_files=require_files,
        seen={} if seen is None else seen,
    )


def scan_train_jsonl(path: Path, rules: LineRules) -> Loaded:
    """Every line of one jsonl, good or bad. Empty lines at the end of the file do not count."""
    loaded = Loaded([], [])
    data = _read_bytes(path).rstrip(b"\r\n")
    for line, raw in enumerate(data.split(b"\n") if data else [], start=1):
        try:
            loaded.samples.append(rules.sample(train_record(raw), f"{path}:{line}"))
        except BadValueError as error:
            loaded.bad_lines.append(BadLine(file=Path(path), line=line, reason=str(error)))
    return loaded


def scan_meta_json(path: Path, rules: LineRules, dataset: str) -> Loaded:
    """Every annotation of one meta JSON, good or bad. A file not of the form is one bad line."""
    loaded = Loaded([], [])
    try:
        annotations = meta_annotations(_read_bytes(path))
    except BadValueError as error:
        loaded.bad_lines.append(BadLine(file=Path(path), line=error.line, reason=str(error)))
        return loaded
    for index, (line, annotation) in enumerate(annotations):
        where = f"annotations[{index}]"
        try:
            record = meta_record(annotation, dataset)
            loaded.samples.append(rules.sample(record, f"{path}:{line} {where}"))
        except BadValueError as error:
            reason = f"{where}: {error}"
            loaded.bad_lines.append(BadLine(file=Path(path), line=line, reason=reason))
    return loaded


def settle(parts: Sequence[Loaded], skip_bad_lines: bool) -> Loaded:
    """All parts as one. Raises BadLinesError unless bad lines are skipped and a sample is left."""
    samples = [sample for part in parts for sample in part.samples]
    bad_lines = [bad for part in parts for bad in part.bad_lines]
    if bad_lines and not (skip_bad_lines and samples):
        raise BadLinesError(bad_lines)
    if not samples:
        raise ValueError("the given files hold no sample; expected at least one line")
    if bad_lines:
        logger.warning("skipped %d bad line(s), kept %d sample(s)", len(bad_lines), len(samples))
        for bad in bad_lines:
            logger.info("skipped %s", bad)
    return Loaded(samples, bad_lines)


def compile_content_pattern(pattern: str) -> re.Pattern[str]:
    r"""A pattern for whole paths as files name them, whose one group, `content`, is the source.

    `(?P<content>[A-Za-z0-9]+)_crf_[0-9]+_[0-9]+fps\.mp4` gives "1Runner" for
    "1Runner_crf_0_24fps.mp4". Raises ValueError for any other group, and for a repeated one such as
    `(?:a+)+`, which can take time exponential in the length of a name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"content_pattern {pattern!r} is not a regular expression: {error}"
        ) from None
    if compiled.groups != 1 or list(compiled.groupindex) != ["content"]:
        raise ValueError(
            f"content_pattern {pattern!r}: expected exactly one group, named: (?P<content>…); "
            "write any other group as (?:…)"
        )
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern, flags=re.DOTALL)
    if re.search(r"\)[*+{]", bare):
        raise ValueError(
            f"content_pattern {pattern!r} repeats a group; repeat single characters or classes only"
        )
    return compiled


def _locate(video: str, rules: LineRules) -> Path:
    """The absolute path of `video` below the video root."""
    relative = PurePosixPath(video)
    if relative.is_absolute() or ".." in relative.parts or not relative.name:
        raise BadValueError(
            f"path {show(video)} must name a file below the video root, without .. or a leading /"
        )
    if any(len(part.encode()) > MAX_NAME_BYTES for part in relative.parts):
        raise BadValueError(f"path {show(video)} has a part of more than {MAX_NAME_BYTES} bytes")
    path = rules.root / relative
    try:
        if path.parent not in rules.folders:
            rules.folders[path.parent] = path.parent.resolve()
        resolved = path.resolve() if path.is_symlink() else rules.folders[path.parent]
        is_file = path.is_file()
        exists = is_file or path.exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that form a loop
        raise BadValueError(f"path {show(video)} cannot be followed: {error}") from None
    if not resolved.is_relative_to(rules.root):
        raise BadValueError(
            f"path {show(video)} leaves the video root {rules.root} by a symbolic link"
        )
    if exists and not is_file:
        raise BadValueError(f"{path} is not a regular file")
    if rules.require_files and not exists:
        raise BadValueError(f"file {path} does not exist")
    return path


def _content(video: str, pattern: re.Pattern[str] | None) -> str:
    relative = str(PurePosixPath(video))
    if pattern is None:
        return relative
    match = pattern.fullmatch(relative)
    if match is None or not match["content"]:
        raise BadValueError(
            f"path {show(relative)} does not match content_pattern {pattern.pattern!r}"
        )
    return match["content"]


def _read_bytes(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; give the path of an existing file"
        ) from None
