"""`thinker card`: the figures of evaluations go into the model card of a policy."""

import argparse
from pathlib import Path

from thinker.cli.model_options import model_folder
from thinker.utils.names import path_text

NAME = "card"
HELP = "write the figures of evaluations into a policy's model card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=model_folder, help="of a saved policy")
    parser.add_argument(
        "--evaluation", type=Path, action="append", required=True, metavar="FOLDER",
        help="what thinker eval or thinker bench wrote about it; may be given several times",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from thinker.eval.card import write_card

    print(path_text(write_card(args.folder, args.evaluation)))
    return 0
