"""Temporal consistency: the per-video rule by hand, the parity rule also against a literal loop."""

import math
import random
from statistics import NormalDist, fmean, variance
from typing import Any

import pytest

from rewards.temporal import Rule, TemporalConfig, TemporalReward

Row = tuple[str, str, str, float]  # written answer, that of the perturbed copy, sample_id, target


def wrap(written: str) -> str:
    return f"<think>a</think><answer>{written}</answer>"


def score(rows: list[Row], **config: Any) -> list[float | None]:
    reward = TemporalReward(TemporalConfig(**config))
    return reward(
        [wrap(row[0]) for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        perturbed_completions=[wrap(row[1]) for row in rows],
    )


def test_docstring_example() -> None:
    # true: 1, exp(-0.16 / 0.5) = 0.7261, mean 0.8631; perturbed: exp(-2) = 0.1353 twice
    # lead 0.7278 >= 0.02; 1 > 0.9, 0.7261 is not
    rows = [("3.50", "4.50", "a", 3.5), ("3.90", "2.50", "a", 3.5)]
    assert score(rows) == [0.3, 0.0]


def test_no_bonus_without_a_lead() -> None:
    assert score([("3.50", "3.50", "a", 3.5)] * 4) == [0.0] * 4  # a tie is no lead
    assert score([("3.60", "3.50", "a", 3.5)] * 4) == [0.0] * 4  # the copy is judged better


def test_margin() -> None:
    # one rollout: 1 - exp(-2 d²); d = 0.10: 0.019801 < 0.02; d = 0.11: 0.023909 >= 0.02
    assert score([("3.50", "3.60", "a", 3.5)]) == [0.0]
    assert score([("3.50", "3.61", "a", 3.5)]) == [0.3]
    assert score([("3.50", "3.61", "a", 3.5)], margin=0.03) == [0.0]
    assert score([("3.50", "3.50", "a", 3.5)], margin=0) == [0.3]  # >=


def test_threshold_bonus_and_sigma() -> None:
    # exp(-2 · 0.22²) = 0.9077 > 0.9; exp(-2 · 0.23²) = 0.8996; sigma 1: exp(-0.5 · 0.23²) = 0.9739
    assert score([("3.72", "5.00", "a", 3.5)]) == [0.3]
    assert score([("3.73", "5.00", "a", 3.5)]) == [0.0]
    assert score([("3.73", "5.00", "a", 3.5)], sigma=1.0) == [0.3]
    assert score([("3.73", "5.00", "a", 3.5)], threshold=0.8, bonus=0.5) == [0.5]
    # strictly above: the base of 4.00 at target 3.5 is exp(-0.5) itself
    assert score([("4.00", "5.00", "a", 3.5)], threshold=math.exp(-0.5)) == [0.0]
    assert score([("3.5", "5.00", "a", 3.5)]) == [0.3]  # decimals say nothing about time


def test_the_means_are_of_the_video() -> None:
    # a leads (1 - 0.135), b trails (0.135 - 1) by as much; rows are interleaved
    rows = [
        ("3.50", "4.50", "a", 3.5),
        ("4.50", "3.50", "b", 3.5),
        ("3.50", "4.50", "a", 3.5),
        ("3.51", "3.50", "b", 3.5),
    ]
    assert score(rows) == [0.3, 0.0, 0.3, 0.0]


def test_invalid_answers() -> None:
    # an invalid true rollout is None and not in the mean (as a 0 it would turn the lead around)
    assert score([("?", "3.70", "a", 3.5), ("3.50", "3.70", "a", 3.5)]) == [None, 0.3]
    # an invalid perturbed rollout is not in the mean (as a 0 it would make a lead)
    assert score([("3.50", "3.50", "a", 3.5), ("3.50", "?", "a", 3.5)]) == [0.0, 0.0]
    # nothing to compare with; the other video is judged all the same
    rows = [("3.50", "?", "a", 3.5), ("3.50", "", "a", 3.5), ("2.00", "3.00", "b", 2.0)]
    assert score(rows) == [None, None, 0.3]
    assert score([("?", "3.50", "a", 3.5)]) == [None]
    assert score([]) == []


def random_rows(seed: int, num_videos: int, num_rollouts: int, invalid: float = 0.0) -> list[Row]:
    rng = random.Random(seed)

    def write(centre: float, width: float) -> str:
        if rng.random() < invalid:
            return rng.choice(["", "9.99", "good", "1e0", "inf"])
        tenths = round(10 * min(max(rng.gauss(centre, width), 1.0), 4.8))
        return f"{tenths / 10:.1f}{rng.randint(1, 9)}"

    rows = []
    for video in range(num_videos):
        target, shift = rng.uniform(1.2, 4.5), rng.choice([0.0, 0.3])
        rows += [
            (write(target, 0.15), write(target - shift, 0.15), f"v{video}", target)
            for _ in range(num_rollouts)
        ]
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(10))
def test_per_video_does_not_see_other_videos(seed: int) -> None:
    rows = random_rows(seed, num_videos=6, num_rollouts=4, invalid=0.2)
    rewards = score(rows)
    for video in {row[2] for row in rows}:
        mine = [i for i, row in enumerate(rows) if row[2] == video]
        assert score([rows[i] for i in mine]) == [rewards[i] for i in mine]
        others_changed = [r if r[2] == video else ("1.11", "4.99", r[2], r[3]) for r in rows]
        changed = score(others_changed)
        assert [changed[i] for i in mine] == [rewards[i] for i in mine]


@pytest.mark.parametrize("rule", ["per_video", "parity"])
def test_the_order_of_rows_does_not_matter(rule: str) -> None:
    for seed in range(10):
        rows = random_rows(seed, num_videos=5, num_rollouts=4, invalid=0.2)
        order = random.Random(seed).sample(range(len(rows)), len(rows))
        rewards = score(rows, rule=rule)
        assert score([rows[i] for i in order], rule=rule) == [rewards[i] for i in order]


@pytest.mark.parametrize("rule", ["per_video", "parity"])
def test_only_these_values(rule: str) -> None:
    seen: set[float | None] = set()
    for seed in range(200):
        rows = random_rows(seed, num_videos=1 + seed % 3, num_rollouts=1 + seed % 4, invalid=0.3)
        seen |= set(score(rows, rule=rule))
    assert seen == ({None, 0.0, 0.3} if rule == "per_video" else {None, 0.0, 0.3, 0.6})


def reference_bonus(rows: list[Row]) -> list[float]:
    """The published code in float64: ranking and regression of both halves, means over all rows."""

    def ranking(column: int) -> list[float]:
        preds: dict[str, list[float]] = {}
        target = {row[2]: row[3] for row in rows}
        for row in rows:
            preds.setdefault(row[2], []).append(float(row[column]))
        rewards = []
        for row in rows:
            total, count = 0.0, 0
            for z in preds:
                if z != row[2]:
                    spread = math.sqrt(variance(preds[row[2]]) + variance(preds[z]) + 1e-6)
                    p = NormalDist().cdf((float(row[column]) - fmean(preds[z])) / spread)
                    own, other = target[row[2]], target[z]
                    g = 1.0 if own > other else 0.0 if own < other else 0.5
                    total += math.sqrt(p * g + 1e-6) + math.sqrt((1 - p) * (1 - g) + 1e-6)
                    count += 1
            rewards.append(total / count)
        return rewards

    def regression(column: int) -> list[float]:
        return [math.exp(-((float(row[column]) - row[3]) ** 2) / (2 * 0.5**2)) for row in rows]

    bonus = [0.0] * len(rows)
    for function, threshold in ((ranking, 0.5), (regression, 0.9)):
        true, shuffled = function(0), function(1)
        if fmean(true) >= fmean(shuffled):
            for i, value in enumerate(true):
                if value > threshold:
                    bonus[i] += 0.3
    return bonus


def test_parity_equals_the_reference() -> None:
    seen = set()
    for seed in range(100):
        rows = random_rows(seed, num_videos=2 + seed % 3, num_rollouts=2 + seed % 3)
        expected = reference_bonus(rows)
        assert score(rows, rule="parity") == pytest.approx(expected, abs=1e-6)
        seen |= {round(value, 1) for value in expected}
    assert seen == {0.0, 0.3, 0.6}


def test_parity_by_hand() -> None:
    # A tie passes (>=), for both parts. Ranking: a and b in the right order, about 1 > 0.5.
    # Regression: a exact, 1 > 0.9; b off by 0.5, 0.607.
    rows = [("4.01", "4.01", "a", 4.01), ("2.51", "2.51", "b", 2.01)]
    assert score(rows, rule="parity") == [0.6, 0.3]
    # One decimal less: regression 0.8, below the threshold
    rows = [("4.0", "4.0", "a", 4.0), ("2.51", "2.51", "b", 2.01)]
    assert score(rows, rule="parity") == [0.3, 0.3]
    # One video: no ranking part
    assert score([("4.01", "3.01", "a", 4.01), ("?", "3.01", "a", 4.01)], rule="parity") == [
        0.3,
        None,
    ]
    # The means mix videos: b alone trails (0.607 < 1), with a the batch leads
    rows = [("4.01", "1.01", "a", 4.01), ("2.11", "2.01", "b", 2.01)]
    assert score(rows, rule="parity") == [0.6, 0.6]
    assert score(rows) == [0.3, 0.0]


def test_parity_ranking_threshold() -> None:
    # a: answers 2.11, 3.11, mean 2.61, var 0.5; b: unanimous; no answer is near its target.
    # b at 2.56: x = (2.11 - 2.56) / 0.7071 = -0.6364, sqrt(0.2623) + 0.001 = 0.513 > 0.5
    # b at 2.61: x = (2.11 - 2.61) / 0.7071 = -0.7071, sqrt(0.2398) + 0.001 = 0.491
    for b, expected in (("2.56", [0.3, 0.3, 0.3, 0.3]), ("2.61", [0.0, 0.3, 0.3, 0.3])):
        written = [("2.11", "a", 4.0), ("3.11", "a", 4.0), (b, "b", 3.0), (b, "b", 3.0)]
        assert score([(w, w, video, y) for w, video, y in written], rule="parity") == expected


@pytest.mark.parametrize("config", [{"margin": 0}, {"rule": "parity"}])
def test_the_same_answers_in_another_order_are_a_tie(config: dict[str, Any]) -> None:
    """A rounding error in a sum must not decide; a margin of 0 makes it visible."""
    rng = random.Random(0)
    for _ in range(100):
        true = ["3.51", *(f"{rng.uniform(2, 5):.2f}" for _ in range(7))]
        perturbed = rng.sample(true, len(true))
        rewards = score(
            [(*pair, "a", 3.51) for pair in zip(true, perturbed, strict=True)], **config
        )
        assert rewards[0] == 0.3


def test_needs_the_perturbed_column() -> None:
    reward = TemporalReward(TemporalConfig())
    assert reward.needs_perturbed
    with pytest.raises(ValueError, match="perturbed_completions"):
        reward([wrap("3.50")], ["a"], [3.5])
    with pytest.raises(ValueError, match="equal lengths"):
        reward([wrap("3.50")], ["a"], [3.5], perturbed_completions=[])
    with pytest.raises(ValueError, match=r"int in perturbed_completions\[0\]"):
        reward([wrap("3.50")], ["a"], [3.5], perturbed_completions=[3])  # type: ignore[list-item]


@pytest.mark.parametrize("rule", ["per_video", "parity"])
def test_a_row_without_a_copy_is_not_judged_and_changes_no_other(rule: Rule) -> None:
    """A picture in the batch, first or last: the others get what they get without it."""
    reward = TemporalReward(TemporalConfig(rule=rule))
    texts, others = [wrap("3.50"), wrap("3.90")], [wrap("4.50"), wrap("2.50")]
    alone = reward(texts, ["a", "a"], [3.5, 3.5], perturbed_completions=others)
    assert alone != [None, None]
    for place in (0, 2):
        row = lambda column, value, place=place: [*column[:place], value, *column[place:]]  # noqa: E731
        got = reward(
            row(texts, wrap("3.50")),
            row(["a", "a"], "still"),
            row([3.5, 3.5], 1.0),
            perturbed_completions=row(others, None),
        )
        assert got == row(alone, None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rule": "batch"}, r"temporal\.rule: got 'batch'"),
        ({"margin": -0.1}, r"temporal\.margin"),
        ({"margin": 1}, r"temporal\.margin"),
        ({"threshold": 1.0}, r"temporal\.threshold"),
        ({"bonus": 0}, r"temporal\.bonus"),
        ({"sigma": 0}, r"temporal\.sigma"),
        ({"rule": "parity", "margin": 0.1}, r"temporal\.margin: got 0\.1 beside rule 'parity'"),
        ({"rule": "parity", "sigma": 1.0}, r"temporal\.sigma: got 1\.0 beside rule 'parity'"),
    ],
)
def test_bad_config(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemporalConfig(**config)
