"""A local endpoint that speaks the chat-completions form, answering as a test says."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.helpers.loopback import serving

Answer = str | tuple[int, dict[str, str], bytes]
"""The text of a completion, or a raw response: status, headers, body."""


class ChatServer:
    """The running server: where it is, and what it was sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []
        """The bodies, in the order of their arrival."""
        self.headers: list[dict[str, str]] = []
        """The headers of each."""


@contextmanager
def chat_server(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    """On a free port of the loopback; `answer(body)` gives what each request gets."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(body)
            state.headers.append(dict(self.headers))
            given = answer(body)
            if isinstance(given, str):
                message = {"role": "assistant", "content": given}
                usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
                content = {"choices": [{"index": 0, "message": message}], "usage": usage}
                given = 200, {"Content-Type": "application/json"}, json.dumps(content).encode()
            status, headers, data = given
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Silent."""

    with serving(Handler) as url:
        state = ChatServer(f"{url}/v1")
        yield state
