"""`thinker ground`: what impairs pictures, or frames of videos, and where."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinker.cli.model_options import (
    add_model_arguments,
    check_model_options,
    find_some,
    load_scorer,
)
from thinker.utils.lock import check_output_folder
from thinker.utils.names import path_text, printable

if TYPE_CHECKING:
    from thinker.score.detail import Located, Wish
    from thinker.score.scorer import QualityScorer
    from thinker.video import VideoError

NAME = "ground"
HELP = "find distortions of images or frames of videos, each with its box"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "files", nargs="+", metavar="FILE",
        help="image or video files, folders (searched), globs in quotes",
    )  # fmt: skip
    parser.add_argument("--question", help="instead of that for all distortions")
    parser.add_argument("--at", metavar="SECONDS", help="frames of videos, such as 1.5,3")
    parser.add_argument("--frames", type=int, help="how many frames of a video, evenly spaced (4)")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG",
        help="draw the boxes: a picture of one file, a folder for several",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON line a picture")
    parser.set_defaults(own_level=logging.WARNING)


def run(args: argparse.Namespace) -> int:
    """Exit status 1: some pictures have no answer."""
    from thinker.score.detail import check_source, grounding

    at, wish = _times(args.at), grounding(args.question)
    check_wish(wish)
    paths = find_some(args.files)
    unfit = find_unfit(paths, lambda path: check_source(path, at, args.frames))
    targets = _targets(args.plot, len(paths))
    check_model_options(args, [wish.task])
    scorer = load_scorer(args)
    failures = 0
    for path, target in zip(paths, targets, strict=True):
        found = locate_fit(scorer, path, wish, unfit, at=at, frames=args.frames)
        failures += _show(found, target, as_json=args.json)
    return 1 if failures else 0


def find_unfit(paths: Sequence[Path], check: Callable[[Path], None]) -> dict[Path, "VideoError"]:
    """The files that cannot be asked about in this way, with the reason: those for which `check`
    raises ValueError. They become rows; where there is no other file, the last error is raised."""
    from thinker.video import VideoError

    unfit: dict[Path, VideoError] = {}
    for path in paths:
        try:
            check(path)
        except ValueError as error:
            if len(unfit) == len(paths) - 1:
                raise
            unfit[path] = VideoError(path, "unsupported", str(error))
    return unfit


def locate_fit(
    scorer: "QualityScorer",
    path: Path,
    wish: "Wish",
    unfit: Mapping[Path, "VideoError"],
    **frames: Any,
) -> Iterator["Located"]:
    """`scorer.locate`, or the row of a file that is unfit."""
    from thinker.score.detail import Located

    if path not in unfit:
        return scorer.locate(path, wish, **frames)
    row = replace(scorer.failed(unfit[path]), task=wish.task)
    return iter([Located(prediction=row, picture_HWC=None)])


def check_wish(wish: "Wish") -> None:
    """Raises ValueError for a question that cannot be asked."""
    from thinker.score.question import asked

    asked(wish.question, task=wish.task, system=wish.system)


def _times(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--at is {text!r}, expected seconds with commas, such as 1.5,3") from None


def _targets(plot: Path | None, count: int) -> Sequence[Path | None]:
    """Where the picture of each file goes."""
    if plot is None:
        return [None] * count
    if count > 1:
        if plot.exists() and not plot.is_dir():
            raise ValueError(f"{path_text(plot)} is no folder; {count} files need one for --plot")
        check_output_folder(plot)
        return [plot / f"boxes_{number}.png" for number in range(1, count + 1)]
    if plot.suffix.lower() != ".png" or plot.is_dir():
        raise ValueError(f"--plot is {path_text(plot)}, expected the name of a PNG file")
    check_output_folder(plot.parent)
    return [plot]


def _show(found: Iterator["Located"], target: Path | None, *, as_json: bool) -> int:
    """Print rows as they come, and draw them. Returns how many have no answer."""
    from thinker.score.prediction import OK

    failures, drawn = 0, []
    for one in found:
        failures += one.prediction.status != OK
        plot = None if target is None or one.picture_HWC is None else path_text(target)
        row = one.to_row() | ({} if plot is None else {"plot": plot})
        print(json.dumps(row) if as_json else describe_boxes(one), flush=True)
        if plot is not None:
            drawn.append((one.drawn(), caption(one)))
    if target is not None and drawn:
        _write(drawn, target)
    return failures


def _write(drawn: list, target: Path) -> None:
    from thinker.score.draw import side_by_side
    from thinker.utils.atomic import atomic_file

    picture = drawn[0][0] if len(drawn) == 1 else side_by_side(drawn)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as file:
        picture.save(file, format="PNG")
    print(path_text(target), file=sys.stderr)


def caption(one: "Located") -> str:
    """Which frame it is. Example: `1.50 s · frame 15`; nothing of a picture file."""
    if one.seconds is None:
        return ""
    frame = "" if one.frame is None else f" · frame {one.frame}"
    return f"{one.seconds:.2f} s{frame}"


def head_of(one: "Located") -> str:
    """The file, its size and which frame it is."""
    path = one.prediction.path
    words = ["" if path is None else path_text(path)]
    if one.picture_HWC is not None:
        words.append(f"{one.picture_HWC.shape[1]} x {one.picture_HWC.shape[0]}")
    return " · ".join(word for word in (*words, caption(one)) if word)


def describe_boxes(one: "Located") -> str:
    """A line a box, for a person: class and severity, corners in pixels, confidence.

    Example: `  severe noise  (64, 120), (320, 480)  0.87`.
    """
    from thinker.score.prediction import OK

    row = one.prediction
    if row.status != OK:
        return f"{head_of(one)}\n  {row.status}: {printable(row.error or '')}"
    labels = [" ".join(filter(None, [box.severity, box.name])) for box in row.boxes]
    width = max(map(len, labels), default=0)
    lines = [head_of(one)]
    for box, label, (left, top, right, bottom) in zip(row.boxes, labels, one.boxes_px, strict=True):
        sure = "" if box.confidence is None else f"  {box.confidence:.2f}"
        corners = f"({left}, {top}), ({right}, {bottom})"
        lines.append(f"  {printable(label):{width}}  {corners}{sure}")
    if not row.boxes:
        lines.append("  no distortion")
    if row.note:
        lines.append(f"  note: {printable(row.note)}")
    return "\n".join(lines)
