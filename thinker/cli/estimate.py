"""`thinker estimate`: what a training step of a public backbone costs, and which card holds it,
without its weights."""

import argparse

NAME = "estimate"
HELP = "cost of a step, and which card holds it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="InternVL3-8B", help="public backbone (default InternVL3-8B)"
    )
    parser.add_argument("--frames", type=int, default=12, help="keyframes a video")
    parser.add_argument("--px", type=int, help="side of a keyframe (InternVL; default 448)")
    parser.add_argument("--generations", type=int, default=8, help="completions a video")
    parser.add_argument("--completion-tokens", type=int, default=400, help="mean length")
    parser.add_argument("--videos", type=int, default=1, help="videos a step")


def run(args: argparse.Namespace) -> int:
    from thinker.plan.cards import cards_text
    from thinker.plan.rates import load_rates
    from thinker.policies.cost import StepSize, report

    size = StepSize(
        num_keyframes=args.frames,
        num_generations=args.generations,
        completion_tokens=args.completion_tokens,
        num_videos=args.videos,
    )
    print(report(args.model, size, args.px))
    print()
    print(cards_text(args.model, size, args.px, load_rates()))
    return 0
