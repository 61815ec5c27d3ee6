"""An interpreter that has imported torch, transformers and TRL already: a server that forks.

`python -m tests.helpers.forking_python SOCKET COMMAND` makes the server listen at SOCKET and writes
COMMAND, a program that takes `SCRIPT ARGUMENTS` or `-c CODE ARGUMENTS` as `python` does and runs
them in a fork of the server, with its own output, environment and folder, and its exit status. For
scripts that start `python` again and again, each time some ten seconds of imports.
"""

import json
import os
import runpy
import socket
import stat
import sys
import traceback
from pathlib import Path

CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [1, 2])
server.sendall(asked)
sys.exit(int(server.makefile().read() or 70))
"""


def main(address: str, command: Path) -> None:
    import trl.trainer.grpo_trainer  # noqa: F401  (all that takes long)

    import thinker.train.grpo.trainer  # noqa: F401

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    command.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    print("ready", flush=True)
    while True:
        client, _ = listening.accept()
        with client:
            if os.fork() == 0:
                serve(client)


def serve(client: socket.socket) -> None:
    """Run what a client asks for, in a process of its own, and send its exit status."""
    length, descriptors, _, _ = socket.recv_fds(client, 8, 2)
    asked = json.loads(client.makefile("rb").read(int.from_bytes(length, "big")))
    child = os.fork()
    if child == 0:
        for number, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, number)
        os._exit(run(*asked))
    _, ended = os.waitpid(child, 0)
    client.sendall(str(os.waitstatus_to_exitcode(ended)).encode())
    os._exit(0)


def run(arguments: list[str], environment: dict[str, str], folder: str) -> int:
    """What `python` does with these arguments; the exit status."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
