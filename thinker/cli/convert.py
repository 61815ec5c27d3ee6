"""`thinker convert`: a released checkpoint becomes a policy folder."""

import argparse
from pathlib import Path

NAME = "convert"
HELP = "convert released VQAThinker weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", type=Path, required=True, help="released folder")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--setting",
        default="12x560",
        choices=("12x560", "6x448"),
        help="frames x pixels: of the published inference (default) or of its training",
    )


def run(args: argparse.Namespace) -> int:
    from thinker.policies.convert.vqathinker import convert_checkpoint

    count = convert_checkpoint(args.source, args.target, args.setting)
    print(f"{count} tensors written to {args.target}")
    return 0
