"""`thinker eval` and `batch_infer.py`: answer sets of any task, one CSV and figures for each."""

import argparse
from pathlib import Path

from thinker.cli.evaluation.set_options import add_set_arguments, set_sources
from thinker.cli.model_options import (
    add_model_arguments,
    add_reading_arguments,
    check_model_options,
    load_scorer,
    reading_settings,
)

NAME = "eval"
HELP = "answer labelled sets of any task, to CSV and figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_reading_arguments(parser)
    add_set_arguments(parser)
    parser.add_argument("--output-dir", type=Path, required=True, help="CSVs and summary go here")
    parser.add_argument("--shard", help="i/n, i from 0; by default what torchrun says, else 0/1")
    parser.add_argument(
        "--perturbed",
        metavar="KIND",
        help="show every video a second time, its frames in another order (shuffle, local_shuffle, "
        "reverse, jitter, duplicate or drop), and say how often the true one has the higher score",
    )
    parser.add_argument(
        "--retry", help="statuses of rows to try again, such as missing,timeout (docs/scoring.md)"
    )


def run(args: argparse.Namespace) -> int:
    from thinker.eval.perturbed import with_perturbed
    from thinker.eval.run import check_folder, evaluate, parse_shard
    from thinker.eval.sets import load_sets, read_subset
    from thinker.score.retry import parse_retry

    # What is wrong with the command or its files is said before the model is loaded.
    shard, sources, reading = parse_shard(args.shard), set_sources(args), reading_settings(args)
    retry = parse_retry(args.retry)
    subset = None if args.subset is None else read_subset(args.subset)
    check_folder(args.output_dir, args.mode, shard)
    loaded = load_sets(sources, skip_bad_lines=args.skip_bad_lines, subset=subset)
    if args.perturbed is not None:
        loaded = with_perturbed(loaded, args.perturbed)
    check_model_options(args, [one.task for one in loaded])
    scorer = load_scorer(args)
    print(evaluate(scorer, loaded, args.output_dir, reading, shard=shard, retry=retry))
    return 0
