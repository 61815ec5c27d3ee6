"""Two real vLLM servers behind one client, on CPUs: shared work, kill -9, rejoin, stale weights.

    python run_scripts/two_vllm_servers.py        (four engine starts: several minutes on two cores)

Every step is an assertion; what was seen is printed as JSON lines. docs/rollouts.md has a record.
The protocol alone is tested in CI, against stand-ins (tests/rollout/test_pool.py).
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch

from thinker.config.run import RolloutSettings
from thinker.policies import Policy, tiny_policy
from thinker.rollout.base import RolloutError, Sampling
from thinker.rollout.build import build_rollout
from thinker.rollout.vllm.folder import write_engine_folder

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks.rollout import synthetic_prompts  # noqa: E402
from tests.helpers.launch import free_port  # noqa: E402

PROMPTS, G = 16, 4
SAMPLING = Sampling(max_new_tokens=300)
FLAGS = {
    "--host": "127.0.0.1",
    "--dtype": "float32",
    "--max-model-len": "1024",
    "--max-num-batched-tokens": "8192",
    "--limit-mm-per-prompt": '{"image": 0, "video": 0}',
    "--mm-processor-cache-gb": "0",
    "--logprobs-mode": "processed_logprobs",
    "--generation-config": "vllm",
}
SWITCHES = (
    "--enable-mm-embeds", "--enable-scale-out", "--enforce-eager", "--no-enable-chunked-prefill",
)  # fmt: skip
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process a server, so that kill -9 ends all of it
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
}


class Process:
    """One `vllm serve`, which can be killed and started again on its port."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        flags = FLAGS | {"--port": str(self.port)}
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(self.folder)]
        with open(self.folder.parent / f"server-{self.port}.log", "a") as log:
            self.process = subprocess.Popen(
                [*command, *SWITCHES, *(word for pair in flags.items() for word in pair)],
                env=os.environ | ENVIRONMENT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float = 400.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with suppress(OSError), urllib.request.urlopen(self.url + "/health", timeout=5):
                return
            time.sleep(1)
        sys.exit(f"{self.url} did not start; see {self.folder.parent}")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@torch.no_grad()
def move(policy: Policy, seed: int) -> None:
    """As an update would, but so far that old weights give other tokens."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in policy.model.parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        parameter.add_(0.5 * parameter.std(unbiased=False) * noise)


class Client:
    """The back end under test, and how many prompts each server answered in a call."""

    def __init__(self, policy: Policy, servers: list[Process], folder: Path):
        settings = RolloutSettings(
            backend="vllm",
            mode="server",
            server_url=tuple(server.url for server in servers),
            sync_folder=str(folder),
            timeout_seconds=300.0,
            max_restarts=0,
        )
        self.rollout = build_rollout(settings, policy, max_new_tokens=SAMPLING.max_new_tokens)
        self.rollout.eos_token_ids = []  # every completion has its full length
        self.requests = synthetic_prompts(policy, PROMPTS)
        self.answered: Counter = Counter()
        for server in self.rollout.engine.servers:
            server.generate = self._counted(server.url, server.generate)

    def _counted(self, url, generate):
        def counted(*given):
            result = generate(*given)
            self.answered[url] += 1
            return result

        return counted

    def tokens(self, what: str, servers: list[Process]) -> list:
        self.answered.clear()
        began = time.perf_counter()
        groups = self.rollout.generate(self.requests, G, SAMPLING, seed=3)
        seconds = round(time.perf_counter() - began, 1)
        prompts = [self.answered[server.url] for server in servers]
        print(json.dumps({"step": what, "prompts": prompts, "seconds": seconds}), flush=True)
        return [[c.token_ids for c in group] for group in groups]


def killed_in_mid_generation(server: Process, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, server.kill)
    timer.start()
    return timer


def main() -> None:
    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="two_vllm_servers-"))
    policy = tiny_policy("internvl3")
    policy.model.eval()
    write_engine_folder(policy, folder / "engine", weights=True)
    servers = [Process(folder / "engine") for _ in range(2)]
    try:
        for server in servers:
            server.wait()
        check(policy, servers, folder / "weights")
    finally:
        for server in servers:
            server.kill()
    shutil.rmtree(folder)  # where something failed, the servers' logs stay


def check(policy: Policy, servers: list[Process], weights: Path) -> None:
    a, b = servers
    alone = Client(policy, [b], weights)
    alone.rollout.sync(step=1)
    expected = alone.tokens("second server alone", servers)
    client = Client(policy, servers, weights)
    client.rollout.sync(step=1)
    began = time.perf_counter()
    assert client.tokens("both", servers) == expected
    half = (time.perf_counter() - began) / 2
    assert client.answered[a.url] == client.answered[b.url] == PROMPTS // 2

    timer = killed_in_mid_generation(a, half)
    assert client.tokens("first one killed (-9) in mid-generation", servers) == expected
    timer.join()
    assert a.process.poll() == -signal.SIGKILL and client.answered[b.url] == PROMPTS

    move(policy, seed=1)
    figures = client.rollout.sync(step=2)  # the first one is away
    assert client.tokens("pushed, first one away", servers) != expected
    a.start()
    a.wait()
    expected = client.tokens("first one started again, no push yet", servers)
    assert client.answered[a.url] == 0

    move(policy, seed=2)
    figures = client.rollout.sync(step=3)
    assert client.tokens("pushed, first one in again", servers) != expected
    assert client.answered[a.url] == client.answered[b.url] == PROMPTS // 2
    expected = client.tokens("the same again", servers)
    timer = killed_in_mid_generation(b, half)
    assert client.tokens("second one killed (-9) in mid-generation", servers) == expected
    timer.join()
    assert client.answered[a.url] == PROMPTS  # so it does hold the weights of step 3

    b.start()
    b.wait()
    move(policy, seed=3)
    figures = client.rollout.sync(step=4)
    expected = client.tokens("pushed, both", servers)
    a.kill()
    a.start()
    a.wait()  # it answers again, with the weights that it began with, and no request has failed
    assert client.tokens("first one restarted since the push", servers) == expected
    assert client.answered[a.url] > 0 and client.answered[b.url] == PROMPTS

    a.kill()
    b.kill()
    try:
        client.rollout.generate(client.requests, G, SAMPLING, seed=3)
    except RolloutError as error:
        assert all(server.url in str(error) for server in servers)
        print(json.dumps({"step": "both killed", "error": str(error)}), flush=True)
    else:
        sys.exit("both servers are gone, but completions came")
    print(json.dumps({"probe_logp_difference": figures["probe_logp_difference"]}))


if __name__ == "__main__":
    main()
