"""`thinker push`: a saved policy goes to a model hub."""

import argparse
from pathlib import Path

NAME = "push"
HELP = "send a saved policy to the hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="of a saved policy")
    parser.add_argument("name", help="org/name or org/name@branch on the hub")
    parser.add_argument("--public", action="store_true", help="where it is new: for all to see")


def run(args: argparse.Namespace) -> int:
    from thinker.policies.hub import push_folder

    print(push_folder(args.folder, args.name, private=not args.public))
    return 0
