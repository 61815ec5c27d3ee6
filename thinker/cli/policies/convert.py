"""`thinker convert`: a released checkpoint becomes a policy folder."""

import argparse
from pathlib import Path

NAME = "convert"
HELP = "convert released weights to a policy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", type=Path, required=True, help="released folder")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="a new folder")
    # Which there are is in `LAYOUTS`, whose import needs torch: both are checked in `run`.
    parser.add_argument("--layout", default="vqathinker", help="whose weights (default vqathinker)")
    parser.add_argument(
        "--setting",
        help="how they are run, as frames x pixels; of vqathinker: 12x560, as in the published "
        "inference (default), or 6x448, as in its training",
    )


def run(args: argparse.Namespace) -> int:
    from thinker.policies.convert import LAYOUTS

    if args.layout not in LAYOUTS:
        raise ValueError(f"layout is {args.layout!r}, expected one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[args.layout]
    count = layout.convert(args.source, args.target, args.setting or layout.settings[0])
    print(f"{count} tensors written to {args.target}")
    return 0
