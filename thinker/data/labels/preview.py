"""What a user sees of a label sheet before anything is written: first rows, counts, histogram."""

from collections.abc import Sequence

from thinker.data.labels.collect import Collected, Label

NUM_ROWS = 10
NUM_BINS = 10
BAR_WIDTH = 40
MAX_CELL = 48
NARROW = 0.2
"""Labels that use no more than this share of their scale were probably given another."""


def preview(found: Collected, scale: tuple[float, float] | None) -> str:
    """Plain text of some thirty lines."""
    labels = found.labels
    count = f"{len(labels)} labels, {len(found.bad_lines)} bad lines"
    if not labels:
        return count
    values = [label.mos for label in labels]
    low, high = min(values), max(values)
    mean = sum(values) / len(values)
    parts = [first_rows(labels), f"{count}; from {low:g} to {high:g}, mean {mean:.4g}"]
    if labels[0].content is not None:
        parts[-1] += f"; {len({label.content for label in labels})} contents"
    if labels[0].split is not None:
        parts[-1] += "; " + ", ".join(f"{n} {name}" for name, n in found.splits.items())
    parts.append(histogram(values, scale))
    if scale is not None and len(values) > NUM_ROWS and high - low < NARROW * (scale[1] - scale[0]):
        parts.append(
            f"note: the labels use {(high - low) / (scale[1] - scale[0]):.0%} of the scale "
            f"{scale[0]:g} to {scale[1]:g}; is it theirs?"
        )
    return "\n\n".join(parts)


def first_rows(labels: Sequence[Label]) -> str:
    """The first ten as a table, of the columns that there are."""
    shown = labels[:NUM_ROWS]
    columns = {"path": [label.path for label in shown], "mos": [f"{row.mos:g}" for row in shown]}
    if any(label.id != label.path for label in shown):
        columns["id"] = [label.id for label in shown]
    for name in ("content", "split"):
        values = [getattr(label, name) for label in shown]
        if None not in values:
            columns[name] = values
    cut = [[name, *map(_cut, cells)] for name, cells in columns.items()]
    widths = [max(map(len, cells)) for cells in cut]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*cut, strict=True)
    )


def _cut(cell: str) -> str:
    return cell if len(cell) <= MAX_CELL else f"...{cell[3 - MAX_CELL :]}"


def histogram(values: Sequence[float], scale: tuple[float, float] | None) -> str:
    """Ten bins over the scale, or over the values where it is not known.

    `histogram([1, 5, 5], (1, 5))` has 1 in the bin from 1 and 2 in the last one, to 5.
    """
    low, high = scale or (min(values), max(values))
    width = (high - low) / NUM_BINS or 1.0
    counts = [0] * NUM_BINS
    for value in values:
        counts[max(0, min(int((value - low) / width), NUM_BINS - 1))] += 1
    edges = [f"{low + number * width:.4g}" for number in range(NUM_BINS + 1)]
    wide, most = max(map(len, edges)), max(counts)
    digits = len(str(most))
    return "\n".join(
        f"{start:>{wide}} to {end:>{wide}}  {count:>{digits}}  "
        f"{'#' * round(BAR_WIDTH * count / most)}".rstrip()
        for start, end, count in zip(edges, edges[1:], counts, strict=False)
    )
