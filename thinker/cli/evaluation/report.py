"""`thinker report`: one HTML page of a finished evaluation."""

import argparse
from pathlib import Path

from thinker.utils.names import path_text

NAME = "report"
HELP = "one HTML page of a finished eval"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="output folder of a finished eval")


def run(args: argparse.Namespace) -> int:
    try:
        from thinker.eval.report.page import write_report
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install it: pip install 'vqa-thinker[report]'") from None
    print(path_text(write_report(args.folder)))
    return 0
