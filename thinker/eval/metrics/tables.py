"""Averages over sets of scores (`summarise`), and all sets as tables of plain text: of scores
(`format_table`) and of other answers (`format_answers`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinker.data.datasets import DOMAINS
from thinker.eval.metrics.agreement import MetricResult, ScoreReport
from thinker.eval.metrics.figures import CORRELATIONS, AnswerReport, ByTag

AVERAGED = ("srcc", "krcc", "plcc", "plcc_mapped")
"""The figures that are averaged. RMSE is not: each set has a label scale of its own."""
SetReport = tuple[str, str, ScoreReport]
"""The name of a set, its domain ("in" or "out"), and its figures."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """The mean of each figure over some sets."""

    name: str
    """Which sets, and how they are weighed, such as "size-weighted" or "in-domain"."""
    srcc: float | None
    """None where one of the sets has it undefined, as for the other figures."""
    krcc: float | None
    """Kendall's tau-b."""
    plcc: float | None
    """Pearson's correlation of the raw predictions."""
    plcc_mapped: float | None
    """Pearson's correlation after the logistic mapping."""
    num_sets: int
    """Number of sets."""
    n_scored: int
    """Number of videos with a score, over all of them."""
    n_total: int
    """Number of videos, over all of them."""
    reason: str | None
    """The sets on which a figure is undefined; None where all figures are there."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Several sets and their averages."""

    rows: tuple[SetReport, ...]
    """The sets in the order given."""
    averages: tuple[Average, ...]
    """Unweighted, size-weighted, then one for each domain that has sets."""


def summarise(reports: Sequence[SetReport]) -> Summary:
    """Averages over (name, domain, report) of sets; domain is "in" (seen in training) or "out".

    "size-weighted" weighs by `n_total`, so that failing on half a set does not halve its weight;
    the other averages weigh every set alike. A domain without sets has no average.

    SRCC 0.9 on 100 videos and 0.6 on 300 average (0.9 + 0.6) / 2 = 0.75 unweighted and
    (90 + 180) / 400 = 0.675 size-weighted.
    """
    names = [name for name, _, _ in reports]
    if not reports or len(set(names)) < len(names):
        raise ValueError(f"expected one report a set and at least one set, got {names}")
    for name, domain, _ in reports:
        if domain not in DOMAINS:
            raise ValueError(f"set {name!r} has domain {domain!r}, expected one of {DOMAINS}")
    averages = [_average("unweighted", reports), _average("size-weighted", reports, by_size=True)]
    for domain in DOMAINS:
        members = [row for row in reports if row[1] == domain]
        if members:
            averages.append(_average(f"{domain}-domain", members))
    return Summary(rows=tuple(reports), averages=tuple(averages))


def _average(name: str, members: Sequence[SetReport], *, by_size: bool = False) -> Average:
    weights = [report.n_total if by_size else 1 for _, _, report in members]
    means: dict[str, float | None] = {}
    undefined = set()
    for figure in AVERAGED:
        values = [getattr(report, figure).value for _, _, report in members]
        missing = {row[0] for row, value in zip(members, values, strict=True) if value is None}
        means[figure] = None if missing else float(np.average(values, weights=weights))
        undefined |= missing
    return Average(
        name=name,
        **means,
        num_sets=len(members),
        n_scored=sum(report.n_scored for _, _, report in members),
        n_total=sum(report.n_total for _, _, report in members),
        reason=f"undefined on {', '.join(sorted(undefined))}" if undefined else None,
    )


def format_table(summary: Summary) -> str:
    """Plain text: one line a set, one an average, then one a reason for what is undefined."""
    header = ["set", "domain", "scored", "SRCC [95%]", "PLCC [95%]"]
    header += ["PLCC mapped", "KRCC", "RMSE"]
    lines, reasons = [header], []
    for name, domain, r in summary.rows:
        cells = [_cell(r.srcc, interval=True), _cell(r.plcc, interval=True)]
        cells += [_cell(result) for result in (r.plcc_mapped, r.krcc, r.rmse_mapped)]
        lines.append([name, domain, f"{r.n_scored}/{r.n_total}", *cells])
        lines += [
            [label, "", str(n), *cells, "", "", ""] for label, n, cells in _tag_lines(r.by_tag)
        ]
        results = (r.srcc, r.krcc, r.plcc, r.plcc_mapped, r.rmse_mapped)
        reasons += [f"{name}: {reason}" for reason in {x.reason: None for x in results if x.reason}]
    for a in summary.averages:
        values = [_number(value) for value in (a.srcc, a.plcc, a.plcc_mapped, a.krcc)]
        coverage = f"{a.n_scored}/{a.n_total}"
        lines.append([a.name, f"{a.num_sets} sets", coverage, *values, ""])
        reasons += [f"{a.name}: {a.reason}"] if a.reason else []
    return "\n".join(_aligned(lines) + reasons)


def format_answers(sets: Sequence[tuple[str, str, AnswerReport]]) -> str:
    """Plain text of (name, task, report): one line a set, below it one a value of each tag, then
    one a reason for what is undefined. A task without figures is not measured."""
    names = list(dict.fromkeys(name for _, _, report in sets for name in report.figures))
    lines = [["set", "task", "answered", "valid", *(f"{name} [95%]" for name in names)]]
    reasons = []
    for set_name, task, report in sets:
        shown = [report.figures.get(name) for name in names]
        cells = ["" if figure is None else _cell(figure, interval=True) for figure in shown]
        if not report.figures:
            reasons.append(f"{set_name}: not measured, task {task} has no figures")
        counts = [f"{report.n_answered}/{report.n_total}", f"{report.n_valid}/{report.n_answered}"]
        lines.append([set_name, task, *counts, *cells])
        for tag, values in report.by_tag.items():
            for value, figure in values.items():
                found = {"accuracy": figure} | report.scores_by_tag.get(tag, {}).get(value, {})
                by_value = [
                    _cell(found[name], interval=True) if name in found else "" for name in names
                ]
                lines.append([f"  {tag}={value}", "", str(figure.n), "", *by_value])
        figures = report.figures.values()
        reasons += [
            f"{set_name}: {reason}" for reason in {f.reason: None for f in figures} if reason
        ]
    return "\n".join(_aligned(lines) + reasons)


def _tag_lines(by_tag: ByTag) -> list[tuple[str, int, list[str]]]:
    """Label, number of videos and cells of SRCC and PLCC of each value of each tag."""
    return [
        (
            f"  {tag}={value}",
            figures["srcc"].n,
            [_cell(figures[name], interval=True) for name in CORRELATIONS],
        )
        for tag, values in by_tag.items()
        for value, figures in values.items()
    ]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def _cell(result: MetricResult, *, interval: bool = False) -> str:
    if not interval or result.ci_low is None or result.ci_high is None:
        return _number(result.value)
    return f"{_number(result.value)} [{result.ci_low:.3f}, {result.ci_high:.3f}]"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
