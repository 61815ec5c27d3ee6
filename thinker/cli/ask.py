"""`thinker ask`: questions about videos and images; a conversation; the same question of every
second."""

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thinker.cli.model_options import (
    add_model_arguments,
    add_reading_arguments,
    check_model_options,
    load_scorer,
    reading_settings,
)
from thinker.utils.names import path_text

if TYPE_CHECKING:
    from thinker.score.prediction import Prediction
    from thinker.score.scorer import QualityScorer
    from thinker.score.timeline import Moment
    from thinker.video import Medium

NAME = "ask"
HELP = "ask about videos and images, once or in a conversation"

_RANGE = re.compile(r"(?P<path>.+)@(?P<start>\d+(\.\d+)?)?-(?P<end>\d+(\.\d+)?)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_reading_arguments(parser)
    parser.add_argument(
        "words", nargs="+", metavar="MEDIA… QUESTION",
        help="videos and images, each whole or a range of seconds as clip.mp4@3-8.5, clip.mp4@3- "
        "or clip.mp4@-8.5 (a file whose name is all of that is taken as a whole); then the "
        "question, in which <video> or <image> may mark the place of each",
    )  # fmt: skip
    parser.add_argument(
        "--chat", action="store_true", help="only media are named; a question a line is read"
    )
    parser.add_argument("--system", help="what is said to the policy before everything else")
    parser.add_argument("--task", default="open", help="how answers are read (open, choice, …)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 (default) takes the likeliest words"
    )
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="ask of every window of the one video"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line an answer")
    parser.add_argument("--csv", action="store_true", help="a CSV of the answers of --every")
    parser.set_defaults(own_level=logging.WARNING)


def run(args: argparse.Namespace) -> int:
    """Exit status 1: some questions have no answer."""
    from thinker.rollout.base import Sampling

    _check_options(args)
    Sampling(temperature=args.temperature)  # raises for one that is none
    reading_settings(args)  # raises for numbers that make no sense
    names, question = (args.words, None) if args.chat else (args.words[:-1], args.words[-1])
    media = [parse_medium(name) for name in names]
    if question is not None:
        _check_question(question, media, args)
    if args.every is not None:
        from thinker.video.sources.windows import check_seconds

        check_seconds(args.every)
        if media[0].kind == "image":
            raise ValueError(f"--every is for a video, {path_text(media[0].path)} is an image")
    check_model_options(args, [args.task])
    scorer = load_scorer(args)
    if args.every is not None:
        return _ask_every(scorer, media[0], str(question), args)
    if question is not None and (args.mode != "reason" or args.task != "open"):
        row = scorer.ask(media, question, system=args.system, task=args.task)
        return _show(row, question, args)
    return _talk(scorer, media, question, args)


def parse_medium(name: str) -> "Medium":
    """A file, or a range of it: `clip.mp4@3-8.5` are its seconds 3 to 8.5.

    Where there is a file of exactly this name, it is meant. Raises ValueError for a range that is
    none, and for one of a picture.
    """
    from thinker.video import medium

    match = _RANGE.fullmatch(name)
    if match is None or not (match["start"] or match["end"]) or _is_there(name):
        return medium(name)
    start, end = (None if match[key] is None else float(match[key]) for key in ("start", "end"))
    return medium(match["path"], start=start, end=end)


def _is_there(name: str) -> bool:
    """Whether it names a file; a text that is too long for a name, or holds what none can, does
    not."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _check_options(args: argparse.Namespace) -> None:
    if args.csv and (args.every is None or args.json):
        raise ValueError("--csv is for --every, without --json")
    if args.chat:
        if args.every is not None:
            raise ValueError("--every asks one question of every window; leave out --chat")
        if args.mode != "reason" or args.task != "open":
            raise ValueError("--chat is for mode reason and the task open")
        return
    if args.temperature and (args.mode != "reason" or args.task != "open" or args.every):
        raise ValueError("--temperature is for open questions in mode reason, without --every")
    if len(args.words) < 2:
        raise ValueError("name at least one video or image, and then the question in quotes")
    if args.words[-1].strip() and _is_there(args.words[-1]):
        raise ValueError(
            f"the last word, {path_text(args.words[-1])}, is a file; the question comes last, in "
            "quotes, or give --chat"
        )
    if args.every is not None and len(args.words) != 2:
        raise ValueError(f"--every is for one video, {len(args.words) - 1} media are given")


def _check_question(question: str, media: list["Medium"], args: argparse.Namespace) -> None:
    """Before the weights are loaded; reserved words of the policy show once it is there."""
    from thinker.score.question import asked

    asked(question, task=args.task, system=args.system, num_media=len(media))


def _ask_every(
    scorer: "QualityScorer", video: "Medium", question: str, args: argparse.Namespace
) -> int:
    from thinker.score.prediction import OK
    from thinker.score.timeline import write_table

    rows = scorer.timeline(
        video,
        window_seconds=args.every,
        question=question,
        system=args.system,
        task=args.task,
        reading=replace(reading_settings(args), num_workers=min(args.num_workers, 1)),
    )
    if args.csv:
        rows = write_table(sys.stdout, rows)
    failures = 0
    for moment in rows:
        failures += moment.prediction.status != OK
        if args.json:
            print(json.dumps(moment.to_row() | {"question": question}), flush=True)
        elif not args.csv:
            print(describe_moment(moment), flush=True)
    return 1 if failures else 0


def describe_moment(moment: "Moment") -> str:
    """A window in a line, for a person. Example: `   3.00 …    4.00 s: The picture shakes.`"""
    from thinker.score.prediction import OK

    row = moment.prediction
    end = "?" if moment.end_seconds is None else f"{moment.end_seconds:.2f}"
    said = " ".join(str(row.answer).split()) if row.status == OK else f"{row.status}: {row.error}"
    if isinstance(row.answer, float):
        spread = "" if row.spread is None else f" ± {row.spread:.2f}"
        said = f"{row.answer:.2f}{spread}"
    return f"{moment.start_seconds:8.2f} … {end:>8} s: {said}"


def _talk(
    scorer: "QualityScorer", media: list["Medium"], question: str | None, args: argparse.Namespace
) -> int:
    """One question, or one a line; the answer is written as it comes."""
    from thinker.score.prediction import OK, failed
    from thinker.video import VideoError

    try:
        talk = scorer.conversation(media, system=args.system, temperature=args.temperature)
    except VideoError as error:
        row = scorer.signed(failed(error, task="open"), "reason")
        return _show(row, question, args)
    failures = 0
    for asked in _lines() if question is None else [question]:
        try:
            pieces = talk.stream(asked)
        except ValueError as error:
            if question is not None:
                raise
            print(f"error: {error}", file=sys.stderr)
            failures += 1
            continue
        for piece in pieces:
            if not args.json:
                print(piece, end="", flush=True)
        assert talk.last is not None
        failures += talk.last.status != OK
        if args.json or talk.last.status != OK:
            _show(talk.last, asked, args)
        else:
            print(flush=True)
    return 1 if failures else 0


def _lines() -> Iterator[str]:
    """Questions from standard input, blank lines left out."""
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _show(row: "Prediction", question: str | None, args: argparse.Namespace) -> int:
    """A row that was not written piece by piece. Returns the exit status."""
    from thinker.score.prediction import OK

    if args.json:
        print(json.dumps(row.to_row() | {"question": question}), flush=True)
    elif row.status != OK:
        if row.completion:
            print(flush=True)  # behind what was written of it
        print(f"{row.status}: {row.error}", flush=True)
    else:
        print(row.answer, flush=True)
    return 0 if row.status == OK else 1
