"""`thinker import-labels`: a sheet of labels → a label file and the data set YAML to go with it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinker.data.labels.preset import Preset

NAME = "import-labels"
HELP = "make a data set of a CSV, TSV, XLSX, JSON, JSONL, Parquet or MAT file of labels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the sheet")
    parser.add_argument("--preset", help="how the label file of a known data set is laid out")
    for name, holds in (
        ("path", "the path of a video or picture"),
        ("mos", "its MOS"),
        ("id", "its id (default: its path)"),
        ("content", "what it shows: versions of one source share it"),
        ("split", "the part it belongs to; train is trained on, others are evaluated on"),
    ):
        parser.add_argument(
            f"--{name}-column",
            metavar="NAME",
            help=f"column of {holds}: a name, or a number from 1",
        )
    parser.add_argument("--scale", help="min:max of the labels that there can be, such as 0:100")
    parser.add_argument("--decimal-comma", action="store_true", help='"3,5" is 3.5')
    parser.add_argument("--encoding", help="of text that is not UTF-8 or UTF-16, such as cp1252")
    parser.add_argument("--media-root", type=Path, help="folder of the files; they must be there")
    parser.add_argument("--strip-prefix", default="", help="folder that absolute paths begin with")
    parser.add_argument("--add-suffix", help="ending of the files that the sheet leaves out, .mp4")
    parser.add_argument("--name", help="name of the data set (default: that of the output)")
    parser.add_argument("--skip-bad-lines", action="store_true", help="leave them out")
    parser.add_argument(
        "--output", type=Path, required=True,
        help="set.jsonl to train on, set.json to evaluate on; set.yaml lies beside it",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from thinker.data.labels.collect import collect
    from thinker.data.labels.preset import load_preset
    from thinker.data.labels.preview import preview
    from thinker.data.labels.sheets import SheetOptions, sheet_rows
    from thinker.data.labels.write import Target, plan_parts, write_parts
    from thinker.utils.names import path_text

    preset = None if args.preset is None else load_preset(args.preset)
    rules, scale = _rules(args, preset)
    target = Target(
        output=args.output,
        name=args.name or (args.output.stem if preset is None else preset.name),
        scale=scale,
        media_root=args.media_root,
        source=f"{args.file.name}" + ("" if preset is None else f", read as {preset.source} says"),
    )
    options = SheetOptions(
        encoding=args.encoding, is_transposed=preset is not None and preset.is_transposed
    )
    found = collect(args.file, sheet_rows(args.file, rules.columns.given, options), rules)
    print(preview(found, rules.scale))
    for bad in found.bad_lines:
        print(bad)
    if not found.labels:
        raise ValueError(f"{args.file} holds no label that can be used")
    if found.bad_lines and not args.skip_bad_lines:
        raise ValueError(
            f"{len(found.bad_lines)} bad line(s), listed above; mend them, or leave them out with "
            "--skip-bad-lines. Nothing was written"
        )
    for path in write_parts(plan_parts(found.labels, target), target):
        print(f"written: {path_text(path)}")
    return 0


def _rules(args: argparse.Namespace, preset: "Preset | None") -> tuple:
    """What rows are held to, and the scale of the set; the command line wins over the preset."""
    from thinker.data.datasets import parse_mos_scale
    from thinker.data.labels.collect import LabelColumns, LabelRules

    columns: dict[str, Any] = {
        name: getattr(args, f"{name}_column") or getattr(preset, f"{name}_column", None)
        for name in ("path", "mos", "id", "content", "split")
    }
    missing = [f"--{name}-column" for name in ("path", "mos") if columns[name] is None]
    if missing:
        raise ValueError(f"give {' and '.join(missing)}, or --preset for a known label file")
    text = args.scale
    if text is None and preset is not None:
        text = "{:g}:{:g}".format(*preset.scale)
    scale = (
        None if text is None else parse_mos_scale(text if text.count(":") > 1 else f"{text}:linear")
    )
    rules = LabelRules(
        columns=LabelColumns(**columns),
        scale=None if scale is None else (scale.min, scale.max),
        decimal_comma=args.decimal_comma,
        strip_prefix=args.strip_prefix,
        add_suffix=getattr(preset, "add_suffix", "")
        if args.add_suffix is None
        else args.add_suffix,
        splits=getattr(preset, "splits", {}),
        media_root=args.media_root,
    )
    return rules, scale
