"""`thinker stalls`: where video files stand still."""

import argparse
import json
import logging
from pathlib import Path

NAME = "stalls"
HELP = "find where videos stall, as records for eval and train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", nargs="+", help="video files, folders (searched), globs in quotes")
    parser.add_argument(
        "--media-root", type=Path, default=Path(), help="folder that paths are written relative to"
    )
    parser.add_argument(
        "--output", type=Path, help="file of records (jsonl); else they are printed"
    )
    parser.set_defaults(own_level=logging.WARNING)


def run(args: argparse.Namespace) -> int:
    """Exit status 1: some files could not be read; their records say why."""
    from thinker.utils.atomic import check_new_file, write_atomic
    from thinker.utils.progress import Progress
    from thinker.video.file import VideoError
    from thinker.video.find import find_videos
    from thinker.video.stalls.detect import detect_stalls

    if args.output is not None:
        check_new_file(args.output)
    paths = find_videos(args.video)
    root = args.media_root.absolute()
    outside = [path for path in paths if not path.absolute().is_relative_to(root)]
    if outside:
        raise ValueError(
            f"{outside[0]} does not lie in {root}, which paths are written relative to; give "
            "--media-root"
        )
    lines, failures = [], 0
    with Progress(len(paths), unit="video", shown=args.output is not None) as progress:
        for path in paths:
            # As records name files: bytes that are no UTF-8 stand as Python's JSON writes them.
            row: dict[str, object] = {"video": str(path.absolute().relative_to(root))}
            try:
                found = detect_stalls(path)
            except VideoError as error:
                failures += 1
                row |= {"status": error.reason, "error": str(error)}
            else:
                # Without words of its own the policy's own question is asked, of task score.
                row |= {"task": "score", "question": "", "stalls": found.intervals}
                row |= {"num_frames": found.num_frames, "seconds": found.seconds}
            lines.append(json.dumps(row))
            if args.output is None:
                progress.write(lines[-1])
            progress.update()
    if args.output is not None:
        write_atomic(args.output, "".join(f"{line}\n" for line in lines))
        print(f"{len(paths) - failures} of {len(paths)} videos read; written: {args.output}")
    return 1 if failures else 0
