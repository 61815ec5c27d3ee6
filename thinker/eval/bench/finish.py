"""A finished evaluation of a benchmark → its own figures: choice rules, judged open answers, and
the benchmark's table beside published ones of the same protocol.

In: the folder of `thinker.eval.run.evaluate` (its CSVs). Out: `bench.json` and `bench.txt`, for
each set of open answers `<key>.judged.csv`, and entries of `summary.json`, from which `thinker
report` makes its page. What is left out is said in a note of each table.
"""

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from thinker.data.examples import Example
from thinker.eval.bench.judge import JUDGED, Graded, Judge, Verdict
from thinker.eval.bench.load import BENCHES, BenchData
from thinker.eval.bench.outputs import NOT_FINISHED, coverage, is_finished, write_bench
from thinker.eval.bench.published import load_tables
from thinker.eval.bench.rules import RULES, verdicts
from thinker.eval.bench.tables import Point, Table, groups, mean, percent
from thinker.eval.bench.times import agrees
from thinker.eval.report.published import MARK
from thinker.eval.rows import ResultRow, load_rows
from thinker.eval.sets import LoadedSet
from thinker.score.prediction import INVALID_ANSWER, OK
from thinker.utils.atomic import write_atomic
from thinker.utils.lock import folder_lock
from thinker.utils.progress import Progress
from thinker.utils.text import safe_cell

NOT_MEASURED = "not measured"
NO_JUDGE = "not measured: no judge (--judge-url, --judge-model)"
JUDGED_COLUMNS = (
    "id", "status", "score", "mean", "num_invalid", "reason", "question", "reference", "answer",
    "replies",
)  # fmt: skip
"""Of `<key>.judged.csv`. `score` and `mean` are 0..2; `replies` is a JSON list of the judge's
words."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of the answers of one task."""

    points: dict[str, list[Point]] = field(default_factory=dict)
    """By rule (choice), or by "majority" and "mean" (open): one a question that counts."""
    notes: tuple[str, ...] = ()
    """What is left out, and why."""
    is_whole: bool = True
    """Whether every question that was answered counts."""


def finish_bench(folder: Path, data: BenchData, judge: Judge | None) -> str:
    """Measure a finished evaluation; returns its tables as text.

    Returns a sentence where the evaluation is not finished: another shard still works on it.
    Raises ValueError where the folder holds replies of another judge.
    """
    if not is_finished(folder):
        return NOT_FINISHED
    with folder_lock(folder, "bench", wait=True):
        choice, opened = Measured(), Measured()
        tables: list[Table] = []
        for one in data.sets:
            answered = _answered(folder, one)
            if one.task == "choice":
                choice = _of_choices(one, answered)
                tables.append(_choice_table(choice))
            else:
                opened, table = _of_open(folder, data, one, answered, judge)
                tables += [table, *_time_table(one, answered)]
        tables.append(_bench_table(data, choice, opened))
        figures = {
            one.key: {f"judge, {name}": asdict(mean(p)) for name, p in opened.points.items()}
            for one in data.sets
            if one.task == "open"
        }
        return write_bench(folder, tables, figures=figures, protocol=asdict(data.protocol))


def _answered(folder: Path, one: LoadedSet) -> list[tuple[int, Example, ResultRow]]:
    """Place, example and row of each question that was answered, validly or not."""
    rows = load_rows(folder, one.key)[: len(one.examples)]  # bad lines stand behind
    return [
        (place, example, row)
        for place, (example, row) in enumerate(zip(one.examples, rows, strict=True))
        if row.status in (OK, INVALID_ANSWER)
    ]


# choices


def _of_choices(one: LoadedSet, answered: list[tuple[int, Example, ResultRow]]) -> Measured:
    points: dict[str, list[Point]] = {name: [] for name in RULES}
    unknown = differ = 0
    for _, example, row in answered:
        found = verdicts(example, row.completion)
        unknown += None in found.values()
        differ += len(set(found.values())) > 1
        for name, is_right in found.items():
            if is_right is not None:
                point = Point(value=float(is_right), content=example.content, tags=example.tags)
                points[name].append(point)
    notes = [coverage(len(answered), len(one.examples)), f"the rules differ on {differ} of them"]
    if unknown:
        notes.append(f"{unknown} have no known right answer and count for nothing")
    return Measured(points=points, notes=tuple(notes))


def _choice_table(choice: Measured) -> Table:
    lines = [
        (name, str(len(columns[0])), *(percent(mean(column)) for column in columns))
        for name, columns in groups([choice.points[name] for name in RULES])
    ]
    header = ("questions", "n", *(f"{name}, % [95%]" for name in RULES))
    return Table(
        title="Choice questions: accuracy by three rules on the same answers",
        header=header,
        lines=tuple(lines),
        notes=choice.notes,
    )


# open questions


def _of_open(
    folder: Path,
    data: BenchData,
    one: LoadedSet,
    answered: list[tuple[int, Example, ResultRow]],
    judge: Judge | None,
) -> tuple[Measured, Table]:
    title = "Open questions"
    if judge is None:
        nothing = Measured(is_whole=False, notes=(NO_JUDGE,))
        return nothing, Table(title=title, header=(), lines=(), notes=nothing.notes)
    graded = [
        Graded(
            place=place,
            question=data.questions[example.id],
            answer=row.answer,
            reference=example.reference,
        )
        for place, example, row in answered
        if row.status == OK and example.reference is not None
    ]
    with Progress(len(graded), unit="answer", name=f"{one.key}.judge") as progress:
        made = judge.grade(folder / "judge", one.key, graded, progress.update)
    by_place = {item.place: found for item, found in zip(graded, made, strict=True)}
    lines = [(example, row, by_place.get(place)) for place, example, row in answered]
    _write_judged(folder / f"{one.key}.judged.csv", data, one, lines)
    measured = _judged_points(one, lines, judge)
    columns = [measured.points[name] for name in ("majority", "mean")]
    table = Table(
        title=f"{title}: score of the judge {judge.client.model} over 2",
        header=("questions", "n", "majority, % [95%]", "mean of replies, % [95%]"),
        lines=tuple(
            (name, str(len(both[0])), *(percent(mean(column)) for column in both))
            for name, both in groups(columns)
        ),
        notes=measured.notes,
    )
    return measured, table


def _judged_points(
    one: LoadedSet, lines: list[tuple[Example, ResultRow, Verdict | None]], judge: Judge
) -> Measured:
    points: dict[str, list[Point]] = {"majority": [], "mean": []}
    counts: Counter[str] = Counter()
    reasons: list[str] = []
    for example, row, found in lines:
        status = _status(example, row, found)
        counts[status] += 1
        if found is not None and found.status != JUDGED:
            reasons.append(found.reason)
        values: tuple[float, float] | None = None
        if status == INVALID_ANSWER:
            values = (0.0, 0.0)  # "rate score 0 if the response is not a valid answer"
        elif found is not None and found.score is not None and found.mean is not None:
            values = (found.score / 2, found.mean / 2)
        for name, value in zip(points, values or (), strict=False):
            point = Point(value=value, content=example.content, tags=example.tags)
            points[name].append(point)
    replies = sum(len(found.replies) for _, _, found in lines if found)
    invalid = sum(found.num_invalid for _, _, found in lines if found)
    notes = [
        coverage(len(lines), len(one.examples)),
        f"of these: {', '.join(f'{n} {name}' for name, n in sorted(counts.items())) or 'none'}; "
        f"{judge.calls} calls an answer, {invalid} of {replies} replies are no score",
        "majority: the score of most replies, of ties the lowest; an invalid answer counts 0",
    ]
    notes += [f"not judged: {reason}" for reason in list(dict.fromkeys(reasons))[:3]]
    whole = counts[JUDGED] + counts[INVALID_ANSWER] == len(lines)
    return Measured(points=points, notes=tuple(notes), is_whole=whole and bool(lines))


def _status(example: Example, row: ResultRow, found: Verdict | None) -> str:
    if found is not None:
        return found.status
    return INVALID_ANSWER if row.status == INVALID_ANSWER else "no_reference"


def _write_judged(
    path: Path,
    data: BenchData,
    one: LoadedSet,
    lines: list[tuple[Example, ResultRow, Verdict | None]],
) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, JUDGED_COLUMNS, restval="")
    writer.writeheader()
    for example, row, found in lines:
        verdict = found or Verdict(status=_status(example, row, None), reason=row.error)
        writer.writerow(
            {
                "id": safe_cell(one.id_of(example)),
                "status": verdict.status,
                "score": "" if verdict.score is None else verdict.score,
                "mean": "" if verdict.mean is None else f"{verdict.mean:.4f}",
                "num_invalid": verdict.num_invalid,
                "reason": safe_cell(verdict.reason),
                "question": safe_cell(data.questions[example.id]),
                "reference": safe_cell(example.reference or ""),
                "answer": safe_cell(row.answer),
                "replies": safe_cell(json.dumps(verdict.replies)),
            }
        )
    write_atomic(path, text.getvalue())


def _time_table(one: LoadedSet, answered: list[tuple[int, Example, ResultRow]]) -> list[Table]:
    """How often open answers name the seconds of the reference, where that names some: needs no
    judge."""
    asked = [
        (example, agrees(row.answer, example.reference))
        for _, example, row in answered
        if example.reference is not None
    ]
    points = [
        Point(value=float(is_right), content=example.content)
        for example, is_right in asked
        if is_right is not None
    ]
    if not points:
        return []
    return [
        Table(
            title="Open questions whose reference names seconds",
            header=("questions", "n", "the same seconds within 1, % [95%]"),
            lines=(("all", str(len(points)), percent(mean(points))),),
            notes=("time marks count from 1 second, the first second of the video",),
        )
    ]


# the benchmark's table


def _bench_table(data: BenchData, choice: Measured, opened: Measured) -> Table:
    """Types, concerns and all questions, as the benchmark's own tables have them."""
    protocol = data.protocol
    published = [table for table in load_tables() if table.is_of(protocol)]
    has_open = any(one.task == "open" for one in data.sets)
    tags = {tag for one in data.sets for example in one.examples for tag in example.tags}
    concerns = sorted(value for name, value in tags if name == "concern")
    types = sorted(value for name, value in tags if name == "type")
    columns = published[0].columns if published else (*types, *concerns, "all")
    lines = []
    for rule in RULES if choice.points else [None]:
        # The published figure is the mean of the replies; ours goes by their majority.
        how = "majority" if rule in (None, "robust") else "mean"
        chosen = choice.points.get(rule, []) if rule else []
        cells = [
            _cell(column, chosen, opened.points.get(how, []), has_open and not opened.is_whole)
            for column in columns
        ]
        by = f"choices: {rule}" if rule else ""
        by += f"{', ' if by else ''}open: {how}" if has_open else ""
        lines.append((f"measured ({by})", *cells))
    for table in published:
        lines += [
            (f"{name} ({MARK})", *("–" if x is None else f"{x:.2f}" for x in figures))
            for name, figures in table.systems.items()
        ]
    notes = [str(protocol)]
    if data.num_left_out:
        notes.append(f"{data.num_left_out} questions about pairs are left out by the protocol")
    if has_open and not opened.is_whole:
        notes.append(
            "columns that open questions belong to are not measured, as not all of those are judged"
        )
    notes += [f"{table.source} {table.note}" for table in published]
    if not published:
        notes.append("no published figures of this protocol")
    return Table(
        title=f"{BENCHES[protocol.bench].title}, %",
        header=("system", *columns),
        lines=tuple(lines),
        notes=tuple(notes),
    )


def _cell(column: str, chosen: list[Point], opened: list[Point], lacks_open: bool) -> str:
    """The mean over the questions of one column."""
    is_open_type = column.lower().startswith("open")
    is_choice_type = any(("type", column) in point.tags for point in chosen)
    if lacks_open and not is_choice_type:
        return NOT_MEASURED
    points = opened if is_open_type else [*chosen, *opened]
    return percent(mean([point for point in points if _belongs(point, column)]))


def _belongs(point: Point, column: str) -> bool:
    tags = dict(point.tags)
    if column == "all":
        return True
    if column == "other":  # VQA²'s: all concerns but two
        return tags.get("concern") not in ("Technical", "Temporal", None)
    return column in (tags.get("type"), tags.get("concern"))
