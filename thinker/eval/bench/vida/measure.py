"""The figures of ViDA's benchmark, by three ways to count, beside published ones.

In: replies, items and the truth. Out: tables. Columns: `official` is the challenge's scoring of
July 2025 (`official.py`), `may` the older rule for average precision and labels, `robust` ours
(`robust.py`). What has no truth was answered and is "not measured".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thinker.eval.bench.outputs import coverage
from thinker.eval.bench.rules import RULES, verdicts
from thinker.eval.bench.tables import Point, Table, groups, mean, percent
from thinker.eval.bench.vida import official
from thinker.eval.bench.vida.load import VidaData, referred_box
from thinker.eval.bench.vida.official import Share
from thinker.eval.bench.vida.published import PublishedVida, load_published
from thinker.eval.bench.vida.robust import (
    Precision,
    coco_precision,
    key_points,
    level_points,
    overlap_points,
)
from thinker.eval.bench.vida.submit import Items, Reply
from thinker.eval.metrics import MetricResult
from thinker.eval.metrics.detection import map_11_points, map_all_points
from thinker.eval.report.published import MARK

NOT_MEASURED, NOT_ASKED, NONE = "not measured", "not asked", "–"
TITLE = "ViDA (MIPI 2025), %"
MIN_OVERLAP = 0.5
"""From here on the box of a sentence counts as found."""

Replies = Mapping[str, Sequence[Reply]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the six figures of the challenge; shares in 0..1."""

    name: str
    """As published tables name it."""
    part: str
    """The part whose answers it is of."""
    official: float | None = None
    """By the challenge's scoring; None where the truth is not known."""
    may: float | None = None
    """By the older rule; None where that is the same or unknown."""
    robust: MetricResult | None = None
    """Ours: of boxes mAP at an overlap of .5."""
    averaged: float | None = None
    """Ours, mAP over overlaps .5 to .95; None for what is no mAP."""
    counted: str = ""
    """What the official one counts, "hits/all", or "malformed", where one item makes it 0; empty
    for a mAP."""
    notes: tuple[str, ...] = ()
    """What ours leaves out."""


def six_figures(data: VidaData, answered: Replies, items: Items) -> list[Figure]:
    """The figures of the challenge, in the order of its scoring."""
    return [
        _perception(answered, items),
        _region(data, answered, items),
        _distortion(data, answered, items),
        *_of_descriptions(data, answered, items),
    ]


def final_score(figures: Sequence[Figure]) -> float | None:
    """The sum of the official figures, 0..6; None where one of them is not known."""
    values = [figure.official for figure in figures]
    return None if None in values else sum(value for value in values if value is not None)


def _perception(answered: Replies, items: Items) -> Figure:
    name, replies = "perception accuracy", answered.get("choice", ())
    if not replies or not all(one.raw.get("correct_ans") for one in replies):
        return Figure(name=name, part="choice")
    found = official.perception([one.raw for one in replies], items.perception)
    points = [_choice_point(one, "robust") for one in replies if one.is_answered]
    return Figure(
        name=name,
        part="choice",
        official=found.value,
        robust=mean(points),
        counted=_counted(found),
    )


def _choice_point(reply: Reply, rule: str) -> Point:
    right = verdicts(reply.example, reply.row.completion)[rule]
    return Point(value=float(bool(right)), content=reply.example.content, tags=reply.example.tags)


def _region(data: VidaData, answered: Replies, items: Items) -> Figure:
    name, known, replies = "region mAP", data.truth.regions, answered.get("region", ())
    if known is None or not replies:
        return Figure(name=name, part="region")
    asked = {_id(one): known[_id(one)] for one in replies}
    places = [[box.place for box in true.boxes] for true in asked.values()]
    return _precision_figure(
        name,
        "region",
        lambda rule: official.region_map(asked, items.grounding, rule),
        coco_precision(list(zip(replies, places, strict=True))),
    )


def _distortion(data: VidaData, answered: Replies, items: Items) -> Figure:
    name, replies = "distortion mAP", answered.get("detection", ())
    pictures = _pictures(data, replies)
    if pictures is None:
        return Figure(name=name, part="detection")
    return _precision_figure(
        name,
        "detection",
        lambda rule: official.distortion_map(pictures, items.grounding, rule),
        coco_precision([(one, pictures[one.raw["image"]].places) for one in replies]),
    )


def _of_descriptions(data: VidaData, answered: Replies, items: Items) -> list[Figure]:
    names = ("description mAP", "key-distortion accuracy", "image-quality accuracy")
    replies = answered.get("description", ())
    pictures = _pictures(data, replies)
    if pictures is None:
        return [Figure(name=name, part="description") for name in names]
    pairs = [(one, pictures[one.raw["image"]]) for one in replies]
    key = official.key_distortions(pictures, items.description)
    older = official.key_distortions(pictures, items.description, official.singular_mapped)
    level = official.image_quality(pictures, items.description)
    return [
        _precision_figure(
            names[0],
            "description",
            lambda rule: official.description_map(pictures, items.description, rule),
            coco_precision([(one, true.places) for one, true in pairs]),
        ),
        Figure(
            name=names[1],
            part="description",
            official=key.value,
            may=older.value,
            robust=mean(key_points(pairs)),
            counted=_counted(key),
        ),
        Figure(
            name=names[2],
            part="description",
            official=level.value,
            robust=mean(level_points(pairs)),
            counted=_counted(level),
        ),
    ]


def _precision_figure(
    name: str, part: str, measure: Callable[[official.Rule], float], ours: Precision
) -> Figure:
    told = [f"{name}, robust: {ours.num_answers} answers"]
    told += [f"{ours.num_invalid} invalid ones predict nothing"] if ours.num_invalid else []
    told += [f"{ours.num_faulty} faulty boxes are left out"] if ours.num_faulty else []
    told += [f"{ours.num_unsure} boxes without a confidence count as 1"] if ours.num_unsure else []
    return Figure(
        name=name,
        part=part,
        official=measure(map_all_points),
        may=measure(map_11_points),
        robust=MetricResult(value=ours.at_half, n=ours.num_answers),
        averaged=ours.averaged,
        notes=("; ".join(told),),
    )


def _pictures(data: VidaData, replies: Sequence[Reply]) -> official.Pictures | None:
    """The truth of the pictures that were asked of; None where it is not known."""
    known = data.truth.pictures
    if known is None or not replies:
        return None
    return {one.raw["image"]: known[one.raw["image"]] for one in replies}


def _id(reply: Reply) -> str:
    return str(reply.raw["id"])


def _counted(share: Share) -> str:
    return "malformed" if share.is_malformed else f"{share.hits}/{share.of}"


# tables


def figures_table(data: VidaData, answered: Replies, figures: Sequence[Figure]) -> Table:
    """The six figures and their sum, beside published ones of the whole release."""
    sizes = {name: len(replies) for name, replies in answered.items()}
    is_official = data.prompt == "official"
    published = [one for one in (load_published(),) if is_official and one.is_of(sizes)]
    lines = [_line(figure, answered, published) for figure in figures]
    total = final_score(figures)
    shown = NOT_MEASURED if total is None else f"{total:.4f}"
    lines.append(("final (0 to 6)", "", shown, NONE, NONE, NONE, *_beside("final", published)))
    header = ("figure", "official counts", "official", "may", "robust [95%]", "robust, IoU .5–.95")
    beside = [f"{name}, {rule} ({MARK})" for one in published for name, rule in one.columns]
    notes = [
        "official: the challenge's scoring of July 2025 with its quirks; may: its older rule for "
        "mAP and labels; robust: COCO's mAP at IoU .5, ordered by token probability, and shares by "
        "picture",
        *(note for figure in figures for note in figure.notes),
        *(f"{one.source} {one.note}" for one in published),
    ]
    for part, replies in answered.items():
        num = sum(one.is_answered for one in replies)
        notes.append(f"{part}: {coverage(num, len(replies))}")
    if not published:
        notes.append("no published figures of a release with as many questions and these prompts")
    return Table(title=TITLE, header=(*header, *beside), lines=tuple(lines), notes=tuple(notes))


def _line(figure: Figure, answered: Replies, published: Sequence[PublishedVida]) -> tuple[str, ...]:
    beside = _beside(figure.name, published)
    if figure.official is None:
        state = NOT_MEASURED if answered.get(figure.part) else NOT_ASKED
        return (figure.name, "", state, NONE, state, NONE, *beside)
    return (
        figure.name,
        figure.counted,
        _percent(figure.official),
        _percent(figure.may),
        percent(figure.robust) if figure.robust else NONE,
        _percent(figure.averaged),
        *beside,
    )


def _beside(name: str, published: Sequence[PublishedVida]) -> tuple[str, ...]:
    return tuple(cell for one in published for cell in one.cells(name))


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def choice_table(answered: Replies) -> list[Table]:
    """Accuracy by concern, by the rules of every benchmark with choices."""
    replies = [one for one in answered.get("choice", ()) if one.raw.get("correct_ans")]
    points = [[_choice_point(r, rule) for r in replies if r.is_answered] for rule in RULES]
    if not any(points):
        return []
    lines = [
        (name, str(len(columns[0])), *(percent(mean(column)) for column in columns))
        for name, columns in groups(points)
    ]
    return [
        Table(
            title="Choices by concern, %",
            header=("questions", "n", *(f"{name} [95%]" for name in RULES)),
            lines=tuple(lines),
            notes=("here each rule judges each question; what cannot be read is wrong",),
        )
    ]


def referring_table(answered: Replies) -> list[Table]:
    """How well the box of a sentence is found."""
    replies = answered.get("referring", ())
    points = overlap_points([(one, referred_box(one.raw)) for one in replies])
    if not points:
        return []
    found = [Point(value=float(p.value >= MIN_OVERLAP), content=p.content) for p in points]
    return [
        Table(
            title="Referring: the box of a sentence, %",
            header=("questions", "n", "IoU of .5 or more [95%]", "mean IoU [95%]"),
            lines=(("all", str(len(points)), percent(mean(found)), percent(mean(points))),),
            notes=("of several boxes the first counts; an answer without one counts 0",),
        )
    ]


def score_table(data: VidaData, report: Mapping[str, Mapping] | None) -> list[Table]:
    """Agreement of the levels with the MOS. report: the figures of the part in `summary.json`."""
    if report is None:
        return []
    title = "Score: agreement with MOS"
    if data.truth.pictures is None:
        return [Table(title=title, header=(), lines=(), notes=(NOT_MEASURED,))]
    results = {name: MetricResult(**report[name]) for name in ("srcc", "plcc")}
    return [
        Table(
            title=title,
            header=("n", "SRCC [95%]", "PLCC [95%]"),
            lines=((str(results["srcc"].n), *map(_correlation, results.values())),),
            notes=tuple(r.reason for r in results.values() if r.reason and r.value is None),
        )
    ]


def _correlation(result: MetricResult) -> str:
    if result.value is None:
        return NONE
    if result.ci_low is None or result.ci_high is None:
        return f"{result.value:.3f}"
    return f"{result.value:.3f} [{result.ci_low:.3f}, {result.ci_high:.3f}]"
