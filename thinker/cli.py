"""The `thinker` command: train, score, eval, demo-data, convert, estimate. Every subcommand is a
thin call into the package."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. User errors print one message and exit with 2."""
    parser = argparse.ArgumentParser(prog="thinker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _train_parser(commands.add_parser("train", help="train a policy by GRPO"))
    score_parser(commands.add_parser("score", help="score videos, with reasoning"))
    eval_parser(commands.add_parser("eval", help="score annotated sets to CSV"))
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
    from thinker.config import load_run_config
    from thinker.memory import TrainingFault
    from thinker.pipeline import run_training

    try:
        summary = run_training(load_run_config(args.config, args.overrides))
    except TrainingFault as fault:
        print(f"stopped: {fault}", file=sys.stderr)
        return 3
    print(f"written to {summary['config']['output_dir']}")
    return 0


def score_parser(parser: argparse.ArgumentParser) -> None:
    """Arguments of `thinker score` and `single_infer.py`."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved policy")
    parser.add_argument("--video", type=Path, required=True, nargs="+", help="video or image files")
    parser.add_argument("--start", type=float, help="seconds")
    parser.add_argument("--end", type=float, help="seconds")
    parser.add_argument("--json", action="store_true", help="one JSON line a video")
    parser.set_defaults(run=_score)


def _score(args: argparse.Namespace) -> int:
    from thinker.scorer import OK, QualityScorer

    scorer = QualityScorer.from_pretrained(args.model)
    failures = 0
    for path in args.video:
        prediction = scorer.score(path, start=args.start, end=args.end)
        failures += prediction.status != OK
        if args.json:
            print(json.dumps(prediction.to_row()))
            continue
        print(f"video:     {path}")
        print(f"reasoning: {prediction.reasoning or '-'}")
        shown = "-" if prediction.score is None else f"{prediction.score:.2f} (1 to 5)"
        print(f"score:     {shown}")
        if prediction.status != OK:
            print(f"status:    {prediction.status}: {prediction.error}")
    return 1 if failures else 0


def eval_parser(parser: argparse.ArgumentParser) -> None:
    """Arguments of `thinker eval` and `batch_infer.py`."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved policy")
    parser.add_argument("--meta", type=Path, nargs="+", required=True, help="meta JSON files")
    parser.add_argument(
        "--video-root", type=Path, nargs="+", required=True, help="one for all metas, or one each"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="one CSV a set goes here")
    parser.add_argument(
        "--mos-scale", help="min:max of the MOS, for a meta that is not one of the ten known sets"
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-workers", type=int, default=2, help="decoding processes")
    parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> int:
    from thinker.data import eval_set_from_files, parse_mos_scale
    from thinker.evaluate import evaluate_sets
    from thinker.scorer import QualityScorer

    roots = args.video_root * (len(args.meta) if len(args.video_root) == 1 else 1)
    if len(roots) != len(args.meta):
        raise ValueError(
            f"{len(args.meta)} meta files but {len(roots)} video roots; give one root, or one each"
        )
    scale = parse_mos_scale(args.mos_scale) if args.mos_scale else None
    sets = [
        eval_set_from_files(meta, root, scale) for meta, root in zip(args.meta, roots, strict=True)
    ]
    scorer = QualityScorer.from_pretrained(args.model)
    table = evaluate_sets(
        scorer,
        sets,
        args.output_dir,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )
    print(table)
    return 0


def _demo_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a tenth of the set, for a smoke run")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from thinker.synthetic import SyntheticConfig, generate_demo_set

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
    from thinker.policies.convert import convert_checkpoint

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
    from thinker.estimate import StepSize, report

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
