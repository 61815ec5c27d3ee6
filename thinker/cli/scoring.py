"""Subcommands that use a trained policy: score and eval. Each is a thin call into the package."""

import argparse
import json
import os
import shutil
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from thinker.config.run import BACKENDS

if TYPE_CHECKING:
    from thinker.data.datasets import EvalSet
    from thinker.score.prediction import Prediction
    from thinker.score.scorer import QualityScorer

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
    parser.add_argument("--backend", choices=BACKENDS, default="hf", help="what generates")
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
    import torch

    from thinker.score.scorer import QualityScorer

    # Under torchrun every process has a GPU of its own.
    rank = os.environ.get("LOCAL_RANK")
    device = f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None
    return QualityScorer.from_pretrained(args.model, device=device, **scorer_settings(args))


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
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--output", type=Path, help="folder of Parquet parts, with --engine ray")
    parser.add_argument("--num-actors", type=int, default=1, help="models at once, of engine ray")
    parser.add_argument("--gpus-per-actor", type=float, default=0.0, help="of engine ray")
    parser.set_defaults(run=_score)


def _score(args: argparse.Namespace) -> int:
    from thinker.video.find import find_videos

    if (args.engine == "ray") != (args.output is not None):
        raise ValueError("--output is for --engine ray, which needs it; else rows are printed")
    paths = find_videos(args.video)
    return _score_by_ray(paths, args) if args.engine == "ray" else _score_here(paths, args)


def _score_here(paths: list[Path], args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from thinker.score.prediction import OK

    scorer = load_scorer(args)
    failures = 0
    with tqdm(total=len(paths), unit="video", disable=len(paths) < PROGRESS_FROM) as bar:
        for prediction in _stream(scorer, paths, args, start=args.start, end=args.end):
            failures += prediction.status != OK
            shown = json.dumps(prediction.to_row()) if args.json else describe(prediction)
            tqdm.write(shown)  # above the bar, on standard output
            bar.update()
    return 1 if failures else 0


def _score_by_ray(paths: list[Path], args: argparse.Namespace) -> int:
    from thinker.score.archive import RaySettings, format_counts, score_archive
    from thinker.score.prediction import OK

    if args.start is not None or args.end is not None:
        raise ValueError("--start and --end are not for --engine ray, which scores whole files")
    settings = RaySettings(
        num_actors=args.num_actors,
        num_gpus=args.gpus_per_actor,
        num_workers=args.num_workers,
        timeout_seconds=args.timeout,
    )
    counts = score_archive(paths, args.output, args.model, scorer_settings(args), settings)
    print(format_counts(counts))
    return 0 if set(counts) <= {OK} else 1


def _stream(
    scorer: "QualityScorer",
    paths: list[Path],
    args: argparse.Namespace,
    *,
    start: float | None = None,
    end: float | None = None,
) -> Iterator["Prediction"]:
    """In order; decoding runs ahead where there is more than one video."""
    from thinker.video import VideoError, read_clip
    from thinker.video.read_ahead import read_ahead

    if len(paths) == 1:
        yield from scorer.score_stream([scorer.read(paths[0], start=start, end=end)])
        return
    read = partial(read_clip, spec=scorer.clip_spec, start=start, end=end)
    items = read_ahead(
        paths,
        read,
        num_workers=args.num_workers,
        timeout_seconds=args.timeout,
        ahead=scorer.batch_size,
    )
    yield from scorer.score_stream(
        scorer.failed(item) if isinstance(item, VideoError) else item for item in items
    )


def describe(prediction: "Prediction") -> str:
    """A prediction as lines for a person, wrapped to the terminal."""
    from thinker.score.prediction import OK

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
    parser.add_argument("--config", type=Path, nargs="+", help="YAMLs of sets (data_configs/eval)")
    parser.add_argument("--meta", type=Path, nargs="+", help="meta JSON files, instead of YAMLs")
    parser.add_argument("--video-root", type=Path, nargs="+", help="one for all metas, or one each")
    parser.add_argument(
        "--mos-scale", help="min:max:mapping, for a meta that is not one of the ten known sets"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="CSVs and summary go here")
    parser.add_argument("--shard", help="i/n, i from 0; by default what torchrun says, else 0/1")
    parser.add_argument(
        "--skip-bad-lines", action="store_true", help="bad annotations become rows, not an error"
    )
    parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> int:
    from thinker.eval.run import evaluate_sets, parse_shard

    shard = parse_shard(args.shard)
    sets = _eval_sets(args)
    table = evaluate_sets(
        load_scorer(args),
        sets,
        args.output_dir,
        num_workers=args.num_workers,
        timeout_seconds=args.timeout,
        shard=shard,
        skip_bad_lines=args.skip_bad_lines,
    )
    print(table)
    return 0


def _eval_sets(args: argparse.Namespace) -> list["EvalSet"]:
    from thinker.data.datasets import eval_set_from_files, load_dataset_config, parse_mos_scale

    if (args.config is None) == (args.meta is None) or (args.meta and not args.video_root):
        raise ValueError("give sets either as --config YAMLs, or as --meta with --video-root")
    if args.config:
        return [eval_set for path in args.config for eval_set in load_dataset_config(path).eval]
    roots = args.video_root * (len(args.meta) if len(args.video_root) == 1 else 1)
    if len(roots) != len(args.meta):
        raise ValueError(
            f"{len(args.meta)} meta files but {len(roots)} video roots; give one root, or one each"
        )
    scale = parse_mos_scale(args.mos_scale) if args.mos_scale else None
    return [eval_set_from_files(m, root, scale) for m, root in zip(args.meta, roots, strict=True)]


# what follows an evaluation


def report_parser(parser: argparse.ArgumentParser) -> None:
    """Arguments of `thinker report`."""
    parser.add_argument("folder", type=Path, help="output folder of a finished eval")
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    try:
        from thinker.eval.report.page import write_report
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install it: pip install 'vqa-thinker[report]'") from None
    print(write_report(args.folder))
    return 0


def compare_parser(parser: argparse.ArgumentParser) -> None:
    """Arguments of `thinker compare`."""
    parser.add_argument("a", type=Path, help="output folder of a finished eval")
    parser.add_argument("b", type=Path, help="another one of the same sets")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from thinker.eval.compare import compare_runs, format_comparison

    print(format_comparison(compare_runs(args.a, args.b)))
    return 0


def faithfulness_parser(parser: argparse.ArgumentParser) -> None:
    """Arguments of `thinker faithfulness`."""
    model_arguments(parser)
    parser.add_argument("--demo", type=Path, required=True, help="folder of thinker demo-data")
    parser.add_argument("--output-dir", type=Path, required=True, help="pristine versions go here")
    parser.add_argument("--max-cases", type=int, help="the first so many clips only")
    parser.set_defaults(run=_faithfulness)


def _faithfulness(args: argparse.Namespace) -> int:
    from thinker.eval.faithfulness import faithfulness_cases, format_faithfulness, measure

    cases = faithfulness_cases(args.demo, args.output_dir, args.max_cases)
    scorer = load_scorer(args)
    report = measure(cases, lambda paths: list(_stream(scorer, paths, args)))
    print(format_faithfulness(report))
    return 0
