"""`thinker convert`: a released checkpoint becomes a policy folder."""

import argparse
from pathlib import Path

NAME = "convert"
HELP = "convert released weights to a policy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", type=Path, required=True, help="released folder")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="a new folder")
    # Which there are is in `LAYOUTS`, whose import needs torch: both are checked in `run`.
    parser.add_argument(
        "--layout",
        help="whose weights: vqathinker, vital, vqa2 or vida; by default what they look like",
    )
    parser.add_argument(
        "--setting",
        help="which of the published programs is followed. vqathinker: 12x560, as in the published "
        "inference (default), or 6x448, as in its training; vital: training (default), scoring, "
        "scoring_less, or questions; vqa2: paper (default), scoring, app, or q_bench; vida: "
        "inference (default), or training",
    )


def run(args: argparse.Namespace) -> int:
    from thinker.policies.convert import convert_released

    count = convert_released(args.source, args.target, args.layout, args.setting)
    print(f"{count} tensors written to {args.target}")
    return 0
