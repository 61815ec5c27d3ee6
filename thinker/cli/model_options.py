"""The options of every subcommand that loads a policy or reads videos, and what they stand for."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinker.config.run import BACKENDS

if TYPE_CHECKING:
    from thinker.score.scorer import QualityScorer
    from thinker.video.read_ahead import Reading


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=model_folder,
        required=True,
        help="a saved policy: folder, or org/name[@revision] on a hub",
    )
    parser.add_argument(
        "--mode",
        default="reason",
        help="reason: greedy text and score; sample: several rollouts, mean and spread; "
        "level: one forward, no text; expected: greedy text, mean of the scores that may follow it",
    )
    parser.add_argument(
        "--calibration",
        metavar="SET",
        help="key of the data set whose intervals scores get, where the policy was calibrated by "
        "several (thinker calibrate)",
    )
    add_engine_arguments(parser)


def model_folder(text: str) -> Path:
    """The path of a policy, or its name on a hub. A missing folder that is given as `./name` gets
    its whole path: `Path` drops `./`, and what is left would be looked up on the hub."""
    path = Path(text)
    is_path = text.startswith(".") and not path.exists()
    return path.absolute() if is_path else path


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a subcommand that names the model and the mode in its own way."""
    parser.add_argument("--num-samples", type=int, default=8, help="rollouts of mode sample")
    parser.add_argument("--backend", choices=BACKENDS, default="hf", help="what generates")
    parser.add_argument("--max-new-tokens", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, help="videos at once; halves when memory is out")
    parser.set_defaults(libraries_speak=False, calibration=None)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a subcommand that decodes in other processes."""
    parser.add_argument("--num-workers", type=int, default=2, help="decoding processes")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to decode one video")


def check_model_options(args: argparse.Namespace, tasks: Iterable[str] = ("score",)) -> None:
    """Raises ValueError for options that make no sense for questions of these tasks, and for a
    model that is not there, before its weights are loaded."""
    from thinker.policies.hub import check_folder, local_folder
    from thinker.score.calibration import load_calibration
    from thinker.score.scorer import check_mode, check_settings

    settings = scorer_settings(args)
    settings.pop("calibration", None)
    check_settings(**settings)
    for task in tasks:
        check_mode(args.mode, task)
    check_folder(args.model)
    if args.calibration is not None:
        load_calibration(local_folder(args.model), args.calibration, args.mode)


def scorer_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `QualityScorer.from_pretrained`."""
    settings: dict[str, Any] = {
        "mode": args.mode,
        "num_samples": args.num_samples,
        "backend": args.backend,
        "max_new_tokens": args.max_new_tokens,
    }
    # What is not given is left out: an archive compares its settings with those of older versions.
    given = {"batch_size": args.batch_size, "calibration": args.calibration}
    return settings | {name: value for name, value in given.items() if value is not None}


def load_scorer(args: argparse.Namespace) -> "QualityScorer":
    """The scorer of `--model`, on this process's GPU where there is one."""
    from thinker.score.scorer import QualityScorer
    from thinker.utils.tensors import gpu_of_process

    device = gpu_of_process()
    return QualityScorer.from_pretrained(args.model, device=device, **scorer_settings(args))


def find_some(names: list[str]) -> list[Path]:
    """The files that a user names (`find_videos`). Some that are missing become rows; raises
    ValueError where none of them exists."""
    from thinker.utils.names import path_text
    from thinker.video.find import find_videos

    paths = find_videos(names)
    if not any(map(os.path.exists, paths)):
        shown = ", ".join(map(path_text, paths[:5]))
        raise ValueError(f"none of the files exists: {shown}{' …' if len(paths) > 5 else ''}")
    return paths


def reading_settings(args: argparse.Namespace) -> "Reading":
    """How the videos are decoded. Raises ValueError for numbers that make no sense."""
    from thinker.video.read_ahead import Reading

    return Reading(num_workers=args.num_workers, timeout_seconds=args.timeout)
