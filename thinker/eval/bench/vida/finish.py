"""A finished evaluation of ViDA's benchmark → its figures, its submission and its gallery.

In: the folder of `thinker.eval.run.evaluate`. Out: `bench.txt`, `bench.json`, the entry `bench` of
`summary.json` (from which `thinker report` makes its page), `submission.zip` and `bench_gallery/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thinker.eval.bench.outputs import NOT_FINISHED, is_finished, write_bench
from thinker.eval.bench.tables import Table
from thinker.eval.bench.vida.gallery import write_gallery
from thinker.eval.bench.vida.load import VidaData
from thinker.eval.bench.vida.measure import (
    Figure,
    choice_table,
    figures_table,
    final_score,
    referring_table,
    score_table,
    six_figures,
)
from thinker.eval.bench.vida.submit import (
    SUBMITTED,
    Items,
    Reply,
    SubmissionError,
    make_items,
    replies,
    within,
    write_submission,
)
from thinker.eval.summary import load_summary
from thinker.utils.lock import folder_lock

SUBMISSION = "submission.zip"


def finish_vida(folder: Path, data: VidaData) -> str:
    """Measure a finished evaluation and write everything; returns the tables as text.

    Returns a sentence where the evaluation is not finished: another shard still works on it.
    """
    if not is_finished(folder):
        return NOT_FINISHED
    with folder_lock(folder, "bench", wait=True):
        answered = replies(folder, data)
        items = make_items(answered)
        figures = six_figures(data, answered, items)
        tables: list[Table] = []
        if any(part in answered for part in SUBMITTED):
            tables.append(figures_table(data, answered, figures))
        tables += [
            *choice_table(answered),
            *referring_table(answered),
            *score_table(data, _score_report(folder, data)),
            _submission(folder, data, items),
        ]
        return write_bench(
            folder,
            tables,
            protocol={"bench": "vida", "prompt": data.prompt},
            figures_by_mode=_plain(figures),
            gallery=_gallery(folder, data, answered),
        )


def _score_report(folder: Path, data: VidaData) -> dict[str, Any] | None:
    if "score" not in data.sets:
        return None
    return load_summary(folder)["sets"][data.sets["score"].key]["report"]["figures"]


def _submission(folder: Path, data: VidaData, items: Items) -> Table:
    """Write the zip, or say why there is none."""
    notes = []
    inside, dropped = within(items)
    try:
        write_submission(folder / SUBMISSION, inside, data)
        notes.append(f"{SUBMISSION} is written: grounding.json, description.json, perception.json")
    except SubmissionError as error:
        notes.append(f"{SUBMISSION} is not written: {error}")
    if dropped:
        notes.append(f"{dropped} boxes that leave the picture are left out of {SUBMISSION}")
    if items.num_rendered:
        notes.append(
            f"{items.num_rendered} answers without the marks of Qwen2-VL were put into the "
            "published form, which the published extraction needs"
        )
    empty = sum(not item["pred_ans"].strip() for item in items.perception)
    if empty:
        notes.append(f"{empty} choices are empty; one is enough for an official accuracy of 0")
    return Table(title="Submission", header=(), lines=(), notes=tuple(notes))


def _plain(figures: Sequence[Figure]) -> dict[str, Any]:
    """The figures as numbers, in 0..1, by name; the sum beside them."""
    values: dict[str, Any] = {one.name: asdict(one) for one in figures}
    return values | {"final": final_score(figures)}


def _gallery(
    folder: Path, data: VidaData, answered: Mapping[str, Sequence[Reply]]
) -> list[dict[str, str]]:
    known = data.truth.pictures
    return write_gallery(
        folder,
        [
            (one, None if known is None else known[one.raw["image"]].places)
            for one in answered.get("detection", ())
        ],
    )
