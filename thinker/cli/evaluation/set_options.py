"""The options by which a subcommand is given labelled sets, and the sets that they stand for."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinker.eval.sets import Source


def add_set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "records", type=Path, nargs="*", help="files of records of any task (.jsonl, .json)"
    )
    parser.add_argument("--media-root", type=Path, help="folder of the records' media")
    parser.add_argument("--config", type=Path, nargs="+", help="YAMLs of sets (data_configs/eval)")
    parser.add_argument("--meta", type=Path, nargs="+", help="meta JSON files, instead of YAMLs")
    parser.add_argument("--video-root", type=Path, nargs="+", help="one for all metas, or one each")
    parser.add_argument(
        "--mos-scale",
        help="min:max:mapping, such as 0:100:linear: the scale of the labels of records and of a "
        "meta that is not one of the ten; without it predictions stay on 1 to 5, without RMSE",
    )
    parser.add_argument(
        "--subset", type=Path, help="text file of ids or paths, one a line: only those examples"
    )
    parser.add_argument(
        "--skip-bad-lines", action="store_true", help="bad annotations become rows, not an error"
    )


def set_sources(args: argparse.Namespace) -> list["Source"]:
    """Where the sets that the user names are read from. Raises ValueError for options that do not
    belong together, and for a folder of media that is not there."""
    from thinker.data.datasets import eval_set_from_files, load_dataset_config, parse_mos_scale
    from thinker.eval.sets import record_set

    given = [bool(args.records), args.config is not None, args.meta is not None]
    if sum(given) != 1:
        raise ValueError(
            "give sets in one way: as record files with --media-root, as --config YAMLs, or as "
            "--meta with --video-root"
        )
    for name, root, of_what, needed in (
        ("--media-root", args.media_root, "record files", bool(args.records)),
        ("--video-root", args.video_root, "--meta", args.meta is not None),
    ):
        if (root is not None) != needed:
            if needed:
                raise ValueError(
                    f"{name} is missing, the folder that the media of {of_what} lie in"
                )
            raise ValueError(f"{name} is for {of_what}; leave it out")
    for root in (*(args.video_root or ()), *([args.media_root] if args.media_root else ())):
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}; expected the one that the media lie in")
    if args.config:
        return [one for path in args.config for one in load_dataset_config(path).eval]
    scale = parse_mos_scale(args.mos_scale) if args.mos_scale else None
    if args.records:
        return [record_set(path, args.media_root, scale) for path in args.records]
    roots = args.video_root * (len(args.meta) if len(args.video_root) == 1 else 1)
    if len(roots) != len(args.meta):
        raise ValueError(
            f"{len(args.meta)} meta files but {len(roots)} video roots; give one root, or one each"
        )
    return [eval_set_from_files(m, root, scale) for m, root in zip(args.meta, roots, strict=True)]
