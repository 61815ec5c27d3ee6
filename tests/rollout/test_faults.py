"""What goes wrong with a vLLM engine: it cannot start, fails, hangs, dies, answers for others."""

import itertools
import random
import sys
import threading
import time
from importlib.util import find_spec

import pytest
import torch

from tests.helpers.policy_factory import small_policy
from tests.helpers.rollout_oracle import (
    EXACT,
    SAMPLING,
    SETTINGS,
    clips_of,
    engine_policy,
    largest_difference,
    optimise,
    prompts_of,
    synced,
)
from thinker.config.run import RolloutSettings
from thinker.policies.encode import encode_prompts
from thinker.rollout.base import RolloutError, RolloutStartError, Sampling
from thinker.rollout.build import build_rollout
from thinker.rollout.vllm.colocate import ColocatedEngine
from thinker.rollout.vllm.engine import EngineResult, check_installed
from thinker.rollout.vllm.rollout import VllmRollout
from thinker.score.scorer import QualityScorer

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


def tied_policy():
    policy = engine_policy("qwen2_5_vl")
    config = policy.model.config
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
    policy.model.lm_head.weight = policy.model.get_input_embeddings().weight
    return policy


@pytest.fixture(scope="module")
def tied():
    """A policy whose head is its embedding matrix, an engine of its own, and what starting it did
    to the process. The last tests of the module break the engine."""
    policy = tied_policy()
    before = torch.random.get_rng_state(), random.getstate(), torch.set_num_threads
    engine = ColocatedEngine(policy, SETTINGS, max_model_len=1024)
    after = torch.random.get_rng_state(), random.getstate(), torch.set_num_threads
    yield policy, engine, before, after
    engine.close()


def test_a_tied_head_is_exact_before_and_after_training(tied):
    policy, engine, _, _ = tied
    prompts = prompts_of(policy)
    rollout = synced(policy, engine)
    groups = rollout.generate(encode_prompts(policy, prompts), 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, groups) < EXACT
    optimise(policy, ["language_model"])
    rollout.sync(step=3)
    groups = rollout.generate(encode_prompts(policy, prompts), 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, groups) < EXACT


def test_starting_an_engine_leaves_the_process_as_it_was(tied):
    """vLLM seeds every random stream and replaces torch.set_num_threads when it starts."""
    _, _, before, after = tied
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_prompt_that_does_not_fit_is_refused(tied):
    policy, engine, _, _ = tied
    requests = encode_prompts(policy, prompts_of(policy, 1))
    with pytest.raises(ValueError, match="more than the engine's 1024"):
        VllmRollout(policy, engine).generate(requests, 1, Sampling(max_new_tokens=1000), seed=0)


def test_a_prompt_that_the_engine_saw_differently_is_an_error():
    class Other:
        max_model_len = 1024

        def run(self, requests):
            return [
                EngineResult(prompt_token_ids=r.token_ids[1:], completions=[]) for r in requests
            ]

    policy = engine_policy("internvl3")
    requests = encode_prompts(policy, prompts_of(policy, 1))
    with pytest.raises(RolloutError, match="differs from the trainer's"):
        VllmRollout(policy, Other()).generate(requests, 1, SAMPLING, seed=0)


@pytest.fixture
def drawn(tied):
    """A policy some steps from its start, its engine, requests, and what is drawn undisturbed."""
    policy, engine, _, _ = tied
    optimise(policy, ["language_model"], steps=1)
    rollout = VllmRollout(policy, engine, max_restarts=1)
    rollout.sync(step=5)
    requests = encode_prompts(policy, prompts_of(policy))
    return rollout, requests, rollout.generate(requests, 3, SAMPLING, seed=1)


def fail_at_step(engine, number, fault, monkeypatch):
    """Injected: the engine's loop calls `fault` instead of its own step, from the number-th on."""
    llm_engine = engine._llm.llm_engine
    own, calls = llm_engine.step, itertools.count(1)
    monkeypatch.setattr(llm_engine, "step", lambda: own() if next(calls) < number else fault())


def test_an_engine_that_dies_is_restarted_and_the_call_gives_the_same(drawn, monkeypatch, caplog):
    """A new engine starts with random weights: only a push makes it draw the same."""
    rollout, requests, undisturbed = drawn
    dead = rollout.engine._llm
    fail_at_step(rollout.engine, 3, lambda: 1 / 0, monkeypatch)
    assert rollout.generate(requests, 3, SAMPLING, seed=1) == undisturbed
    assert rollout.engine._llm is not dead
    assert "try 1 of 2 failed: the vLLM engine failed while generating (ZeroDivisi" in caplog.text


def test_an_engine_that_hangs_is_restarted_once_its_step_returns(drawn, monkeypatch, caplog):
    rollout, requests, undisturbed = drawn
    engine = rollout.engine

    def hang():
        engine.timeout_seconds = SETTINGS.timeout_seconds  # for what follows
        time.sleep(1.5)
        return []

    engine.timeout_seconds = 0.5
    fail_at_step(engine, 1, hang, monkeypatch)
    assert rollout.generate(requests, 3, SAMPLING, seed=1) == undisturbed
    assert "try 1 of 2 failed: vLLM: generating took more than 0.5 s" in caplog.text


def test_an_engine_that_never_returns_ends_the_tries_in_time(drawn, monkeypatch):
    """It cannot be ended without the process, so no second engine is started beside it."""
    rollout, requests, _ = drawn
    released = threading.Event()
    fail_at_step(rollout.engine, 1, lambda: released.wait(60) and [], monkeypatch)
    monkeypatch.setattr(rollout.engine, "timeout_seconds", 0.2)
    monkeypatch.setattr("thinker.rollout.vllm.colocate.CLOSE_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"failed 2 times in a row, lastly: vLLM is stuck \(gen"):
        rollout.generate(requests, 1, SAMPLING, seed=0)
    with pytest.raises(RolloutError, match="failed 2 times"):
        rollout.generate(requests, 1, SAMPLING, seed=0)
    assert time.monotonic() - began < 30
    released.set()


def test_auto_falls_back_and_says_why_where_vllm_cannot_run(caplog):
    """Heads of 16 are too narrow for vLLM's attention on a CPU: it starts, and fails at the first
    token."""
    policy = small_policy("internvl3")
    with caplog.at_level("WARNING", logger="thinker"):
        rollout = build_rollout(RolloutSettings(backend="auto"), policy, max_new_tokens=8)
    assert rollout.name == "hf"
    assert "rollouts by transformers (hf): the vLLM engine cannot generate here" in caplog.text
    with pytest.raises(RolloutStartError, match="cannot generate here"):
        build_rollout(SETTINGS, policy, max_new_tokens=8)


def test_a_missing_or_foreign_vllm_is_named(monkeypatch):
    import vllm

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)
        with pytest.raises(RolloutStartError, match="vLLM cannot be imported"):
            check_installed()
    monkeypatch.setattr(vllm, "__version__", "0.29.1")
    with pytest.raises(RolloutStartError, match=r"vLLM 0\.29\.1 is installed, expected 0\.31"):
        check_installed()


def test_too_little_memory_is_one_sentence(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1000000")  # GiB
    message = r"did not start \(ValueError: Available memory .* is less than requested memory"
    with pytest.raises(RolloutStartError, match=message):
        ColocatedEngine(engine_policy("internvl3"), SETTINGS, max_model_len=256)


def test_the_scorer_takes_the_backend_by_name_and_auto_is_vllm_here(caplog):
    policy = engine_policy("internvl3")
    with caplog.at_level("INFO", logger="thinker"):
        scorer = QualityScorer(policy, backend="auto", max_new_tokens=12)
        rollout = scorer.rollout  # starts it
    try:
        assert rollout.name == "vllm"
        assert "rollouts by vLLM, colocate" in caplog.text
        clips = clips_of(policy)
        theirs = QualityScorer(policy, backend="hf", max_new_tokens=12).score_clips(clips)
        assert [p.completion for p in scorer.score_clips(clips)] == [p.completion for p in theirs]
    finally:
        rollout.close()
