"""`thinker inspect`: the best, worst and most surprising groups of a training run, on one page."""

import argparse
from pathlib import Path

from thinker.utils.names import path_text

NAME = "inspect"
HELP = "best, worst and most surprising rollouts of a run, one HTML page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of a training run, also one under way")
    parser.add_argument(
        "--steps", metavar="FIRST:LAST", help="which steps; without it the last fifth of them"
    )


def run(args: argparse.Namespace) -> int:
    steps = None if args.steps is None else _bounds(args.steps)
    try:
        from thinker.train.inspect.page import write_page
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install it: pip install 'vqa-thinker[report]'") from None
    print(path_text(write_page(args.folder, steps)))
    return 0


def _bounds(text: str) -> tuple[int, int]:
    """Example: "10:20" → (10, 20), "7" → (7, 7)."""
    first, _, last = text.partition(":")
    try:
        bounds = int(first), int(last or first)
    except ValueError:
        raise ValueError(f"--steps is {text}, expected FIRST:LAST such as 10:20") from None
    if bounds[0] > bounds[1]:
        raise ValueError(f"--steps is {text}, expected the first step before the last one")
    return bounds
