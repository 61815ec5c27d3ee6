"""`thinker bench`: a published benchmark of questions, from its own files to its own figures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from thinker.cli.model_options import (
    add_model_arguments,
    add_reading_arguments,
    check_model_options,
    load_scorer,
    reading_settings,
)

if TYPE_CHECKING:
    from thinker.eval.bench.judge import Judge

NAME = "bench"
HELP = (
    "a published benchmark of questions: q-bench-video (videos, pairs), q-bench (images, pairs), "
    "vida (local distortions of images)"
)
QUESTION_OPTIONS = {
    "protocol": "pairs", "split": None, "frames": "own", "judge_url": None, "judge_model": None,
    "judge_key_env": None, "judge_calls": 5, "judge_max_calls": None, "judge_timeout": 60.0,
}  # fmt: skip
"""What vida does not take, and what it is for the others where it is not given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bench", choices=("q-bench-video", "q-bench", "vida"), help="which one")
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True,
        help="its question files (.json, .jsonl); of vida the folder of its test release",
    )  # fmt: skip
    parser.add_argument(
        "--video-root", "--image-root", type=Path, required=True, dest="media_root",
        help="the folder that its videos or images lie in",
    )  # fmt: skip
    add_model_arguments(parser)
    add_reading_arguments(parser)
    parser.add_argument("--output-dir", type=Path, required=True, help="CSVs and figures go here")
    parser.add_argument(
        "--protocol", help="pairs (default): all questions; single: those about one medium"
    )
    parser.add_argument(
        "--split", help="dev, test or all: which part the files hold; needed beside published ones"
    )
    parser.add_argument(
        "--frames",
        help="which frames of a video: own (the policy's, default), official (16, pairs 8 + 8), "
        "vlmevalkit",
    )
    parser.add_argument(
        "--prompt", help="own, official, or vqa2 (videos); default own, of vida official"
    )
    parser.add_argument(
        "--judge-url", help="OpenAI-compatible endpoint that grades open answers, up to /v1"
    )
    parser.add_argument("--judge-model", help="name of the judge's model at the endpoint")
    parser.add_argument("--judge-key-env", help="environment variable that holds the judge's key")
    parser.add_argument("--judge-calls", type=int, help="gradings of one answer (default 5)")
    parser.add_argument(
        "--judge-max-calls", type=int, help="cost cap: calls of this command, with all retries"
    )
    parser.add_argument("--judge-timeout", type=float, help="seconds of one call (default 60)")
    parser.add_argument("--shard", help="i/n, i from 0; by default what torchrun says, else 0/1")
    parser.add_argument(
        "--skip-bad-lines", action="store_true", help="bad records become rows, not an error"
    )
    parser.add_argument("--retry", help="statuses of rows to try again, such as missing,timeout")


def run(args: argparse.Namespace) -> int:
    given = [name for name in QUESTION_OPTIONS if getattr(args, name) is not None]
    if args.bench == "vida":
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"{options}: for q-bench and q-bench-video; leave it out for vida")
        return _run_vida(args)
    for name, default in QUESTION_OPTIONS.items():
        if name not in given:
            setattr(args, name, default)
    return _run_questions(args)


def _run_questions(args: argparse.Namespace) -> int:
    from thinker.eval.bench.asking import FrameCounts
    from thinker.eval.bench.finish import finish_bench
    from thinker.eval.bench.frames import check_prompt, frame_counts, use_frames
    from thinker.eval.bench.load import Protocol, load_bench
    from thinker.eval.run import check_folder, evaluate, parse_shard
    from thinker.score.retry import parse_retry

    # What is wrong with the command, its files or the judge is said before the model is loaded.
    protocol = Protocol(
        bench=args.bench,
        media=args.protocol,
        split=args.split,
        frames=args.frames,
        prompt=args.prompt or "own",
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
    if args.bench == "q-bench-video":
        check_prompt(scorer.policy, protocol.prompt)
    data = load(frame_counts(scorer.policy, protocol.frames))  # prompts tell the numbers of frames
    print(evaluate(scorer, data.sets, args.output_dir, reading, shard=shard, retry=retry))
    print(f"\n{finish_bench(args.output_dir, data, judge)}")
    return 0


def _run_vida(args: argparse.Namespace) -> int:
    from thinker.eval.bench.vida.finish import finish_vida
    from thinker.eval.bench.vida.load import load_vida, use_level_prefix
    from thinker.eval.bench.vida.robust import check_coco
    from thinker.eval.run import check_folder, evaluate, parse_shard
    from thinker.score.retry import parse_retry

    if len(args.data) != 1:
        raise ValueError(f"--data names {len(args.data)} paths; vida takes one folder, its release")
    check_coco()
    shard, reading, retry = parse_shard(args.shard), reading_settings(args), parse_retry(args.retry)
    check_folder(args.output_dir, args.mode, shard)
    data = load_vida(
        args.data[0],
        args.media_root,
        prompt=args.prompt or "official",
        only_scores=args.mode == "level",
        skip_bad_lines=args.skip_bad_lines,
    )
    sets = list(data.sets.values())
    check_model_options(args, [one.task for one in sets])
    scorer = load_scorer(args)
    if args.mode == "level":
        use_level_prefix(scorer.policy)
    print(evaluate(scorer, sets, args.output_dir, reading, shard=shard, retry=retry))
    print(f"\n{finish_vida(args.output_dir, data)}")
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
