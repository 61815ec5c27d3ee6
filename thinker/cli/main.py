"""The `thinker` command. Each subcommand is one module of this package, and each is a thin call
into the rest of the code."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Protocol

from thinker.cli import app, ask, describe, estimate, ground, inspect, plan, score, train
from thinker.cli.data import demo_data, import_labels, make_labels, records, stalls
from thinker.cli.evaluation import bench, calibrate, compare, eval, faithfulness, report
from thinker.cli.policies import card, convert, merge, push
from thinker.cli.terminal import add_verbosity, set_up_terminal
from thinker.utils.names import path_text, printable, take_any_text

DESCRIPTION = "Video quality assessment that explains itself: train, score, evaluate."


class Command(Protocol):
    """What the module of a subcommand holds.

    `run` imports what it needs inside of itself. So no module here imports torch, and
    `thinker --help` answers at once.
    """

    NAME: str
    """What the user types."""
    HELP: str
    """Its line in `thinker --help`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Tell the parser what the subcommand takes."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit status. A ValueError is an error of the user's."""


COMMANDS: tuple[Command, ...] = (
    train,
    inspect,
    score,
    ask,
    ground,
    describe,
    app,
    eval,
    calibrate,
    bench,
    report,
    compare,
    faithfulness,
    demo_data,
    import_labels,
    make_labels,
    records,
    stalls,
    convert,
    merge,
    card,
    push,
    estimate,
    plan,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `thinker`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="thinker", description=DESCRIPTION)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        _prepare(subparsers.add_parser(command.NAME, help=command.HELP), command)
    return _run(parser.parse_args(argv))


def run_alone(command: Command, description: str | None) -> int:
    """Entry point of a script that is one subcommand, such as `single_infer.py`. Returns the exit
    status."""
    parser = argparse.ArgumentParser(description=description)
    _prepare(parser, command)
    return _run(parser.parse_args())


def _prepare(parser: argparse.ArgumentParser, command: Command) -> None:
    command.add_arguments(parser)
    add_verbosity(parser)
    parser.set_defaults(run=command.run)


def _run(args: argparse.Namespace) -> int:
    """Run the subcommand that was named. An error of the user's gives one message and status 2;
    where it comes from is told with `-v`. Ctrl-C gives 130, a reader of the output that has gone
    141, as shells have it."""
    take_any_text()
    set_up_terminal(args)
    fault: Exception
    try:
        return args.run(args)
    except ValueError as error:
        fault, message = error, str(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush
        return 141
    except OSError as error:
        if error.filename is None:  # not of a file that was named
            raise
        fault, message = error, f"{path_text(os.fsdecode(error.filename))}: {error.strerror}"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if args.verbose:
        traceback.print_exception(fault)
    lines = message.splitlines()  # lists of bad lines; names in them may hold anything
    print("error: " + "\n".join(map(printable, lines)), file=sys.stderr)
    return 2
