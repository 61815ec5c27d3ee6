"""`thinker score` and `single_infer.py`: score videos and print the rows, or score an archive."""

import argparse
import importlib.util
import io
import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thinker.cli.model_options import (
    add_model_arguments,
    add_reading_arguments,
    check_model_options,
    find_some,
    load_scorer,
    reading_settings,
    scorer_settings,
)

if TYPE_CHECKING:
    from thinker.score.prediction import Prediction
    from thinker.score.timeline import Moment
    from thinker.video.medium import Medium

NAME = "score"
HELP = "score videos, with reasoning"

LABEL = 11
"""Width of the labels of a row for a person."""
PROGRESS_FROM = 4
"""From so many videos on it is told how far the work is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_reading_arguments(parser)
    parser.add_argument(
        "--video", "--input", dest="video", required=True, nargs="+",
        help="video or image files, folders (searched), globs in quotes; with --engine ray also "
        "path tables (….parquet), and URLs that fsspec opens",
    )  # fmt: skip
    parser.add_argument("--start", type=float, help="seconds")
    parser.add_argument("--end", type=float, help="seconds")
    parser.add_argument("--json", action="store_true", help="one JSON line a video")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument(
        "--timeline", type=float, metavar="SECONDS", help="a score for every window of a video"
    )
    parser.add_argument(
        "--output", type=Path,
        help="folder: of Parquet parts with --engine ray, of CSV and picture with --timeline",
    )  # fmt: skip
    parser.add_argument(
        "--retry", help="statuses of rows to try again, such as missing,timeout, of engine ray"
    )
    parser.add_argument(
        "--num-actors", default="1", metavar="N or MIN:MAX", help="models at once, of engine ray"
    )
    parser.add_argument("--gpus-per-actor", type=float, default=0.0, help="of engine ray")
    parser.add_argument(
        "--path-column", default="path", help="that of a path table's paths, of engine ray"
    )
    parser.set_defaults(own_level=logging.WARNING)


def run(args: argparse.Namespace) -> int:
    """Exit status 1: some videos have no score."""
    from thinker.video.medium import medium

    if args.engine == "ray" and args.output is None:
        raise ValueError("--output is a folder of Parquet parts; --engine ray needs it")
    if args.output is not None and args.engine != "ray" and args.timeline is None:
        raise ValueError("--output is for --engine ray and --timeline; else rows are printed")
    if args.retry is not None and args.engine != "ray":
        raise ValueError("--retry is for --engine ray, which keeps rows; score these videos again")
    if args.engine == "ray":
        return _score_by_ray(args)
    # Raises where one has no such part.
    media = [medium(path, start=args.start, end=args.end) for path in find_some(args.video)]
    return _score_here(media, args) if args.timeline is None else _score_windows(media, args)


def _score_windows(media: list["Medium"], args: argparse.Namespace) -> int:
    from thinker.video.sources.windows import check_seconds

    check_seconds(args.timeline)
    for one in media:
        if one.kind == "image":
            raise ValueError(f"--timeline is of videos, {one.path} is an image")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise ValueError(f"{args.output} is no folder; --output names the folder of the tables")
    if args.output is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("pictures need matplotlib: pip install 'vqa-thinker[report]'")
    reading = reading_settings(args)
    check_model_options(args)
    scorer = load_scorer(args)
    tables = (scorer.timeline(one, window_seconds=args.timeline, reading=reading) for one in media)
    if args.output is None:
        return 1 if sum(_print_windows(table, args) for table in tables) else 0
    return _write_windows(tables, args)


def _print_windows(rows: Iterable["Moment"], args: argparse.Namespace) -> int:
    """Print rows as they come. Returns how many have no score."""
    from thinker.cli.ask import describe_moment
    from thinker.score.prediction import OK

    failures = 0
    for moment in rows:
        failures += moment.prediction.status != OK
        print(json.dumps(moment.to_row()) if args.json else describe_moment(moment), flush=True)
    return failures


def _write_windows(tables: Iterable[Iterator["Moment"]], args: argparse.Namespace) -> int:
    """Print rows, and write those of video N, from 1, to `timeline_N.csv` and `timeline_N.png`."""
    from thinker.score.timeline import plot_timeline, write_table
    from thinker.utils.atomic import atomic_file
    from thinker.utils.names import path_text

    args.output.mkdir(parents=True, exist_ok=True)
    failures = 0
    for number, rows in enumerate(tables, start=1):
        target = args.output / f"timeline_{number}.csv"
        kept = []
        with atomic_file(target) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            for moment in write_table(text, rows):
                kept.append(moment)
                failures += _print_windows([moment], args)
            text.detach()
        plot_timeline(kept, target.with_suffix(".png"))
        print(f"{path_text(target)} and .png", file=sys.stderr)
    return 1 if failures else 0


def _score_here(media: list["Medium"], args: argparse.Namespace) -> int:
    from thinker.score.prediction import OK
    from thinker.score.stream import predictions
    from thinker.utils.progress import Progress

    reading = reading_settings(args)
    check_model_options(args)
    if len(media) == 1:  # nothing is to be read ahead, and a worker takes seconds to start
        reading = replace(reading, num_workers=0)
    scorer = load_scorer(args)
    words = scorer.policy.inputs.levels.words
    scored = predictions(scorer, media, reading)
    failures = 0
    with Progress(len(media), unit="video", shown=len(media) >= PROGRESS_FROM) as progress:
        for prediction in scored:
            failures += prediction.status != OK
            shown = json.dumps(prediction.to_row()) if args.json else describe(prediction, words)
            progress.write(shown)
            progress.update()
    return 1 if failures else 0


def _score_by_ray(args: argparse.Namespace) -> int:
    from thinker.score.archive import RaySettings, format_counts, score_archive
    from thinker.score.prediction import OK
    from thinker.score.retry import parse_retry
    from thinker.utils.lock import check_output_folder

    if args.timeline is not None:
        raise ValueError("--timeline is not for --engine ray, which scores whole files")
    if args.start is not None or args.end is not None:
        raise ValueError("--start and --end are not for --engine ray, which scores whole files")
    min_actors, max_actors = _bounds(args.num_actors)
    settings = RaySettings(
        min_actors=min_actors,
        max_actors=max_actors,
        num_gpus=args.gpus_per_actor,
        reading=reading_settings(args),
    )
    retry = parse_retry(args.retry)
    check_output_folder(args.output)
    check_model_options(args)
    counts = score_archive(
        args.video,
        args.output,
        args.model,
        scorer_settings(args),
        settings,
        column=args.path_column,
        retry=retry,
    )
    print(format_counts(counts))
    return 0 if set(counts) <= {OK} else 1


def _bounds(text: str) -> tuple[int, int]:
    """Of a number of actors. Example: "1:4" → (1, 4), "2" → (2, 2)."""
    low, _, high = text.partition(":")
    wrong = ValueError(f"--num-actors is {text}, expected N or MIN:MAX with 1 ≤ MIN ≤ MAX")
    try:
        bounds = int(low), int(high or low)
    except ValueError:
        raise wrong from None
    if not 1 <= bounds[0] <= bounds[1]:
        raise wrong
    return bounds


def describe(prediction: "Prediction", words: Sequence[str] | None = None) -> str:
    """A prediction as lines for a person, wrapped to the terminal. words: the policy's level words,
    where they are not `thinker.tasks.level.LEVELS`."""
    from thinker.score.prediction import OK
    from thinker.tasks.level import LEVELS
    from thinker.utils.names import path_text, printable

    width = max(40, shutil.get_terminal_size().columns)
    # Not wrapped: a name has to be copied as it is.
    named = f"{'video:':<{LABEL}}{prediction.path and path_text(prediction.path)}"
    lines = []
    if prediction.mode != "level":
        # A model may write anything, what steers a terminal included.
        lines.append(("reasoning", printable(" ".join((prediction.reasoning or "-").split()))))
    score = "-" if prediction.score is None else f"{prediction.score:.2f} (1 to 5)"
    if prediction.answer_range is not None:
        low, high = prediction.answer_range
        score += f", answers spread by {prediction.spread:.2f}, {low:.2f} to {high:.2f}"
    lines.append(("score", score))
    if prediction.interval is not None:
        low, high = prediction.interval
        held = f"{low:.2f} to {high:.2f}, for 90 in 100 of media like {prediction.calibrated_on}"
        lines.append(("interval", held))
    if prediction.mode == "level" and prediction.distribution:
        shares = zip(words or LEVELS, prediction.distribution, strict=True)
        lines.append(("levels", ", ".join(f"{word} {p:.2f}" for word, (_, p) in shares)))
    if prediction.status != OK:
        lines.append(("status", f"{prediction.status}: {prediction.error}"))
    if prediction.note:
        lines.append(("note", prediction.note))
    wrapped = [
        textwrap.fill(
            text, width, initial_indent=f"{name + ':':<{LABEL}}", subsequent_indent=" " * LABEL
        )
        for name, text in lines
    ]
    return "\n".join([named, *wrapped])
