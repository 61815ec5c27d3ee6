"""`thinker compare A B`: two evaluations of the same sets, difference by paired bootstrap."""

from dataclasses import dataclass
from pathlib import Path

from thinker.eval.metrics import PairedDifference, paired_accuracy, paired_bootstrap
from thinker.eval.rows import ResultRow, load_rows
from thinker.eval.summary import load_summary


@dataclass(frozen=True, kw_only=True)
class SetComparison:
    """Figures of A minus figures of B on the examples that both answered."""

    key: str
    """The set's key."""
    name: str
    """The set's name."""
    differences: dict[str, PairedDifference]
    """By figure ("SRCC", "PLCC" or "accuracy"), with intervals; none where a task has none that two
    runs are compared by."""
    num_common: int
    """Number of examples that both runs scored, or answered and had a reference for."""
    num_total: int
    """Number of examples of the set."""


def compare_runs(folder_a: Path, folder_b: Path) -> list[SetComparison]:
    """One comparison for every set that both hold. Raises ValueError where there is none, and where
    their labels differ."""
    a, b = load_summary(folder_a), load_summary(folder_b)
    keys = [key for key in a["sets"] if key in b["sets"]]
    if not keys:
        raise ValueError(
            f"{folder_a} holds {', '.join(a['sets'])} and {folder_b} holds {', '.join(b['sets'])}; "
            "expected a set that is in both"
        )
    return [_compare(key, a["sets"][key], b["sets"][key], folder_a, folder_b) for key in keys]


def _compare(key: str, a: dict, b: dict, folder_a: Path, folder_b: Path) -> SetComparison:
    if a["task"] != b["task"]:
        raise ValueError(
            f"set {key} is of task {a['task']} in {folder_a} and of task {b['task']} in "
            f"{folder_b}; expected two runs of one file"
        )
    rows_a, rows_b = ({r.id: r for r in load_rows(f, key)} for f in (folder_a, folder_b))
    names = [*rows_a, *(name for name in rows_b if name not in rows_a)]
    differing = [n for n in names if _label(rows_a.get(n)) != _label(rows_b.get(n))]
    if differing:
        raise ValueError(
            f"set {key}: {len(differing)} rows are in one run only or have another label there, "
            f"e.g. {differing[0]}; expected two runs of one file"
        )
    pairs = [(row, rows_b[name]) for name, row in rows_a.items()]
    common, differences = _scores(pairs) if a["task"] == "score" else _answers(pairs)
    return SetComparison(
        key=key,
        name=a["name"],
        differences=differences,
        num_common=common,
        num_total=len(rows_a),
    )


Pairs = list[tuple[ResultRow, ResultRow]]


def _scores(pairs: Pairs) -> tuple[int, dict[str, PairedDifference]]:
    both = [(a, b) for a, b in pairs if a.pred_score is not None and b.pred_score is not None]
    both = [(a, b) for a, b in both if a.gt_score is not None]
    report = paired_bootstrap(
        [a.pred_score or 0.0 for a, _ in both],
        [b.pred_score or 0.0 for _, b in both],
        [a.gt_score or 0.0 for a, _ in both],
        [a.content for a, _ in both],
    )
    return len(both), {"SRCC": report.srcc, "PLCC": report.plcc}


def _answers(pairs: Pairs) -> tuple[int, dict[str, PairedDifference]]:
    both = [(a, b) for a, b in pairs if a.correct is not None and b.correct is not None]
    difference = paired_accuracy(
        [a.correct is True for a, _ in both],
        [b.correct is True for _, b in both],
        [a.content for a, _ in both],
    )
    return len(both), {"accuracy": difference}


def _label(row: ResultRow | None) -> float | str | None:
    """What two runs must agree on. A bad annotation has no label, but is not absent either."""
    if row is None:
        return "absent"
    return row.reference if row.gt_score is None else row.gt_score


def format_comparison(comparisons: list[SetComparison]) -> str:
    """One line a set: differences A - B with 95 % intervals and the sign share."""
    figures = list(dict.fromkeys(name for one in comparisons for name in one.differences))
    width = 34
    header = "".join(f"{name:<{width}}" for name in figures)
    lines = [f"{'A - B':<24}{'in common':>12}  {header}"]
    for one in comparisons:
        common = f"{one.num_common}/{one.num_total}"
        shown = [_shown(one.differences[f]) if f in one.differences else "" for f in figures]
        cells = "".join(f"{text:<{width}}" for text in shown)
        lines.append(f"{one.name:<24}{common:>12}  {cells}".rstrip())
    return "\n".join(lines)


def _shown(difference: PairedDifference) -> str:
    if difference.value is None:
        return f"undefined ({difference.reason})"
    if difference.ci_low is None or difference.ci_high is None:
        return f"{difference.value:+.3f} ({difference.reason})"
    low, high = difference.ci_low, difference.ci_high
    return f"{difference.value:+.3f} [{low:+.3f}, {high:+.3f}] sign {difference.sign_share:.3f}"
