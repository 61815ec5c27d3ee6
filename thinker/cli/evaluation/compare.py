"""`thinker compare`: the paired difference of two finished evaluations."""

import argparse
from pathlib import Path

NAME = "compare"
HELP = "difference of two evals, paired"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, help="output folder of a finished eval")
    parser.add_argument("b", type=Path, help="another one of the same sets")


def run(args: argparse.Namespace) -> int:
    from thinker.eval.compare import compare_runs, format_comparison

    print(format_comparison(compare_runs(args.a, args.b)))
    return 0
