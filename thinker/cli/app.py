"""`thinker app`: the policy in a browser."""

import argparse
import importlib.util
import logging
import signal
import socket
import sys
import threading

from thinker.cli.model_options import (
    add_engine_arguments,
    add_reading_arguments,
    check_model_options,
    load_scorer,
    model_folder,
    reading_settings,
)

NAME = "app"
HELP = "score, ask and compare in a browser"

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NEEDED = ("gradio", "matplotlib")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=model_folder,
        metavar="MODEL",
        help="a saved policy: folder, or org/name[@revision]",
    )
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one")
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="127.0.0.1 (default) is reached from this machine only; any other lets everybody who "
        "reaches it upload files and use the policy, without a password and unencrypted",
    )  # fmt: skip
    parser.add_argument(
        "--max-upload", type=int, default=200, metavar="MB", help="the largest file that is taken"
    )
    add_engine_arguments(parser)
    add_reading_arguments(parser)
    parser.set_defaults(own_level=logging.WARNING, mode="reason", num_workers=1, timeout=120.0)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the app needs {' and '.join(missing)}; install it: pip install 'vqa-thinker[app]'"
        )
    _check_address(args.host, args.port)
    from thinker.app.session import AppLimits

    limits, reading = AppLimits(max_upload_mb=args.max_upload), reading_settings(args)
    check_model_options(args)
    scorer = load_scorer(args)
    from thinker.app.serve import AppServer

    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with AppServer(
        scorer, host=args.host, port=args.port, limits=limits, reading=reading
    ) as server:
        if args.host not in LOOPBACK:
            print(
                f"warning: everybody who reaches {args.host} can upload files and use the policy; "
                "there is no password and no encryption",
                file=sys.stderr,
            )
        print(f"{server.url} (Ctrl-C ends it; nothing that was uploaded is kept)", flush=True)
        stopped.wait()
    return 0


def _check_address(host: str, port: int) -> None:
    """Raises ValueError where nobody can listen there."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}, expected 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be listened on: {error.strerror}; name another"
        ) from None
