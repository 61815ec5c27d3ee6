"""`thinker calibrate`: intervals of scores that hold, from labelled sets, kept with the policy."""

import argparse

from thinker.cli.evaluation.set_options import add_set_arguments, set_sources
from thinker.cli.model_options import (
    add_model_arguments,
    add_reading_arguments,
    check_model_options,
    load_scorer,
    reading_settings,
)

NAME = "calibrate"
HELP = "intervals of scores that hold, from labelled sets that the policy was not trained on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_reading_arguments(parser)
    add_set_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from thinker.eval.calibrate import calibrate, check_sets, format_calibration
    from thinker.eval.sets import load_sets, read_subset
    from thinker.score.calibration import save_calibration
    from thinker.utils.names import path_text

    # What is wrong with the command or its files is said before the model is loaded.
    if args.calibration is not None:
        raise ValueError(
            "--calibration is of commands that use one; the sets to make one of are "
            "named as those of thinker eval"
        )
    sources, reading = set_sources(args), reading_settings(args)
    subset = None if args.subset is None else read_subset(args.subset)
    loaded = load_sets(sources, skip_bad_lines=args.skip_bad_lines, subset=subset)
    check_sets(loaded)
    check_model_options(args)
    if not args.model.is_dir():
        raise ValueError(f"{args.model} is no folder, so nothing can be kept in it")
    scorer = load_scorer(args)
    for one in loaded:
        calibration = calibrate(scorer, one, reading)
        path = save_calibration(args.model, calibration)
        print(f"{format_calibration(calibration.facts)}\n  {path_text(path)}", flush=True)
    return 0
