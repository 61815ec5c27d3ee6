"""`thinker eval` and `batch_infer.py`: score annotated sets to one CSV each."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from thinker.cli.model_options import add_model_arguments, load_scorer, reading_settings

if TYPE_CHECKING:
    from thinker.data.datasets import EvalSet

NAME = "eval"
HELP = "score annotated sets to CSV"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--config", type=Path, nargs="+", help="YAMLs of sets (data_configs/eval)")
    parser.add_argument("--meta", type=Path, nargs="+", help="meta JSON files, instead of YAMLs")
    parser.add_argument("--video-root", type=Path, nargs="+", help="one for all metas, or one each")
    parser.add_argument(
        "--mos-scale", help="min:max:mapping, for a meta that is not one of the ten known sets"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="CSVs and summary go here")
    parser.add_argument("--shard", help="i/n, i from 0; by default what torchrun says, else 0/1")
    parser.add_argument(
        "--skip-bad-lines", action="store_true", help="bad annotations become rows, not an error"
    )


def run(args: argparse.Namespace) -> int:
    from thinker.eval.run import evaluate_sets, parse_shard

    # What is wrong with the command is said before the model is loaded.
    shard, sets, reading = parse_shard(args.shard), _eval_sets(args), reading_settings(args)
    table = evaluate_sets(
        load_scorer(args),
        sets,
        args.output_dir,
        reading,
        shard=shard,
        skip_bad_lines=args.skip_bad_lines,
    )
    print(table)
    return 0


def _eval_sets(args: argparse.Namespace) -> list["EvalSet"]:
    from thinker.data.datasets import (
        EvalSet,
        eval_set_from_files,
        load_dataset_config,
        parse_mos_scale,
    )

    if (args.config is None) == (args.meta is None) or (args.meta and not args.video_root):
        raise ValueError("give sets either as --config YAMLs, or as --meta with --video-root")
    if args.config:
        found = [eval_set for path in args.config for eval_set in load_dataset_config(path).eval]
        eval_sets = [one for one in found if isinstance(one, EvalSet)]
        if len(eval_sets) < len(found):
            raise ValueError("sets of records are not evaluated yet; give sets of MOS")
        return eval_sets
    roots = args.video_root * (len(args.meta) if len(args.video_root) == 1 else 1)
    if len(roots) != len(args.meta):
        raise ValueError(
            f"{len(args.meta)} meta files but {len(roots)} video roots; give one root, or one each"
        )
    scale = parse_mos_scale(args.mos_scale) if args.mos_scale else None
    return [eval_set_from_files(m, root, scale) for m, root in zip(args.meta, roots, strict=True)]
