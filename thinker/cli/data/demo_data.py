"""`thinker demo-data`: generate the demo set."""

import argparse
from pathlib import Path
from typing import Any

NAME = "demo-data"
HELP = "generate the demo set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--pictures", action="store_true", help="pictures in place of clips")
    kinds.add_argument(
        "--stalled", action="store_true", help="clips that stall, with four forms of records"
    )
    kinds.add_argument(
        "--local", action="store_true", help="pictures whose distortions have a place"
    )
    parser.add_argument("--small", action="store_true", help="a tenth of the set, for a smoke run")


def run(args: argparse.Namespace) -> int:
    from thinker.data.demo.generate import generate_demo_set
    from thinker.data.demo.local import LocalConfig, generate_local_set
    from thinker.data.demo.pictures import PictureConfig, generate_picture_set
    from thinker.data.demo.plan import SyntheticConfig
    from thinker.data.demo.stalled import StalledConfig, generate_stalled_set

    sets: dict[str, tuple[Any, Any, str]] = {
        "pictures": (PictureConfig, generate_picture_set, "pictures"),
        "local": (LocalConfig, generate_local_set, "pictures"),
        "stalled": (StalledConfig, generate_stalled_set, "clips"),
    }
    for option, (config_class, generate, what) in sets.items():
        if getattr(args, option):
            config = config_class(num_train=60, num_eval=16) if args.small else config_class()
            generate(args.output, config)
            counts = f"{config.num_train} training and {config.num_eval} held-out {what}"
            print(f"{counts} in {args.output}")
            return 0
    small = {"num_train_contents": 40, "num_eval_contents": 12} if args.small else {}
    demo = generate_demo_set(args.output, SyntheticConfig(**small))
    print(f"{demo.num_train} training and {demo.num_eval} held-out videos in {demo.root}")
    return 0
