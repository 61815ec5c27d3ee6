"""The reward of reasoning: what it pays, what it does not judge, what it refuses."""

import pytest

from rewards import build_reward
from rewards.reasoning import ReasoningReward

NOISE = {"distortion": "noise", "concern": "spatial"}


def judged(reasonings, tags, **config):
    said = [f"<think>{text}</think><answer>2.10</answer>" for text in reasonings]
    reward = build_reward("reasoning", config)
    rows = range(len(said))
    return reward(said, [f"v/{i}" for i in rows], [2.0] * len(said), tags=[tags] * len(said))


def test_only_the_one_known_distortion_is_paid():
    said = [
        "noise, poor quality",
        "It is noisy: noise.",
        "blur, poor",
        "noise and blur",
        "no noise",
    ]
    assert judged(said, NOISE) == [1.0, 1.0, 0.0, 0.0, 0.0]
    # A text that names every distortion is a cheat, and so is one that fits every video.
    assert judged(["noise, blur, flicker, shake, blocking", "poor quality"], NOISE) == [0.0, 0.0]


def test_what_is_pristine_has_to_be_said_to_be():
    none = {"distortion": "none"}
    assert judged(["none, good quality", "no distortion", "noise", "good"], none) == [1, 1, 0, 0]


def test_a_severity_is_a_part_where_it_is_known():
    said = ["severe noise, poor", "slight noise, poor", "severe blur, poor"]
    assert judged(said, {"distortion": "severe noise"}, severity_part=0.3) == [1.0, 0.7, 0.0]
    assert judged(said, {**NOISE, "severity": "severe"}, severity_part=0.3) == [1.0, 0.7, 0.0]
    assert judged(said, {**NOISE, "severity": "3"}) == judged(said, NOISE) == [1.0, 1.0, 0.0]
    assert judged(["none, good"], {"distortion": "none", "severity": "severe"}) == [1.0]


def test_rows_that_cannot_be_judged():
    reward = ReasoningReward()
    said = ["<think>noise</think><answer>ten</answer>", "<think>noise</think><answer>2</answer>"]
    assert reward(said, ["a", "b"], [2.0, 2.0], tags=[NOISE, {}]) == [None, None]
    assert reward(["<answer>2.10</answer>"], ["a"], [2.0], tags=[NOISE]) == [0.0]
    with pytest.raises(ValueError, match="columns of lengths"):
        reward(said, ["a", "b"], [2.0, 2.0], tags=[NOISE])


def test_tags_are_checked_before_training():
    reward = ReasoningReward()
    reward.check_tags([NOISE, {}])
    with pytest.raises(ValueError, match="no training example of a score has the tag 'distortion'"):
        reward.check_tags([{}, {"concern": "spatial"}])
    with pytest.raises(ValueError, match="tag 'distortion': reference 'blur or noise"):
        reward.check_tags([NOISE, {"distortion": "blur or noise, who knows?"}])
