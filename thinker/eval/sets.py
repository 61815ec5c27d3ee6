"""What an evaluation reads: sets of labelled files, and record files of any task.

In: `EvalSet`s (a meta JSON and its scale) and `RecordSet`s, and the subset that is asked for. Out:
`LoadedSet`s, each of one task: records of several tasks become one set a task. Whatever is
wrong with any of them is said before a model is loaded.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thinker.data.bad_lines import BadLine, BadLinesError, Loaded
from thinker.data.datasets import EvalSet, RecordSet, load_eval_examples
from thinker.data.examples import Example
from thinker.data.records import dataset_key
from thinker.data.scale import MosScale
from thinker.utils.names import path_text
from thinker.utils.text import plain_utf8

logger = logging.getLogger(__name__)

ANSWER_SCALE = MosScale(min=1, max=5, mapping="identity")


Source = EvalSet | RecordSet


def record_set(path: Path, media_root: Path, mos_scale: MosScale | None = None) -> RecordSet:
    """The set of one file of records, named by it, without YAML: "Q-Bench dev.jsonl" has the key
    "q_bench_dev"."""
    return RecordSet(
        name=path_text(path.stem),
        key=dataset_key(path.stem) or "records",
        records=(path,),
        media_root=media_root,
        mos_scale=mos_scale,
    )


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Which examples are evaluated, where not all are."""

    path: Path
    """The list."""
    names: frozenset[str]
    """Ids, or paths: below the media root or absolute, as they are or as outputs write them."""


@dataclass(frozen=True, kw_only=True)
class LoadedSet:
    """Examples of one task that are evaluated together."""

    key: str
    """Its name in options and files."""
    name: str
    """Its name as tables print it."""
    task: str
    """A key of `thinker.tasks.TASKS`."""
    source: Source
    """Where it was read from."""
    examples: list[Example]
    """In the order of the file."""
    bad_lines: list[BadLine]
    """What cannot be used; none unless the user asked to skip it."""
    subset: Subset | None = None
    """What was asked for, where that is not all of it; `examples` holds no other."""
    perturbed: str | None = None
    """How the frames of its videos are rearranged before they are seen (perturbed.py)."""

    @property
    def true_key(self) -> str:
        """The key of the set of the true videos: its own unless it is perturbed."""
        return self.key.removesuffix(f"_{self.perturbed}")

    @property
    def media_root(self) -> Path:
        """The folder that media are relative to."""
        source = self.source
        return source.video_root if isinstance(source, EvalSet) else source.media_root

    def id_of(self, example: Example) -> str:
        """An example's id as the file gives it, behind the data set's key where that is another."""
        return example.id.removeprefix(f"{self.source.key}/")

    @property
    def domain(self) -> str:
        """Whether it lies "in" the domain of LSVQ or "out" of it, where that is known."""
        known = self.source.domain if isinstance(self.source, EvalSet) else None
        return known or "out"

    @property
    def label_name(self) -> str:
        """What its labels are, "MOS" unless its YAML says otherwise."""
        return self.source.label_name

    @property
    def mos_scale(self) -> MosScale | None:
        """The scale that scores are shown on. None: that of the answers, as that of the labels is
        not known. Where there are no labels at all, it is that of the answers by right."""
        labelled = any(example.mos is not None for example in self.examples)
        return self.source.mos_scale or (None if labelled else ANSWER_SCALE)


def read_subset(path: Path) -> Subset:
    """The names in a text file, one a line; empty lines do not count."""
    try:
        # Names of files may be no UTF-8; line ends are those of a text file, no others.
        content = plain_utf8(path.read_bytes()).decode(errors="surrogateescape")
    except OSError as error:
        raise ValueError(
            f"cannot read the subset {path}: {error}; give a text file with an id or path a line"
        ) from None
    names = frozenset(line.strip() for line in content.split("\n") if line.strip())
    if not names:
        raise ValueError(f"{path} names no example; expected an id or a path a line")
    return Subset(path=path, names=names)


def load_sets(
    sources: Sequence[Source], *, skip_bad_lines: bool = False, subset: Subset | None = None
) -> list[LoadedSet]:
    """All sets, in order, those of records in the order in which their tasks occur.

    Raises BadLinesError with the bad lines of all files, and ValueError for a key that two sets
    have and for a name of the subset that no set holds.
    """
    loaded: list[LoadedSet] = []
    bad_lines: list[BadLine] = []
    for source in sources:
        try:
            loaded += by_task(source, load_eval_examples(source, skip_bad_lines=skip_bad_lines))
        except BadLinesError as error:
            bad_lines += error.bad_lines
    if bad_lines:
        raise BadLinesError(bad_lines)
    _tell_of_unknown_scales(loaded)
    keys = [one.key for one in loaded]
    for one in loaded:
        if keys.count(one.key) > 1:
            files = [str(_file(other.source)) for other in loaded if other.key == one.key]
            raise ValueError(
                f"{len(files)} sets have the key {one.key!r}: {', '.join(files)}; their results "
                "would be written to one file. Give each once, rename one of the files, or name "
                "another key in a YAML"
            )
    return loaded if subset is None else _chosen(loaded, subset)


def _file(source: Source) -> Path:
    return source.meta if isinstance(source, EvalSet) else source.records[0]


def _tell_of_unknown_scales(loaded: Sequence[LoadedSet]) -> None:
    names = [one.name for one in loaded if one.task == "score" and one.mos_scale is None]
    if names:
        logger.warning(
            "%s: the scale of the MOS is not given (--mos-scale, or mos_scale in YAML), so "
            "predictions stay on the answer scale, 1 to 5, and RMSE is left out",
            ", ".join(names),
        )


def by_task(source: Source, loaded: Loaded) -> list[LoadedSet]:
    """The examples of one source as a set a task, in the order in which their tasks occur."""
    tasks = list(dict.fromkeys(example.task for example in loaded.examples))
    return [
        LoadedSet(
            key=source.key if len(tasks) == 1 else f"{source.key}_{task}",
            name=source.name if len(tasks) == 1 else f"{source.name} {task}",
            task=task,
            source=source,
            examples=[example for example in loaded.examples if example.task == task],
            # A line that is no record has no task; it is shown once, with the first.
            bad_lines=loaded.bad_lines if number == 0 else [],
        )
        for number, task in enumerate(tasks)
    ]


def _chosen(loaded: Sequence[LoadedSet], subset: Subset) -> list[LoadedSet]:
    """The sets with only the examples that the subset names; those that have none are left out."""
    found: set[str] = set()
    kept = []
    for one in loaded:
        names = [_names(one, example) & subset.names for example in one.examples]
        found.update(*names)
        examples = [e for e, named in zip(one.examples, names, strict=True) if named]
        if examples:
            kept.append(replace(one, examples=examples, bad_lines=[], subset=subset))
        else:
            logger.warning("%s: %s names none of its examples; left out", one.name, subset.path)
    unknown = sorted(subset.names - found)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ValueError(
            f"{subset.path} names {', '.join(map(repr, unknown[:5]))}{more}, expected ids or paths "
            f"that are in {', '.join(one.name for one in loaded)}"
        )
    return kept


def _names(one: LoadedSet, example: Example) -> set[str]:
    """What an example can be called: its id with and without the set's key, its media's paths."""
    root = one.media_root.resolve()
    paths = [medium.path for medium in example.media]
    paths += [path.relative_to(root) for path in paths if path.is_relative_to(root)]
    return {example.id, one.id_of(example), *map(str, paths), *map(path_text, paths)}
