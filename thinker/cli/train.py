"""`thinker train`: one run, as its YAML says."""

import argparse
import sys
from pathlib import Path

NAME = "train"
HELP = "train a policy: supervised stages, GRPO"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="run configuration (YAML)")
    parser.add_argument("overrides", nargs="*", help="section.key=value")


def run(args: argparse.Namespace) -> int:
    """Exit status 3: the run cannot go on, and says from where it can be continued."""
    from accelerate import PartialState

    from thinker.config.run import load_run_config
    from thinker.rollout.base import RolloutError
    from thinker.train.pipeline import run_training
    from thinker.train.step_guard import TrainingFault

    try:
        summary = run_training(load_run_config(args.config, args.overrides))
    except (RolloutError, TrainingFault) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 3
    state = PartialState()
    if state.is_main_process:
        print(f"written to {summary['config']['output_dir']}")
    state.destroy_process_group()  # a process that exits with one may abort
    return 0
