"""The `thinker` command: train, score, eval, report, compare, faithfulness, demo-data, convert,
estimate. Every subcommand is a thin call into the package."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from thinker.cli.scoring import (
    compare_parser,
    eval_parser,
    faithfulness_parser,
    report_parser,
    score_parser,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. User errors print one message and exit with 2."""
    parser = argparse.ArgumentParser(prog="thinker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _train_parser(commands.add_parser("train", help="train a policy by GRPO"))
    score_parser(commands.add_parser("score", help="score videos, with reasoning"))
    eval_parser(commands.add_parser("eval", help="score annotated sets to CSV"))
    report_parser(commands.add_parser("report", help="one HTML page of a finished eval"))
    compare_parser(commands.add_parser("compare", help="difference of two evals, paired"))
    faithfulness_parser(
        commands.add_parser("faithfulness", help="are explanations true? (demo set)")
    )
    _demo_parser(commands.add_parser("demo-data", help="generate the demo set"))
    _convert_parser(commands.add_parser("convert", help="convert released VQAThinker weights"))
    _estimate_parser(commands.add_parser("estimate", help="cost of a step, without weights"))
    return run_command(parser.parse_args(argv))


def run_command(args: argparse.Namespace) -> int:
    """Call the function a subcommand's parser named; a ValueError becomes a message."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("thinker").setLevel(logging.INFO)
    try:
        return args.run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="run configuration (YAML)")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from thinker.config.run import load_run_config
    from thinker.rollout.base import RolloutError
    from thinker.train.pipeline import run_training
    from thinker.train.step_guard import TrainingFault

    try:
        summary = run_training(load_run_config(args.config, args.overrides))
    except (RolloutError, TrainingFault) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 3
    print(f"written to {summary['config']['output_dir']}")
    return 0


def _demo_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a tenth of the set, for a smoke run")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from thinker.data.demo.generate import SyntheticConfig, generate_demo_set

    small = {"num_train_contents": 40, "num_eval_contents": 12} if args.small else {}
    demo = generate_demo_set(args.output, SyntheticConfig(**small))
    print(f"{demo.num_train} training and {demo.num_eval} held-out videos in {demo.root}")
    return 0


def _convert_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", type=Path, required=True, help="released folder")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--setting",
        default="12x560",
        choices=("12x560", "6x448"),
        help="frames x pixels: of the published inference (default) or of its training",
    )
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> int:
    from thinker.policies.convert.vqathinker import convert_checkpoint

    count = convert_checkpoint(args.source, args.target, args.setting)
    print(f"{count} tensors written to {args.target}")
    return 0


def _estimate_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="public backbone, as InternVL3-8B")
    parser.add_argument("--frames", type=int, default=12, help="keyframes a video")
    parser.add_argument("--px", type=int, help="side of a keyframe (InternVL; default 448)")
    parser.add_argument("--generations", type=int, default=8, help="completions a video")
    parser.add_argument("--completion-tokens", type=int, default=400, help="mean length")
    parser.add_argument("--videos", type=int, default=1, help="videos a step")
    parser.set_defaults(run=_estimate)


def _estimate(args: argparse.Namespace) -> int:
    from thinker.policies.cost import StepSize, report

    size = StepSize(
        num_keyframes=args.frames,
        num_generations=args.generations,
        completion_tokens=args.completion_tokens,
        num_videos=args.videos,
    )
    print(report(args.model, size, args.px))
    return 0


if __name__ == "__main__":
    sys.exit(main())
