"""Rollouts by a vLLM server over HTTP on the loopback."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec

import pytest

from tests.helpers.launch import free_port
from tests.helpers.rollout_oracle import (
    EXACT,
    SAMPLING,
    engine_policy,
    largest_difference,
    optimise,
    prompts_of,
)
from thinker.config.run import RolloutSettings
from thinker.policies.encode import encode_prompts
from thinker.rollout.base import RolloutError, RolloutStartError, Sampling
from thinker.rollout.build import build_rollout
from thinker.rollout.vllm.folder import write_engine_folder

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


def test_a_server_that_is_not_there_is_one_clear_sentence(tmp_path):
    settings = RolloutSettings(
        backend="vllm",
        mode="server",
        server_url="http://127.0.0.1:9",
        sync_folder=str(tmp_path),
    )
    with pytest.raises(RolloutStartError, match=r"no usable vLLM server: http://127.0.0.1:9"):
        build_rollout(settings, engine_policy("internvl3"), max_new_tokens=8)


@pytest.fixture
def serve(tmp_path):
    """Starts `vllm serve` with the command of docs/rollouts.md; returns the process."""
    processes = []

    def start(port):
        flags = {
            "--host": "127.0.0.1",
            "--port": str(port),
            "--dtype": "float32",
            "--max-model-len": "1024",
            "--limit-mm-per-prompt": '{"image": 0, "video": 0}',
            "--logprobs-mode": "processed_logprobs",
            "--generation-config": "vllm",
            "--mm-processor-cache-gb": "0",
            "--max-num-batched-tokens": "8192",
        }
        switches = ["--enable-mm-embeds", "--enable-scale-out"]
        switches += ["--enforce-eager", "--no-enable-chunked-prefill"]
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
        arguments = [str(tmp_path / "engine"), *switches, *sum(flags.items(), ())]
        # With multiprocessing off the worker runs inside the engine's process: one start less.
        environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        with open(tmp_path / "server.log", "a") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(url, process, log, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        with suppress(OSError), urllib.request.urlopen(url + "/health", timeout=5):
            return
        time.sleep(1)
    pytest.fail("the server did not start: " + log.read_text()[-3000:])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_server_generates_takes_weights_and_is_killed(serve, tmp_path):
    """Over HTTP on the loopback: exact before and after a push through the folder. Killed in
    mid-rollout and started again, it gives the same completions; killed for good, an error."""
    policy = engine_policy("qwen2_5_vl")
    write_engine_folder(policy, tmp_path / "engine", weights=True)
    port = free_port()
    url, process = f"http://127.0.0.1:{port}", serve(port)
    wait_for(url, process, tmp_path / "server.log")
    settings = RolloutSettings(
        backend="vllm",
        mode="server",
        server_url=url,
        sync_folder=str(tmp_path / "weights"),
        timeout_seconds=240.0,
        max_restarts=1,
    )
    rollout = build_rollout(settings, policy, max_new_tokens=8)
    prompts = prompts_of(policy)
    groups = rollout.generate(encode_prompts(policy, prompts), 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, groups) < EXACT
    optimise(policy, list(policy.model.parts()))
    requests = encode_prompts(policy, prompts)
    assert rollout.sync(step=3)["probe_logp_difference"] < EXACT
    groups = rollout.generate(requests, 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, groups) < EXACT

    rollout.eos_token_ids = []
    endless = Sampling(max_new_tokens=500)
    undisturbed = rollout.generate(requests * 4, 4, endless, seed=0)
    servers = [process]
    supervisor = threading.Thread(target=kill_and_start_again, args=(process, serve, port, servers))
    supervisor.start()
    again = rollout.generate(requests * 4, 4, endless, seed=0)
    supervisor.join()
    assert process.poll() == -signal.SIGKILL  # it did die
    tokens = [[[c.token_ids for c in group] for group in run] for run in (undisturbed, again)]
    assert tokens[0] == tokens[1]
    assert list((tmp_path / "weights").iterdir()) == []  # nothing is left behind

    os.killpg(servers[-1].pid, signal.SIGKILL)
    rollout.engine.timeout_seconds = 3.0
    with pytest.raises(RolloutError, match="failed 2 times in a row, lastly: no usable vLLM serv"):
        rollout.generate(requests, 1, SAMPLING, seed=0)


def kill_and_start_again(process, serve, port, servers):
    """What systemd or Kubernetes does: half a second into the rollouts the server dies."""
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    servers.append(serve(port))
