"""The simulation against what can be computed by hand."""

import numpy as np
import pytest

from thinker.plan.simulate import Failure, Lengths, Work, simulate
from thinker.plan.step import Decoding

ENGINE = Decoding(prompt_seconds=0.5, token_seconds=0.1, sequence_seconds=0.01, slots=1000)
PLAIN = Decoding(prompt_seconds=0, token_seconds=1, sequence_seconds=0, slots=1000)
"""A completion takes as many seconds as it has tokens."""


def lengths(*rows):
    """A step of processes with one prompt each, G = 1."""
    return np.array(rows).reshape(1, len(rows), 1, 1)


def test_one_process_is_the_sum_of_its_parts():
    work = Work(data=1, before=2, rewards=3, after=4, after_token=0.25, together=5)
    drawn = np.array([[[[20, 30], [10, 40]]]] * 3)  # 3 steps, 2 prompts, G = 2
    outcome = simulate(work, ENGINE, drawn)
    # prompts 2 * .5; 40 tokens of the batch; 100 tokens of completions
    rollout = 1 + 40 * 0.1 + 100 * 0.01
    step = 1 + 2 + rollout + 3 + 4 + 100 * 0.25 + 5
    assert outcome.step_seconds == pytest.approx([step] * 3)
    assert outcome.waiting == pytest.approx(0) and outcome.busy == pytest.approx([rollout / step])


def test_an_engine_draws_as_its_formula_says():
    """Prompts of equal length: `Decoding.seconds`, one wave and three."""
    drawn = np.full((1, 1, 6, 4), 50)
    for slots in (24, 8):
        engine = Decoding(prompt_seconds=0, token_seconds=0.1, sequence_seconds=0.01, slots=slots)
        expected = engine.seconds(6, 4, 50)
        assert simulate(Work(), engine, drawn).step_seconds == pytest.approx([expected])


def test_completions_of_two_prompts_run_beside_each_other():
    """10 tokens of both, then 20 of the longer one."""
    drawn = np.array([[[[10], [30]]]])
    seconds = 2 * 0.5 + 10 * (0.1 + 2 * 0.01) + 20 * (0.1 + 0.01)
    assert simulate(Work(), ENGINE, drawn).step_seconds == pytest.approx([seconds])


def test_two_processes_take_as_long_as_the_slower_one():
    """Both barriers: the slower rollout, then the slower passes, which may be another's."""
    work = Work(before=1, after_token=1, together=2)
    outcome = simulate(work, PLAIN, lengths(10, 30))
    assert outcome.step_seconds == pytest.approx([1 + 30 + 30 + 2])
    # process 0 waits 20 s at either barrier, of 2 * 63 s
    assert outcome.waiting == pytest.approx(40 / 126)
    assert outcome.busy == pytest.approx([10 / 63, 30 / 63])


def test_two_processes_wait_for_the_expected_maximum():
    """Of two uniform draws from 1 … n the mean of the larger is (n + 1)(4n - 1) / 6n."""
    n, steps = 50, 4000
    drawn = np.random.default_rng(1).integers(1, n + 1, (steps, 2, 1, 1))
    outcome = simulate(Work(), PLAIN, drawn)
    expected = (n + 1) * (4 * n - 1) / (6 * n)
    assert outcome.mean_seconds == pytest.approx(expected, rel=0.02)
    assert outcome.mean_seconds == pytest.approx(drawn.max(axis=1).mean())


def test_a_server_with_one_place_serves_one_after_the_other():
    one = Decoding(prompt_seconds=2, token_seconds=1, sequence_seconds=0, slots=1)
    outcome = simulate(Work(), one, lengths(10, 30, 5), num_servers=1)
    assert outcome.step_seconds == pytest.approx([3 * 2 + 45])
    assert outcome.busy == pytest.approx([1.0])


def test_servers_share_the_prompts_of_a_process():
    """Six prompts of 10 tokens, a place each: three turns on two servers, two on three."""
    one = Decoding(prompt_seconds=0, token_seconds=1, sequence_seconds=0, slots=1)
    drawn = np.full((1, 1, 6, 1), 10)
    for servers, seconds in ((1, 60), (2, 30), (3, 20)):
        outcome = simulate(Work(), one, drawn, num_servers=servers)
        assert outcome.step_seconds == pytest.approx([seconds])
        assert outcome.busy == pytest.approx([1.0] * servers)


def test_what_is_drawn_is_the_same_on_engines_and_servers():
    """Busy seconds without a cost of the batch: those of all completions, wherever they run."""
    per_sequence = Decoding(prompt_seconds=0.5, token_seconds=0, sequence_seconds=1, slots=1000)
    drawn = np.random.default_rng(0).integers(5, 50, (4, 3, 2, 2))
    expected = drawn.sum() + 0.5 * 4 * 3 * 2
    for servers in (0, 1, 2, 5):
        outcome = simulate(Work(before=3), per_sequence, drawn, num_servers=servers)
        busy = sum(outcome.busy) * sum(outcome.step_seconds)
        assert busy == pytest.approx(expected)


def test_a_slow_process_holds_all_others_up():
    work = Work(before=1, after=2, together=1)
    outcome = simulate(work, PLAIN, lengths(10, 10), slow={1: 1.5})
    assert outcome.step_seconds == pytest.approx([1.5 * (1 + 10 + 2) + 1])


def test_a_loader_that_cannot_keep_up_sets_the_pace():
    """It reads 10 s a batch beside steps of 3 s; the first one is there."""
    drawn = np.ones((4, 1, 1, 1), dtype=int)
    slow = simulate(Work(loader=10, before=2), PLAIN, drawn)
    assert slow.step_seconds == pytest.approx([3, 10, 10, 10])
    fast = simulate(Work(loader=2, before=2), PLAIN, drawn)
    assert fast.step_seconds == pytest.approx([3, 3, 3, 3])


def test_a_lost_server_costs_what_it_had_drawn():
    """Two processes and servers, 10 s a prompt, one place each. Server 0 is lost at 4 s: its prompt
    waits for the other's until 10 s and is drawn anew until 20 s. It is back at 14 s, so it takes
    part in the second step, which takes 10 s."""
    one = Decoding(prompt_seconds=0, token_seconds=1, sequence_seconds=0, slots=1)
    drawn = np.full((2, 2, 1, 1), 10)
    failures = [Failure(server=0, at=4, seconds=10)]
    outcome = simulate(Work(), one, drawn, num_servers=2, failures=failures)
    assert outcome.step_seconds == pytest.approx([20, 10])
    assert outcome.busy == pytest.approx([14 / 30, 1.0])
    with pytest.raises(ValueError, match="no server is left after 4 seconds"):
        simulate(Work(), one, drawn, num_servers=1, failures=failures)


def test_drawn_lengths_have_their_mean_and_spread():
    drawn = Lengths(mean=400, spread=0.5, longest=10_000).draw(np.random.default_rng(0), (200_000,))
    assert drawn.mean() == pytest.approx(400, rel=0.01)
    assert drawn.std() / drawn.mean() == pytest.approx(0.5, rel=0.02)
    cut = Lengths(mean=400, spread=0.5, longest=450).draw(np.random.default_rng(0), (1000,))
    assert cut.max() == 450
    equal = Lengths(mean=7, spread=0, longest=9).draw(np.random.default_rng(0), (5,))
    assert equal.tolist() == [7] * 5
