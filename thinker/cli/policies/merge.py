"""`thinker merge`: a policy and a LoRA adapter become one policy."""

import argparse
from pathlib import Path

from thinker.cli.model_options import model_folder
from thinker.utils.lock import check_output_folder
from thinker.utils.names import path_text

NAME = "merge"
HELP = "put a LoRA adapter into the weights of its policy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=model_folder, required=True, help="the policy that training began with"
    )
    parser.add_argument("--adapter", type=Path, required=True, help="folder that peft wrote")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="a new folder")


def run(args: argparse.Namespace) -> int:
    from thinker.policies.adapters import merge_adapter

    if args.target.exists():
        raise ValueError(f"{path_text(args.target)} is there already, expected a new folder")
    check_output_folder(args.target.parent)
    merge_adapter(args.model, args.adapter).save(args.target)
    print(path_text(args.target))
    return 0
