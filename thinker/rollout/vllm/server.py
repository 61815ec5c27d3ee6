"""One vLLM server over HTTP: generation, weights from a folder, and the version of its weights.

Generation uses vLLM's token-in-token-out endpoint (`vllm serve --enable-scale-out`): token ids,
placeholder ranges and embedding items in, token ids and logprobs out; the server tokenizes nothing.
docs/rollouts.md has the commands. `pool.py` makes one engine of several servers.
"""

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from thinker.rollout.base import Completion, RolloutError, RolloutStartError
from thinker.rollout.vllm.engine import EngineRequest, EngineResult, encode_item, item_names

CONTROL_SECONDS = 30.0
"""For an answer that takes the server no work."""
NEEDED_FLAGS = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve … --enable-scale-out --enable-mm-embeds "
    "--logprobs-mode processed_logprobs (docs/rollouts.md)"
)
LOADING = "loading"
"""Version of a server whose weights are being replaced: half of a push has no version."""


class Server:
    """A running `vllm serve`. Every method raises RolloutError where it does not answer as asked.

    vLLM keeps a version beside the weights, in the process that holds them: a text that whoever
    pushes sets. One that was started again says "default", whatever it was told before.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.max_model_len = 0
        """Tokens that a prompt and its completion may have together; known from `check` on."""

    def check(self, timeout: float) -> None:
        """RolloutStartError when it is not there or cannot do what is needed. timeout: seconds for
        the first answer."""
        try:
            [model] = self._request("GET", "/v1/models", None, timeout)["data"]
            info = self.get("/server_info?config_format=json")
            mode = info["vllm_config"]["model_config"]["logprobs_mode"]
            self.max_model_len = model["max_model_len"]
        except RolloutError as error:
            raise RolloutStartError(f"{error}; start it with {NEEDED_FLAGS}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise RolloutStartError(
                f"{self.url} is no vLLM server of our kind ({error})"
            ) from error
        if mode != "processed_logprobs":
            raise RolloutStartError(
                f"the vLLM server at {self.url} reports {mode}, expected processed_logprobs; "
                f"start it with {NEEDED_FLAGS}"
            )

    def generate(self, request: EngineRequest, timeout: float) -> EngineResult:
        """All completions of one prompt."""
        answer = self.post("/inference/v1/generate", generate_body(request), timeout)
        try:
            return read_answer(answer, request)
        except (KeyError, TypeError, ValueError) as error:
            raise RolloutError(f"{self.url} gave an answer of another form ({error})") from error

    # Weights

    def version(self) -> str:
        """Of the weights that it holds."""
        return str((self.get("/weight_info") or {}).get("weight_version"))

    def set_version(self, version: str) -> None:
        """Name the weights that it holds."""
        self.post("/update_weight_version", {"new_version": version}, CONTROL_SECONDS)

    def load(self, folder: str, timeout: float) -> None:
        """Take the weights of a folder that it sees under the same path."""
        rpc = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        self.post("/collective_rpc", rpc, timeout)

    def drop_caches(self, timeout: float) -> None:
        """Forget what was computed under other weights."""
        self.post("/reset_encoder_cache", {}, timeout)
        answer = self.post("/reset_prefix_cache", {}, timeout)
        if answer is not None and answer.get("success") is False:
            raise RolloutError(f"{self.url} refused to drop its prefix cache after a weight push")

    # HTTP

    def get(self, path: str) -> Any:
        """The JSON at a path that costs the server no work."""
        return self._request("GET", path, None, CONTROL_SECONDS)

    def post(self, path: str, body: dict[str, Any], timeout: float) -> Any:
        """The JSON that is answered, None where there is no body."""
        return self._request("POST", path, body, timeout)

    def _request(self, method: str, path: str, body: dict | None, timeout: float) -> Any:
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                text = response.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")[:500]
            raise RolloutError(f"{self.url}{path} answered {error.code}: {reason}") from error
        except (OSError, HTTPException) as error:  # refused, reset, late
            raise RolloutError(
                f"{self.url}{path} did not answer ({type(error).__name__}: {error})"
            ) from error
        except ValueError as error:
            raise RolloutError(f"{self.url}{path} answered no JSON ({error})") from error


def generate_body(request: EngineRequest) -> dict[str, Any]:
    """A request in the form of `/inference/v1/generate`."""
    body: dict[str, Any] = {
        "token_ids": request.token_ids,
        "sampling_params": request.params,
        "return_token_ids": True,
    }
    if request.items:
        body["features"] = {
            "mm_hashes": {"image": item_names(request.items)},
            "mm_placeholders": {
                "image": [{"offset": i.offset, "length": len(i.embeds)} for i in request.items]
            },
            "kwargs_data": {"image": [encode_item(item) for item in request.items]},
        }
    return body


def read_answer(answer: dict[str, Any], request: EngineRequest) -> EngineResult:
    """What `/inference/v1/generate` answered. Raises KeyError, TypeError or ValueError where it is
    not all that was asked for: a server that is ended cuts what it is writing short."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    if len(choices) != request.params["n"]:
        raise ValueError(f"{len(choices)} completions, expected {request.params['n']}")
    cut = [c["finish_reason"] for c in choices if c["finish_reason"] not in ("stop", "length")]
    if cut:
        raise ValueError(f"a completion that ended by {cut[0]!r}, expected stop or length")
    completions = [
        Completion(
            token_ids=choice["token_ids"],
            logprobs=[entry["logprob"] for entry in choice["logprobs"]["content"]],
        )
        for choice in choices
    ]
    return EngineResult(prompt_token_ids=answer["prompt_token_ids"], completions=completions)
