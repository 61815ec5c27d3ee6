"""What the user sees beside the result: log lines, warnings and bars of the libraries."""

import argparse
import logging
import os
import sys
import warnings

from thinker.utils.progress import LinesAboveBars

_NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_SILENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_LOGS": "-all",  # minus: errors only
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",  # of the processes that are started
}


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--verbose", action="store_true",
        help="also what the libraries say, and where an error comes from",
    )  # fmt: skip


def set_up_terminal(args: argparse.Namespace) -> None:
    """Set what is told on standard error, before any library is imported.

    Bars of weights that are loaded are shown with `-v` only. A subcommand that answers
    (`libraries_speak` is False) keeps its libraries silent, too, and one whose whole output is the
    answer (`own_level`) also this package, but for warnings.
    """
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(
        level=level, format="%(levelname)s %(name)s: %(message)s", handlers=[LinesAboveBars()]
    )
    own_level = logging.INFO if args.verbose else getattr(args, "own_level", logging.INFO)
    logging.getLogger("thinker").setLevel(own_level)
    if args.verbose:
        return
    # On import it misses a kernel that is not used here (thinker/policies/four_bit.py).
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    silent = not getattr(args, "libraries_speak", True)
    for name, value in (_NO_BARS | (_SILENT if silent else {})).items():
        os.environ.setdefault(name, value)
    if silent:
        warnings.filterwarnings("ignore")
    if "transformers" in sys.modules:  # it has read the environment
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        if silent:
            transformers_logging.set_verbosity_error()
