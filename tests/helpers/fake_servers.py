"""A stand-in for `vllm serve`: the protocol of one server, without a model behind it.

Its tokens follow from a request's prompt, its seed and the weights that it holds, as a real one's
do. `tests/rollout/test_server.py` and `run_scripts/two_vllm_servers.py` have real ones.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from safetensors.torch import load_file

START_WEIGHTS = 0.0
HANG_SECONDS = 3.0


class FakeServer:
    """One server in this process, on a port of its own.

    fault: what goes wrong with a request for completions, a key of `FAULTS`, or None. before: is
    called before an answer. logprobs: function of prompt and completion.
    """

    def __init__(self, max_model_len=1024):
        self.max_model_len, self.logprobs_mode = max_model_len, "processed_logprobs"
        self.fault: str | None = None
        self.before: Callable[[], object] = lambda: None
        self.logprobs = lambda prompt, completion: [-1.0] * len(completion)
        self.refuses_weights = False
        self.answered: list[list[int]] = []  # prompts
        self.begin_anew()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._serve()

    def _serve(self):
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def begin_anew(self):
        """As a process that was started again: old weights, and the version it begins with."""
        self.weights, self.version, self.num_pushes = START_WEIGHTS, "default", 0

    def stop(self):
        """Connections are refused from now on."""
        self.http.shutdown()
        self.http.server_close()

    def start_again(self):
        self.begin_anew()
        self.fault = None
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._serve()

    def answer(self, path, body):
        path = path.partition("?")[0]
        if path == "/v1/models":
            return {"data": [{"max_model_len": self.max_model_len}]}
        if path == "/server_info":
            return {"vllm_config": {"model_config": {"logprobs_mode": self.logprobs_mode}}}
        if path == "/weight_info":
            return {"weight_version": self.version}
        if path == "/update_weight_version":
            self.version = body["new_version"]
        if path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            file = Path(body["kwargs"]["weights_path"]) / "model.safetensors"
            self.weights, self.num_pushes = float(load_file(file)["w"]), self.num_pushes + 1
        if path == "/reset_prefix_cache":
            return {"success": True}
        if path == "/inference/v1/generate":
            return self.completions(body["token_ids"], body["sampling_params"])
        return {}

    def completions(self, prompt, params):
        self.before()
        self.answered.append(prompt)
        choices = []
        for index in range(params["n"]):
            tokens = tokens_of(prompt, params["seed"], index, self.weights)
            entries = [{"logprob": value} for value in self.logprobs(prompt, tokens)]
            choices.append(
                {
                    "index": index,
                    "token_ids": tokens,
                    "finish_reason": "length",
                    "logprobs": {"content": entries},
                }
            )
        return {"choices": choices[::-1], "prompt_token_ids": prompt}

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(None)

            def do_POST(self):
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body):
                if self.path.startswith("/inference") and server.fault is not None:
                    FAULTS[server.fault](server, self, body)
                elif self.path == "/collective_rpc" and server.refuses_weights:
                    self.send(500, {"error": "no such file"})
                else:
                    self.send(200, server.answer(self.path, body))

            def send(self, status, answer):
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        return Handler


def _error(server, handler, body):
    handler.send(500, {"error": "EngineDeadError"})


def _hangs(server, handler, body):
    time.sleep(HANG_SECONDS)
    handler.close_connection = True


def _dies(server, handler, body):
    """Half an answer, then nothing: what a client sees of a process that is killed."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.close()


def _cuts_short(server, handler, body):
    """An orderly end: what is being written is aborted and handed over."""
    answer = server.answer(handler.path, body)
    for choice in answer["choices"]:
        choice["finish_reason"] = "abort"
        choice["token_ids"] = choice["token_ids"][:2]
    handler.send(200, answer)


FAULTS = {"error": _error, "hangs": _hangs, "dies": _dies, "cut short": _cuts_short}


def tokens_of(prompt, seed, index, weights):
    """Four tokens that follow from all that a completion may follow from."""
    digest = hashlib.sha256(repr((prompt, seed, index, weights)).encode()).digest()
    return list(digest[:4])


@contextmanager
def fake_servers(count):
    servers = [FakeServer() for _ in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()
