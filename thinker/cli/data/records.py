"""`thinker records`: labels → records of questions, for every stage and kind of VQA²."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinker.data.builders.build import Built, Plan

NAME = "records"
HELP = "make records of questions of MOS, distortion labels, stall lists and depictions"

SHOWN_FAILURES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind",
        help="distortion, ugc, score, reasoning, streaming, binary, multiple-choice, open, time, "
        "conversation, in-context, causal, pair, comparison, or of pictures with --metadata "
        "assess, brief-assess, dist-assess, dist-detect, reg-perception, ref-grounding, mcq, qa or "
        "image-score",
    )
    parser.add_argument("--output", type=Path, required=True, help="the jsonl to write")
    parser.add_argument("--media-root", type=Path, required=True, help="where the media lie")
    sources = parser.add_argument_group("what is known of the media")
    sources.add_argument("--mos", type=Path, nargs="+", default=[], help="files of MOS")
    sources.add_argument("--distortions", type=Path, help="JSON by path, CSV or jsonl")
    sources.add_argument("--stalls", type=Path, help="jsonl of path and stalls")
    sources.add_argument("--depictions", type=Path, help="jsonl of path, attribute, degree, …")
    sources.add_argument("--metadata", type=Path, help="JSON of pictures with local distortions")
    sources.add_argument("--split", help="leave out entries that name another split")
    levels = parser.add_argument_group("levels")
    levels.add_argument(
        "--scale", help='min:max that a MOS can be, or "set": those of the set; of --metadata 1:5'
    )
    levels.add_argument("--level-words", help="five, worst first (default: bad,…,excellent)")
    words = parser.add_argument_group("words")
    words.add_argument("--form", choices=("published", "short"), default="published",
                       help="VQA²'s introduction around each video, or none")  # fmt: skip
    words.add_argument(
        "--severity", action="store_true", help="ask for the severity, and name it in reasons"
    )
    words.add_argument("--stall-form", default="sentences", help="sentences or digits")
    words.add_argument("--seed", type=int, default=0, help="of every draw")
    words.add_argument("--share", type=float, default=1.0,
                       help="of the records, drawn: .05 makes one of twenty")  # fmt: skip
    cuts = parser.add_argument_group("clips of kind distortion")
    cuts.add_argument("--clips", type=int, default=1, help="of each video")
    cuts.add_argument("--clip-seconds", type=float, help="cut in time")
    cuts.add_argument("--crop-px", type=int, help="cut in space: both sides")
    pairs = parser.add_argument_group("kinds pair and comparison")
    pairs.add_argument("--pairs", type=int, help="number of pairs (default: one a medium)")
    pairs.add_argument("--equal-below", type=float, default=0.05,
                       help="difference of MOS, as a share of the range")  # fmt: skip
    endpoint = parser.add_argument_group("rewriting")
    endpoint.add_argument("--endpoint", help="OpenAI-compatible, such as http://127.0.0.1:8000/v1")
    endpoint.add_argument("--endpoint-model", help="the model that it serves")
    endpoint.add_argument("--api-key-env", help="the variable that holds its key")
    endpoint.add_argument("--max-calls", type=int, help="of one run, tries included")
    endpoint.add_argument("--timeout", type=float, default=60.0, help="seconds a call")


def run(args: argparse.Namespace) -> int:
    from thinker.data.builders.build import build_records
    from thinker.data.builders.rewrite import rewrite
    from thinker.data.builders.write import write_records
    from thinker.utils.atomic import check_new_file
    from thinker.utils.chat_client import ChatClient

    plan = _plan(args)
    output: Path = args.output
    if output.suffix != ".jsonl":
        raise ValueError(f"output {output}: expected a name that ends in .jsonl")
    check_new_file(output)
    if (args.endpoint is None) != (args.endpoint_model is None):
        raise ValueError("give --endpoint and --endpoint-model together")
    reword = None
    if args.endpoint is not None:
        client = ChatClient(
            args.endpoint,
            args.endpoint_model,
            api_key_env=args.api_key_env,
            timeout=args.timeout,
            max_calls=args.max_calls,
        )
        folder = output.with_name(f"{output.stem}.rewriting")

        def reword(drafts):
            return rewrite(drafts, client, folder, plan.style.words)

    built = build_records(plan, reword)
    write_records(output, built.records)
    print(_report(built, output))
    return 0


def _plan(args: argparse.Namespace) -> "Plan":
    from thinker.data.builders.build import Plan
    from thinker.data.builders.draft import Style
    from thinker.data.builders.facts import LevelRule
    from thinker.data.builders.pairs import Pairing
    from thinker.data.builders.sources import Sources
    from thinker.data.builders.stage1 import Cut
    from thinker.tasks.level import LEVELS

    words = LEVELS
    if args.level_words is not None:
        words = tuple(word.strip() for word in args.level_words.split(","))
    levels = None
    scale = args.scale
    if scale is None and args.metadata is not None and not args.mos:
        scale = "1:5"  # ViDA's
    if scale is not None:
        levels = LevelRule(range=_range(scale), words=words)
    return Plan(
        kind=args.kind,
        sources=Sources(
            mos=tuple(args.mos),
            distortions=args.distortions,
            stalls=args.stalls,
            depictions=args.depictions,
            metadata=args.metadata,
            split=args.split,
        ),
        media_root=args.media_root,
        levels=levels,
        style=Style(
            seed=args.seed,
            is_published=args.form == "published",
            with_severity=args.severity,
            stall_form=args.stall_form,
            words=words,
        ),
        cut=Cut(num_clips=args.clips, seconds=args.clip_seconds, crop_px=args.crop_px),
        share=args.share,
        pairing=Pairing(num_pairs=args.pairs, equal_below=args.equal_below),
    )


def _range(text: str) -> tuple[float, float] | None:
    from thinker.data.records import parse_mos

    if text == "set":
        return None
    parts = text.split(":")
    try:
        if len(parts) == 2:
            return parse_mos(parts[0]), parse_mos(parts[1])
    except ValueError:
        pass
    raise ValueError(f"scale {text!r}: expected min:max, such as 0:100, or set")


def _report(built: "Built", output: Path) -> str:
    lines = []
    if built.failed:
        shown = [f"  {error}" for error in built.failed[:SHOWN_FAILURES]]
        more = len(built.failed) - len(shown)
        shown += [f"  … and {more} more"] if more else []
        lines.append(f"{len(built.failed)} of {built.num_media} media cannot be read, left out:")
        lines += shown
    if built.rewritten is not None:
        refused = Counter(built.rewritten.refused)
        lines.append(f"{built.rewritten.num_taken} turns rewritten, {refused.total()} refused")
        lines += [f"  {count} x {reason}" for reason, count in refused.most_common(SHOWN_FAILURES)]
    answers = Counter(record["conversations"][-1]["value"] for record in built.records)
    common = ", ".join(f"{count} x {text[:60]!r}" for text, count in answers.most_common(5))
    lines.append(f"{len(built.records)} records, {len(answers)} different answers: {common}")
    lines.append(f"written: {output}")
    return "\n".join(lines)
