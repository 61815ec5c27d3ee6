"""Label files → `Example`s: what needs the file system, the scale and the tasks.

Three forms are read. The first two are those of the VQAThinker release (arXiv 2508.06051), the
third is LLaVA's and that of benchmarks (conversations.py); MOS make examples of task score.

- training jsonl, one line a video:
  `{"id": 0, "dataset_name": "LSVQ", "image": ["a/1.mp4"], "conversations":
  [{"from": "human", "value": Q}, {"from": "gpt", "value": 3.418571}]}`
- meta JSON: `{"annotations": [{"image_id": "a/1.mp4", "ann_type": "score", "score": "67.75"}]}`
- records, as jsonl or as one JSON list: any question about any media, for any task

A line is either an example or a `BadLine` with its reason. All bad lines of all files are found
before anything starts.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinker.data.bad_lines import BadLine, Loaded, settle
from thinker.data.conversations import MediumName, Question, question_of
from thinker.data.examples import Example, parsed_reference
from thinker.data.paths import MediaRules, media_rules
from thinker.data.records import (
    BadValueError,
    Record,
    dataset_key,
    json_lines,
    json_list,
    label_number,
    load_json,
    meta_annotations,
    meta_record,
    show,
    train_record,
)
from thinker.data.sampling import EVERY_RECORD, Sampling
from thinker.data.scale import MosScale
from thinker.prompts import Turn, ask
from thinker.tasks import TASKS, Task
from thinker.utils.names import path_text
from thinker.utils.text import plain_utf8
from thinker.video.medium import Medium, medium


@dataclass(frozen=True, kw_only=True)
class LineRules:
    """What every line of one file of MOS is held to."""

    media: MediaRules
    """What its paths are held to."""
    scale: MosScale | None
    """The scale of the labels. None: it is not known, and examples have no target."""
    seen: dict[str, str] = field(default_factory=dict)
    """Where each example's id was used first, "file:line"."""

    def example(self, record: Record, place: str) -> Example:
        """The validated example of the record at `place`; raises BadValueError with the reason."""
        example_id = unique_id(self.seen, record.dataset, record.id, place)
        scale, mos = self.scale, record.mos
        target = None if scale is None else _reasoned(lambda: scale.to_answer(mos))
        content = self.media.content(record.video) if record.content is None else record.content
        return Example(
            id=example_id,
            dataset=record.dataset,
            media=(medium(self.media.locate(record.video)),),
            mos=mos,
            target=target,
            content=content,
            tags=record.tags,
        )


@dataclass(frozen=True, kw_only=True)
class RecordRules:
    """What every record of one file is held to."""

    media: MediaRules
    """What its paths are held to."""
    dataset: str
    """Key of the data set of records that do not name theirs."""
    task: str | None = None
    """The task of records that do not name theirs; None: their form says it."""
    scale: MosScale | None = None
    """The scale of labels that are numbers. None: it is not known, or there are none."""
    require_answers: bool = False
    """Whether a question without an answer is bad."""
    sampling: Sampling = EVERY_RECORD
    """Which records of the file are taken."""
    seen: dict[str, str] = field(default_factory=dict)
    """Where each example's id was used first, "file:line"."""

    def example(self, asked: Question, number_id: str, place: str) -> Example:
        """The validated example of a question; raises BadValueError with the reason.

        number_id: its id if it has none of its own.
        """
        dataset = asked.dataset or self.dataset
        example_id = unique_id(self.seen, dataset, asked.id or number_id, place)
        name = asked.task or self.task or asked.form
        if name not in TASKS:
            raise BadValueError(f"task is {show(name)}, expected one of {', '.join(TASKS)}")
        task = TASKS[name]
        media = tuple(self._medium(named) for named in asked.media)
        _check_media(task, media)
        options = _reasoned(lambda: task.options(asked.text, asked.options))
        mos = _label(task, asked.answer)
        example = Example(
            id=example_id,
            dataset=dataset,
            task=name,
            media=media,
            turns=_asked_turns(task, asked, options if asked.options else ()),
            reference=asked.answer,
            options=options,
            mos=mos,
            target=None if mos is None else self._target(name, mos),
            content=" + ".join(self.media.content(named.path) for named in asked.media)
            or example_id,
            tags=asked.tags,
        )
        _reasoned(lambda: parsed_reference(example))
        if asked.answer is None and self.require_answers:
            raise BadValueError(
                "the question has no answer; end its conversation with an assistant turn, or give "
                "it a field answer"
            )
        return example

    def _medium(self, named: MediumName) -> Medium:
        whole = medium(self.media.locate(named.path))
        return _reasoned(
            lambda: dataclasses.replace(
                whole,
                start_seconds=named.start_seconds,
                end_seconds=named.end_seconds,
                crop=named.crop,
                stalls=named.stalls,
            )
        )

    def _target(self, task: str, mos: float) -> float | None:
        """The label on the answer scale. Scores that are only evaluated can do without: what ranks
        does not change with the scale, and a level word would."""
        scale = self.scale
        if scale is None and task == "score" and not self.require_answers:
            return None
        if scale is None:
            raise BadValueError(f"the label {mos!r} needs the scale it is on; give mos_scale")
        return _reasoned(lambda: scale.to_answer(mos))


def _reasoned(call: Callable[[], Any]) -> Any:
    """What `call` returns; what it cannot take is the reason of a bad line."""
    try:
        return call()
    except ValueError as error:
        raise BadValueError(str(error)) from None


def _label(task: Task, answer: Any) -> float | None:
    """The MOS that is the answer of a score or level, in its tags or bare; None for words."""
    if answer is None or not task.takes_mos:
        return None
    try:
        return label_number(answer)
    except BadValueError:
        if task.name == "score":
            raise
        return None


def _check_media(task: Task, media: Sequence[Medium]) -> None:
    fewest, most = task.num_media
    if len(media) < fewest or (most is not None and len(media) > most):
        expected = f"{fewest}" if fewest == most else f"{fewest} to {most or 'any number'}"
        raise BadValueError(f"task {task.name} is asked of {expected} media, got {len(media)}")
    for one in media:
        if one.kind not in task.media_kinds:
            kinds = " or ".join(task.media_kinds)
            raise BadValueError(f"task {task.name} is asked of {kinds}, {one.path} is {one.kind}")


def _asked_turns(task: Task, asked: Question, options: tuple[str, ...]) -> tuple[Turn, ...]:
    """The turns as the policy sees them: none for a score without words of its own."""
    before, last = asked.turns[:-1], asked.turns[-1]
    if not asked.text:
        if task.name == "score" and not before:
            return ()
        bare = _reasoned(lambda: task.question("", options))
        if not bare:
            raise BadValueError("the question is empty")
        return (*before, *ask(f"{last.text.rstrip()}\n{bare}".lstrip()))
    return (*before, *ask(_reasoned(lambda: task.question(last.text, options))))


def unique_id(seen: dict[str, str], dataset: str, given: str, place: str) -> str:
    """The id of an example, noted with its place; raises BadValueError for one that is taken."""
    example_id = f"{dataset}/{given}"
    if example_id in seen:
        raise BadValueError(
            f"duplicate id {given!r} in data set {dataset!r}, first used at {seen[example_id]}"
        )
    seen[example_id] = place
    return example_id


def line_rules(
    root: Path,
    scale: MosScale | None,
    content_pattern: str | None,
    *,
    require_files: bool,
    seen: dict[str, str] | None = None,
) -> LineRules:
    """Rules for the files of one video root; pass one `seen` to all files whose ids must differ."""
    media = media_rules(root, content_pattern, require_files=require_files, called="video root")
    return LineRules(media=media, scale=scale, seen={} if seen is None else seen)


def read_meta_json(
    path: Path,
    root: Path,
    scale: MosScale | None,
    *,
    dataset: str,
    content_pattern: str | None = None,
    require_files: bool = False,
    skip_bad_lines: bool = False,
) -> Loaded:
    """Examples of one meta JSON, in file order; the id is "<dataset>/<image_id>".

    Without `require_files` a video that is not there is still an example (evaluation writes a row
    with status `missing`). Raises BadLinesError, or ValueError for a file or root that is not
    there. With `skip_bad_lines` bad lines are logged and returned instead; if no good line is left
    they are raised all the same. A bad annotation is reported with the line it starts on and, as
    some of these files are a single line, its index from 0: `annotations[17]: …`.
    """
    rules = line_rules(root, scale, content_pattern, require_files=require_files)
    return settle([scan_meta_json(path, rules, dataset)], skip_bad_lines)


def read_records(
    paths: Iterable[Path],
    media_root: Path,
    *,
    dataset: str | None = None,
    task: str | None = None,
    scale: MosScale | None = None,
    content_pattern: str | None = None,
    require_files: bool = True,
    require_answers: bool = False,
    skip_bad_lines: bool = False,
) -> Loaded:
    """Examples of record files, in file order.

    dataset: key of the data set of records without `dataset_name`; None takes the name of the file.
    task: what records without `task` are; None goes by their form. scale: of labels that are
    numbers. The rest is as in `read_meta_json`.
    """
    seen: dict[str, str] = {}
    media = media_rules(media_root, content_pattern, require_files=require_files)
    parts = [
        scan_records(
            path,
            RecordRules(
                media=media,
                dataset=dataset or dataset_key(Path(path).stem) or "records",
                task=task,
                scale=scale,
                require_answers=require_answers,
                seen=seen,
            ),
        )
        for path in paths
    ]
    return settle(parts, skip_bad_lines)


def scan_train_jsonl(path: Path, rules: LineRules) -> Loaded:
    """Every line of one jsonl, good or bad. Empty lines at the end of the file do not count."""
    loaded = Loaded([], [])
    for line, raw in enumerate(json_lines(_read_bytes(path)), start=1):
        try:
            loaded.examples.append(rules.example(train_record(raw), f"{path}:{line}"))
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
            loaded.examples.append(rules.example(record, f"{path}:{line} {where}"))
        except BadValueError as error:
            reason = f"{where}: {error}"
            loaded.bad_lines.append(BadLine(file=Path(path), line=line, reason=reason))
    return loaded


def scan_records(
    path: Path, rules: RecordRules, translate: Callable[[object], object] = lambda value: value
) -> Loaded:
    """Every record of one file, good or bad: a jsonl, or a JSON list by the suffix .json.

    translate: makes a record in the form of conversations.py of one in another form, or raises
    BadValueError. A record of a list is reported with the line it starts on and its index from 0,
    `[17]: …`.
    """
    loaded, file = Loaded([], []), Path(path)
    is_list = file.suffix.lower() == ".json"
    try:
        items = json_list(_read_bytes(file)) if is_list else _lines(_read_bytes(file))
    except BadValueError as error:
        loaded.bad_lines.append(BadLine(file=file, line=error.line, reason=str(error)))
        return loaded
    try:
        taken = rules.sampling.pick(list(enumerate(items)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for index, (line, item) in taken:
        where = f"[{index}]: " if is_list else ""
        number_id = f"{path_text(file.name)}:{index + 1}"
        try:
            value = load_json(item) if isinstance(item, bytes) else item
            asked = question_of(translate(value))
            example = rules.example(asked, number_id, f"{file}:{line}")
            loaded.examples.append(example)
        except BadValueError as error:
            loaded.bad_lines.append(BadLine(file=file, line=line, reason=f"{where}{error}"))
    return loaded


def _lines(data: bytes) -> list[tuple[int, Any]]:
    return list(enumerate(json_lines(data), start=1))


def _read_bytes(path: Path) -> bytes:
    try:
        return plain_utf8(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; give the path of an existing file"
        ) from None
