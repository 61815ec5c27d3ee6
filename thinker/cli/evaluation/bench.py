"""`thinker bench`: a published benchmark of questions, from its own files to its own figures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from thinker.cli.model_options import (
    add_model_arguments,
    check_model_options,
    load_scorer,
    reading_settings,
)

if TYPE_CHECKING:
    from thinker.eval.bench.judge import Judge

NAME = "bench"
HELP = "a published benchmark of questions: q-bench-video (videos, pairs), q-bench (images, pairs)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bench", choices=("q-bench-video", "q-bench"), help="which one")
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="its question files (.json, .jsonl)"
    )
    parser.add_argument(
        "--video-root", "--image-root", type=Path, required=True, dest="media_root",
        help="the folder that its videos or images lie in",
    )  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument("--output-dir", type=Path, required=True, help="CSVs and figures go here")
    parser.add_argument(
        "--protocol", default="pairs", help="pairs: all questions; single: those about one medium"
    )
    parser.add_argument(
        "--split", help="dev, test or all: which part the files hold; needed beside published ones"
    )
    parser.add_argument(
        "--frames", default="own",
        help="which frames of a video: own (the policy's), official (16, pairs 8 + 8), vlmevalkit",
    )  # fmt: skip
    parser.add_argument("--prompt", default="own", help="own, official, or vqa2 (videos)")
    parser.add_argument(
        "--judge-url", help="OpenAI-compatible endpoint that grades open answers, up to /v1"
    )
    parser.add_argument("--judge-model", help="name of the judge's model at the endpoint")
    parser.add_argument("--judge-key-env", help="environment variable that holds the judge's key")
    parser.add_argument("--judge-calls", type=int, default=5, help="gradings of one answer")
    parser.add_argument(
        "--judge-max-calls", type=int, help="cost cap: calls of this command, with all retries"
    )
    parser.add_argument("--judge-timeout", type=float, default=60.0, help="seconds of one call")
    parser.add_argument("--shard", help="i/n, i from 0; by default what torchrun says, else 0/1")
    parser.add_argument(
        "--skip-bad-lines", action="store_true", help="bad records become rows, not an error"
    )
    parser.add_argument("--retry", help="statuses of rows to try again, such as missing,timeout")


def run(args: argparse.Namespace) -> int:
    from thinker.eval.bench.asking import FrameCounts
    from thinker.eval.bench.finish import finish_bench
    from thinker.eval.bench.frames import frame_counts, use_frames
    from thinker.eval.bench.load import Protocol, load_bench
    from thinker.eval.run import check_folder, evaluate, parse_shard
    from thinker.score.retry import parse_retry

    # What is wrong with the command, its files or the judge is said before the model is loaded.
    protocol = Protocol(
        bench=args.bench,
        media=args.protocol,
        split=args.split,
        frames=args.frames,
        prompt=args.prompt,
    )
    shard, reading, retry = parse_shard(args.shard), reading_settings(args), parse_retry(args.retry)
    check_folder(args.output_dir, args.mode, shard)

    def load(counts: FrameCounts):
        return load_bench(
            protocol, args.data, args.media_root, counts, skip_bad_lines=args.skip_bad_lines
        )

    data = load(FrameCounts(single=1, pair=1, motion_per_keyframe=0))
    check_model_options(args, [one.task for one in data.sets])
    judge = _judge(args) if any(one.task == "open" for one in data.sets) else None
    scorer = load_scorer(args)
    use_frames(scorer.policy, protocol.frames)
    data = load(frame_counts(scorer.policy, protocol.frames))  # prompts tell the numbers of frames
    print(evaluate(scorer, data.sets, args.output_dir, reading, shard=shard, retry=retry))
    print(f"\n{finish_bench(args.output_dir, data, judge)}")
    return 0


def _judge(args: argparse.Namespace) -> "Judge | None":
    """The judge, which has answered once; None where none is named."""
    from thinker.eval.bench.judge import Judge
    from thinker.utils.chat_client import ChatClient

    if (args.judge_url is None) != (args.judge_model is None):
        raise ValueError("a judge is --judge-url and --judge-model; give both or neither")
    if args.judge_url is None:
        return None
    client = ChatClient(
        args.judge_url,
        args.judge_model,
        api_key_env=args.judge_key_env,
        timeout=args.judge_timeout,
        max_calls=args.judge_max_calls,
    )
    judge = Judge(client, calls=args.judge_calls)
    judge.probe()
    return judge
