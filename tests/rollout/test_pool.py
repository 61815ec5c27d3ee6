"""Several servers as one engine: the protocol alone, against stand-ins (fake_servers.py)."""

import re
import threading
from functools import partial

import pytest
import torch

from tests.helpers.fake_servers import FAULTS, START_WEIGHTS, fake_servers, tokens_of
from tests.helpers.rollout_oracle import engine_policy
from thinker.config.run import RolloutSettings
from thinker.rollout.base import RolloutError, RolloutStartError, StaleWeightsError
from thinker.rollout.vllm.engine import EngineRequest
from thinker.rollout.vllm.pool import ServerPool
from thinker.rollout.vllm.rollout import VllmRollout, text_logprobs

G = 3


@pytest.fixture
def two():
    with fake_servers(2) as servers:
        yield servers


def pool_of(servers, tmp_path, timeout=60.0):
    settings = RolloutSettings(
        backend="vllm",
        mode="server",
        server_url=tuple(server.url for server in servers),
        sync_folder=str(tmp_path),
        timeout_seconds=timeout,
    )
    return ServerPool(settings)


def requests_of(count):
    return [
        EngineRequest(token_ids=[7, i], items=[], params={"n": G, "seed": 100 + i})
        for i in range(count)
    ]


def push(pool, value):
    pool.push([("w", torch.tensor(value))])


def tokens(results):
    return [[c.token_ids for c in result.completions] for result in results]


def expected(count, weights):
    """Whichever server answers: what follows from prompt, seed and weights."""
    return [[tokens_of([7, i], 100 + i, j, weights) for j in range(G)] for i in range(count)]


def warnings_of(caplog, text):
    return [m for m in caplog.messages if text in m]


def test_prompts_are_divided_and_a_prompts_completions_are_not(two, tmp_path):
    together = threading.Barrier(8)
    for server in two:
        server.before = partial(together.wait, 60)  # all eight prompts are in flight
    pool = pool_of(two, tmp_path)
    push(pool, 1.0)
    assert tokens(pool.run(requests_of(8))) == expected(8, 1.0)
    assert [len(server.answered) for server in two] == [4, 4]  # of 8 prompts, G completions each
    assert pool.run([]) == []
    assert list(tmp_path.iterdir()) == []  # nothing of a push is left behind


def test_the_least_loaded_server_gets_the_next_prompt(two, tmp_path, monkeypatch):
    """Two connections each: while the slow one works on two prompts, the other takes all others."""
    monkeypatch.setattr("thinker.rollout.vllm.pool.CONNECTIONS", 2)
    slow, fast = two
    done = threading.Event()
    slow.before = partial(done.wait, 60)
    fast.before = lambda: done.set() if len(fast.answered) == 9 else None
    pool = pool_of(two, tmp_path)
    push(pool, 1.0)
    assert tokens(pool.run(requests_of(12))) == expected(12, 1.0)
    assert [len(slow.answered), len(fast.answered)] == [2, 10]


@pytest.mark.parametrize("fault", [*FAULTS, "refused"])
def test_a_server_that_fails_is_left_out_and_the_others_give_the_same(two, tmp_path, caplog, fault):
    pool = pool_of(two, tmp_path, timeout=1.5 if fault == "hangs" else 60.0)
    push(pool, 1.0)
    if fault == "refused":
        two[0].stop()
    else:
        two[0].fault = fault
    assert tokens(pool.run(requests_of(6))) == expected(6, 1.0)
    assert tokens(pool.run(requests_of(6))) == expected(6, 1.0)
    assert len(two[1].answered) == 12
    [warning] = caplog.messages  # one, however many prompts it had
    assert warning.startswith(f"rollouts: {two[0].url} is left out until it takes a later push; 1")
    if fault == "refused":
        two[0].start_again()


def test_where_none_is_left_one_error_names_all(two, tmp_path):
    pool = pool_of(two, tmp_path)
    push(pool, 1.0)
    two[0].fault, two[1].fault = "error", "dies"
    names = [re.escape(server.url) for server in two]
    message = f"no usable vLLM server: {names[0]}.* answered 500: .*; {names[1]}.* did not answer"
    with pytest.raises(RolloutError, match=message):
        pool.run(requests_of(4))
    with pytest.raises(RolloutError, match="no usable vLLM server"):
        pool.run(requests_of(1))
    for server in two:
        server.fault = None
    pool.restart()
    push(pool, 2.0)
    assert tokens(pool.run(requests_of(4))) == expected(4, 2.0)


def test_a_server_with_other_weights_never_answers(two, tmp_path, caplog):
    """It was started again between the push and the rollouts, and no request of ours has failed."""
    pool = pool_of(two, tmp_path)
    push(pool, 1.0)
    two[0].begin_anew()
    assert tokens(pool.run(requests_of(6))) == expected(6, 1.0)
    assert two[0].answered  # from START_WEIGHTS, which does not count
    assert expected(6, START_WEIGHTS) != expected(6, 1.0)
    assert "holds weights 'default' in place of those that were pushed" in caplog.text
    two[1].version = "of another run"
    with pytest.raises(RolloutError, match=r"'default'.*'of another run'"):
        pool.run(requests_of(2))


def test_a_server_is_in_again_once_it_has_taken_a_push(two, tmp_path, caplog):
    pool = pool_of(two, tmp_path)
    push(pool, 1.0)
    two[0].stop()
    pool.run(requests_of(4))
    push(pool, 2.0)  # it is away
    two[0].start_again()
    assert tokens(pool.run(requests_of(4))) == expected(4, 2.0)
    assert two[0].num_pushes == 0 and len(two[0].answered) == 0  # back, but without a push
    push(pool, 3.0)
    assert tokens(pool.run(requests_of(4))) == expected(4, 3.0)
    assert two[0].num_pushes == 1 and two[0].answered
    assert len(warnings_of(caplog, "is left out")) == 1
    assert warnings_of(caplog, "answers again") == [f"rollouts: {two[0].url} answers again"]


def test_a_server_that_cannot_take_the_weights_is_left_out(two, tmp_path, caplog):
    pool = pool_of(two, tmp_path)
    two[1].refuses_weights = True
    push(pool, 1.0)
    assert tokens(pool.run(requests_of(4))) == expected(4, 1.0)
    assert two[1].answered == [] and two[1].version == "loading"
    assert "collective_rpc answered 500" in caplog.text
    two[1].refuses_weights, two[1].max_model_len = False, 512
    push(pool, 2.0)  # prompts that fit the others would fail there
    assert pool.max_model_len == 1024 and two[1].num_pushes == 0
    two[0].refuses_weights = True
    with pytest.raises(RolloutError, match=r"no usable vLLM server: .* answered 500.*; .* 512 tok"):
        push(pool, 3.0)


def test_each_server_is_probed_and_one_that_differs_is_refused(two, tmp_path, caplog):
    policy = engine_policy("internvl3")
    right = partial(text_logprobs, policy.model)
    two[0].logprobs = right
    rollout = VllmRollout(policy, pool_of(two, tmp_path))
    rollout.engine.push = lambda weights, own=rollout.engine.push: own([("w", torch.tensor(1.0))])
    figures = rollout.sync(step=4)
    assert figures["probe_logp_difference"] < 1e-5
    assert figures["pushed_bytes"] == 2 * 4  # a float, to either of them
    assert f"step 4: after the weight push the logprobs of {two[1].url} differ" in caplog.text
    rollout.engine.run(requests_of(4))
    assert len(two[1].answered) == 1  # the probe
    two[0].logprobs = two[1].logprobs
    with pytest.raises(StaleWeightsError, match=r"step 5: .* differ from the trainer's by"):
        rollout.sync(step=5)


def test_some_servers_are_enough_to_begin_and_none_is_not(two, tmp_path, caplog):
    two[0].logprobs_mode = "raw_logprobs"
    two[1].max_model_len = 640
    assert pool_of(two, tmp_path).max_model_len == 640
    assert "reports raw_logprobs, expected processed_logprobs" in caplog.text
    two[1].logprobs_mode = "raw_logprobs"
    with pytest.raises(RolloutStartError, match=r"no usable vLLM server: .*raw.*; .*raw_logprobs"):
        pool_of(two, tmp_path)
