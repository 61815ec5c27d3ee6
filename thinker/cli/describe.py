"""`thinker describe`: the quality of pictures in words."""

import argparse
import json
import logging
from typing import TYPE_CHECKING

from thinker.cli.ground import check_wish, find_unfit, head_of, locate_fit
from thinker.cli.model_options import (
    add_model_arguments,
    check_model_options,
    find_some,
    load_scorer,
)
from thinker.utils.names import printable

if TYPE_CHECKING:
    from thinker.score.detail import Located

NAME = "describe"
HELP = "describe the quality of images in words, step by step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "files", nargs="+", metavar="IMAGE", help="image files, folders (searched), globs in quotes"
    )
    parser.add_argument("--brief", action="store_true", help="in three points")
    parser.add_argument("--distortion", metavar="NAME", help="of one kind, such as noise")
    parser.add_argument("--json", action="store_true", help="one JSON line an image")
    parser.set_defaults(own_level=logging.WARNING)


def run(args: argparse.Namespace) -> int:
    """Exit status 1: some images have no answer."""
    from thinker.score.detail import check_picture, description
    from thinker.score.prediction import OK

    wish = description(brief=args.brief, distortion=args.distortion)
    check_wish(wish)
    paths = find_some(args.files)
    unfit = find_unfit(paths, check_picture)
    check_model_options(args, [wish.task])
    scorer = load_scorer(args)
    failures = 0
    for path in paths:
        for one in locate_fit(scorer, path, wish, unfit):
            failures += one.prediction.status != OK
            print(json.dumps(one.to_row()) if args.json else _described(one, len(paths)))
    return 1 if failures else 0


def _described(one: "Located", count: int) -> str:
    """The text, for a person; below the name of the file where there are several."""
    from thinker.score.prediction import OK

    row = one.prediction
    text = str(row.answer) if row.status == OK else f"{row.status}: {row.error}"
    lines = [head_of(one)] if count > 1 else []
    lines += map(printable, text.splitlines())
    if row.note:
        lines.append(f"note: {printable(row.note)}")
    return "\n".join(lines)
