"""`thinker compare A B`: two evaluations of the same sets, difference by paired bootstrap."""

from dataclasses import dataclass
from pathlib import Path

from thinker.eval.metrics import PairedDifference, PairedReport, paired_bootstrap
from thinker.eval.summary import ResultRow, load_rows, load_summary


@dataclass(frozen=True, kw_only=True)
class SetComparison:
    """Figures of A minus figures of B on the videos that both scored."""

    key: str
    """The set's key."""
    name: str
    """The set's name."""
    report: PairedReport
    """The differences, with intervals."""
    num_common: int
    """Number of videos that both runs scored."""
    num_total: int
    """Number of videos of the set."""


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
    return [_compare(key, a["sets"][key]["name"], folder_a, folder_b) for key in keys]


def _compare(key: str, name: str, folder_a: Path, folder_b: Path) -> SetComparison:
    rows_a, rows_b = ({r.filename: r for r in load_rows(f, key)} for f in (folder_a, folder_b))
    differing = [
        filename
        for filename in {**rows_a, **rows_b}
        if _label(rows_a.get(filename)) != _label(rows_b.get(filename))
    ]
    if differing:
        raise ValueError(
            f"set {key}: {len(differing)} videos are in one run only or have another MOS there, "
            f"e.g. {differing[0]}; expected two runs of one meta file"
        )
    both = [f for f, row in rows_a.items() if row.pred_score is not None and _scored(rows_b[f])]
    report = paired_bootstrap(
        [rows_a[f].pred_score or 0.0 for f in both],
        [rows_b[f].pred_score or 0.0 for f in both],
        [rows_a[f].gt_score or 0.0 for f in both],
        [rows_a[f].content for f in both],
    )
    return SetComparison(
        key=key, name=name, report=report, num_common=len(both), num_total=len(rows_a)
    )


def _label(row: ResultRow | None) -> float | str | None:
    """What two runs must agree on. A bad annotation has no label, but is not absent either."""
    return "absent" if row is None else row.gt_score


def _scored(row: ResultRow) -> bool:
    return row.pred_score is not None


def format_comparison(comparisons: list[SetComparison]) -> str:
    """One line a set: differences A - B with 95 % intervals and the sign share."""
    lines = [f"{'A - B':<24}{'videos':>12}  {'SRCC':<34}{'PLCC':<34}"]
    for one in comparisons:
        videos = f"{one.num_common}/{one.num_total}"
        shown = f"{_shown(one.report.srcc):<34}{_shown(one.report.plcc):<34}"
        lines.append(f"{one.name:<24}{videos:>12}  {shown}".rstrip())
    return "\n".join(lines)


def _shown(difference: PairedDifference) -> str:
    if difference.value is None:
        return f"undefined ({difference.reason})"
    if difference.ci_low is None or difference.ci_high is None:
        return f"{difference.value:+.3f} ({difference.reason})"
    low, high = difference.ci_low, difference.ci_high
    return f"{difference.value:+.3f} [{low:+.3f}, {high:+.3f}] sign {difference.sign_share:.3f}"
