"""`thinker make-labels`: pristine videos → degraded clips with measured labels."""

import argparse
from pathlib import Path

NAME = "make-labels"
HELP = "degrade pristine videos and label the clips by VMAF, SSIM or XPSNR, without raters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sources", type=Path, required=True, help="folder of pristine videos")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the clips, labels and manifest"
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML of clips, conditions and label (default: data_configs/reference_labels.yaml)",
    )
    parser.add_argument(
        "--label", choices=("vmaf", "ssim", "xpsnr"), help="in place of the configuration's"
    )
    parser.add_argument("--num-workers", type=int, help="processes (default: one a core)")


def run(args: argparse.Namespace) -> int:
    import os

    from thinker.config.build import build
    from thinker.config.shipped import DATA_CONFIGS
    from thinker.config.yaml_file import read_settings
    from thinker.data.reference_labels.make import make_labels
    from thinker.data.reference_labels.settings import ReferenceLabelSettings
    from thinker.utils.lock import check_output_folder
    from thinker.utils.names import path_text

    config: Path = args.config or DATA_CONFIGS / "reference_labels.yaml"
    values = read_settings(config) | ({} if args.label is None else {"label": args.label})
    settings = build(ReferenceLabelSettings, values, str(config))
    check_output_folder(args.output)
    num_workers = os.cpu_count() or 1 if args.num_workers is None else args.num_workers
    manifest = make_labels(args.sources, args.output, settings, num_workers=num_workers)
    label, counts = manifest["label"], manifest["num_clips"]
    print(
        f"{counts.get('train', 0)} training and {counts.get('eval', 0)} held-out clips, labelled "
        f"by {label['name']} ({label['version']}), in {path_text(args.output)}; look at "
        "contact_sheet.png"
    )
    agreement = manifest["larger_crops"]
    if agreement is not None:
        print(
            f"rank correlation with the labels of crops of {agreement['larger_heights']} pixels: "
            f"{agreement['srcc']:.3f} over {agreement['num_clips']} clips"
        )
    for line in manifest["failed"]:
        print(f"not made: {line}")
    return 1 if manifest["failed"] else 0
