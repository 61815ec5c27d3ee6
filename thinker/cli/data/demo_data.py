"""`thinker demo-data`: generate the demo set."""

import argparse
from pathlib import Path

NAME = "demo-data"
HELP = "generate the demo set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a tenth of the set, for a smoke run")


def run(args: argparse.Namespace) -> int:
    from thinker.data.demo.generate import generate_demo_set
    from thinker.data.demo.plan import SyntheticConfig

    small = {"num_train_contents": 40, "num_eval_contents": 12} if args.small else {}
    demo = generate_demo_set(args.output, SyntheticConfig(**small))
    print(f"{demo.num_train} training and {demo.num_eval} held-out videos in {demo.root}")
    return 0
