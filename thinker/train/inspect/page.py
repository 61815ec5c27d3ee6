"""`thinker inspect RUN`: one self-contained HTML page of what a run's rollouts say.

In: `rollouts.jsonl` and `metrics.jsonl`, and the media where they are still there. Out:
`inspect.html`, with its pictures also in `inspect/`. `groups.py` chooses what is shown,
`inspect.html.j2` says how.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from thinker.eval.report.page import page_template
from thinker.eval.report.pictures import Picture, Pictures
from thinker.eval.report.plots import png
from thinker.train.inspect.groups import Group, in_steps, ranked, read_groups
from thinker.train.plots import read_metrics
from thinker.train.run_log import METRICS, ROLLOUTS
from thinker.utils.atomic import write_atomic
from thinker.utils.names import text_path
from thinker.video.medium import Crop, Medium

PAGE = "inspect.html"

NUM_GROUPS = 4
"""Groups of each kind: what a person reads at one go."""

MAX_CHARACTERS = 700
"""Of a completion; a longer one is cut in the middle, as its answer stands at its end."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A group with its media."""

    group: Group
    """What was drawn."""
    media: tuple[tuple[str, Picture | None, str], ...]
    """Of each medium its path, the frames that were shown, and why there are none, else empty."""


def write_page(run: Path, steps: tuple[int, int] | None = None) -> Path:
    """Write the page of a run, finished or not, and return its path. steps: the first and the last
    one; the last fifth where it is None. Raises ValueError for a folder without rollouts."""
    if not (run / ROLLOUTS).is_file():
        raise ValueError(
            f"{run} holds no {ROLLOUTS}; expected the output folder of a run with a grpo stage (of "
            "one that is not the last: its folder in work/)"
        )
    groups = read_groups(run / ROLLOUTS)
    chosen = in_steps(groups, steps)
    pictures = Pictures(run / "inspect")
    sections = {
        kind: [_shown(f"{kind}_{number}", group, pictures) for number, group in enumerate(found)]
        for kind, found in ranked(chosen, NUM_GROUPS).items()
    }
    metrics = read_metrics(run / METRICS) if (run / METRICS).is_file() else []
    page = page_template("inspect.html.j2", Path(__file__).parent).render(
        num_groups=len(groups),
        num_rollouts=sum(len(group.rollouts) for group in groups),
        last_step=groups[-1].step,
        steps=(chosen[0].step, chosen[-1].step),
        num_chosen=len(chosen),
        curves=_curves(metrics, pictures),
        sections=sections,
        shortened=shortened,
    )
    write_atomic(run / PAGE, page)
    return run / PAGE


def shortened(text: str | None) -> str:
    """The text, or its two ends.

    >>> len(shortened("x" * 5000))
    703
    """
    text = text or ""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"


def _shown(name: str, group: Group, pictures: Pictures) -> Shown:
    media = []
    for number, entry in enumerate(group.rollouts[0]["media"]):
        crop = entry["crop"]
        medium = Medium(
            path=text_path(entry["path"]),
            kind=entry["kind"],
            crop=crop and Crop(**dict(zip(("left", "top", "right", "bottom"), crop, strict=True))),
        )
        seconds = list(dict.fromkeys(entry["seconds"]))
        found = pictures.add_moments(f"{name}_{number}", medium, seconds, entry["path"])
        media.append((entry["path"], *found))
    return Shown(group=group, media=tuple(media))


PANELS = {
    "different answers in a batch": r"answers/(.*/)?distinct",
    "share of the eight commonest answers": r"answers/(.*/)?commonest_8_share",
    "share of rollouts without advantage": r"advantages/zero_share",
    "tokens of a completion (percentiles)": r"completions/p\d+_length",
}
"""What is drawn over the steps: the title, and which figures of `metrics.jsonl`."""


def _curves(metrics: list[dict[str, Any]], pictures: Pictures) -> Picture | None:
    """The figures of `PANELS`; None of a run that has logged none of them."""
    names = sorted({name for line in metrics for name in line})
    drawn = {
        title: [name for name in names if re.fullmatch(pattern, name)]
        for title, pattern in PANELS.items()
    }
    if not any(drawn.values()):
        return None
    figure, axes = plt.subplots(1, len(PANELS), figsize=(16, 3.4))
    for axis, (title, found) in zip(axes, drawn.items(), strict=True):
        for name in found:
            points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
            axis.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None,
                      label=name.removeprefix("answers/").removeprefix("completions/"))  # fmt: skip
        axis.set(title=title, xlabel="step", ylim=(0, 1.05 if "share" in title else None))
        if len(found) > 1:
            axis.legend(fontsize=8)
    return pictures.add("curves", png(figure), "answers over steps")
