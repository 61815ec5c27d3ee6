"""Rollouts by a vLLM server over HTTP on the loopback."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec

import pytest
from rollout_oracle import EXACT, SAMPLING, clips_of, engine_policy, largest_difference, optimise

from thinker.config import RolloutSettings
from thinker.rollout.base import RolloutError, RolloutStartError, Sampling, encode_prompts
from thinker.rollout.build import build_rollout
from thinker.rollout.engine_folder import write_engine_folder
from thinker.rollout.vllm import VllmRollout

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
    """Start `vllm serve` with the command of docs/rollouts.md; returns its address and process."""
    processes = []

    def start(policy):
        write_engine_folder(policy, tmp_path / "engine", weights=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = {
            "--host": "127.0.0.1",
            "--port": str(port),
            "--dtype": "float32",
            "--max-model-len": "1024",
            "--limit-mm-per-prompt": '{"image": 0, "video": 0}',
            "--logprobs-mode": "processed_logprobs",
            "--generation-config": "vllm",
            "--mm-processor-cache-gb": "0",
        }
        switches = ["--enable-mm-embeds", "--enable-scale-out", "--enforce-eager"]
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
        arguments = [str(tmp_path / "engine"), *switches, *sum(flags.items(), ())]
        environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with open(tmp_path / "server.log", "w") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)
        return f"http://127.0.0.1:{port}", process

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
def test_a_real_server_generates_takes_weights_and_dies(serve, tmp_path):
    """Over HTTP on the loopback: exact before and after a push through the folder; killed in
    mid-rollout it is a RolloutError."""
    policy = engine_policy("qwen2_5_vl")
    url, process = serve(policy)
    wait_for(url, process, tmp_path / "server.log")
    settings = RolloutSettings(
        backend="vllm",
        mode="server",
        server_url=url,
        sync_folder=str(tmp_path / "weights"),
        timeout_seconds=120.0,
    )
    rollout = build_rollout(settings, policy, max_new_tokens=8)
    clips = clips_of(policy)
    groups = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT
    optimise(policy, list(policy.model.parts()))
    assert rollout.sync(step=3)["probe_logp_difference"] < EXACT
    groups = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT
    assert list((tmp_path / "weights").iterdir()) == []  # nothing is left behind
    threading.Timer(0.5, os.killpg, (process.pid, signal.SIGKILL)).start()
    endless = Sampling(max_new_tokens=700)
    with pytest.raises(RolloutError, match="did not answer"):
        VllmRollout(policy, rollout.engine, eos=[]).generate(
            encode_prompts(policy, clips * 8), 8, endless, seed=0
        )
