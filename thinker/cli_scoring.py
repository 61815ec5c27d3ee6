"""Subcommands that use a trained policy: score and eval. Each is a thin call into the package."""

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinker.prediction import Prediction
    from thinker.scorer import QualityScorer

PROGRESS_FROM = 4  # videos; fewer need no bar


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """What every subcommand that loads a policy takes."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved policy")
    parser.add_argument(
        "--mode",
        default="reason",
        help="reason: greedy text and score; sample: several rollouts, mean and 90%% interval; "
        "level: one forward, no text",
    )
    parser.add_argument("--num-samples", type=int, default=8, help="rollouts of mode sample")
    parser.add_argument("--backend", default="hf", help="what generates")
    parser.add_argument("--max-new-tokens", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, help="videos at once; halves when memory is out")
    parser.add_argument("--num-workers", type=int, default=2, help="decoding processes")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to decode one video")


def scorer_settings(args: argparse.Namespace) -> dict[str, object]:
    """Keyword arguments of `QualityScorer.from_pretrained`."""
    settings: dict[str, object] = {
        "mode": args.mode,
        "num_samples": args.num_samples,
        "backend": args.backend,
        "max_new_tokens": args.max_new_tokens,
    }
    return settings if args.batch_size is None else settings | {"batch_size": args.batch_size}


def load_scorer(args: argparse.Namespace) -> "QualityScorer":
    from thinker.scorer import QualityScorer

    return QualityScorer.from_pretrained(args.model, **scorer_settings(args))  # type: ignore[arg-type]


# score


def score_parser(parser: argparse.ArgumentParser) -> None:
    """Arguments of `thinker score` and `single_infer.py`."""
    model_arguments(parser)
    parser.add_argument(
        "--video", "--input", dest="video", required=True, nargs="+",
        help="video or image files, folders (searched), globs in quotes",
    )  # fmt: skip
    parser.add_argument("--start", type=float, help="seconds")
    parser.add_argument("--end", type=float, help="seconds")
    parser.add_argument("--json", action="store_true", help="one JSON line a video")
    parser.set_defaults(run=_score)


def _score(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from thinker.files import find_videos
    from thinker.prediction import OK

    paths = find_videos(args.video)
    scorer = load_scorer(args)
    failures = 0
    with tqdm(total=len(paths), unit="video", disable=len(paths) < PROGRESS_FROM) as bar:
        for prediction in _predictions(scorer, paths, args):
            failures += prediction.status != OK
            shown = json.dumps(prediction.to_row()) if args.json else describe(prediction)
            tqdm.write(shown)  # above the bar, on standard output
            bar.update()
    return 1 if failures else 0


def _predictions(
    scorer: "QualityScorer", paths: list[Path], args: argparse.Namespace
) -> Iterator["Prediction"]:
    """In order; decoding runs ahead where there is more than one video."""
    from thinker.read_ahead import read_ahead
    from thinker.video import VideoError, read_clip

    if len(paths) == 1:
        yield from scorer.score_stream([scorer.read(paths[0], start=args.start, end=args.end)])
        return
    read = partial(read_clip, spec=scorer.clip_spec, start=args.start, end=args.end)
    items = read_ahead(paths, read, num_workers=args.num_workers, timeout_seconds=args.timeout)
    rows = (scorer.failed(item) if isinstance(item, VideoError) else item for item in items)
    # Small batches first of all show results early; a GPU gains little beyond.
    yield from scorer.score_stream(rows, batch_size=min(scorer.batch_size, 8))


def describe(prediction: "Prediction") -> str:
    """A prediction as lines for a person, wrapped to the terminal."""
    from thinker.prediction import OK

    width = max(40, shutil.get_terminal_size().columns)
    lines = [("video", str(prediction.path))]
    if prediction.mode != "level":
        lines.append(("reasoning", prediction.reasoning or "-"))
    score = "-" if prediction.score is None else f"{prediction.score:.2f} (1 to 5)"
    if prediction.interval is not None:
        low, high = prediction.interval
        score += f", 90 % in {low:.2f} to {high:.2f}, spread {prediction.spread:.2f}"
    lines.append(("score", score))
    if prediction.mode == "level" and prediction.distribution:
        from thinker.prompts import LEVELS

        shares = zip(LEVELS, prediction.distribution, strict=True)
        lines.append(("levels", ", ".join(f"{word} {p:.2f}" for word, (_, p) in shares)))
    if prediction.status != OK:
        lines.append(("status", f"{prediction.status}: {prediction.error}"))
    label = 11
    return "\n".join(
        textwrap.fill(
            text, width, initial_indent=f"{name + ':':<{label}}", subsequent_indent=" " * label
        )
        for name, text in lines
    )


# eval


def eval_parser(parser: argparse.ArgumentParser) -> None:
    """Arguments of `thinker eval` and `batch_infer.py`."""
    model_arguments(parser)
    parser.add_argument("--meta", type=Path, nargs="+", required=True, help="meta JSON files")
    parser.add_argument(
        "--video-root", type=Path, nargs="+", required=True, help="one for all metas, or one each"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="one CSV a set goes here")
    parser.add_argument(
        "--mos-scale", help="min:max of the MOS, for a meta that is not one of the ten known sets"
    )
    parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> int:
    from thinker.data import eval_set_from_files, parse_mos_scale
    from thinker.evaluate import evaluate_sets

    roots = args.video_root * (len(args.meta) if len(args.video_root) == 1 else 1)
    if len(roots) != len(args.meta):
        raise ValueError(
            f"{len(args.meta)} meta files but {len(roots)} video roots; give one root, or one each"
        )
    scale = parse_mos_scale(args.mos_scale) if args.mos_scale else None
    sets = [
        eval_set_from_files(meta, root, scale) for meta, root in zip(args.meta, roots, strict=True)
    ]
    scorer = load_scorer(args)
    table = evaluate_sets(
        scorer,
        sets,
        args.output_dir,
        batch_size=scorer.batch_size,
        num_workers=args.num_workers,
    )
    print(table)
    return 0
