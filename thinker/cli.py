"""The `thinker` command: train, score, eval, report, compare, faithfulness, demo-data.

Every subcommand is a thin call into the package."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from thinker.cli_scoring import (
    compare_parser,
    eval_parser,
    faithfulness_parser,
    report_parser,
    score_parser,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. User errors print one message and exit with 2."""
    parser = argparse.ArgumentParser(prog="thinker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _train_parser(commands.add_parser("train", help="train a policy by GRPO"))
    score_parser(commands.add_parser("score", help="score videos, with reasoning"))
    eval_parser(commands.add_parser("eval", help="score annotated sets to CSV"))
    report_parser(commands.add_parser("report", help="one HTML page of a finished eval"))
    compare_parser(commands.add_parser("compare", help="difference of two evals, paired"))
    faithfulness_parser(
        commands.add_parser("faithfulness", help="are explanations true? (demo set)")
    )
    _demo_parser(commands.add_parser("demo-data", help="generate the demo set"))
    return run_command(parser.parse_args(argv))


def run_command(args: argparse.Namespace) -> int:
    """Call the function a subcommand's parser named; a ValueError becomes a message."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("thinker").setLevel(logging.INFO)
    try:
        return args.run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="run configuration (YAML)")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from thinker.config import load_run_config
    from thinker.pipeline import run_training

    summary = run_training(load_run_config(args.config, args.overrides))
    print(f"written to {summary['config']['output_dir']}")
    return 0


def _demo_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a tenth of the set, for a smoke run")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from thinker.synthetic import SyntheticConfig, generate_demo_set

    small = {"num_train_contents": 40, "num_eval_contents": 12} if args.small else {}
    demo = generate_demo_set(args.output, SyntheticConfig(**small))
    print(f"{demo.num_train} training and {demo.num_eval} held-out videos in {demo.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
