"""`thinker faithfulness`: are a policy's explanations true? Measured on the demo set."""

import argparse
from pathlib import Path

from thinker.cli.model_options import (
    add_model_arguments,
    add_reading_arguments,
    check_model_options,
    load_scorer,
    reading_settings,
)

NAME = "faithfulness"
HELP = "are explanations true? (demo set)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_reading_arguments(parser)
    parser.add_argument("--demo", type=Path, required=True, help="folder of thinker demo-data")
    parser.add_argument("--output-dir", type=Path, required=True, help="pristine versions go here")
    parser.add_argument("--max-cases", type=int, help="the first so many clips only")


def run(args: argparse.Namespace) -> int:
    from thinker.eval.faithfulness import faithfulness_cases, format_faithfulness, measure
    from thinker.score.stream import predictions
    from thinker.utils.lock import check_output_folder

    reading = reading_settings(args)
    check_model_options(args)
    check_output_folder(args.output_dir)
    cases = faithfulness_cases(args.demo, args.output_dir, args.max_cases)
    scorer = load_scorer(args)
    report = measure(cases, lambda paths: list(predictions(scorer, paths, reading)))
    print(format_faithfulness(report))
    return 0
