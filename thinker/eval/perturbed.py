"""Does a policy see time? Held-out videos against copies whose frames are rearranged.

In: sets of scores, and a kind of perturbation (`thinker/video/perturb.py`). Out: a second set of
the same videos each, whose frames are seen in that order, and from the scores of both the share of
pairs in which the true video is put above its copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thinker.eval.metrics import MetricResult
from thinker.eval.metrics.bootstrap import content_codes, mean_statistic
from thinker.eval.metrics.figures import resampled
from thinker.eval.sets import LoadedSet
from thinker.utils.journal import Row
from thinker.video.perturb import PERTURBATIONS


@dataclass(frozen=True, kw_only=True)
class TimeReport:
    """What one set of pairs says."""

    kind: str
    """How the frames of the copies are rearranged, such as "shuffle"."""
    above: MetricResult
    """Share of pairs whose true video has the higher score, in 0..1, a tie being half a pair; n is
    the number of pairs in which both have a score."""
    score_drop: float | None
    """Mean score of the true videos minus that of the copies, on the answer scale; None without a
    pair."""


def with_perturbed(loaded: Sequence[LoadedSet], kind: str) -> list[LoadedSet]:
    """The sets, each set of scores followed by the same one seen perturbed, "demo" by
    "demo_shuffle". Raises ValueError for an unknown kind, and where no set has scores of videos."""
    if kind not in PERTURBATIONS or kind == "identity":
        kinds = ", ".join(k for k in PERTURBATIONS if k != "identity")
        raise ValueError(f"perturbation {kind!r}: expected one of {kinds}")
    keys = {one.key for one in loaded}
    both = []
    for one in loaded:
        if f"{one.key}_{kind}" in keys:
            raise ValueError(
                f"there are sets {one.key} and {one.key}_{kind}; expected no set of the second "
                "key, which that of the copies would have"
            )
        both.append(one)
        videos = [e for e in one.examples if all(m.kind != "image" for m in e.media)]
        if one.task == "score" and videos:
            both.append(
                replace(
                    one,
                    key=f"{one.key}_{kind}",
                    name=f"{one.name}, {kind}",
                    examples=videos,
                    bad_lines=[],
                    perturbed=kind,
                )
            )
    if len(both) == len(loaded):
        names = ", ".join(one.name for one in loaded)
        raise ValueError(f"{names}: expected a set of scores of videos, whose frames have an order")
    return both


def time_report(
    perturbed: LoadedSet, rows: Sequence[Row], true: LoadedSet, true_rows: Sequence[Row]
) -> TimeReport:
    """Of one set of copies and the set of the true videos, with the rows of both.

    True videos with 3.0, 2.5 and 4.0, their copies with 2.0, 2.5 and 4.5: (1 + .5 + 0) / 3 = .5.
    """
    true_score = {e.id: row["score"] for e, row in zip(true.examples, true_rows, strict=True)}
    pairs = [
        (true_score[example.id], row["score"], example.content)
        for example, row in zip(perturbed.examples, rows, strict=True)
        if row["score"] is not None and true_score[example.id] is not None
    ]
    drop = np.array([true - copy for true, copy, _ in pairs], dtype=np.float64)
    above = _mean((np.sign(drop) + 1) / 2, [content for _, _, content in pairs])
    return TimeReport(
        kind=perturbed.perturbed or "",
        above=above,
        score_drop=float(drop.mean()) if drop.size else None,
    )


def _mean(values: np.ndarray, contents: Sequence[str]) -> MetricResult:
    """With its interval, by a bootstrap over contents."""
    if not values.size:
        return MetricResult(value=None, n=0, reason="no video has a score beside its copy")
    result = MetricResult(value=float(values.mean()), n=values.size)
    return resampled(result, mean_statistic(values), content_codes(contents, values.size))


def format_time(name: str, report: TimeReport) -> str:
    """One line. Example: `demo: above its shuffle copy in 0.913 [0.880, 0.941] of 300 pairs, by
    0.42 of the answer scale`."""
    above = report.above
    if above.value is None:
        return f"{name}: {above.reason}"
    bounds = "" if above.ci_low is None else f" [{above.ci_low:.3f}, {above.ci_high:.3f}]"
    return (
        f"{name}: above its {report.kind} copy in {above.value:.3f}{bounds} of {above.n} pairs, by "
        f"{report.score_drop:.2f} of the answer scale (a coin: 0.5)"
    )
